"""The prior's normalising flow of VITS, as a rule run backwards: from the prior's noise to what the decoder knows.

Affine coupling (Dinh et al. 2017) with the mean alone, by a WaveNet without causality (van den Oord et al. 2016;
Prenger et al. 2019), the channels turned over between the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

KERNEL = 5
"""Width of the WaveNet's convolutions, in frames."""


class SeparableConv(nn.Module):
    """A convolution in two: each channel by itself over time, then all channels at each time (Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, padding: int, dilation: int) -> None:
        super().__init__()
        self.depth_conv = nn.Conv1d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs)
        self.point_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, outputs, frames)."""
        return self.point_conv(self.depth_conv(x))  # type: ignore[no-any-return]


class WN(nn.Module):
    """Gated convolutions with a residual and a skip path, conditioned on the speaker where there are several."""

    def __init__(  # noqa: PLR0913 - the architecture's own numbers
        self,
        channels: int,
        kernel: int,
        layers: int,
        gin_channels: int,
        *,
        depthwise: bool = False,
        dilation_rate: int = 1,
    ) -> None:
        """Lay out the layers, each more dilated than the one before it, by `dilation_rate`; 0 `gin_channels`: no g."""
        super().__init__()
        self.channels = channels
        last = layers - 1
        conv = SeparableConv if depthwise else nn.Conv1d
        dilations = [dilation_rate**layer for layer in range(layers)]
        self.in_layers = nn.ModuleList(
            conv(channels, 2 * channels, kernel, padding=kernel // 2 * dilation, dilation=dilation)
            for dilation in dilations
        )
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(channels, channels if i == last else 2 * channels, 1) for i in range(layers)
        )
        if gin_channels:
            self.cond_layer = nn.Conv1d(gin_channels, 2 * channels * layers, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None) -> torch.Tensor:
        """Return the sum of the skip paths, (1, channels, frames), anything beyond the mask.

        Args:
            x: (1, channels, frames), 0 beyond the mask.
            mask: 1 or 0 as (frames,).
            g: The speaker, (1, gin_channels, 1) or, where it changes, (1, gin_channels, frames); None for the only one.
        """
        conditions = [None] * len(self.in_layers) if g is None else self.cond_layer(g).split(2 * self.channels, dim=1)
        skipped = []
        for conv, mix, condition in zip(self.in_layers, self.res_skip_layers, conditions, strict=True):
            heard = conv(x) if condition is None else conv(x) + condition
            level, gate = torch.split(heard, self.channels, dim=1)
            mixed = mix(torch.tanh(level) * torch.sigmoid(gate))
            if mix is not self.res_skip_layers[-1]:  # the last layer has the skip path alone
                residual, mixed = torch.split(mixed, self.channels, dim=1)
                x = (x + residual) * mask
            skipped.append(mixed)
        total: torch.Tensor = sum(skipped[1:], skipped[0])
        return total


class ResidualCouplingLayer(nn.Module):
    """Takes from the second half of the channels what the first half says, or adds it."""

    def __init__(self, channels: int, hidden: int, enc: nn.Module | None) -> None:
        """Lay out the layers; without `enc` the one that all couplings share is handed in."""
        super().__init__()
        self.moves = channels // 2
        self.pre = nn.Conv1d(self.moves, hidden, 1)
        if enc is not None:
            self.enc = enc
        self.post = nn.Conv1d(hidden, self.moves, 1)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None, shared: nn.Module | None, *, onward: bool
    ) -> torch.Tensor:
        """Return (1, channels, frames), the step undone, or done if `onward`; 0 beyond the mask, as `x` is."""
        enc = self.enc if shared is None else shared
        kept, moved = torch.split(x, self.moves, dim=1)
        mean = self.post(enc(self.pre(kept) * mask, mask, g))
        return torch.cat([kept, (moved + mean if onward else moved - mean) * mask], dim=1)


class Flip(nn.Module):
    """Turns the channels over, so that the next step moves the other half."""

    def forward(self, x: torch.Tensor, *_others: object, onward: bool) -> torch.Tensor:  # noqa: ARG002 - both ways alike
        """Return (1, channels, frames) with the channels in reverse order."""
        return torch.flip(x, [1])


class ResidualCouplingBlock(nn.Module):
    """The whole flow: couplings at the even places of `flows`, flips at the odd ones."""

    def __init__(  # noqa: PLR0913 - the architecture's own numbers
        self,
        channels: int,
        hidden: int,
        layers: int,
        gin_channels: int,
        steps: int,
        *,
        inner: Callable[[], nn.Module] | None = None,
        shared: bool = False,
    ) -> None:
        """Lay out the steps.

        Args:
            channels: Of the sound, half of which each step moves.
            hidden: Channels within a coupling.
            layers: Of a coupling's WaveNet.
            gin_channels: Of the speaker; 0 if there is but one.
            steps: Couplings.
            inner: Makes what a coupling finds its mean by, in place of a WaveNet.
            shared: Whether all couplings have the same one; it is held once, as `wn`.
        """
        super().__init__()
        inner = inner or partial(WN, hidden, KERNEL, layers, gin_channels)
        self.wn = inner() if shared else None
        self.flows = nn.ModuleList()
        for _ in range(steps):
            self.flows.append(ResidualCouplingLayer(channels, hidden, None if shared else inner()))
            self.flows.append(Flip())

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None, *, onward: bool = False
    ) -> torch.Tensor:
        """Return (1, channels, frames) run through all steps, the last first; 0 beyond the mask, as `x` is.

        `onward` is the way that training takes: from the sound to the prior, the first step first.
        """
        for flow in self.flows if onward else reversed(self.flows):
            x = flow(x, mask, g, self.wn, onward=onward)
        return x
