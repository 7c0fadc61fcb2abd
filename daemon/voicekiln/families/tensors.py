"""Whether a checkpoint's tensors are those of a network: what families of voices share.

Shapes alone are looked at, weight norm folded, as no number has been read yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from voicekiln.errors import Contradiction, plain
from voicekiln.families.base import TensorInfo
from voicekiln.families.rvc_config import shown

MAX_SIZE = 65_536
"""Along one axis of a tensor; the largest in a real voice is a few thousand."""
MAX_LAYERS = 64
"""Of one kind in one place; real voices have at most 18."""
TRAINING_ONLY = "enc_q."
"""Prefix of the posterior encoder, which no voice needs to speak."""
_WEIGHT_TYPES = ("float16", "float32", "float64", "bfloat16")

Shape = tuple[int, ...]


def saved(shape: Shape) -> Shape:
    """Return a weight's shape as checkpoints have it: without the axis of height one (see `nets.hifigan`)."""
    with_height = 4
    return (*shape[:2], shape[-1]) if len(shape) == with_height else shape


def folded(tensors: Mapping[str, TensorInfo]) -> dict[str, Shape]:
    """Return the shapes as they are once weight norm is folded and what only training needs is dropped.

    Raises:
        Contradiction: if a tensor has a shape or type that no weight has, or a pair is not a pair.
    """
    kept = {name: info for name, info in tensors.items() if not name.startswith(TRAINING_ONLY)}
    shapes: dict[str, Shape] = {}
    for name, info in kept.items():
        _check_weight(name, info)
        if name.endswith(".weight_g"):
            _check_pair(name, info, kept.get(name.removesuffix("g") + "v"))
            continue
        if name.endswith(".weight_v") and name.removesuffix("v") + "g" not in kept:
            raise contradiction([f"{plain(name, 120)} lacks its weight_g"])
        whole = name.removesuffix("_v") if name.endswith(".weight_v") else name
        if whole in shapes:
            raise contradiction([f"{plain(whole, 120)} is there twice, with and without weight norm"])
        shapes[whole] = info.shape
    return shapes


def axes(shapes: Mapping[str, Shape], name: str, count: int) -> Shape:
    """Return the shape of a tensor that has to be there, with so many axes.

    Raises:
        Contradiction: if it is not so.
    """
    if name not in shapes:
        raise contradiction([f"{name} is missing"])
    if len(shapes[name]) != count:
        raise contradiction([f"{name} has {len(shapes[name])} axes and should have {count}"])
    return shapes[name]


def numbered(names: Iterable[str], pattern: str) -> int:
    """Return one more than the highest number in the names that `pattern` finds; the highest counted is bounded."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return min(max(found, default=-1) + 1, MAX_LAYERS)


def stored(tensors: Mapping[str, TensorInfo]) -> str:
    """Return in which precision a voice's weights are: `half`, `float`, `mixed`, or the name of a rarer type."""
    names = {"float16": "half", "float32": "float"}
    found = {info.dtype for name, info in tensors.items() if not name.startswith(TRAINING_ONLY)}
    return names.get(only := found.pop(), only) if len(found) == 1 else "mixed"


def compare(wanted: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> list[str]:
    """Return what is wrong with `shapes`, a phrase each: tensors of another shape, missing or superfluous."""
    wrong = [
        f"{name} has the shape {_words(shapes[name])} and should have {_words(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    superfluous = [f"{plain(name, 120)} does not belong into such a voice" for name in shapes if name not in wanted]
    return wrong + missing + superfluous


def listed(values: object) -> str:
    """Return one or several numbers as a person writes them."""
    return ", ".join(map(str, values)) if isinstance(values, tuple) else str(values)


def contradiction(problems: list[str]) -> Contradiction:
    """Return the refusal that tells the first problem and counts the rest."""
    rest = f" (and {len(problems) - 1} more of its tensors do not fit)" if problems[1:] else ""
    return Contradiction(what=problems[0] + rest)


def _check_weight(name: str, info: TensorInfo) -> None:
    if info.dtype not in _WEIGHT_TYPES:
        raise contradiction([f"{plain(name, 120)} holds numbers of the type {plain(info.dtype, 20)}"])
    if not info.shape or not all(0 < size <= MAX_SIZE for size in info.shape):
        raise contradiction([f"{plain(name, 120)} has the shape {_words(info.shape)}, which no weight has"])


def _check_pair(name: str, g: TensorInfo, v: TensorInfo | None) -> None:
    if v is None or g.shape != (*v.shape[:1], *(1 for _ in v.shape[1:])):
        raise contradiction([f"{plain(name, 120)} does not fit its weight_v"])


def _words(shape: Shape) -> str:
    """Return a shape as a person writes it; a hostile one is cut."""
    return " x ".join(map(shown, shape[:6])) or "()"
