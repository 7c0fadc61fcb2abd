"""Small shallow diffusion models in the real layout of a checkpoint, made in milliseconds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from voicekiln.families import diffusion
from voicekiln.families.base import Outline
from voicekiln.families.diffusion_network import LIMITS, SHIFT, Settings, expected

Checkpoint = dict[str, Any]

TINY = replace(diffusion.V41, width=256, hidden=16, channels=16, layers=3, mels=12, speakers=2, timesteps=200)
"""so-vits-svc's with thin layers and two speakers."""


def settings(**overrides: Any) -> Settings:
    """Return the settings of a tiny model; `overrides` are fields of `diffusion_network.Settings`."""
    return replace(TINY, **overrides)


def tiny(seed: int = 0, *, shift: bool = True, **overrides: Any) -> Checkpoint:
    """Return a model as the training saves it; `shift`: with the embedding for a training on shifted pitch."""
    made = settings(**overrides)
    generator = torch.Generator().manual_seed(seed)
    shapes = dict(expected(made)) | ({SHIFT: (made.hidden, 1)} if shift else {})
    betas = torch.linspace(1e-4, 0.02, made.timesteps, dtype=torch.float64)
    given = {
        "decoder.betas": betas.float(),
        "decoder.alphas_cumprod": torch.cumprod(1 - betas, 0).float(),
        LIMITS[0]: torch.full((1, 1, made.limits), -12.0),
        LIMITS[1]: torch.linspace(2, 3, made.limits)[None, None],
    }
    drawn = {
        name: torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        for name, shape in shapes.items()
    }
    return {"global_step": 100, "model": drawn | given}


def config(**overrides: Any) -> dict[str, Any]:
    """Return what its `diffusion.yaml` says."""
    written: dict[str, Any] = diffusion.outline(settings(**overrides), "vec256l9").beside["diffusion.yaml"]
    return written | {"spk": {"tenor": 0, "alto": 1}}


def beside(seen: Outline, raw: object, name: str = "diffusion.yaml") -> Outline:
    """Return an outline with a companion beside it."""
    return replace(seen, beside={name: raw})
