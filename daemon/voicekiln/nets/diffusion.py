"""Shallow diffusion as so-vits-svc, DDSP-SVC and Diffusion-SVC train it: a rough mel is noised a little and cleaned.

The denoiser predicts the noise in a normalised mel, and `samplers` say how that is taken out, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from voicekiln.nets.denoiser import Denoiser
from voicekiln.nets.embedding import embedding
from voicekiln.nets.loop import repeat
from voicekiln.nets.samplers import Sampler

Shape = tuple[int, ...]


class Condition(nn.Module):
    """What is to be sung, frame by frame, for the denoiser."""

    def __init__(self, width: int, hidden: int, speakers: int) -> None:
        super().__init__()
        self.unit_embed = nn.Linear(width, hidden)
        self.f0_embed = nn.Linear(1, hidden)
        self.volume_embed = nn.Linear(1, hidden)
        self.spk_embed = embedding(speakers, hidden) if speakers > 1 else None

    def condition(
        self,
        c: torch.Tensor,
        mel2ph: torch.Tensor,
        f0: torch.Tensor,
        volume: torch.Tensor,
        speaker: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the condition, (1, hidden, frames).

        Args:
            c: speech features, (1, units, width).
            mel2ph: which unit each frame takes, counted from 1; 0 is a unit of zeros. (1, frames)
            f0: Hz, 0 where unvoiced, (1, frames).
            volume: (1, frames).
            speaker: int64 number as (1,), or float32 shares as (frames, speakers); None if there is one speaker.
        """
        padded = torch.cat([torch.zeros_like(c[:, :1]), c], dim=1)
        units = torch.index_select(padded, 1, mel2ph[0])  # (1, frames, width)
        total = self.unit_embed(units) + self.f0_embed(torch.log(1 + f0 / 700)[..., None])
        total = total + self.volume_embed(volume[..., None])
        if self.spk_embed is not None and speaker is not None:
            total = total + self._voice(self.spk_embed, speaker)
        condition: torch.Tensor = total.transpose(1, 2)  # (1, frames, hidden) -> (1, hidden, frames)
        return condition

    def _voice(self, table: nn.Embedding, speaker: torch.Tensor) -> torch.Tensor:
        return speaker @ table.weight if speaker.is_floating_point() else table(speaker)


