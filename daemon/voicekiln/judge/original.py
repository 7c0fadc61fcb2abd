"""The voice itself, to compare files with: PyTorch's network with the checkpoint's weights, its noise in our hands.

Beside the right one it knows wrong ways to compute the phase of its sine, those that exporters have been seen to
take: what a file does wrong is proven when the network, made wrong in the same way, agrees with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch

from voicekiln import families
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.reference import References
from voicekiln.families.rvc import Rvc
from voicekiln.families.rvc_feed import coarse
from voicekiln.job import Precision
from voicekiln.judge.client import Floats, Said
from voicekiln.judge.face import UnfitError
from voicekiln.nets.rvc import RND_SCALE

SOURCE: Final = "dec.m_source.l_sin_gen"


class Turns(Protocol):
    """Computes the phase in turns, (frames, hop, 1), for f0 in Hz as (frames, 1, 1)."""

    def __call__(self, hz: torch.Tensor) -> torch.Tensor:
        """Return the phase."""
        ...


@dataclass(frozen=True, slots=True)
class Voice:
    """An opened checkpoint of RVC's."""

    model: Mapping[str, Any]
    """What `inspect` shows."""
    settings: Any
    title: str
    wanted_db: Mapping[Precision, float]
    network: Any
    tensors: Mapping[str, torch.Tensor]
    """Of the checkpoint, as they are there."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return int(self.settings.hop)

    def say(
        self,
        said: Said,
        source_noise: Floats | None = None,
        *,
        head: int = 0,
        noise_scale: float = 1.0,
        turns: Turns | None = None,
    ) -> Floats:
        """Return the audio, (samples,), without the first `head` frames.

        Args:
            said: what to say; f0 is left aside by a voice that has none.
            source_noise: standard normal numbers for the source, one a sample; None for silence.
            head: left out after the flow, as clients that stream do it.
            noise_scale: by which the prior's noise is multiplied once more.
            turns: another way to compute the sine's phase.
        """
        features, pitch, f0 = (torch.from_numpy(a)[None] for a in (said.features, said.pitch, said.f0))
        noise = torch.from_numpy(said.noise)[None] * noise_scale
        speaker = torch.tensor([said.speaker])
        net, voiced = self.network, self.settings.f0
        if voiced:
            source = net.get_submodule(SOURCE)
            shape = (said.frames - head, self.hop, 1)
            source.noise.replay = torch.zeros(shape) if source_noise is None else _reshaped(source_noise, shape)
            if turns is not None:
                source._turns = turns  # noqa: SLF001 - that is the trial
        try:
            with torch.inference_mode():
                if not head:
                    pitches = (pitch, f0) if voiced else ()
                    audio = net(features, torch.tensor([said.frames]), *pitches, speaker, noise)
                else:
                    g = net.emb_g(speaker).unsqueeze(-1)
                    mask = torch.ones(said.frames)
                    mean, deviation = net.enc_p(features, mask, pitch if voiced else None)
                    z = net.flow(mean + torch.exp(deviation) * noise, mask, g)[:, :, head:]
                    audio = net.dec(z, g, f0[:, head:] if voiced else None)
        finally:
            if voiced:
                source.noise.replay = None
                source.__dict__.pop("_turns", None)
        sound: Floats = audio.reshape(-1).numpy()
        return sound

    def wrong_turns(self) -> dict[str, Turns]:
        """Return ways in which exports compute the phase wrongly, each with the words for it."""
        rate, hop = self.settings.sample_rate, self.hop
        samples = torch.arange(1, hop + 1, dtype=torch.float32).unsqueeze(-1)

        def each_frame_anew(first: int) -> Turns:
            def turns(hz: torch.Tensor) -> torch.Tensor:
                within: torch.Tensor = hz / rate * (samples + (first - 1))
                return within

            return turns

        def counted(hz: torch.Tensor) -> torch.Tensor:
            places = torch.arange(1, hz.shape[0] * hop + 1, dtype=torch.float64).reshape(-1, hop, 1)
            return torch.fmod(hz.double() / rate * places, 1.0).float()

        def standing(hz: torch.Tensor) -> torch.Tensor:
            step: torch.Tensor = hz / rate
            return step.expand(-1, hop, -1)

        return {
            "each frame begins its sine anew": each_frame_anew(1),
            "each frame begins its sine anew, at zero": each_frame_anew(0),
            "the phase is f0 times the time since the beginning, not the sum of what was sung": counted,
            "within a frame the phase stands still": standing,
        }

    def turns_at(self, rate: int) -> Turns:
        """Return the phase as a network for another sample rate computes it."""
        right: Callable[[torch.Tensor], torch.Tensor] = self.network.get_submodule(SOURCE)._turns  # noqa: SLF001 - as above
        return lambda hz: right(hz * (self.settings.sample_rate / rate))


def open_voice(path: Path) -> Voice:
    """Open a checkpoint and build its network.

    Raises:
        Refusal: if it is no voice that can be converted.
        UnfitError: if it is one of another family than RVC.
        OSError, MemoryError: if the machine fails.
    """
    checkpoint = open_checkpoint(path)
    family, claim = families.choose(checkpoint.outline)
    if family.name != Rvc.name:
        raise UnfitError(f"The voice is one of {family.title}; files can be judged against RVC voices only.")
    exportable = family.build(claim, checkpoint.outline)
    network = References().load(exportable, checkpoint.tensors)
    return Voice(claim.model, claim.settings, exportable.title, exportable.wanted_db, network, checkpoint.tensors)


def say_to(voice: Voice, f0: Floats, *, speaker: int = 0, seed: int = 0) -> Said:
    """Return features at random that are to be said with this f0, one number a frame."""
    rng, frames = np.random.default_rng([seed, len(f0)]), len(f0)
    return Said(
        features=rng.standard_normal((frames, voice.settings.features), dtype=np.float32),
        f0=f0,
        pitch=coarse(f0),
        noise=rng.standard_normal((voice.settings.channels, frames), dtype=np.float32) * np.float32(RND_SCALE),
        speaker=speaker,
    )


def _reshaped(noise: Floats, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(noise)).reshape(shape)
