"""Small vocoders in the real layout of NSF-HiFiGAN's file, made in milliseconds: every name there, every layer thin."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from voicekiln.families.nsf_hifigan import expected
from voicekiln.families.nsf_hifigan_settings import Network

TINY = Network(
    mels=8,
    initial=32,
    rates=(8, 8, 2, 2, 2),
    up_kernels=(16, 16, 4, 4, 4),
    block_kernels=(3, 5),
    dilations=((1, 3, 5),) * 2,
    harmonics=9,
    sample_rate=44_100,
)
"""The usual vocoder with thin layers."""


def tiny_vocoder(seed: int = 0, **overrides: Any) -> dict[str, Any]:
    """Return a vocoder's file as its training saves it; `overrides` are fields of `Network`."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected(replace(TINY, **overrides)).items():
        weight = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        if name.endswith(".weight"):
            weight *= 0.9 / math.sqrt(math.prod(shape[1:]) if not name.startswith("ups.") else 2 * shape[0])
        else:
            weight *= 0.02
        if name.endswith(".weight") and name.startswith(("conv_", "ups.", "resblocks.")):
            tensors[f"{name}_g"] = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            tensors[f"{name}_v"] = weight / 2  # any length will do, as g tells the right one
        else:
            tensors[name] = weight
    return {"generator": tensors}


def config(**overrides: Any) -> dict[str, Any]:
    """Return the `config.json` of a tiny vocoder."""
    return {
        "resblock": "1",
        "upsample_rates": [*TINY.rates],
        "upsample_kernel_sizes": [*TINY.up_kernels],
        "upsample_initial_channel": TINY.initial,
        "resblock_kernel_sizes": [*TINY.block_kernels],
        "resblock_dilation_sizes": [[*each] for each in TINY.dilations],
        "num_mels": TINY.mels,
        "n_fft": 2048,
        "hop_size": 512,
        "win_size": 2048,
        "sampling_rate": 44_100,
        "fmin": 40,
        "fmax": 16_000,
    } | overrides
