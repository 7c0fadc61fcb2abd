"""One run of a file beside the voice itself, on the same features, the same pitch and the same noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from voicekiln.convert.verify import difference
from voicekiln.judge.client import Client, Floats, Heard, RunError, Said
from voicekiln.judge.original import Turns, Voice
from voicekiln.nets.rvc import RND_SCALE

EQUAL_DB: Final = 120.0
"""From here on two runs of one file count as the same."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came out of both."""

    frames: int
    speaker: int
    wanted: Floats
    """What the voice says."""
    got: Floats
    """What the file says; as long as `wanted` unless `trouble` says otherwise."""
    trouble: str = ""
    """Why there is nothing to compare."""

    @property
    def snr_db(self) -> float:
        """Return the signal-to-noise ratio; NaN or minus infinity where there is none, see `verify.difference`."""
        return -math.inf if self.trouble else difference(self.wanted, self.got).snr_db

    @property
    def max_abs(self) -> float:
        """Return the largest difference of a sample."""
        return math.inf if self.trouble else difference(self.wanted, self.got).max_abs

    @property
    def stopped(self) -> bool:
        """Whether the file did not run at all."""
        return bool(self.trouble) and not len(self.got)

    def part_db(self, begin: float, end: float) -> float:
        """Return the signal-to-noise ratio of a stretch, given as shares of the whole."""
        first, last = int(begin * len(self.wanted)), int(end * len(self.wanted))
        return difference(self.wanted[first:last], self.got[first:last]).snr_db


class Pair:
    """A file and the voice that it is said to be."""

    def __init__(self, client: Client, voice: Voice) -> None:
        self.client, self.voice = client, voice

    @cached_property
    def silent(self) -> Client:
        """The file with its random nodes silenced."""
        return self.client.silent()

    def beside(self, said: Said) -> Run:
        """Run both with the noise on: what the file draws is replayed, what it does not draw the voice draws itself."""
        said = self.client.as_fed(said)
        try:
            heard = self.client.run(said)
        except RunError as error:
            return _nothing(said, str(error))
        return self._run(said, heard, self.noisy(said, heard))

    def noisy(self, said: Said, heard: Heard, *, prior: float = 1.0, source: float = 1.0) -> Floats:
        """Return what the voice says with the noise of a run of the file, multiplied by `prior` and `source`."""
        rng = np.random.default_rng(said.frames)
        drawn = {len(numbers): numbers for numbers in heard.drawn}
        if not self.client.face.has("noise"):
            own = drawn.get(said.noise.size)
            own = rng.standard_normal(said.noise.size, dtype=np.float32) if own is None else own
            said = _with_noise(said, own.reshape(said.noise.shape) * np.float32(RND_SCALE))
        head = self.client.head()
        samples = (said.frames - head) * self.voice.hop
        hiss = drawn.get(samples)
        hiss = rng.standard_normal(samples, dtype=np.float32) if hiss is None else hiss
        return self.voice.say(said, hiss * np.float32(source), head=head, noise_scale=prior)

    def quietly(self, said: Said, turns: Turns | None = None, *, noise: bool = False) -> Run:
        """Run both without noise, but for that of the prior where it is an input and `noise` asks for it."""
        said = self.client.as_fed(said)
        fed = said if noise and self.client.face.has("noise") else _with_noise(said, np.zeros_like(said.noise))
        try:
            heard = self.silent.run(fed)
        except RunError as error:
            return _nothing(fed, str(error))
        return self._run(fed, heard, self.voice.say(fed, head=self.client.head(), turns=turns))

    def draws(self, heard: Heard, said: Said) -> tuple[bool, bool]:
        """Say whether the file draws noise for the prior and for the source."""
        sizes = [len(numbers) for numbers in heard.drawn]
        samples = (said.frames - self.client.head()) * self.voice.hop
        return said.noise.size in sizes, samples in sizes

    def is_replayable(self, heard: Heard, said: Said) -> bool:
        """Say whether it is known what all the numbers are for that the file draws."""
        known = {said.noise.size, len(heard.audio)}
        sizes = [len(numbers) for numbers in heard.drawn]
        return not self.client.hidden_noise and set(sizes) <= known and len(sizes) == len(set(sizes))

    def _run(self, said: Said, heard: Heard, wanted: Floats) -> Run:
        if heard.audio.shape != wanted.shape:
            frames = said.frames - self.client.head()
            per_frame = f"{len(heard.audio) / frames:g} samples a frame; the voice has {self.voice.hop}"
            return Run(said.frames, said.speaker, wanted, heard.audio, f"it gives {per_frame}")
        return Run(said.frames, said.speaker, wanted, heard.audio)


def _nothing(said: Said, why: str) -> Run:
    nothing = np.zeros(0, np.float32)
    return Run(said.frames, said.speaker, nothing, nothing, why)


def _with_noise(said: Said, noise: Floats) -> Said:
    return Said(said.features, said.f0, said.pitch, noise, said.speaker)
