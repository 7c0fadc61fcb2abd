"""A valid RVC checkpoint with random weights, for a first look at the converter without a voice at hand.

Nobody's voice is in it. The weights are scaled by the width of what they sum over, so that the numbers inside stay
as large as in a trained voice and the audio is neither silent nor clipped.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voicekiln.families.base import Outline, TensorInfo
from voicekiln.families.rvc_network import Settings, expected
from voicekiln.families.tensors import Shape

V2_40K = Settings(
    features=768,
    f0=True,
    channels=192,
    hidden=192,
    filter_channels=768,
    heads=2,
    layers=6,
    kernel=3,
    window=10,
    flows=4,
    flow_layers=3,
    initial=512,
    rates=(10, 10, 2, 2),
    up_kernels=(16, 16, 4, 4),
    block_kernels=(3, 7, 11),
    dilations=((1, 3, 5),) * 3,
    speakers=109,
    gin_channels=256,
    sample_rate=40_000,
)
"""What most people train today."""

GAINS = (
    ("conv_q", 0.1),
    ("conv_k", 0.1),
    ("res_skip_layers", 2.7),
    ("cond_layer", 0.5),
    (".post.", 0.5),
    ("enc_p.proj", 0.7),
    ("dec.conv_pre", 0.5),
    ("dec.conv_post", 0.6),
    ("dec.cond", 0.5),
    ("dec.ups", 1.2),
    ("noise_convs", 1.6),
    ("convs2", 0.8),
)
"""Deviation of a layer's output where its input has 1, by a part of its name; 1 elsewhere."""
NORMED = ("dec.ups.", "dec.resblocks.", ".in_layers.", ".res_skip_layers.", ".cond_layer.")
"""Parts of the names of layers that are saved with weight norm."""


def write_sample(target: Path, seed: int) -> None:
    """Write an RVC v2 voice at 40 kHz with f0, about 55 MB, as the training tool saves it.

    The file appears at once or not at all; an older one of the name is replaced. After a failure a hidden `.part`
    file is left at most for the moment in which it is removed.
    """
    temporary = target.with_name(f".~{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint(V2_40K, seed), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def checkpoint(settings: Settings, seed: int) -> dict[str, Any]:
    """Return what the training tool hands to `torch.save`: half weights, weight norm as g and v, and its settings."""
    return {"weight": {name: tensor.half() for name, tensor in draw(settings, seed).items()}} | _rest(settings)


def outline(settings: Settings) -> Outline:
    """Return what a checkpoint of these settings looks like, without drawing numbers for it."""
    rest = _rest(settings)
    tensors = {name: TensorInfo(shape, "float16") for name, shape in expected(settings).items()}
    return Outline(tensors, rest, "weight", ("weight", *rest))


def _rest(settings: Settings) -> dict[str, Any]:
    """Return what stands in a checkpoint beside its weights."""
    s = settings
    spectrum = 513 if s.sample_rate <= 32_000 else 1025  # noqa: PLR2004 - the rate up to which RVC takes 1024 points
    return {
        "config": [
            *(spectrum, 32, s.channels, s.hidden, s.filter_channels, s.heads, s.layers, s.kernel, 0, "1"),
            *(list(s.block_kernels), [list(d) for d in s.dilations], list(s.rates), s.initial, list(s.up_kernels)),
            *(s.speakers, s.gin_channels, s.sample_rate),
        ],
        "info": "random weights",
        "sr": f"{s.sample_rate // 1000}k",
        "f0": int(s.f0),
        "version": "v2" if s.features == V2_40K.features else "v1",
    }


def draw(settings: Settings, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights in float32 under the names of a checkpoint, weight norm as g and v."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected(settings).items():
        weight = torch.from_numpy(_numbers(name, shape, rng))
        if name.endswith(".weight") and any(part in name for part in NORMED):
            tensors[f"{name}_g"] = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            tensors[f"{name}_v"] = weight / 2  # any length will do, as g tells the right one
        else:
            tensors[name] = weight
    return tensors


def _numbers(name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.startswith("dec.m_source.l_linear."):
        return values * np.float32(0.1) + np.float32(9 if name.endswith("weight") else 0)  # brings 0.1 near 1
    if name.endswith((".gamma", ".beta")):
        return values * np.float32(0.1) + np.float32(name.endswith("gamma"))
    if name.endswith(".bias"):
        return values * np.float32(0.02)
    if "emb_rel" in name:
        return values * np.float32(0.1)
    if name.startswith(("emb_g.", "enc_p.emb_pitch.")):
        return values
    inputs = 0 if name.startswith("dec.ups.") else 1
    if name.startswith("dec.") and shape[inputs] > 1:
        values -= values.mean(axis=inputs, keepdims=True)  # so that no layer adds a constant to the audio
    gain = next((gain for part, gain in GAINS if part in name), 1.0)
    return values * np.float32(gain / math.sqrt(_summed(name, shape)))


def _summed(name: str, shape: Shape) -> float:
    """Return how many products a number of the output sums up."""
    if name.startswith("dec.ups."):
        return shape[0] * shape[2] / 2  # kernels are about twice as wide as the rate
    return math.prod(shape[1:])
