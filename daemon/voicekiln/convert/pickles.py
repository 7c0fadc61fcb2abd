"""A look at a pickle before anything executes it: which names it imports, which storages it claims.

`torch.load(weights_only=True)` is the lock; this is the porter in front of it. Its list of names is much shorter
than torch's, because a voice needs little: torch's own list has functions that hand out memory by the gigabyte
(`bytearray`, `_codecs.encode`, empty tensors). The opcodes are read with `pickletools`, which executes nothing,
and followed on a stack of plain texts, numbers and blanks, just far enough to know what is stored where, what is
called, and that no tuple is so deep or so often in itself that hashing or printing it would never end. Of NumPy's
arrays, which a voice has none of, `arrays` knows what is in order.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from voicekiln.convert import arrays
from voicekiln.errors import Damaged, NotACheckpoint, UnsafePickle, plain

MAX_OPS = 1_000_000
"""Opcodes. A training checkpoint with optimizer has about 100 000."""

MAX_TUPLE = 1_000_000
"""Items of a tuple, those of tuples in it counted double at each level. Whoever hashes or prints a tuple walks all of
it, each time anew where one part is in it many times, and through C's stack; voices have four levels of a few."""

ITEM_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage"), 8),
}
"""Bytes per number in each kind of storage that a voice may have."""

_WELCOME: Final = {
    "collections.OrderedDict",
    "collections.Counter",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    *(f"torch.{kind}" for kind in ITEM_BYTES),
    "torch.storage.UntypedStorage",
    *arrays.NAMES,
}
_CALLED: Final = {name for name in _WELCOME if "._rebuild_" in name or name.startswith("collections.")} | {
    "torch.Size",
    "torch.device",
}
"""Those that may be called; a storage class would hand out memory."""
_A_DTYPE = re.compile(r"torch\.(u?int\d+|float\d+|double|half|bfloat16|bool)")
_HARMLESS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|torch\.(cuda\.)?(sparse\.)?\w*(Tensor|Storage)|torch\.per_\w+|torch\.q?u?int\w+|torch\.float\w+"
    r"|torch\.complex\w+|builtins\.(bytearray|set|complex)"
)
"""Names that run nothing, but that a voice does not need either: sparse and quantised tensors and the like."""

_TUPLES: Final = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KNOWN: Final = {
    *_TUPLES, "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "NONE",
    "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "GLOBAL", "REDUCE",
    "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT",
    "LONG_BINPUT", "PROTO", "STOP",
}  # fmt: skip
"""The opcodes that torch's unpickler knows and that torch.save writes."""

_BLANK: Final = object()
"""Stands for a value that does not matter here."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tuple:
    """A tuple in the pickle."""

    items: tuple[Any, ...]
    weight: int
    """See `MAX_TUPLE`."""

    @staticmethod
    def of(items: list[Any]) -> _Tuple:
        """Return the tuple of these items.

        Raises:
            NotACheckpoint: if it is too heavy.
        """
        weight = 1 + sum(2 * item.weight if isinstance(item, _Tuple) else 1 for item in items)
        if weight > MAX_TUPLE:
            raise NotACheckpoint(what="its table of contents is nested far more than a voice's")
        return _Tuple(tuple(items), weight)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pickle would make."""

    storages: dict[str, int] = field(default_factory=dict)
    """Bytes of every storage that it refers to, by key."""
    texts: tuple[str, ...] = ()
    """All texts in it, in their order: for the list of keys that ends a legacy file."""
    arrays: bool = False
    """Whether it makes NumPy arrays, and then nothing else that has to be called."""


def read(stream: BinaryIO) -> Reading:
    """Follow the pickle that begins at the stream's position and leave the stream behind its end.

    Raises:
        UnsafePickle: if it imports anything that could run code.
        NotACheckpoint: if it is of a kind that no voice has.
        Damaged: if it breaks off or makes no sense.
    """
    follower = _Follower()
    # What lies in memory makes no room for more than it has, and is spared the questions.
    bounded = stream if isinstance(stream, io.BytesIO) else cast("BinaryIO", _Bounded(stream))
    follow(bounded, follower.take, MAX_OPS)
    if follower.foreign:
        raise NotACheckpoint(what="it is a Python pickle of a kind that PyTorch does not write")
    numpys = follower.names & arrays.NAMES
    if numpys and (not follower.porter.arrays or follower.names - arrays.NAMES):
        raise NotACheckpoint(what=f"it holds something that no voice has ({min(numpys)})")
    return Reading(follower.storages, tuple(follower.texts), bool(numpys))


