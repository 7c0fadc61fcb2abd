"""A table of pickles made to do harm, in both forms of a checkpoint: each is refused with its code, at once.

That nothing of them was run is seen by a guard that hears of every program, import by name, connection and written
file (`watched`), and by a file that they would have made.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.small_checkpoints import (
    Pickled,
    around,
    legacy_around,
    number,
    saved,
    table,
    tensor,
    text,
    voice,
    written,
)
from convert.watched import harmless
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.glance import glance
from voicekiln.errors import Refusal

pytestmark = pytest.mark.requirement(20)

CANARY = "canary"
TOUCH = f"touch {CANARY}"
FEW = np.arange(4, dtype=np.float32).tobytes()

UNSAFE, NOT, DAMAGED = "unsafe-pickle", "not-a-checkpoint", "damaged"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is run is run here."""
    monkeypatch.chdir(tmp_path)
    open_checkpoint(written(tmp_path / "sound.pth", saved(voice())))  # whatever is imported late is imported now
    (tmp_path / "sound.pth").unlink()


@pytest.fixture(autouse=True)
def _codes() -> Iterator[None]:
    """Let extension codes stand for something dangerous."""
    for code in (1, 300, 70_000):
        copyreg.add_extension("os" if code == 1 else f"os{code}", "system", code)
    yield
    for code in (1, 300, 70_000):
        copyreg.remove_extension("os" if code == 1 else f"os{code}", "system", code)


def refused(tmp_path: Path, data: bytes) -> Refusal:
    """Return the refusal of a file with these bytes; nothing else may have come of it."""
    path = written(tmp_path / "voice.pth", data)
    caught: list[Refusal] = []
    with harmless(seconds=30, extra_bytes=2**29):
        try:
            open_checkpoint(path)
        except Refusal as refusal:
            caught.append(refusal)
    assert caught, "it was taken for a checkpoint"
    assert caught[0].text.isprintable()
    assert [entry.name for entry in tmp_path.iterdir()] == ["voice.pth"]
    return caught[0]


def dumped(*call: Any) -> dict[str, bytes]:
    """Return the pickles of a call in all protocols, by their names."""
    name = f"{call[0].__module__}.{call[0].__qualname__}"
    return {f"{name}, protocol {p}": pickle.dumps({"weight": Pickled(*call)}, protocol=p) for p in range(6)}


def bomb(rounds: int = 60) -> bytes:
    """Return the opcodes of a tuple of twice the tuple of twice the tuple ..., in torch's own opcodes."""
    return b"K\x01\x85" + b"q\x01h\x01\x86" * rounds


def deep(depth: int = 300_000) -> bytes:
    """Return the opcodes of a tuple in a tuple in a tuple ..."""
    return b")" + b"\x85" * depth


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Return the opcodes of a call."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def holding(opcodes: bytes) -> bytes:
    """Return the pickle of {"weight": what the opcodes push}."""
    return b"\x80\x02}" + text("weight") + opcodes + b"s."


def pairs(key: bytes) -> bytes:
    """Return the opcodes of ((key, 1),)."""
    return key + b"K\x01\x86\x85"


ORDERED = b"ccollections\nOrderedDict\n)R"
CALLS_OS = b"cposix\nsystem\n" + text(TOUCH) + b"\x85R"

ODD_TENSORS: list[tuple[str, int, str, int, tuple[int, ...], tuple[int, ...]]] = [
    ("beyond its storage", 0, DAMAGED, 4, (400,), (1,)),
    ("with strides beyond its storage", 0, DAMAGED, 4, (2, 2), (1000, 1)),
    ("with an offset beyond its storage", 4, DAMAGED, 4, (4,), (1,)),
    ("with an offset beyond all numbers", 2**62, DAMAGED, 4, (4,), (1,)),
    ("with an offset beyond all words", 2**64, DAMAGED, 4, (4,), (1,)),
    ("with a negative offset", -1, DAMAGED, 4, (4,), (1,)),
    ("with a negative stride", 3, DAMAGED, 4, (4,), (-1,)),
    ("of negative size", 0, DAMAGED, 4, (-4,), (1,)),
    ("with a stride too few", 0, DAMAGED, 4, (2, 2), (1,)),
    ("that is stretched without end", 0, "contradiction", 4, (2**40, 4), (0, 1)),
    ("of so many numbers that they count as none", 0, DAMAGED, 4, (2**62, 4), (0, 0)),
    ("whose strides overflow", 0, DAMAGED, 4, (2, 2), (2**62, 2**62)),
    ("of more bytes than its part has", 0, DAMAGED, 2**40, (4,), (1,)),
    ("of fewer bytes than its part has", 0, DAMAGED, 3, (3,), (1,)),
    ("of a negative number of bytes", 0, DAMAGED, -4, (4,), (1,)),
    ("of more bytes than there are numbers for", 0, DAMAGED, 2**600, (4,), (1,)),
]
"""Offset, code, numbers in the storage, shape and strides."""

