"""A feature index: a pickle that holds a faiss index for each speaker, opened without faiss and without unpickling.

Python's own unpickler would make room for whatever a file asks for. Here a handful of opcodes is followed, enough
for a table from speakers to objects of one class, known by its name alone, whose state is bytes. The bytes stay in
the mapped file until `faiss_index` copies the vectors out of them.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np

from voicekiln.convert import faiss_index, pickles
from voicekiln.convert.faiss_index import Index
from voicekiln.errors import Contradiction, NotACheckpoint, plain

MODULE: Final = re.compile(r"faiss\.swigfaiss(_[a-z0-9_]{1,20})?")
"""It has an ending that says what the processor can do."""
CLASS: Final = "IndexIVFFlat"
MAX_OPS: Final = 20_000
"""Opcodes. A speaker takes about 15."""
MAX_NUMBER: Final = 65_536
MAX_NAME: Final = 100
"""Characters."""
PROTOCOLS: Final = (b"\3", b"\4", b"\5")
"""Of pickles. The second has no bytes; Python writes the fourth or fifth by itself."""
BEGINNING: Final = 200
"""Bytes in which the class has to be named; it comes with the first speaker."""
COPIED: Final = 4096
"""Bytes. What is longer is left in the mapped file."""

_MARK: Final = object()
_CLASS: Final = object()
_PUSHING: Final[dict[str, Callable[[Any], Any]]] = {
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "SHORT_BINUNICODE", "BINUNICODE"), lambda arg: arg),
    **dict.fromkeys(
        ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), lambda arg: arg.data if isinstance(arg, _Piece) else arg
    ),
}
"""What the opcodes push that take nothing."""


class _Stub:
    """Stands for a faiss index."""

    state: memoryview | bytes | None = None


def begins(head: bytes) -> bool:
    """Say whether a file that begins so is to be opened here."""
    return head[:1] == b"\x80" and head[1:2] in PROTOCOLS and b"faiss.swigfaiss" in head[:BEGINNING]


def open_index(path: Path) -> dict[str, Index]:
    """Return the speakers' indexes by number or name, in this order.

    Raises:
        UnsafePickle: if it imports anything that could run code.
        NotACheckpoint: if it is something else than such a table.
        Damaged, Contradiction: if it breaks off or makes no sense.
        OtherFamily: if an index is of another make.
    """
    states = _states(np.memmap(path, np.uint8, "r").data)
    return {_name(key): faiss_index.read(states[key]) for key in sorted(states, key=_order)}


def _states(whole: memoryview) -> dict[int | str, memoryview | bytes]:
    """Return the bytes of each index."""
    follower = _Follower()
    stream = _Stream(whole)
    pickles.follow(cast("BinaryIO", stream), follower.take, MAX_OPS)
    found = follower.result
    if stream.tell() != len(whole) or not isinstance(found, dict) or not found:
        raise _strange()
    states = {key: stub.state for key, stub in found.items() if isinstance(stub, _Stub) and stub.state is not None}
    if len(states) < len(found):
        raise _strange()
    if len({id(state) for state in states.values()}) < len(states) or len({*map(_name, states)}) < len(states):
        raise Contradiction(what="two of its speakers have one index or one name")
    return states


def _order(key: int | str) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (MAX_NUMBER, key)


def _name(key: int | str) -> str:
    return plain(str(key), MAX_NAME)


def _strange() -> NotACheckpoint:
    return NotACheckpoint(what="it names faiss, but is no feature index of so-vits-svc")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A long piece of the mapped file, good for bytes alone: no text or number is so long."""

    data: memoryview

    def __len__(self) -> int:
        return len(self.data)

    def decode(self, *_code: str) -> str:
        """Fail as `str` and `int` do, which `pickletools` asks for other kinds of text and for numbers."""
        raise TypeError("a text without end")


class _Stream:
    """Mapped bytes as a stream, of which long pieces are not copied."""

    def __init__(self, whole: memoryview) -> None:
        self._whole = whole
        self._at = 0

    def read(self, count: int) -> _Piece | bytes:
        piece = self._whole[self._at : self._at + count]
        self._at += len(piece)
        return _Piece(piece) if len(piece) > COPIED else bytes(piece)

    def readline(self) -> bytes:
        line, end, _ = bytes(self._whole[self._at : self._at + COPIED]).partition(b"\n")
        self._at += len(line + end)
        return line + end

    def tell(self) -> int:
        return self._at


class _Follower:
    """Stack and memo of the pickle; all that can be on the stack was made here."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: object = None

    def take(self, op: pickletools.OpcodeInfo, arg: Any) -> None:  # noqa: ANN401 - whatever the opcode carries
        """Do what the opcode does."""
        match name := op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                [self.result] = self.stack
            case _ if name in _PUSHING:
                self.stack.append(_PUSHING[name](arg))
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                self.memo[len(self.memo) if arg is None else arg] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[arg])
            case "GLOBAL" | "STACK_GLOBAL":
                self.stack.append(_admitted(*(arg.split(" ", 1) if name == "GLOBAL" else self._pop(2))))
            case "NEWOBJ" if self._pop(2) == [_CLASS, ()]:
                self.stack.append(_Stub())
            case "SETITEM" | "SETITEMS":
                self._put(self._pop(2) if name == "SETITEM" else self._pop_to_mark())
            case "BUILD":
                self._set(self._pop(1)[0])
            case _:
                raise _strange()

    def _put(self, items: list[Any]) -> None:
        """Put keys, each with its value, into the table on the stack."""
        table = self.stack[-1]
        if not isinstance(table, dict):
            raise _strange()
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (isinstance(key, str) or (isinstance(key, int) and 0 <= key < MAX_NUMBER)) or key in table:
                raise _strange()
            table[key] = value

    def _set(self, state: object) -> None:
        """Give the object on the stack its state, which is nothing but bytes."""
        match self.stack[-1], state:
            case _Stub(state=None) as stub, {"this": memoryview() | bytes() as data, **more} if not more:
                stub.state = data
            case _:
                raise _strange()

    def _pop_to_mark(self) -> list[Any]:
        """Take what is behind the last mark, and the mark."""
        return self._pop(self.stack[::-1].index(_MARK) + 1)[1:]

    def _pop(self, count: int) -> list[Any]:
        """Take the last `count` values."""
        if count > len(self.stack):
            raise IndexError("more is taken than there is")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken


def _admitted(module: object, name: object) -> object:
    """Return what stands for the one class.

    Raises:
        UnsafePickle, NotACheckpoint: if it is something else.
    """
    if isinstance(module, str) and MODULE.fullmatch(module) and name == CLASS:
        return _CLASS
    pickles.admit((module, name))
    raise _strange()
