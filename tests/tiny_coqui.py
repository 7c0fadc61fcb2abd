"""Small voices in the real layouts of Coqui's VITS and of the original, made in milliseconds: every name there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voicekiln.families.coqui_network import Settings, expected
from voicekiln.families.coqui_usual import YOURTTS, coquis
from voicekiln.families.coqui_usual import config as written
from voicekiln.families.sample import _numbers

Checkpoint = dict[str, Any]

TINY = replace(
    YOURTTS,
    symbols=12,
    hidden=16,
    channels=8,
    filter_channels=24,
    layers=2,
    gin_channels=12,
    duration_channels=16,
    duration_layers=2,
    duration_flows=3,
    flows=2,
    flow_layers=2,
    initial=32,
    rates=(4, 4, 2, 2),
    up_kernels=(8, 8, 4, 4),
    block_kernels=(3, 5),
    dilations=((1, 3), (1, 3)),
    spectrum=0,
    posterior_layers=0,
    posterior_kernel=0,
    posterior_dilation=0,
)
"""YourTTS with thin layers."""

BLOCKS_1: dict[str, Any] = {"block": 1, "dilations": ((1, 3, 5),) * 2}
ALONE = {"speaker": "none", "gin_channels": 0, "duration_by_speaker": False}
ONE_LANGUAGE = {"languages": 0, "language_channels": 0, "duration_by_language": False}
NOT_DRAWN = dict.fromkeys(("duration_layers", "duration_flows", "duration_bins"), 0)
PLAIN = NOT_DRAWN | {"stochastic": False, "glow_norm": True}
TABLE = {"speaker": "speaker_id", "speakers": 5}
HEARING = {"spectrum": 33, "posterior_layers": 3, "posterior_kernel": 5, "posterior_dilation": 1}

VARIANTS: dict[str, dict[str, Any]] = {
    "yourtts": {},
    "one-language": ONE_LANGUAGE,
    "single": ALONE | ONE_LANGUAGE | BLOCKS_1,
    "single-languages": ALONE | BLOCKS_1,
    "speakers": TABLE | ONE_LANGUAGE | PLAIN | BLOCKS_1,
    "speakers-stochastic": TABLE | ONE_LANGUAGE | BLOCKS_1,
    "speakers-languages": TABLE | PLAIN,
    "untold-durations": TABLE | {"duration_by_speaker": False},
    "whole-stretch": {"sample_rate": 32_000},
    "odd-stretch": {"sample_rate": 24_000},
    "hearing": HEARING,
    "hearing-speakers": TABLE | ONE_LANGUAGE | PLAIN | HEARING | BLOCKS_1,
    "hearing-alone": ALONE | ONE_LANGUAGE | HEARING,
    "hearing-stretch": HEARING | {"sample_rate": 32_000},
}
"""What voices differ in, as changes to `TINY`."""

NORMED = re.compile(r"(flow|posterior_encoder)\..*(in_layers|res_skip_layers|cond_layer)\.|decoder\.(ups|resblocks)\.")
"""Finds the names of layers that are saved with weight norm."""


def settings(variant: str = "yourtts", **overrides: Any) -> Settings:
    """Return the settings of a tiny voice; `overrides` are fields of `coqui_network.Settings`."""
    return replace(TINY, **(VARIANTS[variant] | overrides))


def tiny(variant: str = "yourtts", *, seed: int = 0, half: bool = False, **overrides: Any) -> Checkpoint:
    """Return a voice as Coqui's trainer saves it, less what only training needs."""
    made = settings(variant, **overrides)
    model = {coquis(name): tensor.half() if half else tensor for name, tensor in draw(made, seed).items()}
    if made.encoder_rate != made.sample_rate:  # what training resamples with, which the trainer saves as well
        model["audio_resampler.kernel"] = torch.zeros(2, 1, 44)
    return {"model": model, "config": config(variant, **overrides), "step": 1000, "epoch": 3, "date": "today"}


def tiny_training(variant: str = "hearing", *, seed: int = 0, **overrides: Any) -> Checkpoint:
    """Return a training checkpoint: with the discriminator, the other way of the durations, and the optimizers."""
    voice = tiny(variant, seed=seed, **overrides)
    extra = ("disc.nets.0.convs.0.bias", "duration_predictor.post_pre.weight", "speaker_encoder.fc.weight")
    model = voice["model"] | {name: torch.zeros(3, 3, 3) for name in extra}
    return voice | {"model": model, "optimizer": [{"state": {}, "param_groups": []}], "scaler": None}


