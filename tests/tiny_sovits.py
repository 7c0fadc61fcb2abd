"""Small voices in the real layout of a so-vits-svc checkpoint, made in milliseconds: every name there, layers thin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voicekiln.families.sample import NORMED, _numbers
from voicekiln.families.so_vits_svc import V41
from voicekiln.families.so_vits_svc_config import SILENT
from voicekiln.families.so_vits_svc_config import config as written
from voicekiln.families.so_vits_svc_network import Settings, copies, expected
from voicekiln.families.so_vits_svc_units import units

Checkpoint = dict[str, Any]

ALSO_NORMED = ("dec.conv_pre.", "dec.conv_post.", ".depth_conv.", ".point_conv.")
"""Parts of the names of layers that are saved with weight norm here and not in RVC."""

TINY = replace(
    V41,
    ssl_dim=256,
    hidden=16,
    channels=8,
    filter_channels=24,
    layers=2,
    flows=2,
    flow_layers=2,
    initial=64,
    block_kernels=(3, 5),
    dilations=((1, 3, 5),) * 2,
    speakers=2,
    gin_channels=256,
    f0_layers=2,
)
"""4.1's defaults with thin layers, for two speakers; 24 frames of it take milliseconds."""

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "vol": {"vol": True},
    "snake": {"snake": True},
    "tiny": {"depthwise": True, "shared_flow": True, "initial": 80},
    "transformer": {"transformer_flow": True, "flow_filter_channels": 24, "flow_kernel": 5, "flow_heads": 2},
    "shared-transformer": {
        "shared_flow": True,
        "transformer_flow": True,
        "flow_filter_channels": 24,
        "flow_kernel": 5,
        "flow_heads": 2,
    },
    "no-f0-decoder": {"f0_decoder": False, "f0_layers": 0},
    "one-speaker": {"speakers": 1},
    "three-speakers": {"speakers": 3},
    "other-gin": {"gin_channels": 12},
    "fork": {"gin_channels": 12, "speakers": 200},
}
"""What voices differ in, as changes to `TINY`."""


def settings(variant: str = "default", **overrides: Any) -> Settings:
    """Return the settings of a tiny voice; `overrides` are fields of `so_vits_svc_network.Settings`."""
    return replace(TINY, **(VARIANTS[variant] | overrides))


def config(
    variant: str = "default",
    speakers: tuple[str, ...] = ("tenor", "alto"),
    encoder: str | None = "usual",
    **overrides: Any,
) -> dict[str, Any]:
    """Return the `config.json` that belongs beside such a voice: of 4.1 if it names an encoder, else of 4.0."""
    made = settings(variant, **overrides)
    if encoder == "usual":
        encoder = units(SILENT, made.ssl_dim).encoder
    return written(made, speakers[: made.speakers], encoder)


def tiny(variant: str = "default", *, seed: int = 0, half: bool = False, **overrides: Any) -> Checkpoint:
    """Return a voice as so-vits-svc's own compressor saves it: no posterior encoder, an empty optimizer."""
    made = settings(variant, **overrides)
    numbers = draw(made, seed)
    model = {name: tensor.half() if half else tensor for name, tensor in numbers.items()}
    return {"model": model, "iteration": 0, "optimizer": {"state": {}, "param_groups": []}, "learning_rate": 1e-4}


def tiny_training(variant: str = "default", *, seed: int = 0, **overrides: Any) -> Checkpoint:
    """Return a training checkpoint, `G_*.pth`: with the posterior encoder and what the optimizer remembers."""
    voice = tiny(variant, seed=seed, **overrides)
    hidden = settings(variant, **overrides).hidden
    extra = {"enc_q.pre.weight": torch.zeros(hidden, 1025, 1), "enc_q.pre.bias": torch.zeros(hidden)}
    state = {0: {"step": torch.tensor(8.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    return voice | {"model": voice["model"] | extra, "iteration": 800, "optimizer": {"state": state}}


def write_tiny(path: Path, variant: str = "default", beside: str | None = "config.json", **overrides: Any) -> Path:
    """Write such a voice, and its config beside it under the name `beside`; return `path`."""
    torch.save(tiny(variant, **overrides), path)
    if beside is not None:
        sizes = {name: value for name, value in overrides.items() if name not in ("seed", "half")}
        path.with_name(beside).write_text(json.dumps(config(variant, **sizes)), encoding="utf-8")
    return path


def draw(made: Settings, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights in float32 under the names of a checkpoint: weight norm as g and v, shared layers again."""
    rng = np.random.default_rng(seed)
    again = copies(made)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected(made).items():
        if name in again:
            continue
        weight = torch.from_numpy(_draw(name, shape, rng))
        if name.endswith(".weight") and any(part in name for part in (*NORMED, *ALSO_NORMED)):
            tensors[f"{name}_g"] = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            tensors[f"{name}_v"] = weight / 2  # any length will do, as g tells the right one
        else:
            tensors[name] = weight
    for copy, name in again.items():
        for ending in ("", "_g", "_v"):
            if name + ending in tensors:
                tensors[copy + ending] = tensors[name + ending]
    return tensors


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a tensor's numbers: as RVC's, and those of periodic activations, whose filters add up to one.

    No two of the filters are equal, as they are in the original: the exporter by itself makes one of equal weights.
    """
    if name.endswith(".filter"):
        window = np.hanning(shape[-1] + 2)[1:-1] * rng.uniform(0.9, 1.1, shape)
        filter_: np.ndarray[Any, np.dtype[np.float32]] = (window / window.sum()).astype(np.float32)
        return filter_
    if name.endswith(("act.alpha", "act.beta")):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
    return _numbers(name, shape, rng)
