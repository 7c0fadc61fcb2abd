"""From a template and a voice's numbers to the bytes of an ONNX file, streamed.

An ONNX file is a row of protobuf fields whose lengths are all known beforehand: what stands around the weights is
written by the protobuf library, the weights go one by one from the checkpoint into the file. The bytes are exactly
those that `onnx` would write for the whole model, which is never built.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import onnx
import torch
from numpy.typing import NDArray

from voicekiln.convert.graph import BadGraphError
from voicekiln.convert.halve import LARGEST_HALF

GRAPH: Final = 7
INITIALIZER: Final = 5
RAW_DATA: Final = 9
"""Field numbers in onnx.proto; the library writes fields in the order of their numbers."""

BUFFER: Final = 2**18
"""Bytes. Larger weights are written straight from where they lie."""

MAX_BYTES: Final = 2**31 - 1
"""What protobuf can read as one message."""

TYPES: Final[Mapping[int, torch.dtype]] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
}

AnyMessage = TypeVar("AnyMessage", onnx.ModelProto, onnx.GraphProto)


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written."""

    sha256: str
    bytes: int


def fill(model: onnx.ModelProto, weight: Callable[[str], torch.Tensor], facts: Mapping[str, str], path: Path) -> Filled:
    """Write the file, synced to disk. Equal arguments give equal bytes.

    Args:
        model: the graph, its weights without numbers.
        weight: returns the numbers of the weight of that name, in any floating-point type; asked for one at a time,
            in the order in which they are written.
        facts: for the file's metadata, in place of what is there.
        path: is replaced; after a failure it holds a part.

    Raises:
        BadGraphError: if a weight has another shape than the graph wants, or the file were too large for ONNX.
        OSError: if it cannot be written.
        whatever `weight` raises.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("wb", buffering=BUFFER) as file:
        for piece in _pieces(model, weight, facts):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return Filled(digest.hexdigest(), size)


def _pieces(
    model: onnx.ModelProto, weight: Callable[[str], torch.Tensor], facts: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Give the file's bytes piece by piece; a piece is to be used before the next one is asked for."""
    before, after = _around(model, GRAPH)
    del after.metadata_props[:]
    for key, value in sorted(facts.items()):
        after.metadata_props.add(key=key, value=value)
    graph_before, graph_after = (
        part.SerializeToString(deterministic=True) for part in _around(model.graph, INITIALIZER)
    )
    heads = [_head(tensor) for tensor in model.graph.initializer]
    sizes = [_size(tensor) for tensor in model.graph.initializer]
    length = len(graph_before) + sum(map(len, heads)) + sum(sizes) + len(graph_after)
    opening = before.SerializeToString(deterministic=True) + _opening(GRAPH, length)
    closing = after.SerializeToString(deterministic=True)
    if (total := len(opening) + length + len(closing)) > MAX_BYTES:
        raise BadGraphError(f"a file of {total} bytes is too large for ONNX")
    yield opening + graph_before
    for tensor, head in zip(model.graph.initializer, heads, strict=True):
        yield head
        numbers = weight(tensor.name)
        if _extent(numbers.shape) != _extent(tensor.dims):
            raise BadGraphError(f"{tensor.name} has the shape {tuple(numbers.shape)}, {list(tensor.dims)} is wanted")
        yield _bytes(numbers, TYPES[tensor.data_type])
    yield graph_after
    yield closing


def _around(message: AnyMessage, field: int) -> tuple[AnyMessage, AnyMessage]:
    """Return copies of a message with the fields before and with those after the one of that number."""
    parts = type(message)(), type(message)()
    for part, wanted in zip(parts, (range(field), range(field + 1, 2**29)), strict=True):
        part.CopyFrom(message)
        for descriptor, _ in message.ListFields():
            if descriptor.number not in wanted:
                part.ClearField(descriptor.name)
    return parts


def _head(tensor: onnx.TensorProto) -> bytes:
    """Return all of an initializer's field that stands before its numbers."""
    said: bytes = tensor.SerializeToString(deterministic=True) + _opening(RAW_DATA, _size(tensor))
    return _opening(INITIALIZER, len(said) + _size(tensor)) + said


def _size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of an initializer's numbers."""
    count: int = math.prod(tensor.dims)
    return count * TYPES[tensor.data_type].itemsize


def _extent(shape: Iterable[int]) -> list[int]:
    """Return a shape without its axes of length one: in these a checkpoint's weight may differ from the graph's."""
    return [size for size in shape if size != 1]


def _opening(field: int, length: int) -> bytes:
    """Return what stands before a field of so many bytes: its number with its kind (2), and its length, as varints."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte, the eighth says that more follow
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _bytes(tensor: torch.Tensor, dtype: torch.dtype) -> memoryview:
    """Return the numbers in the wanted type; those that half precision cannot hold become its largest."""
    made = tensor.to(dtype)
    if dtype == torch.float16 and tensor.dtype != dtype and not all(map(torch.isfinite, torch.aminmax(made))):
        made = tensor.float().clamp(-LARGEST_HALF, LARGEST_HALF).half()
    numbers: NDArray[Any] = made.contiguous().numpy()
    return numbers.data.cast("B")
