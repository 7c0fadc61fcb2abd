"""How a so-vits-svc voice is fed: inputs and outputs of its ONNX files, and what clients have to know beside them.

Names and order are those of so-vits-svc's own exporter, to which clients bind; the prior's noise comes in scaled, so
that the caller decides how much of it there is. A speaker mix is fed under the speaker's name, as a share of each for
every frame; that exporter has it so, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families import singing
from voicekiln.families.rvc_feed import F0_HZ, Sampler, glide
from voicekiln.families.so_vits_svc_network import Settings
from voicekiln.families.so_vits_svc_units import UNITS_PER_S, Units
from voicekiln.job import Part, Port

NOISE_SCALE = 0.4
"""What the original's own programs take where nobody says otherwise."""
AUDIO = Port("audio", "float32", (1, 1, "samples"))
SUNG = Port("f0_auto", "float32", (1, "frames"))
"""What the voice sings where it makes the melody itself, in Hz. In ONNX no output can have an input's name."""
NAMES = {
    "features": "c",
    "f0": "f0",
    "stretch": "mel2ph",
    "voiced": "uv",
    "noise": "noise",
    "speaker": "sid",
    "loudness": "vol",
}
MANY_ROWS = 200
"""What the fork makes room for, whoever is in it; without names, one speaker is shown to people."""
CLIENT_LAYERS = (9, 12)
"""Of ContentVec, for which MoeVoiceStudio has encoders."""
NO_LIVE = "w-okada's client does not open so-vits-svc voices through this interface"
NO_PREDICTION = "it was trained without the automatic prediction of f0"
ONE_SPEAKER = "This recipe asks for a speaker mix, but the voice has one speaker; it is fed the speaker's number."


def inputs(settings: Settings, *, mix: bool) -> tuple[Port, ...]:
    """Return the inputs in their order; units and frames are of different lengths."""
    speaker = Port("sid", "float32", ("frames", settings.speakers)) if mix else Port("sid", "int64", (1,))
    return (
        Port("c", "float32", (1, "units", settings.ssl_dim)),
        Port("f0", "float32", (1, "frames")),
        Port("mel2ph", "int64", (1, "frames")),
        Port("uv", "float32", (1, "frames")),
        Port("noise", "float32", (1, settings.channels, "frames")),
        speaker,
        *((Port("vol", "float32", (1, "frames")),) if settings.vol else ()),
    )


def outputs(part: Part) -> tuple[Port, ...]:
    """Return what comes out."""
    return (AUDIO, SUNG) if part == "autof0" else (AUDIO,)


def names(settings: Settings) -> dict[str, str | None]:
    """Return under which name each thing is fed, for the sidecar."""
    return {what: name for what, name in NAMES.items() if settings.vol or what != "loudness"}


def sampler(settings: Settings, *, mix: bool) -> Sampler:
    """Return the function that draws plausible inputs of a given length."""

    def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        units = _units(settings, frames)
        f0 = glide(frames)[None]
        noise = rng.standard_normal((1, settings.channels, frames), dtype=np.float32)
        drawn: dict[str, NDArray[Any]] = {
            "c": rng.standard_normal((1, units, settings.ssl_dim), dtype=np.float32),
            "f0": f0,
            "mel2ph": 1 + np.arange(frames)[None] * units // frames,
            "uv": (f0 > 0).astype(np.float32),
            "noise": noise * np.float32(NOISE_SCALE),
            "sid": singing.shares(frames, settings.speakers, rng) if mix else rng.integers(settings.speakers, size=1),
        }
        if settings.vol:
            drawn["vol"] = rng.uniform(0.05, 0.3, (1, frames)).astype(np.float32)
        return drawn

    return sample


def _units(settings: Settings, frames: int) -> int:
    """Return how many units such a sound has, or one more where that is the number of frames: two axes, two lengths."""
    units = max(1, round(frames * settings.hop * UNITS_PER_S / settings.sample_rate))
    return units + 1 if units == frames else units


def feed(settings: Settings, units: Units, speakers: Mapping[int, str] | None, *, mix: bool) -> dict[str, Any]:
    """Return what the sidecar says on how to feed the ONNX files, but for the names."""
    told: dict[str, Any] = {
        **singing.features(units),
        "sample_rate": settings.sample_rate,
        "hop": settings.hop,
        "f0": {"low_hz": F0_HZ[0], "high_hz": F0_HZ[1], "unvoiced_f0_hz": 0},
        "voiced": {"voiced": 1, "unvoiced": 0},
        "noise": {"distribution": "standard normal, multiplied by scale", "scale": NOISE_SCALE},
        "speaker": singing.speaker(settings.speakers, speakers, mix=mix),
    }
    if settings.f0_decoder:
        told["automatic_f0"] = {"part": "autof0", "hint": "f0", "output": SUNG.name}
    if settings.vol:
        told["loudness"] = singing.LOUDNESS
    return told


def metadata(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client needs, for the ONNX file itself."""
    keys = ("family", "version", "sample_rate", "hop", "f0", "speakers", "feature_width", "stretch")
    return singing.metadata(model, keys, {"units_per_second": UNITS_PER_S, "noise_scale": NOISE_SCALE})


def moevs(settings: Settings, units: Units, speakers: Mapping[int, str] | None, *, mix: bool) -> dict[str, Any]:
    """Return what MoeVoiceStudio reads in a file of its own, but for the voice's name.

    `Hubert` names a file in the client's folder of encoders. With `CharaMix` the client feeds a share of each of the
    `Characters`, so there have to be as many as the file has speakers, named or not.
    """
    rows = settings.speakers
    if not mix:
        rows = max(speakers) + 1 if speakers else rows if rows < MANY_ROWS else 1
    layer = units.model.get("feature_layer")
    hubert = f"vec-{settings.ssl_dim}-layer-{layer}" if layer in CLIENT_LAYERS else units.encoder
    return {
        "Type": "SoVits",
        "Rate": settings.sample_rate,
        "Hop": settings.hop,
        "Hubert": hubert or "",
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": mix,
        "Volume": settings.vol,
        "HiddenSize": settings.ssl_dim,
        "Characters": [(speakers or {}).get(row, f"speaker {row}") for row in range(rows)],
        "Cluster": "",
    }