TABLE: dict[str, tuple[bytes, str]] = {
    **{name: (data, UNSAFE) for name, data in dumped(os.system, (TOUCH,)).items()},
    **{name: (data, UNSAFE) for name, data in dumped(eval, (f"open('{CANARY}', 'w')",)).items()},
    **{name: (data, UNSAFE) for name, data in dumped(exec, (f"open('{CANARY}', 'w')",)).items()},
    **{name: (data, UNSAFE) for name, data in dumped(subprocess.Popen, (["touch", CANARY],)).items()},
    # Nested, hidden, by way of the memo.
    "within within": (holding(call("collections", "OrderedDict", b"(" + pairs(CALLS_OS) + b"l")), UNSAFE),
    "as a hook of a tensor": (
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)).replace(ORDERED, CALLS_OS)),
        UNSAFE,
    ),
    "as a state": (holding(ORDERED + CALLS_OS + b"b"), UNSAFE),
    "thrown away again": (b"\x80\x02" + CALLS_OS + b"0}.", UNSAFE),
    "behind a mark that is popped": (b"\x80\x02(" + CALLS_OS + b"1}.", UNSAFE),
    "names from the memo": (
        b"\x80\x02" + text("posix") + b"q\x010" + text("system") + b"q\x020h\x01h\x02\x93" + text(TOUCH) + b"\x85R.",
        UNSAFE,
    ),
    "a name in the place of a welcome one": (
        b"\x80\x02ccollections\nOrderedDict\nq\x010cposix\nsystem\nq\x010h\x01" + text(TOUCH) + b"\x85R.",
        UNSAFE,
    ),
    "by attribute": (holding(call("builtins", "getattr", b"ctorch\nSize\n", text("__class__"))), UNSAFE),
    "by a dotted name": (b"\x80\x04\x8c\x05torch\x8c\tos.system\x93\x8c" + bytes([len(TOUCH)]) + TOUCH.encode()
                         + b"\x85R.", UNSAFE),
    "INST": (b"(S'" + TOUCH.encode() + b"'\niposix\nsystem\n.", UNSAFE),
    "OBJ": (b"(cposix\nsystem\n" + text(TOUCH) + b"o.", UNSAFE),
    "NEWOBJ": (b"\x80\x02cposix\nsystem\n" + text(TOUCH) + b"\x85\x81.", UNSAFE),
    "NEWOBJ_EX": (b"\x80\x04cposix\nsystem\n" + text(TOUCH) + b"\x85}\x92.", UNSAFE),
    "Python 2's name": (holding(b"c__builtin__\nexecfile\n" + text("x") + b"\x85R"), UNSAFE),
    "EXT1": (holding(b"\x82\x01" + text(TOUCH) + b"\x85R"), NOT),
    "EXT2": (holding(b"\x83" + struct.pack("<H", 300) + text(TOUCH) + b"\x85R"), NOT),
    "EXT4": (holding(b"\x84" + struct.pack("<i", 70_000) + text(TOUCH) + b"\x85R"), NOT),
    # Persistent ids.
    "an id that is a text": (holding(text("storage") + b"Q"), DAMAGED),
    "an id in a line": (holding(b"Pstorage\n"), NOT),
    "an id that is a number": (holding(b"K\x01Q"), DAMAGED),
    "an id that is nothing": (holding(b"NQ"), DAMAGED),
    "an id that is a list": (holding(b"]Q"), DAMAGED),
    "an id of five nothings": (holding(b"(NNNNNtQ"), DAMAGED),
    "an id of a module": (holding(b"(" + text("module") + text("a") * 4 + b"tQ"), DAMAGED),
    "an id with a tuple for a key": (
        holding(b"(" + text("storage") + b"ctorch\nFloatStorage\n" + bomb(5) + text("cpu") + b"K\x04tQ"),
        DAMAGED,
    ),
    "an id with a fraction for a size": (
        holding(b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"G?\xf0" + bytes(6)
                + b"tQ"),
        DAMAGED,
    ),
    # Large numbers, depth, doubling.
    "a whole number without end": (holding(b"\x8b" + struct.pack("<i", 2**31 - 1)), DAMAGED),
    "a whole number of negative length": (holding(b"\x8b" + struct.pack("<i", -1)), DAMAGED),
    "a whole number of a million digits": (holding(b"L" + b"9" * 10**6 + b"L\n"), DAMAGED),
    "a text without end": (holding(b"X" + struct.pack("<I", 2**32 - 1)), DAMAGED),
    "bytes without end": (holding(b"\x8e" + struct.pack("<Q", 2**63)), DAMAGED),
    "tuples within tuples": (holding(deep()), NOT),
    "a deep key": (holding(call("collections", "OrderedDict", pairs(deep()))), NOT),
    "lists within lists": (b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".", NOT),
    "tables within tables": (b"\x80\x02" + (b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".", "no-weights"),
    "calls within calls": (
        b"\x80\x02" + (b"ccollections\nCounter\n(") * 20_000 + b"tR" * 20_000 + b".", "no-weights"
    ),
    "billions of laughs for a key": (holding(b"}" + bomb() + b"K\x01s"), NOT),
    "billions of laughs for a key of another make": (
        holding(call("collections", "OrderedDict", pairs(bomb()))), NOT
    ),
    "billions of laughs to count": (holding(call("collections", "Counter", bomb() + b"\x85")), NOT),
    "billions of laughs for a state": (holding(ORDERED + pairs(bomb()) + b"b"), NOT),
    "billions of laughs for a device": (holding(call("torch", "device", bomb())), NOT),
    "billions of laughs for a shape": (
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)).replace(b"\x8a\x01\x04t(", bomb() + b"t(")), NOT
    ),
    "billions of laughs in lists": (holding(b"(]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"t"), "no-weights"),
    # Memory for nothing.
    "a storage that is called": (holding(call("torch", "UntypedStorage", number(2**40))), NOT),
    "a storage by its other name": (holding(call("torch.storage", "UntypedStorage", number(2**40))), NOT),
    "a parameter that is made anew": (holding(b"ctorch.nn.parameter\nParameter\n)\x81"), NOT),
    "a type that is called": (holding(call("torch", "float32", number(2**40))), NOT),
    "bytes by the gigabyte": (holding(call("builtins", "bytearray", number(2**40))), NOT),
    # BUILD.
    "a state for a number": (holding(b"K\x01}b"), DAMAGED),
    "a state for a list": (holding(b"]}b"), DAMAGED),
    "a state for a class": (holding(b"ctorch\nFloatStorage\n}" + text("dtype") + b"K\x01sb"), DAMAGED),
    "a state for a function": (holding(b"ctorch._utils\n_rebuild_tensor\n}" + text("__code__") + b"K\x01sb"), DAMAGED),
    "a state for a size": (holding(b"ctorch\nSize\n)R}" + text("x") + b"K\x01sb"), DAMAGED),
    "a state for a device": (holding(call("torch", "device", text("cpu")) + b"}" + text("x") + b"K\x01sb"), DAMAGED),
    "another class for a counter": (
        holding(b"ccollections\nCounter\n)RN}" + text("__class__") + b"ctorch\nSize\ns\x86b"), DAMAGED
    ),
    "methods of its own": (
        b"\x80\x02" + ORDERED + b"}" + text("items") + b"K\x01s" + text("keys") + b"K\x01sb.", "no-weights"
    ),
    "a tensor that is set anew": (
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)) + b"(" + number(2**40) + b"tb"), DAMAGED
    ),
    # Storages and tensors.
    **{
        f"a tensor {name}": (table(a=tensor("FloatStorage", "0", stored, shape, stride, first=first)), code)
        for name, first, code, stored, shape, stride in ODD_TENSORS
    },
    "numbers that are meant to be negated": (
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,), more=b"}" + text("neg") + b"\x88s")), NOT
    ),
    "a part that is named in another code": (
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)).replace(text("0"), b"U\x020\xe9")), DAMAGED
    ),
    "one layer under both spellings": (
        table(**{
            "a.weight_g": tensor("FloatStorage", "0", 4, (4,), (1,)),
            "a.parametrizations.weight.original0": tensor("FloatStorage", "0", 4, (4,), (1,)),
        }),
        "contradiction",
    ),
    "a name that is no text": (
        b"\x80\x02}" + text("weight") + b"}(" + text("a") + tensor("FloatStorage", "0", 4, (4,), (1,))
        + number(2**1000) + b"Nus.",
        "contradiction",
    ),
    "code behind the end": (b"\x80\x02}." + CALLS_OS + b".", "no-weights"),
}  # fmt: skip


