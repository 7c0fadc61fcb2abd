"""How a shallow diffusion model is fed: the faces of its ONNX files, and what clients have to know beside them.

The pieces have the names of so-vits-svc's own exporter, which makes nothing else. The whole, which that one cannot
make, calls the same things as the voice does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families import singing
from voicekiln.families.diffusion_network import PARTS, Settings
from voicekiln.families.diffusion_settings import METHODS, Reading
from voicekiln.families.rvc_feed import Sampler, glide
from voicekiln.job import Part, Port
from voicekiln.nets.samplers import LEAST_DPM_STEPS

NAMES = {
    "diffusion": {
        "features": "c",
        "stretch": "mel2ph",
        "f0": "f0",
        "loudness": "volume",
        "speaker": "sid",
        "mel": "mel",
        "noise": "noise",
        "depth": "k_step",
        "speedup": "speedup",
        "sampler": "method",
    },
    "encoder": {
        "features": "hubert",
        "stretch": "mel2ph",
        "f0": "f0",
        "loudness": "volume",
        "speaker": "spk_mix",
    },
    "denoise": {"mel": "noise", "time": "time", "condition": "condition"},
    "pred": {"mel": "noise", "noise": "noise_pred", "time": "time", "next_time": "time_prev"},
    "after": {"mel": "x"},
    "alpha": {"time": "time"},
}
"""Under which name each thing is fed, by part."""
SAMPLED_STEPS = 10
QUIETEST = 1e-5
"""Below which a mel band is cut off before the logarithm."""


def inputs(settings: Settings, part: Part, *, mix: bool) -> tuple[Port, ...]:
    """Return a part's inputs in their order."""
    s = settings
    mel = (1, 1, s.mels, "frames")
    match part:
        case "denoise":
            condition = Port("condition", "float32", (1, s.hidden, "frames"))
            return Port("noise", "float32", mel), Port("time", "float32", (1,)), condition
        case "pred":
            times = (Port(name, "int64", (1,)) for name in ("time", "time_prev"))
            return Port("noise", "float32", mel), Port("noise_pred", "float32", mel), *times
        case "after":
            return (Port("x", "float32", mel),)
        case "alpha":
            return (Port("time", "int64", ("times",)),)
    called = NAMES[part]
    speaker = Port(called["speaker"], "float32", ("frames", s.speakers)) if mix else Port("sid", "int64", (1,))
    sung = (
        Port(called["features"], "float32", (1, "units", s.width)),
        Port("mel2ph", "int64", (1, "frames")),
        Port("f0", "float32", (1, "frames")),
        Port("volume", "float32", (1, "frames")),
        *((speaker,) if s.speakers > 1 else ()),
    )
    if part == "encoder":
        return sung
    rough = Port("mel", "float32", (1, "frames", s.mels)), Port("noise", "float32", mel)
    return *sung, *rough, *(Port(name, "int64", (1,)) for name in ("k_step", "speedup", "method"))


def outputs(settings: Settings, part: Part) -> tuple[Port, ...]:
    """Return what comes out of a part."""
    s = settings
    whole = (1, 1, s.mels, "frames")
    return (
        {
            "encoder": Port("mel_pred", "float32", (1, s.hidden, "frames")),
            "denoise": Port("noise_pred", "float32", whole),
            "pred": Port("noise_pred_o", "float32", whole),
            "after": Port("mel_out", "float32", (1, s.mels, "frames")),
            "alpha": Port("alphas_cumprod", "float32", ("times",)),
        }.get(part, Port("mel_out", "float32", (1, "frames", s.mels))),
    )


def names(settings: Settings, part: Part) -> dict[str, str | None]:
    """Return under which name each thing is fed, for the sidecar."""
    return {what: name for what, name in NAMES[part].items() if settings.speakers > 1 or what != "speaker"}


