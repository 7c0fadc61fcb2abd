"""Small voices in the real layout of an RVC checkpoint, made in milliseconds: every name there, every layer thin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from voicekiln.families.rvc_settings import KNOWN
from voicekiln.families.sample import V2_40K, checkpoint

Checkpoint = dict[str, Any]

TINY = replace(
    V2_40K,
    channels=8,
    hidden=16,
    filter_channels=24,
    layers=2,
    flows=2,
    flow_layers=2,
    initial=32,
    block_kernels=(3, 5),
    dilations=((1, 3), (1, 2)),
    speakers=2,
    gin_channels=8,
)
"""`V2_40K` with thin layers; 24 frames of it take milliseconds."""


def settings(version: str = "v2", *, f0: bool = True, sr: int = 40_000, **overrides: Any) -> Any:
    """Return the settings of a tiny voice; `overrides` are fields of `rvc_network.Settings`."""
    steps = 5 if version == "v1" and sr in (32_000, 48_000) else 4
    decoder = next(known for known in KNOWN if known.sample_rate == sr and len(known.rates) == steps)
    facts = {
        "features": 256 if version == "v1" else 768,
        "f0": f0,
        "sample_rate": sr,
        "rates": decoder.rates,
        "up_kernels": decoder.kernels,
        "initial": 2 << steps,
    }
    return replace(TINY, **(facts | overrides))


def tiny(version: str = "v2", *, f0: bool = True, sr: int = 40_000, seed: int = 0, **overrides: Any) -> Checkpoint:
    """Return a voice as RVC's training saves it: `weight`, `config`, `info`, `sr`, `f0`, `version`."""
    return checkpoint(settings(version, f0=f0, sr=sr, **overrides), seed)


def tiny_training(version: str = "v2", *, f0: bool = True, sr: int = 40_000, **overrides: Any) -> Checkpoint:
    """Return a training checkpoint, `G_*.pth`: float weights with the posterior encoder, and no settings.

    Its dilations are RVC's own, as nothing in such a file says otherwise.
    """
    standard = {"block_kernels": (3, 5, 7), "dilations": ((1, 3, 5),) * 3} | overrides
    voice = tiny(version, f0=f0, sr=sr, **standard)
    spectrum, hidden = voice["config"][0], voice["config"][3]
    weights = {name: tensor.float() for name, tensor in voice["weight"].items()}
    weights["enc_q.pre.weight"] = torch.zeros(hidden, spectrum, 1)
    weights["enc_q.pre.bias"] = torch.zeros(hidden)
    return {"model": weights, "iteration": 200, "optimizer": {"state": {}, "param_groups": []}, "learning_rate": 1e-4}


def write_tiny(path: Path, **overrides: Any) -> Path:
    """Write `tiny(**overrides)` and return `path`."""
    torch.save(tiny(**overrides), path)
    return path


def write_training(path: Path, **overrides: Any) -> Path:
    """Write `tiny_training(**overrides)` and return `path`."""
    torch.save(tiny_training(**overrides), path)
    return path
