"""The speaker encoder of YourTTS: from sound to the d-vector that says whose voice it is.

A residual network (He et al. 2016) with squeeze and excitation (Hu et al. 2018) looks at a mel spectrogram as at a
picture, and attentive statistics (Okabe et al. 2018) make one vector of all its frames, as in the baseline that Heo et
al. (2020) made for a contest of speaker recognition. The mel spectrogram is made here as well, with the window and the
bands of the checkpoint. Several windows of sound go through at once, and none knows of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.nets.batch_norm import BatchNorm
from voicekiln.nets.mel import Dft
from voicekiln.nets.unit_length import unit_length

FLOOR = 1e-6
"""Is added to the energy of each band before its logarithm is taken."""
EPSILON = 1e-5
"""Is added to the variance of each band over time; no deviation over time is taken for less than its root."""


class PreEmphasis(nn.Module):
    """Less of the sample before in each sample, which lifts high frequencies; the checkpoint says how much less."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.empty(1, 1, 2))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return (windows, 1, samples) for (windows, samples), the first sample's neighbour being the second."""
        return F.conv1d(torch.cat([audio[:, 1:2], audio], dim=1).unsqueeze(1), self.filter)


class Bands(nn.Module):
    """The energy in each mel band, from that at each frequency."""

    def __init__(self, bins: int, mels: int) -> None:
        super().__init__()
        self.fb = nn.Parameter(torch.empty(bins, mels))

    def forward(self, power: torch.Tensor) -> torch.Tensor:
        """Return (windows, mels, frames) for (windows, bins, frames)."""
        return torch.matmul(power.transpose(1, 2), self.fb).transpose(1, 2)


class MelSpectrogram(nn.Module):
    """The energy in mel bands, of frames that are centred every `hop` samples."""

    def __init__(self, n_fft: int, hop: int, mels: int) -> None:
        super().__init__()
        self.reach = n_fft // 2
        self.spectrogram = Dft(n_fft, hop)
        self.mel_scale = Bands(self.spectrogram.bins, mels)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return (windows, mels, samples // hop + 1) for (windows, 1, samples), of more samples than half a transform.

        The ends are mirrored, so that the first frame is centred at the first sample.
        """
        first, last = audio[..., 1 : self.reach + 1], audio[..., -self.reach - 1 : -1]
        mirrored = torch.cat([first.flip(2), audio, last.flip(2)], dim=2)
        bands: torch.Tensor = self.mel_scale(self.spectrogram(mirrored))
        return bands


class InstanceNorm(nn.Module):
    """Each band of each window brought to a mean of 0 and a variance of 1 over time (Ulyanov et al. 2016)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (windows, mels, frames) in the same shape."""
        centred = x - x.mean(dim=2, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(dim=2, keepdim=True) + EPSILON)


class SqueezeExcitation(nn.Module):
    """Each channel made louder or softer by what all of them are on the average."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, reduced), nn.ReLU(), nn.Linear(reduced, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (windows, channels, rows, frames) in the same shape."""
        gains: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return x * gains.unsqueeze(2).unsqueeze(3)


class Block(nn.Module):
    """Two convolutions whose result is added to what they were made of; the ReLU comes before the first batch norm."""

    def __init__(self, inputs: int, channels: int, stride: int, reduced: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(channels, 2)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(channels, 2)
        self.se = SqueezeExcitation(channels, reduced)
        self.downsample = (
            nn.Identity()
            if (inputs, stride) == (channels, 1)
            else nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), BatchNorm(channels, 2))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (windows, channels, rows, frames); rows and frames are divided by the stride and rounded up."""
        made = self.bn2(self.conv2(self.bn1(torch.relu(self.conv1(x)))))
        return torch.relu(self.se(made) + self.downsample(x))


class SpeakerEncoder(nn.Module):
    """From (windows, samples) to (windows, width)."""

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's own numbers
        self,
        n_fft: int,
        hop: int,
        mels: int,
        filters: Sequence[int],
        blocks: Sequence[int],
        reduced: Sequence[int],
        attention: int,
        width: int,
    ) -> None:
        """Lay out the layers; `filters`, `blocks` and `reduced` have a number for each of the four groups of blocks."""
        super().__init__()
        self.torch_spec = nn.Sequential(PreEmphasis(), MelSpectrogram(n_fft, hop, mels))
        self.instancenorm = InstanceNorm()
        self.conv1 = nn.Conv2d(1, filters[0], 3, padding=1)
        self.bn1 = BatchNorm(filters[0], 2)
        groups = [
            _group(inputs, channels, count, stride, narrow)
            for inputs, channels, count, stride, narrow in zip(
                (filters[0], *filters), filters, blocks, STRIDES, reduced, strict=False
            )
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        channels = filters[-1] * rows(mels)
        self.attention = nn.Sequential(
            nn.Conv1d(channels, attention, 1),
            nn.ReLU(),
            BatchNorm(attention, 1),
            nn.Conv1d(attention, channels, 1),
            nn.Softmax(dim=2),
        )
        self.fc = nn.Linear(2 * channels, width)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return a d-vector of length 1 for each window.

        Args:
            waveform: within -1 .. 1, (windows, samples), of more samples than half a transform.
        """
        log_mel = torch.log(self.torch_spec(waveform) + FLOOR)
        x = self.bn1(torch.relu(self.conv1(self.instancenorm(log_mel).unsqueeze(1))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x.flatten(1, 2)  # (windows, channels, rows, frames) -> (windows, channels * rows, frames)
        weights = self.attention(x)
        mean = (x * weights).sum(dim=2)
        # Not the mean of the squares less the mean's square: of two large numbers little may be left.
        variance = (weights * (x - mean.unsqueeze(2)).square()).sum(dim=2)
        deviation = torch.sqrt(variance.clamp(min=EPSILON))
        return unit_length(self.fc(torch.cat([mean, deviation], dim=1)))


STRIDES = (1, 2, 2, 2)
"""Of the first block of each group, in both directions."""


def rows(mels: int) -> int:
    """Return what is left of the mel bands after all strides."""
    for stride in STRIDES:
        mels = -(-mels // stride)
    return mels


def _group(inputs: int, channels: int, count: int, stride: int, reduced: int) -> nn.Sequential:
    """Return blocks in a row; the first of them changes channels and rate."""
    first = Block(inputs, channels, stride, reduced)
    return nn.Sequential(first, *(Block(channels, channels, 1, reduced) for _ in range(count - 1)))
