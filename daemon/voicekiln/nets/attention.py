"""The text encoder of VITS: a transformer whose attention sees relative positions within a window.

Shaw et al. 2018 (relative positions), Vaswani et al. 2017. Only the 2 * window + 1 offsets that have an embedding
are ever computed; `_spread` and `_gather` move them between "by offset" and "by position" by shifting the rows of a
flat array, so that every length comes from the input and none is fixed by a trace.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

MASKED = -1e4
"""The score of a position that must not be seen; VITS's own value, which half precision can hold."""


class LayerNorm(nn.Module):
    """Layer norm over the channels of (batch, channels, frames)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised channels."""
        # The shape is a constant on purpose: the exporter has no words for one that is read from the input.
        return F.layer_norm(x.transpose(1, -1), (self.channels,), self.gamma, self.beta, 1e-5).transpose(1, -1)


class MultiHeadAttention(nn.Module):
    """Self-attention with learnt keys and values for the offsets -window .. window, shared by all heads."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.size, self.window = heads, channels // heads, window
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.emb_rel_k = nn.Parameter(torch.zeros(1, 2 * window + 1, self.size))
        self.emb_rel_v = nn.Parameter(torch.zeros(1, 2 * window + 1, self.size))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return what (batch, channels, frames) attends to.

        Args:
            x: The sequence.
            seen: (batch, 1, frames, frames), false where a position must not be looked at.
        """
        query = self._split(self.conv_q(x)) / math.sqrt(self.size)  # (batch, heads, frames, size)
        key, value = self._split(self.conv_k(x)), self._split(self.conv_v(x))
        scores = query @ key.transpose(-2, -1)
        by_offset = query @ self.emb_rel_k.transpose(-2, -1)  # (batch, heads, frames, 2 * window + 1)
        scores = scores + self._spread(by_offset, scores)
        weights = torch.softmax(scores.masked_fill(~seen, MASKED), dim=-1)
        found = (
            weights @ value + self._gather(weights, torch.zeros_like(by_offset[..., : self.window])) @ self.emb_rel_v
        )
        merged = found.transpose(-2, -1)  # (batch, heads, size, frames)
        return self.conv_o(merged.reshape(x.shape))  # type: ignore[no-any-return]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) -> (batch, heads, frames, size)."""
        return x.reshape(-1, self.heads, self.size, x.shape[-1]).transpose(-2, -1)

    def _spread(self, by_offset: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Put numbers per offset, (batch, heads, frames, 2 * window + 1), where (.., frames, frames) has the offset.

        Offset o of row i belongs into column i + o - window. Rows of frames + 2 * window + 1 numbers, read as rows
        that are one shorter, are each shifted one further to the right: that is the place, `window` columns too far.
        """
        frames = scores.shape[-1]
        shorter = frames + 2 * self.window
        wide = torch.cat([by_offset, torch.zeros_like(scores)], dim=-1)
        flat = wide.reshape(-1, self.heads, frames * (shorter + 1))[..., : frames * shorter]
        return flat.reshape(-1, self.heads, frames, shorter)[..., self.window : -self.window]

    def _gather(self, weights: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        """Take numbers per offset from (batch, heads, frames, frames): `_spread` run backwards.

        `edge` is zeros, (batch, heads, frames, window): what lies before the first frame and behind the last.
        """
        frames = weights.shape[-1]
        longer = frames + 2 * self.window + 1
        flat = torch.cat([edge, weights, edge], dim=-1).reshape(-1, self.heads, frames * (longer - 1))
        rest = torch.zeros_like(weights[..., 0])  # one more number per row, as the rows get one longer
        rows = torch.cat([flat, rest], dim=-1).reshape(-1, self.heads, frames, longer)
        return rows[..., : 2 * self.window + 1]


class FFN(nn.Module):
    """The transformer's second half: two convolutions of odd width with a ReLU between them."""

    def __init__(self, channels: int, filter_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels, frames); `mask` is 1 or 0 as (batch, 1, frames)."""
        x = torch.relu(self.conv_1(x * mask))
        return self.conv_2(x * mask) * mask  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Layers of attention and FFN, each added to its input and normalised after that."""

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's six numbers
        self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int, window: int
    ) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(MultiHeadAttention(channels, heads, window) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FFN(channels, filter_channels, kernel) for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels, frames); `mask` is 1 or 0 as (batch, 1, frames)."""
        seen = (mask.unsqueeze(2) * mask.unsqueeze(-1)) > 0  # (batch, 1, frames, frames)
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attend, norm_1, ffn, norm_2 in layers:
            x = norm_1(x + attend(x, seen))
            x = norm_2(x + ffn(x, mask))
        return x * mask
