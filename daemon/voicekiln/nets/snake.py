"""HiFi-GAN with periodic activations in place of leaky ReLUs (Ziyin et al. 2020; Lee et al. 2023, BigVGAN).

A bent wave has overtones beyond what its rate can hold; they would come back as foreign tones. So each activation works
at twice the rate, behind and before a low-pass filter whose numbers stand in the checkpoint, once for each activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.nets.hifigan import Generator, ResBlock1

TAPS = 12
"""Numbers in a low-pass filter."""
EDGE = TAPS // 2 - 1
"""By how many samples a signal is prolonged, with its first and last number, so that the filter never starves."""


def prolonged(x: torch.Tensor) -> torch.Tensor:
    """Return (channels, 1, samples) with the first and the last number `EDGE` times again."""
    return torch.cat([x[..., :1]] * EDGE + [x] + [x[..., -1:]] * EDGE, dim=-1)


class LowPass(nn.Module):
    """Holds a filter."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.zeros(1, 1, TAPS))


class UpSample(LowPass):
    """Doubles the rate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (channels, 1, 2 * samples)."""
        # Twice as loud, as every other sample is a zero that is to be filled.
        return F.conv_transpose1d(prolonged(2 * x), self.filter, stride=2, padding=2 * EDGE + TAPS // 2 - 1)


class DownSample(nn.Module):
    """Halves the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (channels, 1, samples) for twice as many."""
        return F.conv1d(prolonged(x), self.lowpass.filter, stride=2)


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b for each channel, the logarithms of a and b being learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (channels, 1, samples)."""
        frequency, height = (torch.exp(row).reshape(-1, 1, 1) for row in (self.alpha, self.beta))
        return x + torch.sin(x * frequency).square() / (height + 1e-9)


class Snake(nn.Module):
    """The activation, at twice the rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.act = SnakeBeta(channels)
        self.upsample = UpSample()
        self.downsample = DownSample()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples) or (1, channels, 1, samples), in the same shape."""
        # As rows of a batch, so that the one filter is there for all channels.
        rows = x.reshape(self.channels, 1, -1)
        rows = self.downsample(self.act(self.upsample(rows)))
        return rows.reshape(1, self.channels, *[1] * (x.ndim - 3), -1)  # type: ignore[no-any-return]


class SnakeBlock(ResBlock1):
    """A residual block with an activation of its own before each convolution."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__(channels, kernel, dilations)
        self.activations = nn.ModuleList(Snake(channels) for _ in (*dilations, *dilations))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples), or (1, channels, 1, samples) if it is wide, in the same shape."""
        bends = zip(self.activations[::2], self.activations[1::2], strict=True)
        for (bend1, bend2), conv1, conv2 in zip(bends, self.convs1, self.convs2, strict=True):
            x = x + conv2(bend2(conv1(bend1(x))))
        return x


class SnakeGenerator(Generator):
    """The decoder with such activations throughout."""

    block = SnakeBlock

    def __init__(self, channels: int, initial: int, rates: Sequence[int], *sizes: Any, **rest: Any) -> None:  # noqa: ANN401 - they have their types one class above
        super().__init__(channels, initial, rates, *sizes, **rest)
        self.snakes = nn.ModuleList(Snake(initial >> step) for step in range(len(rates)))
        self.snake_post = Snake(initial >> len(rates))

    def bend(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """Return (1, channels, samples) as it goes into the upsampling of a step."""
        return self.snakes[step](x)  # type: ignore[no-any-return]

    def bend_last(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, samples) as it goes into the last convolution."""
        return self.snake_post(x)  # type: ignore[no-any-return]
