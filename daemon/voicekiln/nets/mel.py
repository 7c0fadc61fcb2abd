"""The logarithmic mel spectrogram, and the discrete Fourier transform as a convolution.

A windowed transform every so many samples is a strided convolution with windowed cosines and sines. That is more
arithmetic than a fast transform, but nothing beside the network that is heard, and it is an operator that every runtime
has. The numbers are no checkpoint's: they follow from a few settings and are computed here, in float64.
"""

from __future__ import annotations

import math

import torch
from torch import nn

QUIETEST = 1e-5
"""A mel band with less than that counts as having that."""
FLOOR = 1e-9
"""Is added to each squared magnitude, as in training."""

LINEAR_HZ = 200 / 3
"""Hz per mel up to `LOG_FROM_HZ`, in Slaney's scale (Auditory Toolbox, 1998)."""
LOG_FROM_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27
"""Above, each mel multiplies the frequency by the exponential of this."""


class Dft(nn.Module):
    """The Fourier transform of every `hop`-th stretch of `n_fft` samples; the window is in the weights."""

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.bins = n_fft // 2 + 1
        self.conv = nn.Conv1d(1, 2 * self.bins, n_fft, hop, bias=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the squared magnitudes, (1, bins, frames), of audio as (1, 1, samples)."""
        real, imaginary = torch.split(self.conv(audio), self.bins, dim=1)
        return real * real + imaginary * imaginary


class LogMel(nn.Module):
    """The logarithm of the energy in bands that are as wide as an ear finds them."""

    def __init__(self, n_fft: int, window: int, hop: int, mels: int) -> None:
        super().__init__()
        self.before, self.after = (window - hop) // 2, (window - hop + 1) // 2
        self.dft = Dft(n_fft, hop)
        self.basis = nn.Conv1d(self.dft.bins, mels, 1, bias=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return (1, mels, frames) for audio within -1 .. 1 as (1, samples), of more samples than `after`.

        The ends are mirrored, so that there is a frame for every whole hop.
        """
        # By hand: the exporter writes a dozen nodes around its operator for that, and warns of one of them.
        first, last = audio[:, 1 : self.before + 1], audio[:, -self.after - 1 : -1]
        mirrored = torch.cat([first.flip(1), audio, last.flip(1)], dim=1)
        magnitudes = torch.sqrt(self.dft(mirrored.unsqueeze(1)) + FLOOR)
        # The exporter has lost that there is one utterance; it knows of an axis that it adds itself.
        return torch.log(torch.clamp(self.basis(magnitudes)[0], min=QUIETEST)).unsqueeze(0)


def dft_weights(n_fft: int, window: int) -> torch.Tensor:
    """Return the weights of `Dft` under a Hann window of so many samples, as `windowed` does."""
    places = torch.arange(window, dtype=torch.float64)
    return windowed(0.5 - 0.5 * torch.cos(2 * math.pi * places / window), n_fft)


def windowed(window: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Return the weights of `Dft`, (2 * bins, 1, n_fft): cosines, then sines, under a window.

    The window, (samples,), stands in the middle; it is no longer than the transform.
    """
    places = torch.arange(n_fft, dtype=torch.float64)
    turns = torch.outer(torch.arange(n_fft // 2 + 1, dtype=torch.float64), places) % n_fft / n_fft  # exact up to here
    angles = 2 * math.pi * turns
    before = (n_fft - len(window)) // 2
    within = torch.zeros(n_fft, dtype=torch.float64)
    within[before : before + len(window)] = window
    return (torch.cat([torch.cos(angles), -torch.sin(angles)]) * within).float().unsqueeze(1)


def mel_weights(rate: int, n_fft: int, mels: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Return the weights of `LogMel.basis`, (mels, bins, 1).

    Triangles, each from its lower neighbour's middle to its upper one's, with middles at equal distances in Slaney's
    scale, and an area of 1 over Hz.
    """
    ends = torch.tensor([_mel(low_hz), _mel(high_hz)], dtype=torch.float64)
    steps = torch.linspace(0, 1, mels + 2, dtype=torch.float64)
    corners = _hz(ends[0] + (ends[1] - ends[0]) * steps)
    widths = torch.diff(corners)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * rate / n_fft
    rising = (bins - corners[:-2, None]) / widths[:-1, None]
    falling = (corners[2:, None] - bins) / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).float().unsqueeze(-1)


def _mel(hz: float) -> float:
    """Return Slaney's mel: linear at first, logarithmic above."""
    if hz < LOG_FROM_HZ:
        return hz / LINEAR_HZ
    return LOG_FROM_HZ / LINEAR_HZ + math.log(hz / LOG_FROM_HZ) / LOG_STEP


def _hz(mel: torch.Tensor) -> torch.Tensor:
    """Return what `_mel` was made of."""
    beyond = mel - LOG_FROM_HZ / LINEAR_HZ
    return torch.where(beyond < 0, mel * LINEAR_HZ, LOG_FROM_HZ * torch.exp(LOG_STEP * beyond.clamp(min=0)))
