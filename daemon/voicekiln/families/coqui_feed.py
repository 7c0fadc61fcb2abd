"""What a voice that reads text is fed: the inputs and outputs of each of its ONNX files, and plausible values of them.

Randomness comes in scaled, so that the caller decides how much of it there is; only `single` draws its own, as Coqui's
own export does, whose names and order it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families.coqui_config import Config
from voicekiln.families.coqui_network import Made, Settings
from voicekiln.families.rvc_feed import Sampler
from voicekiln.job import Port

WAVEFORM = Port("waveform", "float32", (1, 1, "samples"))
OUTPUT = Port("output", "float32", (1, 1, "samples"))
SIDES = ("source", "target")
"""Of a voice conversion."""
SPREAD = 0.1
"""Of a made-up d-vector's numbers; 512 of them are about two long."""

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Fed:
    """One input."""

    what: str
    """It is, whatever it is called there."""
    port: Port
    draw: Callable[[int, int, np.random.Generator], Numbers]
    """`draw(tokens, frames, rng)` gives plausible values for so many."""


def fed(settings: Settings, told: Config, part: Made) -> tuple[Fed, ...]:
    """Return the inputs of a part, in their order."""
    make = _Making(settings, told)
    match part:
        case "encoder":
            speaker = make.speaker("speaker_id", "d_vector") if settings.duration_by_speaker else ()
            text = make.text("tokens", "token_lengths")
            return (*text, *speaker, *make.language("language_id"), *make.duration_noise("dp_noise"))
        case "single":
            text = make.text("input", "input_lengths")
            return (*text, make.scales("scales"), *make.speaker("sid", "d_vector"), *make.language("langid"))
        case "voice-conversion":
            source, target = (make.speaker(f"{of}_speaker_id", f"{of}_d_vector", f"{of}_") for of in SIDES)
            return (make.spectrogram("spectrogram"), *source, *target, make.noise("noise", 1.0))
        case "decoder":
            speaker = make.speaker("speaker_id", "d_vector")
            return (*make.prior("m_p", "logs_p"), make.durations("durations"), *speaker, make.prior_noise("noise"))


def outputs(settings: Settings, part: Made) -> tuple[Port, ...]:
    """Return what comes out of a part."""
    if part == "encoder":
        rows = {"m_p": settings.channels, "logs_p": settings.channels, "w": 1}
        return tuple(Port(name, "float32", (1, height, "tokens")) for name, height in rows.items())
    return (OUTPUT,) if part == "single" else (WAVEFORM,)


def names(settings: Settings, told: Config, part: Made) -> dict[str, str | None]:
    """Return under which name each thing is fed, for the sidecar; what `single` draws itself has none."""
    found: dict[str, str | None] = {each.what: each.port.name for each in fed(settings, told, part)}
    return found | ({"noise": None} if part == "single" else {})


def sampler(settings: Settings, told: Config, part: Made) -> Sampler:
    """Return the function that draws plausible inputs of a part: for so many frames, or tokens if it is fed none."""
    every = fed(settings, told, part)

    def sample(frames: int, rng: np.random.Generator) -> dict[str, Numbers]:
        tokens = _fewer(frames) if part == "decoder" else frames
        return {each.port.name: each.draw(tokens, frames, rng) for each in every}

    return sample


def _fewer(frames: int) -> int:
    """Return of how many tokens so many frames may be; two axes have two lengths."""
    tokens = 2 + frames // 4
    return tokens + 1 if tokens == frames else tokens


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes a voice's inputs."""

    settings: Settings
    told: Config

    def text(self, name: str, length: str) -> tuple[Fed, Fed]:
        """Random symbols, with the blank around each where the voice wants that."""

        def draw(tokens: int, _frames: int, rng: np.random.Generator) -> Numbers:
            drawn = rng.integers(self.settings.symbols, size=(1, tokens))
            if self.told.add_blank and self.told.blank is not None:
                drawn[:, ::2] = self.told.blank
            return drawn

        symbols = Fed("tokens", Port(name, "int64", (1, "tokens")), draw)
        return symbols, Fed("length", Port(length, "int64", (1,)), lambda tokens, *_: np.array([tokens]))

    def speaker(self, number: str, vector: str, of: str = "") -> tuple[Fed, ...]:
        """A row of the voice's own table, or a vector that is not of length 1."""
        rows, width = self.settings.speakers, self.settings.gin_channels
        match self.settings.speaker:
            case "speaker_id":
                port = Port(number, "int64", (1,))
                return (Fed(f"{of}speaker", port, lambda _tokens, _frames, rng: rng.integers(rows, size=1)),)
            case "d_vector":
                port = Port(vector, "float32", (1, width))
                return (Fed(f"{of}d_vector", port, lambda _tokens, _frames, rng: _normal(rng, (1, width), SPREAD)),)
            case _:
                return ()

    def language(self, name: str) -> tuple[Fed, ...]:
        """One of the voice's languages."""
        count, port = self.settings.languages, Port(name, "int64", (1,))
        made = Fed("language", port, lambda _tokens, _frames, rng: rng.integers(count, size=1))
        return (made,) if count else ()

    def duration_noise(self, name: str) -> tuple[Fed, ...]:
        """From which a stochastic predictor draws the durations."""
        port, scale = Port(name, "float32", (1, 2, "tokens")), self.told.noise_scale_dp
        made = Fed("duration_noise", port, lambda tokens, _frames, rng: _normal(rng, (1, 2, tokens), scale))
        return (made,) if self.settings.stochastic else ()

    def scales(self, name: str) -> Fed:
        """The voice's own."""
        drawn = np.array([self.told.noise_scale, self.told.length_scale, self.told.noise_scale_dp], np.float32)
        return Fed("scales", Port(name, "float32", (3,)), lambda *_: drawn)

    def prior(self, mean: str, log_deviation: str) -> tuple[Fed, Fed]:
        """Spread as an encoder's are."""
        rows = self.settings.channels
        means, deviations = (Port(name, "float32", (1, rows, "tokens")) for name in (mean, log_deviation))
        return (
            Fed("mean", means, lambda tokens, _frames, rng: _normal(rng, (1, rows, tokens))),
            Fed("log_deviation", deviations, lambda tokens, _frames, rng: _normal(rng, (1, rows, tokens), 0.5) - 1),
        )

    def durations(self, name: str) -> Fed:
        """As many frames as there are, some tokens without any."""

        def draw(tokens: int, frames: int, rng: np.random.Generator) -> Numbers:
            return rng.multinomial(frames, np.full(tokens, 1 / tokens))[None]

        return Fed("durations", Port(name, "int64", (1, "tokens")), draw)

    def prior_noise(self, name: str) -> Fed:
        """As much of it as the voice wants by itself."""
        return self.noise(name, self.told.noise_scale)

    def noise(self, name: str, scale: float) -> Fed:
        """For every frame."""
        rows = self.settings.channels
        port = Port(name, "float32", (1, rows, "frames"))
        return Fed("noise", port, lambda _tokens, frames, rng: _normal(rng, (1, rows, frames), scale))

    def spectrogram(self, name: str) -> Fed:
        """Magnitudes of a sound, the fainter the higher."""
        bins = self.settings.spectrum
        tilt = np.linspace(2, -4, bins, dtype=np.float32)[None, :, None]
        port = Port(name, "float32", (1, bins, "frames"))
        return Fed("spectrogram", port, lambda _tokens, frames, rng: np.exp(tilt + _normal(rng, (1, bins, frames))))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)
    return drawn
