"""The decoder: HiFi-GAN (Kong et al. 2020), with or without a source module that hands it the pitch.

Frames become samples in a few steps; after each, residual blocks of several widths are averaged. With a source
(NSF), its excitation joins at every step, brought to that step's rate by a strided convolution.

The wide residual blocks are two-dimensional with a height of one: the same numbers, but ONNX Runtime has blocked
kernels for these alone. It shares their work among threads by channels, so the narrow ones, which would be left to one
thread, are one-dimensional. Checkpoints have the weights without the axis of height one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

SLOPE = 0.1
"""Of the leaky ReLUs, but for the last, which has PyTorch's own 0.01."""


WIDE = 128
"""Channels from which on a residual block is quicker with two-dimensional convolutions, on one core and on two."""


class ResBlock1(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        conv = _conv if channels >= WIDE else nn.Conv1d
        self.convs1 = nn.ModuleList(
            conv(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(conv(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples), or (1, channels, 1, samples) if it is wide, in the same shape."""
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            x = x + conv2(F.leaky_relu(conv1(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class ResBlock2(nn.Module):
    """Two dilated convolutions, each added to its input: fewer numbers for less quality."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        """Lay out the layers; configs may list more than two dilations, and the others are not used."""
        super().__init__()
        conv = _conv if channels >= WIDE else nn.Conv1d
        self.convs = nn.ModuleList(
            conv(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for dilation in dilations[:2]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples), or (1, channels, 1, samples) if it is wide, in the same shape."""
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, SLOPE))
        return x


class Generator(nn.Module):
    """From (1, channels, frames) to audio."""

    block: type[ResBlock1 | ResBlock2] = ResBlock1

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's own numbers
        self,
        channels: int,
        initial: int,
        rates: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        block_dilations: Sequence[Sequence[int]],
        gin_channels: int | None,
        source: nn.Module | None = None,
        *,
        post_bias: bool = False,
    ) -> None:
        """Lay out the layers; `source` makes the excitation, (1, 1, samples), from f0.

        Without `gin_channels` there are no speakers.
        """
        super().__init__()
        self.blocks_per_step = len(block_kernels)
        widths = [initial >> step for step in range(len(rates) + 1)]
        if source is not None:
            self.m_source = source
            self.noise_convs = nn.ModuleList(
                _to_rate(width, math.prod(rates[step + 1 :])) for step, width in enumerate(widths[1:])
            )
        self.conv_pre = nn.Conv1d(channels, initial, 7, padding=3)
        if gin_channels is not None:
            self.cond = nn.Conv1d(gin_channels, initial, 1)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)
            for wide, narrow, kernel, rate in zip(widths, widths[1:], kernels, rates, strict=False)
        )
        self.resblocks = nn.ModuleList(
            self.block(width, kernel, dilations)
            for width in widths[1:]
            for kernel, dilations in zip(block_kernels, block_dilations, strict=True)
        )
        self.conv_post = _conv(widths[-1], 1, 7, padding=3, bias=post_bias)
        self.wide = [width >= WIDE for width in widths[1:]]

    def forward(self, x: torch.Tensor, g: torch.Tensor | None, f0: torch.Tensor | None = None) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            x: (1, channels, frames).
            g: The speaker, (1, gin_channels, 1), where there are several.
            f0: In Hz, 0 where unvoiced, (1, frames); only with a source.
        """
        excitation = None if f0 is None else self.m_source(f0)
        x = self.conv_pre(x) if g is None else self.conv_pre(x) + self.cond(g)
        for step, up in enumerate(self.ups):
            x = up(self.bend(x, step))
            if excitation is not None:
                x = x + self.noise_convs[step](excitation)
            blocks = self.resblocks[step * self.blocks_per_step : (step + 1) * self.blocks_per_step]
            x = x.unsqueeze(2) if self.wide[step] else x  # (1, channels, 1, samples)
            results = [block(x) for block in blocks]
            x = sum(results[1:], results[0]) / self.blocks_per_step
            x = x.squeeze(2) if self.wide[step] else x
        # Of four axes the first goes: that the two after it are 1 is known to the exporter by itself.
        return torch.tanh(self.conv_post(self.bend_last(x).unsqueeze(2))[0])

    def bend(self, x: torch.Tensor, _step: int) -> torch.Tensor:
        """Return (1, channels, samples) as it goes into the upsampling of a step."""
        return F.leaky_relu(x, SLOPE)

    def bend_last(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples) as it goes into the last convolution."""
        return F.leaky_relu(x)


class SmallGenerator(Generator):
    """The decoder with residual blocks of the second kind."""

    block = ResBlock2


def _conv(  # noqa: PLR0913 - what a convolution has
    inputs: int, outputs: int, kernel: int, *, padding: int, dilation: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Return a convolution over the last of four axes."""
    return nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, padding), dilation=(1, dilation), bias=bias)


def _to_rate(channels: int, stride: int) -> nn.Conv1d:
    """Return the convolution that brings the excitation to `channels` at one number per `stride` samples."""
    if stride == 1:
        return nn.Conv1d(1, channels, 1)
    return nn.Conv1d(1, channels, 2 * stride, stride, padding=stride // 2)
