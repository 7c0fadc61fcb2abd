"""Which speech features a so-vits-svc voice was trained on, and how they become frames.

The features are called units: 50 of them a second, whatever the encoder. A voice has about 86 frames a second, so each
frame is told which unit it uses (`mel2ph`). Features of one width come from several encoders, and only the config says
from which; a wrong one gives a voice that mumbles, without any error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from voicekiln.errors import Contradiction
from voicekiln.families.rvc_config import shown
from voicekiln.families.so_vits_svc_config import SILENT, Config

UNITS_PER_S = 50
INPUT_RATE = 16_000
"""Hz; what all encoders listen to."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    width: int
    layer: int | None = None
    """Of ContentVec, counted from 1; None for another network's last one."""
    final_projection: bool | None = None


ENCODERS = {
    "vec256l9": _Encoder(256, 9, final_projection=True),
    "vec768l12": _Encoder(768, 12, final_projection=False),
    "whisper-ppg": _Encoder(1024),
    "whisper-ppg-large": _Encoder(1280),
    "hubertsoft": _Encoder(256),
    "dphubert": _Encoder(768),
    "wavlmbase+": _Encoder(768),
    "cnhubertlarge": _Encoder(1024),
    "vec256l9-onnx": _Encoder(256, 9, final_projection=True),
    "vec256l12-onnx": _Encoder(256, 12, final_projection=True),
    "vec768l9-onnx": _Encoder(768, 9, final_projection=False),
    "vec768l12-onnx": _Encoder(768, 12, final_projection=False),
}
"""By the names that so-vits-svc gives them; the first of a width is what most voices of that width want."""

ONE_ENCODER = ("4.0", "4.0 (fork)")
"""Versions that know ContentVec alone, so that the width tells all."""

STRETCHES = {
    "nearest": "mel2ph[t] = 1 + min(units - 1, floor(t * (units / frames))), all in float32",
    "left": "mel2ph[t] = 1 + floor(t * units / frames), in whole numbers",
}
"""How units become frames; t counts from 0. The two differ by what float32 rounds away."""
OTHER_STRETCH = "bring the units to the number of frames by interpolation ({mode}) first; then mel2ph[t] = 1 + t"


@dataclass(frozen=True, slots=True)
class Units:
    """What a voice wants to be fed, as far as one can know."""

    width: int
    encoder: str | None
    """None if nobody says and no encoder is known that gives such a width."""
    sure: bool
    """Whether the config or the version says so."""
    stretch: str

    @property
    def others(self) -> tuple[str, ...]:
        """Other encoders of the same width."""
        mine = ENCODERS.get(self.encoder or "")
        same = {self.encoder} | {name for name, known in ENCODERS.items() if known == mine and known.layer}
        return tuple(name for name, known in ENCODERS.items() if known.width == self.width and name not in same)

    @property
    def model(self) -> dict[str, Any]:
        """What `inspect` shows of it."""
        known = ENCODERS.get(self.encoder or "", _Encoder(self.width))
        facts = {
            "embedder": self.encoder,
            "feature_layer": known.layer,
            "final_projection": known.final_projection,
            "stretch": self.stretch,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}

    @property
    def mel2ph(self) -> str:
        """How to compute the input of that name."""
        return STRETCHES.get(self.stretch) or OTHER_STRETCH.format(mode=self.stretch)


def units(config: Config, width: int) -> Units:
    """Return the units of a voice for features of that width, by its config or by what is usual."""
    usual = next((name for name, known in ENCODERS.items() if known.width == width), None)
    by_width = config.version in ONE_ENCODER and usual is not None and ENCODERS[usual].layer is not None
    # 4.1 takes the older rule where its config names none; the fork has the newer one alone.
    newer = config == SILENT or config.version == "4.0 (fork)"
    return Units(
        width=width,
        encoder=config.encoder or usual,
        sure=config.encoder is not None or by_width,
        stretch=config.stretch or ("nearest" if newer else "left"),
    )


def unsure(fed: Units) -> tuple[str, ...]:
    """Return the sentence for a voice of which nobody says, or knows, from which encoder its features come."""
    if fed.sure and fed.encoder not in ENCODERS:
        return (f"Nobody here knows the speech encoder {fed.encoder}; its name is passed on as written.",)
    if fed.sure:
        return ()
    if fed.encoder is None:
        return (f"Nothing says which speech encoder gives it its features of the width {fed.width}.",)
    if not fed.others:
        return (
            f"Nothing says which speech encoder it wants; {fed.encoder} alone gives features of the width {fed.width}.",
        )
    sentence = (
        f"Nothing says which speech encoder it wants; {fed.encoder} was taken, the usual one for features of the width "
        f"{fed.width}. Others of that width are {', '.join(fed.others)}."
    )
    return (sentence,)


def check_width(name: str, config: Config, width: int) -> None:
    """Refuse a config, that of the name, whose encoder gives features of another width than the weights want."""
    known = ENCODERS.get(config.encoder or "")
    if known is not None and known.width != width:
        what = f"{shown(name)} has the encoder {config.encoder}, which gives {known.width} features a unit"
        raise Contradiction(what=f"{what}, the weights want {width}")
