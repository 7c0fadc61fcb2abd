"""The bytes of a faiss IndexIVFFlat: vectors in lists, each list with its centre.

The layout is what faiss writes (`index_write.cpp`): little-endian, every length before what it counts. Each length is
compared with the bytes that are left before it is believed, so a file can ask for no more memory than it has.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from voicekiln.errors import Damaged, NotACheckpoint

MAX_WIDTH: Final = 65_536
MAX_VECTORS: Final = 2**24
"""So far float32 counts without gaps; so-vits-svc makes cluster centres of more than 200 000."""
L2: Final = 1
"""faiss's number for the squared Euclidean distance."""
_HEADER: Final = struct.Struct("<iqqq?i")
"""Width, vectors, two unused numbers, whether it is trained, the measure of distance."""


@dataclass(frozen=True, slots=True)
class Index:
    """What is in it."""

    centroids: NDArray[np.float32]
    """(lists, width)"""
    vectors: NDArray[np.float32]
    """(vectors, width), those of the first list first, and so on."""
    lists: NDArray[np.int64]
    """Of each vector."""
    starts: NDArray[np.int64]
    """Where each list begins among the vectors, and where the last one ends."""
    probes: int
    """Lists that are searched for each feature."""

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Give all but that by name."""
        return ((name, getattr(self, name)) for name in ("centroids", "vectors", "lists", "starts"))


def read(data: memoryview | bytes) -> Index:
    """Return what is in an index.

    Raises:
        Damaged: if its bytes make no sense.
        NotACheckpoint: if it is another index than so-vits-svc makes.
    """
    cursor = _Cursor(memoryview(data))
    try:
        return _read(cursor)
    except (struct.error, ValueError, OverflowError) as error:
        raise Damaged(what="its feature index is cut off or garbled") from error


class _Cursor:
    """Bytes that are taken one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self._take(form.size))

    def mark(self) -> bytes:
        return bytes(self._take(4))

    def size(self) -> int:
        """Return a length, to be believed once what it counts has been taken."""
        [found] = self.unpack(_SIZE)
        return int(found)

    def numbers(self, kind: str, *shape: int) -> NDArray[Any]:
        """Return so many numbers as they lie there."""
        dtype = np.dtype(kind)
        return np.frombuffer(self._take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= self.left:
            raise ValueError("more is wanted than there is")
        self._at += count
        return self._data[self._at - count : self._at]


_SIZE: Final = struct.Struct("<Q")


def _read(cursor: _Cursor) -> Index:
    _expect(cursor, b"IwFl")
    width, count = _header(cursor)
    lists, probes = cursor.size(), cursor.size()
    _expect(cursor, b"IxF2", b"IxFl")
    if _header(cursor) != (width, lists) or cursor.size() != lists * width:
        raise ValueError("other centres than lists")
    centroids = cursor.numbers("<f4", lists, width)
    _skip_map(cursor)
    _expect(cursor, b"ilar")
    if (cursor.size(), cursor.size()) != (lists, 4 * width):
        raise ValueError("other lists")
    sizes = _sizes(cursor, lists)
    if int(sizes.sum()) != count or cursor.left != count * (4 * width + 8):
        raise ValueError("other vectors than counted")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    vectors = np.empty((count, width), np.float32)
    for first, end in pairwise(starts.tolist()):
        if end > first:
            vectors[first:end] = cursor.numbers("<f4", end - first, width)
            cursor.numbers("<i8", end - first)  # under which number faiss knows each of them
    return Index(centroids.copy(), vectors, np.repeat(np.arange(lists), sizes), starts, int(min(probes, lists)))


def _expect(cursor: _Cursor, *marks: bytes) -> None:
    if cursor.mark() not in marks:
        raise NotACheckpoint(what="its feature index is of another make than so-vits-svc's")


def _header(cursor: _Cursor) -> tuple[int, int]:
    """Return width and number of vectors."""
    width, count, _, _, trained, measure = cursor.unpack(_HEADER)
    if measure != L2:
        raise NotACheckpoint(what="its feature index is of another make than so-vits-svc's")
    if not (0 < width <= MAX_WIDTH and 0 < count <= MAX_VECTORS and trained):
        raise ValueError("no vectors")
    return width, count


def _skip_map(cursor: _Cursor) -> None:
    """Leave out where each vector lies: none, a table of them, or pairs."""
    [kind] = cursor.numbers("u1", 1)
    cursor.numbers("<i8", cursor.size())
    if kind == 2:  # noqa: PLR2004 - faiss's number for pairs
        cursor.numbers("<i8", cursor.size(), 2)
    elif kind > 1:
        raise ValueError("a map of an unknown kind")


def _sizes(cursor: _Cursor, lists: int) -> NDArray[np.int64]:
    """Return how many vectors each list has; where most have none, only the others are said."""
    form, count = cursor.mark(), cursor.size()
    said = cursor.numbers("<i8", count)
    if said.min(initial=0) < 0:
        raise ValueError("less than nothing")
    if form == b"full" and count == lists:
        return said
    if form != b"sprs" or count % 2:
        raise ValueError("sizes of an unknown form")
    sizes = np.zeros(lists, np.int64)
    which = said[::2]
    if len(which) and (which.max() >= lists or (np.diff(which) <= 0).any()):
        raise ValueError("a list twice, or none")
    sizes[which] = said[1::2]
    return sizes
