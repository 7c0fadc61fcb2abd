"""Small checkpoints, sound and broken, made in code: a few kilobytes each."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

LEGACY_HEAD = b"".join(
    pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
"""What the older form begins with: magic number, protocol version, system."""


def weights() -> dict[str, torch.Tensor]:
    """Return tensors with names and types as in a voice."""
    rng = torch.Generator().manual_seed(7)
    return {
        "emb_g.weight": torch.randn(5, 4, generator=rng).half(),
        "dec.ups.0.weight_g": torch.rand(6, 1, 1, generator=rng).half(),
        "dec.ups.0.weight_v": torch.randn(6, 2, 3, generator=rng).half(),
        "dec.ups.0.bias": torch.randn(6, generator=rng).half(),
    }


def voice(**changed: Any) -> dict[str, Any]:
    """Return what an RVC training tool saves, with entries changed or added."""
    return {"weight": weights(), "config": [513, [3, 7], "1", 40000], "info": "9epoch", "sr": "40k", "f0": 1} | changed


def saved(thing: object, *, legacy: bool = False) -> bytes:
    """Return the file that torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return buffer.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    """Return what is in a ZIP archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def around(table: bytes, **storages: bytes) -> bytes:
    """Return an archive as torch.save makes it around a hand-made pickle."""
    parts = {"voice/data.pkl": table, "voice/byteorder": b"little", "voice/version": b"3\n"}
    return archive(parts | {f"voice/data/{key.removeprefix('s')}": data for key, data in storages.items()})


def legacy_around(table: bytes, keys: list[str] | None = None, storages: bytes = b"") -> bytes:
    """Return a file of the older form around a hand-made pickle."""
    return LEGACY_HEAD + table + pickle.dumps(keys or [], protocol=2) + storages


def written(path: Path, data: bytes) -> Path:
    """Write the bytes and return the path."""
    path.write_bytes(data)
    return path


class Pickled:
    """Pickles as a call of a function that is named by its module and name."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Return the opcode that pushes a whole number of up to 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def storage(kind: str, key: str, count: int) -> bytes:
    """Return the opcodes that push a storage."""
    kind_of_it = text("storage") + f"ctorch\n{kind}\n".encode()
    return b"(" + kind_of_it + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(  # noqa: PLR0913 - all that makes a tensor
    kind: str,
    key: str,
    stored: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    first: int = 0,
    more: bytes = b"",
) -> bytes:
    """Return the opcodes that push a tensor of any shape and stride over a storage of `stored` numbers."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(kind, key, stored) + number(first) + numbers(shape)
        + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R" + more + b"tR"
    )  # fmt: skip


def table(**tensors: bytes) -> bytes:
    """Return the pickle of {"weight": {name: tensor}} from the opcodes of each tensor."""
    items = b"".join(text(name) + opcodes for name, opcodes in tensors.items())
    return b"\x80\x02}" + text("weight") + b"}(" + items + b"us."
