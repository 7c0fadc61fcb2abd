"""The posterior encoder of VITS (Kim et al. 2021): what was said and how it sounds, from a spectrogram.

Training uses it to show the flow what the decoder needs; a voice conversion starts from it in place of a text.
"""

from __future__ import annotations

import torch
from torch import nn

from voicekiln.nets.flow import WN


class PosteriorEncoder(nn.Module):
    """Mean and log deviation of the latent sound, and a draw from it."""

    def __init__(self, bins: int, hidden: int, channels: int, enc: WN) -> None:
        super().__init__()
        self.channels = channels
        self.pre = nn.Conv1d(bins, hidden, 1)
        self.enc = enc
        self.proj = nn.Conv1d(hidden, 2 * channels, 1)

    def forward(
        self, spectrogram: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return the latent sound, (1, channels, frames), 0 beyond the mask.

        Args:
            spectrogram: Magnitudes, (1, bins, frames).
            mask: 1 or 0 as (frames,).
            g: Who speaks, (1, gin_channels, 1), where there are several.
            noise: Normal noise with the wanted deviation, (1, channels, frames).
        """
        x = self.enc(self.pre(spectrogram) * mask, mask, g)
        mean, log_deviation = torch.split(self.proj(x), self.channels, dim=1)
        return (mean + torch.exp(log_deviation) * noise) * mask
