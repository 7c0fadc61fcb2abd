"""What a so-vits-svc voice and the diffusion model behind it have in common: what they are fed, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families.so_vits_svc_units import INPUT_RATE, UNITS_PER_S, Units

LOUDNESS = {
    "formula": "vol[t] = sqrt(mean(audio[t * hop - hop / 2 : t * hop + hop / 2] ^ 2)), mirrored at both ends",
    "full_scale": 1,
}
SHARES = "for every frame the share of each speaker, in the order of their numbers; they add up to 1"
ENCODER = ("embedder", "feature_layer", "final_projection")
"""What `inspect` shows of the speech encoder, as far as it is known."""
MAX_STEPS = 2**53
"""Of a training; beyond it JSON's readers begin to round."""
MAX_NAMES = 10_000
"""Characters of all speakers' names in the ONNX file's own metadata; more are left to the sidecar."""


def features(units: Units) -> dict[str, Any]:
    """Return what the sidecar says of the speech features and of how they become frames."""
    encoder = {
        "encoder": units.encoder,
        "layer": units.model.get("feature_layer"),
        "final_projection": units.model.get("final_projection"),
    }
    return {
        "features": {
            **{key: value for key, value in encoder.items() if value is not None},
            "width": units.width,
            "input_sample_rate": INPUT_RATE,
            "frames_per_second": UNITS_PER_S,
        },
        "stretch": {
            "rule": units.stretch,
            "formula": units.mel2ph,
            "first": 1,
            "zero": "a frame that has no unit",
        },
    }


def speaker(rows: int, names: Mapping[int, str] | None, *, mix: bool) -> dict[str, Any]:
    """Return what the sidecar says of the speakers, of whom the weights have so many."""
    told: dict[str, Any] = {"lowest": 0, "highest": rows - 1}
    told |= {"mix": SHARES} if mix else {}
    return told | ({"names": named(names)} if names else {})


def named(speakers: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return speakers as the sidecar lists them."""
    return [{"id": number, "name": name} for number, name in speakers.items()]


def iteration(step: object) -> dict[str, int]:
    """Return what `inspect` shows of a file that says how long it was trained; nothing if that is no such number."""
    return {"iteration": step} if type(step) is int and 0 < step <= MAX_STEPS else {}


def metadata(model: Mapping[str, Any], keys: Iterable[str], more: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client needs, for the ONNX file itself.

    Args:
        model: what `inspect` shows.
        keys: those of it that are needed; the encoder and the speakers' names are anyway, where they are known.
        more: what is not in it.
    """
    facts = {key: model[key] for key in keys}
    facts |= {key: model[key] for key in ENCODER if key in model}
    facts |= more
    listed = json.dumps(model.get("speaker_names", []), ensure_ascii=False)
    facts |= {"speaker_names": listed} if "speaker_names" in model and len(listed) <= MAX_NAMES else {}
    return {key: str(int(value) if isinstance(value, bool) else value) for key, value in facts.items()}


def shares(frames: int, speakers: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the share of each speaker in each frame, (frames, speakers); they add up to one."""
    drawn = rng.random((frames, speakers), dtype=np.float32)
    found: NDArray[np.float32] = drawn / drawn.sum(axis=1, keepdims=True)
    return found
