"""The source of the neural source-filter model: sines that follow f0, and noise (Wang, Takaki and Yamagishi 2019).

The phase is kept per frame: what a frame adds to it is brought to within half a turn before the running sum, and
only the way within a frame is counted in samples. The usual form sums up every sample; ONNX Runtime does that in
float32 and is off by whole turns after seconds, and wherever f0 is zero. Both say the same in exact numbers.

All of this module stays in float32 in a half-precision file: half a phase is no phase.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from voicekiln.nets.noise import Noise

SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003
"""Standard deviation of the noise under a sine."""
UNVOICED_NOISE = SINE_AMPLITUDE / 3
"""Standard deviation of the noise where there is no sine."""
COARSE = 1 / 4096
"""Turns. Sums of its multiples are exact in float32 up to 4096 turns."""


class SineGen(nn.Module):
    """Sines at f0 and its overtones, with noise added; noise alone where f0 is zero."""

    def __init__(self, sample_rate: int, hop: int, harmonic_num: int) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.harmonic_num = sample_rate, hop, harmonic_num
        self.noise = Noise()

    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        """Return (frames, hop, harmonic_num + 1) for f0 in Hz as (1, frames).

        The overtones start in phase with the fundamental. The paper starts them at random, which would be one more
        draw in the graph; nothing with overtones has been judged by ear yet.
        """
        hz = f0.reshape(-1, 1, 1)
        voiced = hz > 0
        sines = torch.sin(2 * math.pi * self._turns(hz)) * torch.where(voiced, SINE_AMPLITUDE, 0.0)
        noise: torch.Tensor = torch.where(voiced, VOICED_NOISE, UNVOICED_NOISE) * self.noise(sines)
        return sines + noise

    def _turns(self, hz: torch.Tensor) -> torch.Tensor:
        """Return the phase in turns, (frames, hop, harmonic_num + 1), for f0 as (frames, 1, 1)."""
        step = hz / self.sample_rate
        # The exporter writes these few hundred numbers into the graph, in place of nodes that count.
        samples = torch.arange(1, self.hop + 1, dtype=hz.dtype, device=hz.device).unsqueeze(-1)
        within = step * samples
        added = step * self.hop
        turns = within + _sum_before(added - torch.round(added))  # by each frame, within half a turn
        if self.harmonic_num == 0:
            return turns
        return turns * torch.arange(1, self.harmonic_num + 2, dtype=hz.dtype, device=hz.device)


def _sum_before(added: torch.Tensor) -> torch.Tensor:
    """Return for each frame what the frames before it add up to, modulo one turn; (frames, 1, 1).

    The sum over multiples of `COARSE` is exact in float32 for minutes, the sum over the small rest never gets large
    enough to lose digits. One sum over both would differ between runtimes by what each rounds away.
    """
    coarse = torch.round(added / COARSE) * COARSE
    fine = added - coarse
    whole = torch.fmod(torch.cumsum(coarse, dim=0) - coarse, 1.0)
    return whole + (torch.cumsum(fine, dim=0) - fine)


class SourceModuleHnNSF(nn.Module):
    """The excitation that the decoder filters: the sines mixed into one, and bounded."""

    def __init__(self, sample_rate: int, hop: int, harmonic_num: int = 0) -> None:
        super().__init__()
        self.l_sin_gen = SineGen(sample_rate, hop, harmonic_num)
        self.l_linear = nn.Linear(harmonic_num + 1, 1)

    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        """Return (1, 1, samples) for f0 in Hz as (1, frames)."""
        mixed = torch.tanh(self.l_linear(self.l_sin_gen(f0).flatten(0, 1)))  # (samples, 1)
        return mixed.transpose(0, 1).unsqueeze(0)
