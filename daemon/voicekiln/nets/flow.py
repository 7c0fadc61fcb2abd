"""The prior's normalising flow of VITS, run backwards only: from the prior's noise to what the decoder was trained on.

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

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int) -> None:
        super().__init__()
        self.depth_conv = nn.Conv1d(inputs, inputs, kernel, padding=padding, groups=inputs)
        self.point_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, outputs, frames)."""
        return self.point_conv(self.depth_conv(x))  # type: ignore[no-any-return]


class WN(nn.Module):
    """Gated convolutions with a residual and a skip path, conditioned on the speaker."""

    def __init__(self, channels: int, kernel: int, layers: int, gin_channels: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.channels = channels
        last = layers - 1
        conv = SeparableConv if depthwise else nn.Conv1d
        self.in_layers = nn.ModuleList(conv(channels, 2 * channels, kernel, padding=kernel // 2) for _ in range(layers))
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(channels, channels if i == last else 2 * channels, 1) for i in range(layers)
        )
        self.cond_layer = nn.Conv1d(gin_channels, 2 * channels * layers, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return the sum of the skip paths, (1, channels, frames), anything beyond the mask.

        Args:
            x: (1, channels, frames), 0 beyond the mask.
            mask: 1 or 0 as (frames,).
            g: The speaker, (1, gin_channels, 1) or, where it changes, (1, gin_channels, frames).
        """
        conditions = torch.split(self.cond_layer(g), 2 * self.channels, dim=1)
        skipped = []
        for conv, mix, condition in zip(self.in_layers, self.res_skip_layers, conditions, strict=True):
            level, gate = torch.split(conv(x) + condition, self.channels, dim=1)
            mixed = mix(torch.tanh(level) * torch.sigmoid(gate))
            if mix is not self.res_skip_layers[-1]:  # the last layer has the skip path alone
                residual, mixed = torch.split(mixed, self.channels, dim=1)
                x = (x + residual) * mask
            skipped.append(mixed)
        total: torch.Tensor = sum(skipped[1:], skipped[0])
        return total


class ResidualCouplingLayer(nn.Module):
    """Takes from the second half of the channels what the first half says."""

    def __init__(self, channels: int, hidden: int, enc: nn.Module | None) -> None:
        """Lay out the layers; without `enc` the one that all couplings share is handed in."""
        super().__init__()
        self.moves = channels // 2
        self.pre = nn.Conv1d(self.moves, hidden, 1)
        if enc is not None:
            self.enc = enc
        self.post = nn.Conv1d(hidden, self.moves, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor, shared: nn.Module | None) -> torch.Tensor:
        """Return (1, channels, frames), the step undone; 0 beyond the mask, as `x` is."""
        enc = self.enc if shared is None else shared
        kept, moved = torch.split(x, self.moves, dim=1)
        mean = self.post(enc(self.pre(kept) * mask, mask, g))
        return torch.cat([kept, (moved - mean) * mask], dim=1)


class Flip(nn.Module):
    """Turns the channels over, so that the next step moves the other half."""

    def forward(self, x: torch.Tensor, *_others: object) -> torch.Tensor:
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
            gin_channels: Of the speaker.
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

    def forward(self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, frames) run through all steps, the last first; 0 beyond the mask, as `x` is."""
        for flow in reversed(self.flows):
            x = flow(x, mask, g, self.wn)
        return x
