"""What hears the noise in a mel: a WaveNet that is told the time and what is sung.

Kong et al. 2021 (DiffWave), for mels Liu et al. 2022 (DiffSinger). All of its dilations are 1, as in so-vits-svc.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class TimeTable(nn.Module):
    """A time as sines and cosines of it, of ever lower frequencies (Vaswani et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        """Return (1, channels) for a time as (1,), any number from 0 on."""
        half = self.channels // 2
        # In float64: a time near 1000 multiplies what float32 rounds. The rates hang on the time for appearance's sake,
        # or the exporter would put a table of them into the graph.
        exact = time.double()[:, None]
        count = torch.arange(half) + 0 * exact
        angles = exact * torch.exp(count * (-math.log(10_000) / (half - 1)))
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1).float()


class ResidualBlock(nn.Module):
    """A gated convolution that hears the condition and the time."""

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=1)
        self.diffusion_projection = nn.Linear(channels, channels)
        self.conditioner_projection = nn.Conv1d(hidden, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, condition: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what goes on and what is summed up, both (1, channels, frames) like `x`; `time` is (1, channels)."""
        mixed = self.dilated_conv(x + self.diffusion_projection(time)[..., None])
        gate, level = torch.chunk(mixed + self.conditioner_projection(condition), 2, dim=1)
        residual, skipped = torch.chunk(self.output_projection(torch.sigmoid(gate) * torch.tanh(level)), 2, dim=1)
        return (x + residual) / math.sqrt(2), skipped


class Denoiser(nn.Module):
    """The WaveNet."""

    def __init__(self, mels: int, hidden: int, channels: int, layers: int) -> None:
        super().__init__()
        self.input_projection = nn.Conv1d(mels, channels, 1)
        self.time = TimeTable(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.residual_layers = nn.ModuleList(ResidualBlock(hidden, channels) for _ in range(layers))
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, mels, 1)

    def forward(self, noise: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return the noise that it hears in a normalised mel.

        Args:
            noise: the noisy mel, (1, 1, mels, frames).
            time: float32, (1,); the more, the noisier.
            condition: (1, hidden, frames).
        """
        x = torch.relu(self.input_projection(noise[:, 0]))
        when = self.mlp(self.time(time))
        skipped = []
        for block in self.residual_layers:
            x, skip = block(x, when, condition)
            skipped.append(skip)
        total = sum(skipped[1:], skipped[0]) / math.sqrt(len(skipped))
        heard: torch.Tensor = self.output_projection(torch.relu(self.skip_projection(total)))
        return heard[:, None]
