"""A transformer that sees the past alone (Vaswani et al. 2017), without positions: its convolutions know the order.

No mask is needed where sequences end: what comes after a frame never reaches it.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from voicekiln.nets.attention import MASKED, LayerNorm


class CausalAttention(nn.Module):
    """Self-attention to the frame itself and those before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, channels // heads
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
        """Return what (1, channels, frames) attends to, in the same shape.

        Args:
            x: What is looked at.
            ahead: True where the second frame comes after the first, (frames, frames).
        """
        query, key, value = (
            conv(x).reshape(self.heads, self.size, -1) for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        scores = query.transpose(1, 2) / math.sqrt(self.size) @ key  # (heads, frames, frames)
        weights = torch.softmax(torch.where(ahead, MASKED, scores), dim=-1)
        merged = (value @ weights.transpose(1, 2)).reshape(1, self.heads * self.size, -1)
        return self.conv_o(merged)  # type: ignore[no-any-return]


class CausalFFN(nn.Module):
    """Two convolutions that reach back, with a ReLU between them."""

    def __init__(self, channels: int, filter_channels: int, kernel: int) -> None:
        super().__init__()
        self.before = kernel - 1
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel, padding=self.before)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel, padding=self.before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, frames)."""
        return self._reach_back(self.conv_2, torch.relu(self._reach_back(self.conv_1, x)))

    def _reach_back(self, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return as many frames as come in, each made of itself and those before it."""
        # A convolution pads both sides alike; what it says beyond the last frame is cut off.
        return conv(x)[..., : -self.before] if self.before else conv(x)  # type: ignore[no-any-return]


class FFT(nn.Module):
    """Layers of attention and convolutions, each added to its input and normalised after that.

    With a speaker, each layer's input is gated first: by one convolution for all layers, and the speaker's own numbers
    for each.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's six numbers
        self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int, gin_channels: int | None = None
    ) -> None:
        """Lay out the layers; with `gin_channels` there is a speaker."""
        super().__init__()
        self.channels = channels
        if gin_channels is not None:
            self.cond_pre = nn.Conv1d(channels, 2 * channels, 1)
            self.cond_layer = nn.Conv1d(gin_channels, 2 * channels * layers, 1)
        self.self_attn_layers = nn.ModuleList(CausalAttention(channels, heads) for _ in range(layers))
        self.norm_layers_0 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(CausalFFN(channels, filter_channels, kernel) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))

    def forward(
        self, x: torch.Tensor, _mask: torch.Tensor | None = None, g: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return (1, channels, frames).

        Args:
            x: (1, channels, frames).
            _mask: Handed in by the flow, whose other kind of inner network needs it.
            g: The speaker, (1, gin_channels, 1) or (1, gin_channels, frames).
        """
        places = torch.arange(x.shape[2], device=x.device)
        ahead = places > places.unsqueeze(1)
        count = len(self.self_attn_layers)
        conditions = [None] * count if g is None else torch.split(self.cond_layer(g), 2 * self.channels, dim=1)
        layers = zip(
            conditions, self.self_attn_layers, self.norm_layers_0, self.ffn_layers, self.norm_layers_1, strict=True
        )
        for condition, attend, norm_0, ffn, norm_1 in layers:
            if condition is not None:
                level, gate = torch.split(self.cond_pre(x) + condition, self.channels, dim=1)
                x = torch.tanh(level) * torch.sigmoid(gate)
            x = norm_0(x + attend(x, ahead))
            x = norm_1(x + ffn(x))
        return x
