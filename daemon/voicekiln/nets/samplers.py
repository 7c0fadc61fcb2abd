"""How a diffusion model's noise is taken out of a mel, in a few steps: two samplers as one table of numbers.

`ddim` is that of Song et al. 2021 without noise of its own. `dpm-solver++` is the multistep solver of second order of
Lu et al. 2022 in uniform steps of time, which lie between the trained ones. A step of either is x' = a x + b D + c D',
with D what is made of x and of the noise that the denoiser hears in it, and D' the same of the step before.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

DDIM: Final = 0
"""`method` of the sampler of that name; any other number is dpm-solver++."""
LEAST_DPM_STEPS: Final = 2
"""A solver of second order looks back one step."""
CAREFUL_STEPS: Final = 10
"""With fewer steps, dpm-solver++ takes its last one in first order."""


class Sampler(nn.Module):
    """The tables by which the noise is taken out; all in float64, which costs nothing here."""

    def __init__(self, deepest: int) -> None:
        """`deepest` is the largest `k_step` that the denoiser has learnt."""
        super().__init__()
        self.deepest = deepest

    def depth(self, k_step: torch.Tensor) -> torch.Tensor:
        """Return the number of times to go back, at most as many as were learnt."""
        return torch.clamp(k_step, 1, self.deepest)

    def forward(
        self,
        depth: torch.Tensor,
        speedup: torch.Tensor,
        method: torch.Tensor,
        betas: torch.Tensor,
        alphas: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the number of steps, int64 without axes, and a row for each, (rows, 6): time, p, q, a, b, c.

        With eps what the denoiser hears at that time, D = p x + q eps and x' = a x + b D + c D'. There may be more rows
        than steps; what stands in these means nothing.

        Args:
            depth: from `depth`, int64 without axes.
            speedup: times in one step, int64 without axes.
            method: see `DDIM`, int64 without axes.
            betas: variance that each time adds, (timesteps,).
            alphas: part of the variance that is left at each time, (timesteps,).
        """
        each = torch.clamp(speedup, min=1)
        ddim, dpm = method == DDIM, torch.clamp(depth // each, min=LEAST_DPM_STEPS)
        steps = torch.where(ddim, (depth + each - 1) // each, dpm)
        by_ddim = _ddim(alphas.double(), self._rows(0), steps, each)
        by_dpm = _dpm(betas[: self.deepest].double(), self._rows(-1, 2), dpm.double(), depth.double())
        return steps, torch.where(ddim, by_ddim, by_dpm).float()

    def _rows(self, first: int, more: int = 0) -> torch.Tensor:
        """Return the number of each row, int64, from `first` on."""
        return torch.arange(first, first + max(self.deepest, LEAST_DPM_STEPS) + more)


def _ddim(alphas: torch.Tensor, row: torch.Tensor, steps: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
    """Return the table of ddim: from the last multiple of `each` below k_step down to 0, where nothing changes."""
    time = torch.clamp((steps - 1 - row) * each, min=0)
    now = torch.index_select(alphas, 0, time)
    then = torch.index_select(alphas, 0, torch.clamp(time - each, min=0))
    a = torch.sqrt(then / now)
    b = torch.sqrt(1 - then) - a * torch.sqrt(1 - now)
    nothing = torch.zeros_like(a)
    return torch.stack([time.double(), nothing, nothing + 1, a, b, nothing], dim=1)


def _dpm(betas: torch.Tensor, row: torch.Tensor, steps: torch.Tensor, k_step: torch.Tensor) -> torch.Tensor:
    """Return the table of dpm-solver++, order 2, its D the clean mel; `row` has one more at either end.

    Between the trained times, the logarithm of what is left of the mel is interpolated.
    """
    time = torch.clamp((k_step - 1) * torch.clamp(1 - row / steps, max=1), min=0)
    logs = torch.cumsum(torch.log(1 - betas), dim=0) / 2
    below = torch.floor(time)
    above = torch.clamp(below + 1, max=betas.shape[0] - 1)
    low, high = (torch.index_select(logs, 0, at.long()) for at in (below, above))
    log_alpha = low + (time - below) * (high - low)
    alpha, sigma = torch.exp(log_alpha), torch.sqrt(1 - torch.exp(2 * log_alpha))
    half_log_snr = log_alpha - torch.log(sigma)
    width = half_log_snr[1:] - half_log_snr[:-1]
    last = row[1:-1] == steps - 1
    # Nothing is known of the way before the first step, whose time is the first one's own.
    still = width[:-1] == 0
    back = torch.where(still | (last & (steps < CAREFUL_STEPS)), 0.0, width[1:] / torch.where(still, 1.0, width[:-1]))
    back = back / 2
    gain = alpha[2:] * (1 - torch.exp(-width[1:]))
    p, q = 1 / alpha[1:-1], -sigma[1:-1] / alpha[1:-1]
    return torch.stack([time[1:-1], p, q, sigma[2:] / sigma[1:-1], gain * (1 + back), -gain * back], dim=1)
