"""Are the weights in an ONNX file those of the checkpoint? Compared number by number, whatever they are called.

Exporters rename, transpose and fold weights, and rounding to half precision is no difference; so a weight counts as
the voice's own if any tensor of the checkpoint, folded or not, has its numbers in its shape or turned on its side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from voicekiln.errors import plain
from voicekiln.judge.client import Client
from voicekiln.judge.original import Voice

NEAR: Final = 2e-3
"""Of a weight's largest number; half precision rounds by a quarter of that."""
FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
LARGE: Final = 256
"""Numbers of a weight that is told from others by them, whatever its name."""
SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Likeness:
    """How the weights of a file compare with a voice's."""

    numbers: int
    """In the file's weights."""
    own: int
    """Of these, in weights that are the voice's."""
    strange: tuple[str, ...]
    """Weights that have the name or the size of one of the voice's, and other numbers."""
    unknown: tuple[str, ...]
    """Named weights that the voice does not have."""

    @property
    def share(self) -> float:
        """Return which share of the numbers is the voice's own."""
        return self.own / self.numbers if self.numbers else 0.0


def likeness(client: Client, voice: Voice) -> Likeness:
    """Compare the weights of a file with a voice's."""
    by_size: dict[int, list[NDArray[np.float32]]] = {}
    named = dict(_named(voice))
    for own_weight in named.values():
        by_size.setdefault(own_weight.size, []).append(own_weight)
    numbers, own, strange, unknown = 0, 0, [], []
    for name, tensor in client.constants.items():
        weight = _read(tensor)
        if weight is None or np.ptp(weight) == 0:
            continue
        numbers += weight.size
        known = _known(name, named)
        if any(_same(weight, candidate) for candidate in by_size.get(weight.size, ())):
            own += weight.size
        elif not known and "." in name and not name.startswith(("onnx::", "/")):
            unknown.append(plain(name, 80))
        elif (known and named[known].size == weight.size) or (weight.size >= LARGE and weight.size in by_size):
            strange.append(plain(known or name, 80))
    return Likeness(numbers, own, tuple(strange), tuple(unknown))


def listed(names: tuple[str, ...]) -> str:
    """Return the first of the names and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _known(name: str, named: Mapping[str, object]) -> str | None:
    """Return the voice's weight that a name in a file means: exporters may put a module's name before it."""
    parts = name.split(".")
    return next((known for at in range(len(parts)) if (known := ".".join(parts[at:])) in named), None)


def _named(voice: Voice) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the voice's tensors as the network has them and as the checkpoint has them."""
    parts: tuple[Mapping[str, Any], ...] = (voice.tensors, voice.network.state_dict())
    for tensors in parts:
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                yield name, tensor.detach().float().numpy().squeeze()


def _read(tensor: onnx.TensorProto) -> NDArray[np.float32] | None:
    if tensor.data_type not in FLOATS or math.prod(tensor.dims) > 2**31:
        return None
    try:
        with np.errstate(all="ignore"):
            return np.asarray(numpy_helper.to_array(tensor)).astype(np.float32).squeeze()
    except (ValueError, TypeError):  # fewer bytes than its shape wants; ONNX Runtime will say so
        return None


def _same(weight: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    views = [other.T, other] if weight.ndim > 1 else [other.reshape(-1)]
    return any(
        view.shape == weight.shape and bool(np.max(np.abs(view - weight)) <= NEAR * np.max(np.abs(view)))
        for view in views
    )
