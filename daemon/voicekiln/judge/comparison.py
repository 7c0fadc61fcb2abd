"""One run of a file beside the voice itself, on the same features, the same pitch and the same noise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from voicekiln.convert.verify import difference
from voicekiln.families.rvc_feed import glide
from voicekiln.judge.client import Client, Floats, Heard, RunError, Said
from voicekiln.judge.original import Turns, Voice, say_to
from voicekiln.nets.rvc import RND_SCALE

EQUAL_DB: Final = 120.0
"""From here on two runs of one file count as the same."""
LENGTHS: Final = range(10, 2001)
"""Frames that an exporter may have frozen."""
TRIED_LENGTHS: Final = 8
SHAPE: Final = 8
"""Numbers in a constant that may be a shape."""


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
        own, hiss = self.drawn(said, heard)
        if not self.client.face.has("noise"):
            own = rng.standard_normal(said.noise.size, dtype=np.float32) if own is None else own
            said = _with_noise(said, own.reshape(said.noise.shape) * np.float32(RND_SCALE))
        head = self.client.head()
        samples = (said.frames - head) * self.voice.hop
        if hiss is None or hiss.size != samples:
            hiss = rng.standard_normal(samples, dtype=np.float32)
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

    def drawn(self, said: Said, heard: Heard) -> tuple[Floats | None, Floats | None]:
        """Return the numbers that the file drew for the prior and for the source; None for what it did not draw.

        They are told by their shape: there may be as many of the one as of the other.
        """
        prior = [numbers for numbers in heard.drawn if numbers.shape == said.noise.shape]
        source = [n for n in heard.drawn if n.shape != said.noise.shape and n.size == len(heard.audio)]
        return next(iter(prior), None), next(iter(source), None)

    def is_replayable(self, said: Said, heard: Heard) -> bool:
        """Say whether it is known what all the numbers are for that the file draws."""
        known = [numbers for numbers in self.drawn(said, heard) if numbers is not None]
        return not self.client.hidden_noise and len(known) == len(heard.drawn)

    def noise_db(self, said: Said) -> float:
        """Return by how much the noise of the file is louder than the voice's, where it can only be heard.

        What is drawn differs from run to run, but hardly its power. NaN if neither has any.

        Raises:
            RunError: if the file does not run, or not without noise.
        """
        fed = self.client.as_fed(_with_noise(said, np.zeros_like(said.noise)))
        heard = self.client.run(fed)
        own = self.voice.say(fed, head=self.client.head())
        nothing = Heard(heard.audio, ())
        file, voice = (heard.audio, self.silent.run(fed).audio), (self.noisy(fed, nothing), own)
        if any(loud.shape != quiet.shape for loud, quiet in (file, voice)):
            raise RunError("it gives another length with noise than without")
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = np.array([np.mean((loud.astype(np.float64) - quiet) ** 2) for loud, quiet in (file, voice)])
            return float(10 * np.log10(powers[0] / powers[1]))

    @cached_property
    def only_length(self) -> int | None:
        """A number of frames that the file takes where it does not take any; None if none was found.

        What its inputs declare is tried, then the lengths that stand most often in the shapes of its graph.
        """
        tried = [*self.client.face.fixed_frames(), *_frozen(self.client.model.graph)]
        for frames in dict.fromkeys(frames for frames in tried if frames in LENGTHS):
            try:
                self.client.run(say_to(self.voice, glide(frames)))
            except RunError:
                continue
            return frames
        return None

    def _run(self, said: Said, heard: Heard, wanted: Floats) -> Run:
        if heard.audio.shape != wanted.shape:
            frames = said.frames - self.client.head()
            per_frame = f"{len(heard.audio) / frames:g} samples a frame; the voice has {self.voice.hop}"
            return Run(said.frames, said.speaker, wanted, heard.audio, f"it gives {per_frame}")
        return Run(said.frames, said.speaker, wanted, heard.audio)


def _frozen(graph: onnx.GraphProto) -> list[int]:
    """Return the numbers that stand most often in the graph's shapes."""
    tensors = [*graph.initializer]
    tensors += [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")]
    short = (t for t in tensors if t.data_type == TensorProto.INT64 and math.prod(t.dims) <= SHAPE)
    counts = Counter(int(n) for t in short for n in numpy_helper.to_array(t).reshape(-1) if int(n) in LENGTHS)
    return [number for number, _ in counts.most_common(TRIED_LENGTHS)]


def _nothing(said: Said, why: str) -> Run:
    nothing = np.zeros(0, np.float32)
    return Run(said.frames, said.speaker, nothing, nothing, why)


def _with_noise(said: Said, noise: Floats) -> Said:
    return Said(said.features, said.f0, said.pitch, noise, said.speaker)
