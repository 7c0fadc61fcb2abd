"""How an RVC voice is fed: the face of its ONNX file, and what a client has to know beside it.

Names and order are those of the exports that clients already know. `rnd` comes in scaled, so that the caller decides
how much of it there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.errors import plain
from voicekiln.families.rvc_network import Settings
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.job import Port
from voicekiln.nets.rvc import PITCHES

RND_SCALE = 0.66666
"""Of the noise that the original adds to the prior."""
F0_HZ = (50.0, 1100.0)
"""Lowest and highest f0 that the coarse pitch tells apart."""
ENCODER = "hubert_base"
"""The speech encoder where the file names none: RVC's `hubert_base.pt`, which is a ContentVec."""
MAX_ENCODER_LAYER = 48
PROJECTED = 256
"""Width of the features that have gone through the encoder's final projection (v1)."""

OUTPUTS = (Port("audio", "float32", (1, 1, "samples")),)

Sampler = Callable[[int, np.random.Generator], dict[str, NDArray[Any]]]


def inputs(settings: Settings) -> tuple[Port, ...]:
    """Return the inputs in their order; one name for the one dynamic axis."""
    pitch = (Port("pitch", "int64", (1, "frames")), Port("pitchf", "float32", (1, "frames"))) if settings.f0 else ()
    return (
        Port("phone", "float32", (1, "frames", settings.features)),
        Port("phone_lengths", "int64", (1,)),
        *pitch,
        Port("ds", "int64", (1,)),
        Port("rnd", "float32", (1, settings.channels, "frames")),
    )


def sampler(settings: Settings) -> Sampler:
    """Return the function that draws plausible inputs of a given length."""

    def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        f0 = glide(frames)[None]
        pitch: dict[str, NDArray[Any]] = {"pitch": coarse(f0), "pitchf": f0} if settings.f0 else {}
        return {
            "phone": rng.standard_normal((1, frames, settings.features), dtype=np.float32),
            "phone_lengths": np.array([frames], np.int64),
            **pitch,
            "ds": rng.integers(settings.speakers, size=1),
            "rnd": rng.standard_normal((1, settings.channels, frames), dtype=np.float32) * np.float32(RND_SCALE),
        }

    return sample


def glide(frames: int) -> NDArray[np.float32]:
    """Return f0 in Hz that rises from 110 to 880, with an unvoiced gap of zeros in its second third."""
    f0 = np.geomspace(110, 880, frames).astype(np.float32)
    f0[frames // 3 : frames // 2] = 0
    return f0


def coarse(f0_hz: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the coarse pitch, 1 .. 255 on the mel scale; unvoiced is 1."""
    low, high = (_mel(np.float64(hz)) for hz in F0_HZ)
    steps = (_mel(f0_hz.astype(np.float64)) - low) * (PITCHES - 2) / (high - low) + 1
    rounded: NDArray[np.float64] = np.rint(np.clip(steps, 1, PITCHES - 1))
    return rounded.astype(np.int64)


def _mel(hz: Any) -> Any:  # noqa: ANN401 - a number or an array of them
    return 1127 * np.log1p(hz / 700)


def encoder(settings: Settings, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return which speech features the voice was trained on, as far as the file's other entries `rest` say."""
    named = next((v for k in ("embedder_model", "embedder_name") if isinstance(v := rest.get(k), str) and v), ENCODER)
    projected = settings.features == PROJECTED
    layer, said = (9 if projected else 12), rest.get("embedder_output_layer")
    if isinstance(said, int) and not isinstance(said, bool) and 0 < said <= MAX_ENCODER_LAYER:
        layer = said
    return {"embedder": plain(named[:100]), "feature_layer": layer, "final_projection": projected}


def feed(model: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the sidecar's section on how to feed the ONNX file."""
    pitch = {
        "scale": "mel",
        "formula": "round(1 + 254 * (mel(f0) - mel(50)) / (mel(1100) - mel(50))), mel(f) = 1127 * ln(1 + f / 700)",
        "low_hz": F0_HZ[0],
        "high_hz": F0_HZ[1],
        "lowest": 1,
        "highest": PITCHES - 1,
        "unvoiced": 1,
        "unvoiced_f0_hz": 0,
    }
    return {
        "features": {
            "encoder": model["embedder"],
            "layer": model["feature_layer"],
            "final_projection": model["final_projection"],
            "width": settings.features,
            "input_sample_rate": 16_000,
            "frames_per_second": FRAMES_PER_S,
            "upsampling": "the encoder gives 50 frames a second; each is used twice",
        },
        "sample_rate": settings.sample_rate,
        "hop": settings.hop,
        "noise": {"input": "rnd", "distribution": "standard normal, multiplied by scale", "scale": RND_SCALE},
        "speaker": {"input": "ds", "lowest": 0, "highest": settings.speakers - 1},
    } | ({"pitch": pitch} if settings.f0 else {})


def metadata(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client needs, for the ONNX file itself."""
    facts = {key: model[key] for key in ("family", "version", "sample_rate", "hop", "f0", "speakers", "embedder")}
    facts |= {key: model[key] for key in ("feature_width", "feature_layer", "final_projection")}
    facts |= {"frames_per_second": FRAMES_PER_S, "rnd_scale": RND_SCALE}
    return {key: str(int(value) if isinstance(value, bool) else value) for key, value in facts.items()}
