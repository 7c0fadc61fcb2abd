"""The text encoder of VITS: a transformer whose attention sees relative positions within a window.

Shaw et al. 2018 (relative positions), Vaswani et al. 2017. Only the 2 * window + 1 offsets that have an embedding
are ever computed. Tables that depend on the mask alone, and so are made once for all layers, say where to look them
up "by offset" or "by frame"; every length in them comes from the input and none is fixed by a trace.

There is one sequence at a time: with a batch of 1 no layer has to read a shape, which in the exported graph would be
half of all its nodes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

MASKED = -1e4
"""Added to the score of a frame that must not be seen; VITS's own value, which half precision can hold."""


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


class Sight(NamedTuple):
    """Which frames see which, and from how far: the same for all layers."""

    offset: torch.Tensor
    """Which embedding a pair of frames has, (heads, frames, frames); some other one if it has none."""
    near: torch.Tensor
    """True where a pair has an embedding and the second frame is to be seen, (1, frames, frames)."""
    far: torch.Tensor
    """What is added to the other pairs' scores: 0, or `MASKED` if the second is not to be seen, (frames,)."""
    frame: torch.Tensor
    """Which frame lies at an offset from a frame, (heads, frames, 2 * window + 1); some other one if none does."""
    there: torch.Tensor
    """1 where a frame lies at the offset, else 0, (1, frames, 2 * window + 1)."""


def look(mask: torch.Tensor, heads: int, window: int) -> Sight:
    """Return what `heads` heads see through a mask of 1 and 0, (frames,), if offsets are known up to `window`."""
    frames, offsets = mask.shape[0], 2 * window + 1
    places = torch.arange(frames, device=mask.device)
    first = (places - window).reshape(1, -1, 1)
    offset, frame = places - first, first + torch.arange(offsets, device=mask.device)
    # A remainder can be looked up everywhere; where it is not the number itself, nothing is there to be found.
    any_offset, any_frame = offset % offsets, frame % frames
    return Sight(
        offset=torch.cat([any_offset] * heads),
        near=(offset == any_offset) & (mask > 0),
        far=(1 - mask) * MASKED,
        frame=torch.cat([any_frame] * heads),
        there=(frame == any_frame).to(mask.dtype),
    )


class MultiHeadAttention(nn.Module):
    """Self-attention with learnt keys and values for the offsets -window .. window, shared by all heads."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.size = heads, channels // heads
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.emb_rel_k = nn.Parameter(torch.zeros(1, 2 * window + 1, self.size))
        self.emb_rel_v = nn.Parameter(torch.zeros(1, 2 * window + 1, self.size))

    def forward(self, x: torch.Tensor, sight: Sight) -> torch.Tensor:
        """Return what (1, channels, frames) attends to, in the same shape."""
        query, key, value = (self._split(conv(x)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        query = query.transpose(1, 2) / math.sqrt(self.size)  # (heads, frames, size)
        by_offset = query @ self.emb_rel_k.transpose(1, 2)  # (heads, frames, 2 * window + 1)
        by_frame = torch.where(sight.near, by_offset.gather(2, sight.offset), sight.far)
        weights = torch.softmax(query @ key + by_frame, dim=-1)  # (heads, frames, frames)
        found = weights @ value.transpose(1, 2) + (weights.gather(2, sight.frame) * sight.there) @ self.emb_rel_v
        merged = found.transpose(1, 2).reshape(1, self.heads * self.size, -1)
        return self.conv_o(merged)  # type: ignore[no-any-return]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(1, channels, frames) -> (heads, size, frames)."""
        return x.reshape(self.heads, self.size, -1)


class FFN(nn.Module):
    """The transformer's second half: two convolutions of odd width with a ReLU between them."""

    def __init__(self, channels: int, filter_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, frames), anything beyond the mask, which is 1 or 0 as (frames,)."""
        x = torch.relu(self.conv_1(x * mask))
        return self.conv_2(x * mask)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Layers of attention and FFN, each added to its input and normalised after that."""

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's six numbers
        self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int, window: int
    ) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.attn_layers = nn.ModuleList(MultiHeadAttention(channels, heads, window) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FFN(channels, filter_channels, kernel) for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, frames), 0 beyond the mask, which is 1 or 0 as (frames,)."""
        sight = look(mask, self.heads, self.window)
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attend, norm_1, ffn, norm_2 in layers:
            x = norm_1(x + attend(x, sight))
            x = norm_2(x + ffn(x, mask))
        return x * mask
