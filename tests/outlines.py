"""A checkpoint object as a family sees it, without a file on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from voicekiln.families.base import Outline, TensorInfo
from voicekiln.nets.weight_norm import older_spelling


def outline(checkpoint: Mapping[str, Any]) -> Outline:
    """Return the outline of what a training tool hands to `torch.save`."""
    key = next((key for key in ("weight", "model", "generator") if isinstance(checkpoint.get(key), dict)), None)
    found = checkpoint if key is None else checkpoint[key]
    named = {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    rest = {k: v for k, v in checkpoint.items() if k != key and not isinstance(v, torch.Tensor) and k != "optimizer"}
    infos = {
        older_spelling(n): TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in named.items()
    }
    return Outline(infos, rest, key, tuple(checkpoint))


def named(*names: str, key: str | None = "model") -> Outline:
    """Return the outline of a model of which only tensor names are known."""
    return Outline({name: TensorInfo((2, 2, 2), "float32") for name in names}, {}, key, (key,) if key else names)
