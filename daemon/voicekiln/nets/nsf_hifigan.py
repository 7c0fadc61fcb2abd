"""The vocoder NSF-HiFiGAN (openvpi): a decoder by itself, from a mel spectrogram and pitch to audio."""

from __future__ import annotations

import torch
from torch import nn

from voicekiln.nets.hifigan import Generator


class Vocoder(nn.Module):
    """The network of a vocoder's file, whose weights lie under `generator` there, too."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, c: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            c: The natural logarithm of a mel spectrogram (see `nets.mel.LogMel`), (1, mels, frames).
            f0: In Hz, 0 where unvoiced, (1, frames).
        """
        audio: torch.Tensor = self.generator(c, None, f0)
        return audio