def write_tiny(path: Path, variant: str = "yourtts", *, seed: int = 0, **overrides: Any) -> Path:
    """Write such a voice, its config within; return `path`."""
    torch.save(tiny(variant, seed=seed, **overrides), path)
    return path


def original(variant: str = "single", *, seed: int = 0, **overrides: Any) -> Checkpoint:
    """Return a voice as the original VITS saves it, with another kind of norm in the plain duration predictor."""
    overrides = {"glow_norm": False} | BLOCKS_1 | overrides
    model = {originals(name): tensor for name, tensor in draw(settings(variant, **overrides), seed).items()}
    return {"model": model, "iteration": 500, "optimizer": {"state": {}}, "learning_rate": 1e-4}


def originals(name: str) -> str:
    """Return what the original VITS calls a tensor of ours."""
    if match := re.match(r"duration_predictor\.flows\.([1-9])\.", name):
        name = f"dp.flows.{2 * int(match[1]) - 1}.{name[match.end() :]}"
    parts = {
        "text_encoder.": "enc_p.",
        "posterior_encoder.": "enc_q.",
        "duration_predictor.": "dp.",
        "waveform_decoder.": "dec.",
        "flows.0.translation": "flows.0.m",
        "flows.0.log_scale": "flows.0.logs",
    }
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def draw(made: Settings, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights in float32 under our names, weight norm as g and v."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected(made).items():
        weight = torch.from_numpy(_draw(name, shape, rng))
        if name.endswith(".weight") and NORMED.search(name):
            tensors[f"{name}_g"] = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            tensors[f"{name}_v"] = weight / 2  # any length will do, as g tells the right one
        else:
            tensors[name] = weight
    return tensors


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a tensor's numbers: as RVC's, and durations of two or three frames a token."""
    if name == "duration_predictor.proj.bias" and shape == (1,):
        return np.ones(1, np.float32)
    if name.endswith("flows.0.translation"):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1) - 1
    if name.endswith("flows.0.log_scale"):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1) + 1
    if (
        name == "text_encoder.emb.weight"
    ):  # as the original: so that, multiplied by sqrt(hidden), it is as spread as all
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[1] ** -0.5)
    return _numbers(name.replace("waveform_decoder.", "dec."), shape, rng)


def config(variant: str = "yourtts", **overrides: Any) -> dict[str, Any]:
    """Return the config that Coqui's trainer writes for such a voice."""
    return written(settings(variant, **overrides))


def original_config(variant: str = "single", **overrides: Any) -> dict[str, Any]:
    """Return the `config.json` of the original VITS that belongs beside what `original` returns."""
    made = settings(variant, **BLOCKS_1 | overrides)
    model = {
        "inter_channels": made.channels,
        "hidden_channels": made.hidden,
        "filter_channels": made.filter_channels,
        "n_heads": made.heads,
        "n_layers": made.layers,
        "kernel_size": made.kernel,
        "resblock": "1",
        "resblock_kernel_sizes": [*made.block_kernels],
        "resblock_dilation_sizes": [[*steps] for steps in made.dilations],
        "upsample_rates": [*made.rates],
        "upsample_initial_channel": made.initial,
        "upsample_kernel_sizes": [*made.up_kernels],
    }
    data = {
        "sampling_rate": made.sample_rate,
        "filter_length": 64,
        "hop_length": made.hop,
        "win_length": 64,
        "n_speakers": made.speakers,
        "add_blank": True,
        "text_cleaners": ["english_cleaners2"],
    }
    named = {"speakers": [f"p{225 + row}" for row in range(made.speakers)]} if made.speakers else {}
    return {"train": {}, "data": data, "model": model, "symbols": [*"_ abcdefghijk"[: made.symbols]], **named}


def d_vectors(made: Settings, names: tuple[str, ...], clips: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return what stands in `speakers.json` for a voice that is given d-vectors: several clips of each speaker."""
    rng = np.random.default_rng(seed)
    return {
        f"{name}_{clip}.wav": {"name": name, "embedding": rng.standard_normal(made.gin_channels).round(6).tolist()}
        for name in names
        for clip in range(clips)
    }
