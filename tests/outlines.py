"""A checkpoint object as a family sees it, without a file on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from voicekiln.families.base import Outline, TensorInfo
from voicekiln.nets.weight_norm import older_spelling


def outline(checkpoint: Mapping[str, Any]) -> Outline:
    """Return the outline of what a training tool hands to `torch.save`."""
    key = _tensor_key(checkpoint)
    rest = {k: v for k, v in checkpoint.items() if k != key and not isinstance(v, torch.Tensor) and k != "optimizer"}
    infos = {n: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors(checkpoint).items()}
    return Outline(infos, rest, key, tuple(checkpoint))


def tensors(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return its tensors under the names that they have in the outline."""
    key = _tensor_key(checkpoint)
    found = checkpoint if key is None else checkpoint[key]
    return {older_spelling(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def _tensor_key(checkpoint: Mapping[str, Any]) -> str | None:
    return next((key for key in ("weight", "model", "generator") if isinstance(checkpoint.get(key), dict)), None)


def named(*names: str, key: str | None = "model") -> Outline:
    """Return the outline of a model of which only tensor names are known."""
    return Outline({name: TensorInfo((2, 2, 2), "float32") for name in names}, {}, key, (key,) if key else names)