class Decoder(nn.Module):
    """As much as is wanted of what checkpoints keep under `decoder`: the denoiser and the schedule's numbers."""

    betas: torch.Tensor
    """Variance that each time adds, (timesteps,)."""
    alphas_cumprod: torch.Tensor
    """Part of the mel's variance that is left at each time, (timesteps,)."""
    spec_min: torch.Tensor
    spec_max: torch.Tensor
    """Between which the natural logarithm of a mel becomes -1 .. 1; (1, 1, 1), or (1, 1, mels)."""

    def __init__(self, numbers: Mapping[str, Shape], denoiser: Denoiser | None = None) -> None:
        super().__init__()
        for name, shape in numbers.items():
            self.register_buffer(name, torch.zeros(shape))
        if denoiser is not None:
            self.denoise_fn = denoiser

    def forward(self, noise: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return the noise that is heard; arguments as for `Denoiser`."""
        heard: torch.Tensor = self.denoise_fn(noise, time, condition)
        return heard

    def normalised(self, mel: torch.Tensor) -> torch.Tensor:
        """Return (1, 1, mels, frames), as a rule in -1 .. 1, for a mel (1, frames, mels)."""
        scaled = (mel - self.spec_min) / (self.spec_max - self.spec_min) * 2 - 1
        return scaled.transpose(1, 2)[:, None]

    def mel(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mel, (1, frames, mels), natural logarithm; what `normalised` does, undone."""
        return (x[:, 0].transpose(1, 2) + 1) / 2 * (self.spec_max - self.spec_min) + self.spec_min


class ShallowDiffusion(Condition):
    """The whole: from a rough mel to a better one."""

    def __init__(  # noqa: PLR0913, PLR0917 - what the network is built from
        self, width: int, hidden: int, speakers: int, denoiser: Denoiser, numbers: Mapping[str, Shape], deepest: int
    ) -> None:
        """`deepest` as for `Sampler`; `numbers` are the shapes of the four that `Decoder` lists."""
        super().__init__(width, hidden, speakers)
        self.decoder = Decoder(numbers, denoiser)
        self.sampler = Sampler(deepest)

    def forward(self, c: torch.Tensor, mel2ph: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """Return the mel, (1, frames, mels).

        Args:
            c: as for `condition`.
            mel2ph: as for `condition`.
            rest: f0, volume, the speaker if there are several, as for `condition`; then the rough mel as
                (1, frames, mels), standard normal noise as (1, 1, mels, frames), and as int64 without axes or as (1,)
                k_step, speedup and method.
        """
        *voice, mel, noise, k_step, speedup, method = rest
        f0, volume, *speaker = voice
        condition = self.condition(c, mel2ph, f0, volume, speaker[0] if speaker else None)
        depth = self.sampler.depth(k_step.reshape(()))
        betas, alphas = self.decoder.betas, self.decoder.alphas_cumprod
        steps, table = self.sampler(depth, speedup.reshape(()), method.reshape(()), betas, alphas)
        left = torch.index_select(alphas, 0, depth.reshape(1) - 1)
        start = torch.sqrt(left) * self.decoder.normalised(mel) + torch.sqrt(1 - left) * noise

        def step(number: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            row = torch.index_select(table, 0, number.reshape(1))[0]
            time, p, q, a, b, c = torch.split(row, 1)
            made = p * x + q * self.decoder(x, time, condition)
            return a * x + b * made + c * before, made

        clean, _ = repeat(steps, step, start, torch.zeros_like(start))
        # Reshaped, because ONNX cannot tell the shape of what comes out of a loop.
        return self.decoder.mel(clean).reshape(mel.shape)


class ConditionPart(Condition):
    """The condition alone, for those who run a sampler of their own."""

    def forward(
        self,
        hubert: torch.Tensor,
        mel2ph: torch.Tensor,
        f0: torch.Tensor,
        volume: torch.Tensor,
        speaker: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (1, hidden, frames); arguments as for `condition`."""
        return self.condition(hubert, mel2ph, f0, volume, speaker)


class DenoiserPart(nn.Module):
    """One look of the denoiser."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.decoder = Decoder({}, denoiser)

    def forward(self, noise: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return the noise that is heard; arguments as for `Denoiser`."""
        heard: torch.Tensor = self.decoder(noise, time, condition)
        return heard


class StepPart(nn.Module):
    """One step back in time, as pseudo numerical methods take it (Liu et al. 2022, PNDM, equation 11)."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.decoder = Decoder({"alphas_cumprod": (timesteps,)})

    def forward(
        self, noise: torch.Tensor, noise_pred: torch.Tensor, time: torch.Tensor, time_prev: torch.Tensor
    ) -> torch.Tensor:
        """Return the mel at `time_prev`, (1, 1, mels, frames) like itself at `time` and the noise heard in it.

        The times are int64, (1,); before the first there is nothing, so that a negative one counts as 0.
        """
        alphas = self.decoder.alphas_cumprod.double()
        now, then = (torch.index_select(alphas, 0, torch.clamp(at, min=0)) for at in (time, time_prev))
        a = torch.sqrt(then / now)
        b = torch.sqrt(1 - then) - a * torch.sqrt(1 - now)
        return a.float() * noise + b.float() * noise_pred


class MelPart(nn.Module):
    """The way back from -1 .. 1 to a mel."""

    def __init__(self, limits: Shape) -> None:
        super().__init__()
        self.decoder = Decoder({"spec_min": limits, "spec_max": limits})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1, mels, frames), as vocoders take it, for (1, 1, mels, frames)."""
        return self.decoder.mel(x).transpose(1, 2)


class AlphaPart(nn.Module):
    """The schedule: how much of the mel's variance is left."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.decoder = Decoder({"alphas_cumprod": (timesteps,)})

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        """Return (times,) for int64 (times,)."""
        return torch.index_select(self.decoder.alphas_cumprod, 0, time)
