"""so-vits-svc's prediction of f0: a speaker's own melody for what is said, from the one that was sung.

Pitch is counted in thousandths of twice a mel (O'Shaughnessy 1987), and the given one is told relative to its mean.
"""

from __future__ import annotations

import torch
from torch import nn

from voicekiln.nets.causal import FFT

MELS, HZ, UNIT = 2595.0, 700.0, 500.0
"""The mel scale is `MELS * log10(1 + f / HZ)`; here it is counted in `UNIT` mels."""


def to_lf0(f0: torch.Tensor) -> torch.Tensor:
    """Return the pitch on the network's scale for f0 in Hz."""
    return MELS * torch.log10(1 + f0 / HZ) / UNIT


def to_hz(lf0: torch.Tensor) -> torch.Tensor:
    """Return f0 in Hz; the other way of `to_lf0`."""
    hz: torch.Tensor = HZ * (10 ** (lf0 * UNIT / MELS) - 1)
    return hz


def centred(lf0: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Return the pitch less its mean over the voiced frames, where `uv` is 1; both (1, frames)."""
    voiced = torch.clamp(uv.sum(), min=1.0)  # where none is voiced there is nothing to take away
    return lf0 - (lf0 * uv).sum() / voiced


class F0Decoder(nn.Module):
    """From the features' embedding, the given pitch and the speaker to the pitch."""

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's six numbers
        self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int, gin_channels: int
    ) -> None:
        super().__init__()
        self.prenet = nn.Conv1d(channels, channels, 3, padding=1)
        self.decoder = FFT(channels, filter_channels, heads, layers, kernel)
        self.proj = nn.Conv1d(channels, 1, 1)
        self.f0_prenet = nn.Conv1d(1, channels, 3, padding=1)
        self.cond = nn.Conv1d(gin_channels, channels, 1)

    def forward(self, x: torch.Tensor, f0: torch.Tensor, uv: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return f0 in Hz, (1, frames).

        Args:
            x: The features' embedding, (1, channels, frames).
            f0: The given pitch in Hz, (1, frames).
            uv: 1 where it is voiced, else 0, (1, frames).
            g: The speaker, (1, gin_channels, 1) or (1, gin_channels, frames).
        """
        given = centred(to_lf0(f0), uv).unsqueeze(1)
        x = self.prenet(x + self.cond(g) + self.f0_prenet(given))
        # Of three axes the first goes: that the one after it is 1 is known to the exporter by itself.
        return to_hz(self.proj(self.decoder(x))[0])