def stream(opcodes: bytes) -> bytes:
    """Return the older form around a pickle, with the one part that it may have."""
    has_part = b"X\x01\x00\x00\x000X" in opcodes
    part = struct.pack("<q", 4) + FEW
    opcodes = opcodes.replace(b"tQ", b"NtQ")  # there, a storage is described by one thing more
    return legacy_around(opcodes, ["0"] if has_part else [], part if has_part else b"")


IN_A_STREAM = {
    "code behind the end": UNSAFE,  # there, more pickles follow
}
"""Where the older form has another code."""


def test_the_frames_are_sound_without_the_harm(tmp_path: Path) -> None:
    """The same parts around an honest tensor open: the harm is what is refused."""
    honest = table(a=tensor("FloatStorage", "0", 4, (2, 2), (2, 1)))
    for data in (around(honest, s0=FEW), stream(honest)):
        checkpoint = open_checkpoint(written(tmp_path / "v.pth", data))
        assert checkpoint.tensors["a"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_archive_is_refused_and_nothing_is_run(tmp_path: Path, name: str) -> None:
    """As the table of contents of a modern checkpoint."""
    opcodes, code = TABLE[name]
    assert refused(tmp_path, around(opcodes, s0=FEW)).code == code


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_stream_is_refused_and_nothing_is_run(tmp_path: Path, name: str) -> None:
    """As the fourth pickle of an older checkpoint, which PyTorch reads by other code."""
    opcodes, code = TABLE[name]
    assert refused(tmp_path, stream(opcodes)).code == IN_A_STREAM.get(name, code)


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_pickle_alone_is_refused_and_nothing_is_run(tmp_path: Path, name: str) -> None:
    """A file that is nothing but the pickle is no checkpoint, if not worse."""
    opcodes, code = TABLE[name]
    found = refused(tmp_path, opcodes).code
    assert found in ((UNSAFE,) if code == UNSAFE else (NOT, "web-page"))


def test_a_stream_that_is_a_tar_archive_too_is_not_unpacked(tmp_path: Path) -> None:
    """PyTorch's oldest form is a tar archive, for which it looks first; ours begins like one and says it is none."""
    begin = legacy_around(b"\x80\x02}" + text("info") + b"X" + struct.pack("<I", 600))[: -len(pickle.dumps([], 2))]
    header = bytearray(begin.ljust(512, b"\0"))
    header[100:157] = b"0000644\0" + b"0000000\0" * 2 + b"00000000000\0" * 2 + b" " * 8 + b"0"
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(600 - 512 + len(begin)) + b"s."
    data += pickle.dumps([], protocol=2)
    path = written(tmp_path / "voice.pth", data)
    assert tarfile.is_tarfile(path)
    assert refused(tmp_path, data).code == NOT
    sound = bytearray(data)
    sound[148:156] = bytes(8)  # the header's checksum, which makes it one
    assert glance(written(path, bytes(sound))) == "legacy"
