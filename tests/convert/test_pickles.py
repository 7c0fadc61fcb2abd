"""A pickle is read without being executed, and without being believed."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

from convert.small_checkpoints import LEGACY_HEAD, members, saved, table, tensor, text, voice, written
from voicekiln.convert import pickles
from voicekiln.errors import Damaged, NotACheckpoint, Refusal, UnsafePickle


def refusal(data: bytes) -> Refusal:
    """Return the refusal of a pickle."""
    with pytest.raises(Refusal) as caught:
        pickles.read(io.BytesIO(data))
    return caught.value


def test_every_storage_is_listed_with_its_bytes() -> None:
    """Keys and sizes are what the archive has."""
    parts = members(saved(voice()))
    name = next(name for name in parts if name.endswith("/data.pkl"))
    reading = pickles.read(io.BytesIO(parts[name]))
    assert reading.storages == {key: len(parts[name[:-8] + f"data/{key}"]) for key in "0123"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.uint16])
def test_all_plain_types_are_counted(dtype: torch.dtype) -> None:
    """Bytes per number are known for each type, also for those that are stored without one."""
    parts = members(saved({"weight": {"a": torch.ones(6).to(dtype)}}))
    name = next(name for name in parts if name.endswith("/data.pkl"))
    assert pickles.read(io.BytesIO(parts[name])).storages == {"0": 6 * dtype.itemsize}


def test_the_stream_is_left_behind_the_pickle() -> None:
    """An older file is several pickles in a row."""
    stream = io.BytesIO(LEGACY_HEAD)
    for _ in range(3):
        pickles.read(stream)
    assert stream.tell() == len(LEGACY_HEAD)


def test_tables_that_training_tools_use_are_welcome() -> None:
    """Ordered tables and counters, sizes, devices and types are data."""
    things = [OrderedDict(a=1), Counter("a"), torch.Size([2]), torch.device("cpu"), torch.float32]
    pickles.read(io.BytesIO(pickle.dumps(things, protocol=2)))


def test_a_length_beyond_the_file_asks_for_no_memory(tmp_path: Path) -> None:
    """Python would make room for the text before it reads it."""
    for opcode in (b"\x8d", b"\x8e", b"\x96"):
        path = written(tmp_path / "p", b"\x80\x04" + opcode + (2**60).to_bytes(8, "little") + b"abc.")
        with path.open("rb") as stream, pytest.raises(Damaged):
            pickles.read(stream)


@pytest.mark.parametrize(
    "data",
    [
        table(a=tensor("FloatStorage", "0", -4, (4,), (1,))),
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)), b=tensor("HalfStorage", "0", 4, (4,), (1,))),
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)).replace(text("0"), b"U\x02\xc3\xa9")),
        b"\x80\x02(" + text("storage") * 5 + b"tQ.",
        b"\x80\x02(K\x01tQ.",
        b"\x80\x02t.",
        b"\x80\x02",
        b"",
    ],
)
def test_what_does_not_add_up_is_damaged(data: bytes) -> None:
    """Negative and contradicting sizes, storages described by anything else, marks that were never set."""
    assert isinstance(refusal(data), Damaged)


def test_names_of_python_2_are_brought_up_to_date() -> None:
    """Protocol 2 writes old names; the person reads those of today, and the list is of those of today."""
    assert refusal(b"\x80\x02c__builtin__\neval\n.").found == {"wants": "builtins.eval"}
    assert isinstance(refusal(b"\x80\x02c__builtin__\nset\n."), NotACheckpoint)


def test_a_name_is_shown_clean_and_short() -> None:
    """A hostile name cannot take over the message."""
    found = refusal(b"\x80\x02c" + b"x" * 500 + b"\n\x1b[2J\n.")
    assert isinstance(found, UnsafePickle)
    assert len(str(found.found["wants"])) <= 80
    assert found.text.isprintable()


def test_a_name_with_backslashes_is_refused_quietly() -> None:
    """It is a name like any other that is not on the list."""
    assert isinstance(refusal(b"\x80\x02ctorch\nS\\eize\n."), UnsafePickle)


def test_a_text_with_backslashes_is_refused_quietly() -> None:
    """No voice has a text in quotes."""
    for content in (b"\\q", b"\\501"):
        assert isinstance(refusal(b"\x80\x02S'" + content + b"'\n."), NotACheckpoint)


def test_an_import_behind_opcodes_that_torch_does_not_know_is_still_named() -> None:
    """The more telling of two reasons wins."""
    assert isinstance(refusal(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), UnsafePickle)
    assert isinstance(refusal(b"\x80\x04\x8c\x02os."), NotACheckpoint)


def test_a_table_of_contents_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cannot keep the reader busy with opcodes for ever."""
    monkeypatch.setattr(pickles, "MAX_OPS", 1000)
    assert isinstance(refusal(b"\x80\x02" + b"N0" * 1000 + b"N."), NotACheckpoint)
