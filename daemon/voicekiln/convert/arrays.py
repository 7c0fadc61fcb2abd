"""NumPy arrays in a checkpoint, as so-vits-svc saves its cluster centres: a table of tables, one for each speaker.

Such an array is bytes in the pickle itself, and calls that put a shape on them. Those calls could hand out memory by
the gigabyte, so each is admitted in one form only: the one that pickles a plain float array whose bytes are in the
file, once. And a file with arrays has nothing else to call, no tensors above all: that a voice is let in never
depends on what is said here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from voicekiln.convert.data import NotPlainError, plain_data
from voicekiln.errors import Contradiction, NotACheckpoint, NoWeights, plain

RECONSTRUCT: Final = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
"""As NumPy 1 and 2 call it."""
NDARRAY: Final = "numpy.ndarray"
DTYPE: Final = "numpy.dtype"
ENCODE: Final = "_codecs.encode"
NAMES: Final = frozenset({*RECONSTRUCT, NDARRAY, DTYPE, ENCODE})
"""All that the pickle of an array imports."""

ITEM_BYTES: Final = {"f4": 4, "f8": 8}
MAX_AXES: Final = 4
MAX_NAME: Final = 1000
"""Characters of an array's name and its table's together."""
LITTLE_ENDIAN: Final = (3, "<", None, None, None, -1, -1, 0)
"""The state of a type whose numbers lie as they do here, without fields, parts or a size of its own."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes, written as a text."""

    count: int


@dataclass(frozen=True, slots=True)
class _Type:
    """A type of numbers."""

    item_bytes: int


@dataclass(slots=True, eq=False)
class _Array:
    """An array; empty until it has its state."""

    done: bool = False


class Porter:
    """Follows the calls that make arrays, for `pickles`, and lets nothing else pass under their names."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts` are those in the pickle so far: each of them can become bytes once."""
        self.arrays = 0
        """Made so far."""
        self._texts = texts
        self._counted = 0
        self._characters = 0
        self._encoded = 0
        self._used = 0

    def call(self, name: str, arguments: tuple[Any, ...]) -> object:
        """Return what stands for the result of a call."""
        match name, arguments:
            case (_, (str(text), "latin1")) if name == ENCODE:
                self._encoded += len(text)
                if self._encoded <= self._length():  # else one text is many bytes
                    return _Bytes(len(text))
            case (_, (str(kind), _, _)) if name == DTYPE and kind in ITEM_BYTES:
                return _Type(ITEM_BYTES[kind])
            case (_, (made, shape, _Bytes(1))) if name in RECONSTRUCT and (made, *_items(shape)) == (NDARRAY, 0):
                return _Array()
        raise _strange(name)

    def _length(self) -> int:
        """Return the characters of all texts so far."""
        self._characters += sum(map(len, self._texts[self._counted :]))
        self._counted = len(self._texts)
        return self._characters

    def build(self, thing: object, state: object) -> None:
        """Follow what sets a thing's state; of things that are not from here nothing is said."""
        match thing, _items(state):
            case _Type(), items if items != LITTLE_ENDIAN:
                raise _strange(DTYPE)
            case _Array(), items:
                self._fill(thing, items)

    def _fill(self, array: _Array, state: tuple[Any, ...]) -> None:
        match state:
            case (1, shape, _Type(item_bytes), _, _Bytes(count)) if not array.done:
                sizes = _items(shape)
                self._used += count
                whole = 0 < len(sizes) <= MAX_AXES and all(type(size) is int and size > 0 for size in sizes)
                if whole and math.prod(sizes) * item_bytes == count and self._used <= self._encoded:
                    array.done = True
                    self.arrays += 1
                    return
        raise _strange(NDARRAY)


def _items(value: object) -> tuple[Any, ...]:
    """Return the items of a tuple in the pickle; none for anything else."""
    return getattr(value, "items", ())


def _strange(name: str) -> NotACheckpoint:
    return NotACheckpoint(what=f"it holds something that no voice has ({plain(name, 80)})")


def allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what PyTorch may call for such a file beyond what it may for others."""
    make = getattr(importlib.import_module("numpy._core.multiarray"), "_reconstruct")  # noqa: B009 - it has no stub
    types = (np.ndarray, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType)
    return [*((make, name) for name in RECONSTRUCT), *types]


def taken_apart(tables: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the arrays one level down as float32 tensors, by table and name, and the numbers beside them.

    Nothing is copied before all of it is known to be in order; then each array is copied once at most.

    Raises:
        Contradiction: if two have one name, or one has two, or a name that none can have.
        NoWeights: if there are none.
    """
    with_arrays = {table: entries for table, entries in tables.items() if _has_arrays(entries)}
    if not with_arrays:
        raise NoWeights(keys=", ".join(plain(table, 40) for table in [*tables][:6]) or "nothing at all")
    found = _named(with_arrays)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, of which the person is told
        tensors = {name: torch.from_numpy(np.require(array, np.float32, ("C", "W"))) for name, array in found.items()}
    rest: dict[str, Any] = {}
    for table, entries in with_arrays.items():
        with suppress(NotPlainError):
            rest[table] = plain_data({key: value for key, value in entries.items() if _is_number(key, value)})
    return tensors, rest


def _has_arrays(entries: object) -> bool:
    return type(entries) is dict and any(isinstance(value, np.ndarray) for value in entries.values())


def _named(tables: Mapping[str, dict[Any, Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays by table and name; raises as `taken_apart`.

    To put a thing into many places, or under a long name that is used again and again, takes a few bytes each time.
    """
    found: dict[str, NDArray[Any]] = {}
    seen: set[int] = set()
    for table, entries in tables.items():
        for key, array in entries.items():
            if not isinstance(array, np.ndarray):
                continue
            if not isinstance(key, str) or len(table) + len(key) > MAX_NAME:
                raise Contradiction(what=f"one of its arrays has a name that is no text of up to {MAX_NAME} characters")
            if (name := f"{table}/{key}") in found:
                raise Contradiction(what=f"two of its arrays are called {plain(name, 80)}")
            if id(array) in seen:
                raise Contradiction(what=f"one of its arrays bears two names, {plain(name, 80)} is the second")
            found[name] = array
            seen.add(id(array))
    return found


def _is_number(key: object, value: object) -> bool:
    """Say whether it is a number under a name; all else may be large and in many tables at once."""
    return isinstance(key, str) and len(key) <= MAX_NAME and isinstance(value, int | float)
