"""How an RVC voice is fed: the faces of its ONNX file, and what clients have to know beside it.

Names and order are those of the exports that clients already know. RVC's own programs and MoeVoiceStudio feed the
prior's noise as `rnd`, scaled, so that the caller decides how much of it there is. w-okada's client (`live`) feeds none
and wants to read in the file's metadata what the voice is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.errors import plain
from voicekiln.families.rvc_network import Settings
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.job import Port
from voicekiln.nets.rvc import PITCHES, RND_SCALE

F0_HZ = (50.0, 1100.0)
"""Lowest and highest f0 that the coarse pitch tells apart."""
ENCODER = "hubert_base"
"""The speech encoder where the file names none: RVC's `hubert_base.pt`, which is a ContentVec."""
MAX_ENCODER_LAYER = 48
PROJECTED = 256
"""Width of the features that have gone through the encoder's final projection (v1)."""

OUTPUTS = (Port("audio", "float32", (1, 1, "samples")),)
LIVE_OUTPUTS = (Port("audio", "float32", ("samples",)),)
NAMES = {"features": "phone", "length": "phone_lengths", "pitch": "pitch", "f0": "pitchf", "speaker": "ds"}
LIVE_NAMES = NAMES | {"features": "feats", "length": "p_len", "speaker": "sid"}
MANY_SPEAKERS = 109
"""What RVC's training makes room for; whoever trained on more than one speaker has set a smaller number, as a rule."""
NO_MOEVS = "MoeVoiceStudio takes an RVC voice without f0 for a model of another kind"

Sampler = Callable[[int, np.random.Generator], dict[str, NDArray[Any]]]


def inputs(settings: Settings, *, live: bool = False) -> tuple[Port, ...]:
    """Return the inputs in their order; one name for the one dynamic axis."""
    called = LIVE_NAMES if live else NAMES
    rnd = () if live else (Port("rnd", "float32", (1, settings.channels, "frames")),)
    pitch = (Port("pitch", "int64", (1, "frames")), Port("pitchf", "float32", (1, "frames"))) if settings.f0 else ()
    return (
        Port(called["features"], "float32", (1, "frames", settings.features)),
        Port(called["length"], "int64", (1,)),
        *pitch,
        Port(called["speaker"], "int64", (1,)),
        *rnd,
    )


def names(settings: Settings, *, live: bool) -> dict[str, str | None]:
    """Return under which name each thing is fed, for the sidecar."""
    called = LIVE_NAMES if live else NAMES
    fed = {what: name for what, name in called.items() if settings.f0 or what not in ("pitch", "f0")}
    return {**fed, "noise": None if live else "rnd"}


def sampler(settings: Settings, *, live: bool = False) -> Sampler:
    """Return the function that draws plausible inputs of a given length."""
    called = LIVE_NAMES if live else NAMES

    def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        f0 = glide(frames)[None]
        pitch: dict[str, NDArray[Any]] = {"pitch": coarse(f0), "pitchf": f0} if settings.f0 else {}
        drawn: dict[str, NDArray[Any]] = {
            called["features"]: rng.standard_normal((1, frames, settings.features), dtype=np.float32),
            called["length"]: np.array([frames], np.int64),
            **pitch,
            called["speaker"]: rng.integers(settings.speakers, size=1),
        }
        if not live:
            rnd = rng.standard_normal((1, settings.channels, frames), dtype=np.float32)
            drawn["rnd"] = rnd * np.float32(RND_SCALE)
        return drawn

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
    """Return what the sidecar says on how to feed the ONNX file, but for the names."""
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
        "noise": {"distribution": "standard normal, multiplied by scale", "scale": RND_SCALE},
        "speaker": {"lowest": 0, "highest": settings.speakers - 1},
    } | ({"pitch": pitch} if settings.f0 else {})


def metadata(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client needs, for the ONNX file itself."""
    facts = {key: model[key] for key in ("family", "version", "sample_rate", "hop", "f0", "speakers", "embedder")}
    facts |= {key: model[key] for key in ("feature_width", "feature_layer", "final_projection")}
    facts |= {"frames_per_second": FRAMES_PER_S, "rnd_scale": RND_SCALE}
    return {key: str(int(value) if isinstance(value, bool) else value) for key, value in facts.items()}


def live_metadata(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the same for w-okada's client, which reads one entry: without it, every voice is v1 at 48 kHz to it.

    Version 2.1 is the one with which both of its kinds of voices, with and without f0, expect a row of samples.
    """
    f0 = bool(model["f0"])
    kind = ("pyTorchRVCv2" if model["version"] == "v2" else "pyTorchRVC") + ("" if f0 else "Nono")
    facts = {
        "application": "VC_CLIENT",
        "version": "2.1",
        "modelType": kind,
        "samplingRate": model["sample_rate"],
        "f0": f0,
        "embChannels": model["feature_width"],
        "embedder": model["embedder"],
        "embOutputLayer": model["feature_layer"],
        "useFinalProj": model["final_projection"],
    }
    own = metadata(model)
    del own["rnd_scale"]  # nothing is fed
    return {**own, "metadata": json.dumps(facts)}


def moevs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MoeVoiceStudio reads in a file of its own, but for the voice's name.

    `CharaMix` would have the speaker fed as a matrix. `Hubert` names a file in the client's folder of encoders.
    """
    speakers = model["speakers"] if model["speakers"] < MANY_SPEAKERS else 1
    width, layer = model["feature_width"], model["feature_layer"]
    return {
        "Type": "RVC",
        "Rate": model["sample_rate"],
        "Hop": model["hop"],
        "Hubert": f"vec-{width}-layer-{layer}",
        "HiddenSize": width,
        "CharaMix": False,
        "Volume": False,
        "Characters": [f"speaker {number}" for number in range(speakers)],
    }