def follow(stream: BinaryIO, take: Callable[[pickletools.OpcodeInfo, Any], None], most: int) -> None:
    """Hand the opcodes of the pickle at the stream's position, with what they carry, to `take`.

    Raises:
        NotACheckpoint: if there are far too many.
        Damaged: if it breaks off, or `take` finds that it makes no sense.
    """
    try:
        with warnings.catch_warnings():
            # Texts with backslashes make Python's codecs complain; such a name is not on the list anyway.
            warnings.filterwarnings("ignore", "invalid (octal )?escape sequence", DeprecationWarning)
            for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
                if count > most:
                    raise NotACheckpoint(what="its table of contents is far larger than a voice's")
                take(op, arg)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # pickletools raises ValueError on bad bytes; the others are a stack or memo that does not add up.
        raise Damaged(what="its table of contents is cut off or garbled") from error


class _Bounded:
    """A stream that is never asked for more than it has: Python makes room for what is asked before it reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        at = stream.tell()
        self._end = stream.seek(0, os.SEEK_END)
        stream.seek(at)
        self.readline = stream.readline
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        """Return at most `count` bytes."""
        return self._stream.read(min(count, self._end - self._stream.tell()))


class _Follower:
    """Stack and memo of one pickle, values reduced to texts, numbers and blanks."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, int] = {}
        self.texts: list[str] = []
        self.names: set[str] = set()
        """All that it imports."""
        self.porter = arrays.Porter(self.texts)
        self.foreign = False

    def take(self, op: pickletools.OpcodeInfo, arg: Any) -> None:  # noqa: ANN401 - whatever the opcode carries
        """Do what `op` does to the stack."""
        self.foreign = self.foreign or op.name not in _KNOWN
        match op.name:
            case "GLOBAL" | "INST":
                self.stack.append(admit(arg.split(" ", 1)))
                self.names.add(self.stack[-1])
            case "STACK_GLOBAL":
                admit(self.stack[-2:])
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if arg is None else arg] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[arg])
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPERSID":
                self._claim(self.stack[-1])
            case "REDUCE" | "BUILD":
                self.stack.append((self._call if op.name == "REDUCE" else self._build)(*self._pop(2)))
            case name if name in _TUPLES:
                self.stack.append(_Tuple.of(self._pop(_TUPLES[name])))
            case _ if isinstance(arg, str | int) and op.stack_after:
                self.stack.append(arg)
                self.texts += [arg] if isinstance(arg, str) else []
            case _:
                self._other(op)

    def _other(self, op: pickletools.OpcodeInfo) -> None:
        """Pop and push as many blanks as the opcode's own description says."""
        for wanted in reversed(op.stack_before):
            if wanted is pickletools.stackslice:
                self._pop(None)
            elif wanted is not pickletools.markobject:
                self.stack.pop()
        self.stack += [None if op.name == "NONE" else _BLANK] * len(op.stack_after)

    def _call(self, called: Any, arguments: Any) -> object:  # noqa: ANN401 - whatever the file says
        """Return what stands for the result."""
        if called in arrays.NAMES:
            return self.porter.call(called, arguments.items if isinstance(arguments, _Tuple) else ())
        self.foreign = self.foreign or called not in _CALLED
        return _BLANK

    def _build(self, thing: Any, state: Any) -> object:  # noqa: ANN401 - as above
        """Return what stands for a thing that got its state: itself."""
        self.porter.build(thing, state)
        return thing

    def _pop(self, count: int | None) -> list[Any]:
        """Take the last `count` values, or all down to the last mark."""
        at = self.marks.pop() if count is None else len(self.stack) - count
        if at < 0:
            raise IndexError("more is taken than there is")
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def _claim(self, pid: Any) -> None:  # noqa: ANN401 - whatever the file says
        """Note the storage that a persistent id names: ("storage", kind, key, location, count, ...)."""
        _, kind, key, _, count, *_ = pid.items if isinstance(pid, _Tuple) else ()
        if not (isinstance(kind, str) and isinstance(key, str) and isinstance(count, int) and key.isascii()):
            # Beyond ASCII torch reads short texts by another code than pickletools.
            raise TypeError("a storage described by something else than plain texts and a number")
        size = count * ITEM_BYTES[kind.rpartition(".")[2]]
        if size < 0 or self.storages.setdefault(key, size) != size:
            raise ValueError("two sizes for one storage")
        self.stack[-1] = _BLANK


def admit(import_: Sequence[Any]) -> str:
    """Return the full name of a module and a name in it, if a voice may have it; Python 2's are brought up to date."""
    module, name = import_
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError("a name that is no text")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"
    if full in _WELCOME or _A_DTYPE.fullmatch(full):
        return full
    if _HARMLESS.fullmatch(full):
        raise NotACheckpoint(what=f"it holds something that no voice has ({plain(full, 80)})")
    raise UnsafePickle(wants=plain(full, 80))
