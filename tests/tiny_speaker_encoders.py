"""Small speaker encoders in the real layout of `model_se.pth`, made in milliseconds: all names, every layer thin."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from voicekiln.families.speaker_encoder import expected
from voicekiln.families.speaker_encoder_settings import Network, Settings

TINY = Network(
    n_fft=256,
    hop=160,
    mels=16,
    filters=(4, 6, 8, 10),
    blocks=(1, 2, 1, 1),
    reduced=(1, 2, 1, 2),
    attention=5,
    width=12,
)
"""The usual encoder with thin layers."""
WINDOW = 200


def tiny_speaker_encoder(seed: int = 0, **overrides: Any) -> dict[str, Any]:
    """Return a file as Coqui's trainer saves it, but for its config; `overrides` are fields of `Network`."""
    rng = np.random.default_rng(seed)
    shapes = expected(Settings(replace(TINY, **overrides), WINDOW, 16_000))
    return {"model": {name: torch.from_numpy(_numbers(name, shape, rng)) for name, shape in shapes.items()}}


def _numbers(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith(".filter"):
        values[...] = -0.97, 1
    elif name.endswith(".window"):
        values[:] = np.hamming(shape[0] + 1)[:-1]
    elif name.endswith((".fb", ".running_var")) or (name.endswith(".weight") and len(shape) == 1):
        values = np.abs(values) * np.float32(0.2) + np.float32(0.5)
    elif name.endswith(".weight"):
        values *= np.float32(1 / math.sqrt(math.prod(shape[1:])))
    else:
        values *= np.float32(0.1)
    return values


def config(**audio: Any) -> dict[str, Any]:
    """Return the `config_se.json` of a tiny speaker encoder; `audio` are fields of its part of that name."""
    return {
        "model": "speaker_encoder",
        "audio": {
            "fft_size": TINY.n_fft,
            "win_length": WINDOW,
            "hop_length": TINY.hop,
            "sample_rate": 16_000,
            "preemphasis": 0.97,
            "num_mels": TINY.mels,
            "mel_fmax": None,
            "do_rms_norm": True,
            "db_level": -27.0,
        }
        | audio,
        "model_params": {
            "model_name": "resnet",
            "input_dim": TINY.mels,
            "use_torch_spec": True,
            "log_input": True,
            "proj_dim": TINY.width,
        },
    }