def sampler(settings: Settings, part: Part, *, mix: bool) -> Sampler:
    """Return the function that draws plausible inputs of a given length."""
    wanted = [port.name for port in inputs(settings, part, mix=mix)]

    def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        drawn = _drawn(settings, part, frames, rng, mix=mix)
        return {name: drawn[name] for name in wanted}

    return sample


def _drawn(
    settings: Settings, part: Part, frames: int, rng: np.random.Generator, *, mix: bool
) -> dict[str, NDArray[Any]]:
    """Return what any part may want, of so many frames."""
    s = settings
    units = frames * 100 // 173 or 3 - frames  # two axes, two lengths
    shares = singing.shares(frames, s.speakers, rng)
    tilt = np.linspace(-3, -7, s.mels, dtype=np.float32)
    mel = np.clip(tilt + rng.standard_normal((1, frames, s.mels), dtype=np.float32), np.log(np.float32(QUIETEST)), 2)
    whole = (1, 1, s.mels, frames)
    features = rng.standard_normal((1, units, s.width), dtype=np.float32)
    # Those that divide by five are the one of each verification's two lengths, so that both samplers are run.
    method = int(frames % 5 == 0)
    times = rng.integers(1, s.timesteps, size=frames)
    exact = {"alpha": times, "pred": times[:1]}.get(part, rng.uniform(0, s.k_step_max - 1, 1).astype(np.float32))
    return {
        "c": features,
        "hubert": features,
        "mel2ph": 1 + np.arange(frames)[None] * units // frames,
        "f0": glide(frames)[None],
        "volume": rng.uniform(0.05, 0.3, (1, frames)).astype(np.float32),
        "sid": shares if mix else rng.integers(s.speakers, size=1),
        "spk_mix": shares,
        "mel": mel,
        "noise": rng.standard_normal(whole, dtype=np.float32),
        "noise_pred": rng.standard_normal(whole, dtype=np.float32),
        "x": rng.uniform(-1, 1, whole).astype(np.float32),
        "condition": rng.standard_normal((1, s.hidden, frames), dtype=np.float32),
        "time": exact,
        "time_prev": times[:1] // 2,
        "k_step": np.array([s.k_step_max]),
        "speedup": np.array([max(1, s.k_step_max // SAMPLED_STEPS)]),
        "method": np.array([method]),
    }


def feed(found: Reading, *, mix: bool) -> dict[str, Any]:
    """Return what the sidecar says on how to feed the ONNX files, but for the names."""
    settings, told = found.settings, found.told
    facts: dict[str, Any] = {
        **singing.features(found.units),
        "sample_rate": told.sample_rate,
        "hop": told.hop,
        "f0": {"unvoiced_f0_hz": 0},
        "loudness": singing.LOUDNESS,
        "mel": {
            "bands": settings.mels,
            "logarithm": "natural",
            "from": "the voice's audio, by the part mel of the vocoder, its two last axes exchanged",
            "out": "(1, frames, bands); the vocoder wants (1, bands, frames), as the part after has it",
        },
        "noise": {"distribution": "standard normal"},
        "depth": {"lowest": 1, "highest": settings.k_step_max, "beyond": "is taken for the highest"},
        "speedup": {
            "default": told.speedup,
            "meaning": "k_step / speedup is the number of steps",
            "least_steps": {METHODS[-1]: LEAST_DPM_STEPS},
        },
        "sampler": {"default": found.method, "numbers": {str(number): name for number, name in enumerate(METHODS)}},
        "always_float32": [part for part in PARTS if part not in ("diffusion", "denoise")],
    }
    if settings.speakers > 1:
        facts["speaker"] = singing.speaker(settings.speakers, told.speakers, mix=mix)
    return facts | ({"vocoder": told.vocoder} if told.vocoder else {})


def metadata(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client needs, for the ONNX files themselves."""
    keys = ("family", "sample_rate", "hop", "speakers", "feature_width", "stretch", "mels", "k_step_max", "speedup")
    vocoder = {"vocoder": model["vocoder"]} if "vocoder" in model else {}
    return singing.metadata(model, (*keys, "sampler"), vocoder)
