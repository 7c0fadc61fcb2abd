"""Cluster centres open with what they need and nothing more; what they need lets no voice profit."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_clusters
from convert.small_checkpoints import (
    around,
    legacy_around,
    members,
    number,
    saved,
    table,
    tensor,
    text,
    voice,
    written,
)
from convert.watched import harmless
from voicekiln.convert import glance
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.errors import Refusal

FEW = np.arange(4, dtype=np.float32).tobytes()
PROTOCOLS = range(2, 6)
"""Of pickles; for the last of them NumPy has a name of its own, which is nowhere known."""
NOT, DAMAGED, UNSAFE = "not-a-checkpoint", "damaged", "unsafe-pickle"

LATIN1 = text("latin1")
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
ENCODE = b"c_codecs\nencode\n"
TYPE = b"cnumpy\ndtype\n"
LITTLE = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


def data(value: bytes, code: bytes = LATIN1) -> bytes:
    """Return the opcodes of bytes as the second protocol has them."""
    return ENCODE + text(value.decode("latin1")) + code + b"\x86R"


def kind(name: str = "f4", state: bytes = LITTLE) -> bytes:
    """Return the opcodes of a type."""
    return TYPE + text(name) + b"\x89\x88\x87R" + state + b"b"


def empty(shape: bytes = b"K\x00\x85", *, what: bytes = NDARRAY, how: bytes = RECONSTRUCT) -> bytes:
    """Return the opcodes of an array without a state."""
    return how + what + shape + data(b"b") + b"\x87R"


def numbers(*sizes: int) -> bytes:
    """Return the opcodes of a shape."""
    return b"(" + b"".join(map(number, sizes)) + b"t"


def state(shape: bytes, type_: bytes | None = None, content: bytes = FEW) -> bytes:
    """Return the opcodes that give an array its state."""
    return b"(K\x01" + shape + (type_ or kind()) + b"\x89" + data(content) + b"tb"


def centres(array: bytes, more: bytes = b"") -> bytes:
    """Return the pickle of {"alto": {"cluster_centers_": what the opcodes push}}."""
    return b"\x80\x02}" + text("alto") + b"}" + text("cluster_centers_") + array + b"s" + more + b"s."


HONEST = empty() + state(numbers(2, 2))
CALLS_OS = b"cposix\nsystem\n" + text("touch canary") + b"\x85R"

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a program among the centres": (centres(HONEST, text("x") + CALLS_OS + b"s"), UNSAFE),
    "a program for a state": (centres(empty() + CALLS_OS + b"b"), UNSAFE),
    "a program for bytes": (centres(empty() + b"(K\x01" + numbers(2, 2) + kind() + b"\x89" + CALLS_OS + b"tb"), UNSAFE),
    "room for an array of any size": (centres(empty(numbers(2**20, 2**20))), NOT),
    "room for an array of one size": (centres(empty(number(2**40) + b"\x85") + state(numbers(2, 2))), NOT),
    "an array of a program's class": (centres(empty(what=b"cposix\nsystem\n") + state(numbers(2, 2))), UNSAFE),
    "an array of a table": (centres(empty(what=b"ccollections\nOrderedDict\n")), NOT),
    "more numbers than bytes": (centres(empty() + state(numbers(2**20, 2**20))), NOT),
    "fewer numbers than bytes": (centres(empty() + state(numbers(1, 2))), NOT),
    "a negative size": (centres(empty() + state(numbers(-2, -2))), NOT),
    "a size of nothing": (centres(empty() + state(numbers(0, 2**40), content=b"")), NOT),
    "a size that is a text": (centres(empty() + state(b"(" + text("2") + text("2") + b"t")), NOT),
    "an axis too many": (centres(empty() + state(numbers(1, 1, 1, 2, 2))), NOT),
    "no axes": (centres(empty() + state(b")", content=FEW[:4])), NOT),
    "objects for numbers": (centres(empty() + state(numbers(2, 2), kind("O8"))), NOT),
    "texts for numbers": (centres(empty() + state(numbers(2, 2), kind("S1000000000"))), NOT),
    "records for numbers": (centres(empty() + state(numbers(2, 2), kind(state=LITTLE.replace(b"NNN", b"N)}")))), NOT),
    "numbers of another size": (
        centres(empty() + state(numbers(2, 2), kind(state=LITTLE.replace(b"\xff\xff\xff\xff", b"\0\0\0\x40", 1)))), NOT
    ),
    "numbers the other way round": (
        centres(empty() + state(numbers(2, 2), kind(state=LITTLE.replace(b"<", b">")))), NOT
    ),
    "a type with a state of another make": (centres(empty() + state(numbers(2, 2), kind(state=b"}"))), NOT),
    "a type that was not built": (centres(empty() + b"(K\x01" + numbers(2, 2) + b"N\x89" + data(FEW) + b"tb"), NOT),
    "bytes in a code that blows them up": (centres(HONEST, text("x") + data(FEW, text("utf-32")) + b"s"), NOT),
    "bytes in a code that unpacks them": (centres(HONEST, text("x") + data(FEW, text("zlib")) + b"s"), NOT),
    "bytes of a call": (centres(ENCODE + ENCODE + LATIN1 + b"\x86R"), NOT),
    "one text for many bytes": (
        centres(
            HONEST,
            text("x") + b"](" + text("x" * 1000) + b"q\x01" + (ENCODE + b"h\x01" + LATIN1 + b"\x86R") * 300 + b"es",
        ),
        NOT,
    ),
    "one content for many arrays": (
        centres(
            HONEST,
            text("x") + b"](" + data(FEW * 100) + b"q\x02"
            + (empty() + b"(K\x01" + numbers(400) + kind() + b"\x89h\x02tb") * 100 + b"es",
        ),
        NOT,
    ),
    "an array that is built twice": (centres(HONEST + state(numbers(4))), NOT),
    "an array that is filled": (centres(HONEST + b"K\x00K\x00s"), DAMAGED),
    "an array that is appended to": (centres(HONEST + b"K\x00a"), DAMAGED),
    "an array that was never built": (centres(empty()), NOT),
    "an array that is counted": (centres(b"ccollections\nCounter\n" + HONEST + b"\x85R"), NOT),
    "an array for a size": (centres(b"ctorch\nSize\n" + HONEST + b"\x85R"), NOT),
    "an array for a key": (b"\x80\x02}" + HONEST + b"Ns.", DAMAGED),
    "an array in an array's place only": (b"\x80\x02}" + text("alto") + HONEST + b"s.", "no-weights"),
    "an array too deep": (b"\x80\x02}" + text("alto") + b"}" + text("x") + b"}" + text("y") + HONEST + b"sss.",
                          "no-weights"),
    "two arrays of one name": (
        b"\x80\x02}(" + text("a") + b"}" + text("b/c") + HONEST + b"s" + text("a/b") + b"}" + text("c") + HONEST
        + b"su.",
        "contradiction",
    ),
    "an array under many names": (
        b"\x80\x02}" + text("alto") + b"}(" + text("k") + HONEST + b"q\x01"
        + b"".join(text(f"k{i}") + b"h\x01" for i in range(300)) + b"us.",
        "contradiction",
    ),
    "an array of two speakers": (
        b"\x80\x02}(" + text("alto") + b"}" + text("c") + HONEST + b"q\x01s"
        + text("bass") + b"}" + text("c") + b"h\x01su.",
        "contradiction",
    ),
    "a table of many speakers": (
        b"\x80\x02}(" + text("alto") + b"}" + text("c") + HONEST + b"sq\x01" + text("bass") + b"h\x01u.",
        "contradiction",
    ),
    "an array with a number for a name": (b"\x80\x02}" + text("alto") + b"}K\x01" + HONEST + b"ss.", "contradiction"),
    "an array with a name too long": (
        b"\x80\x02}" + text("alto") + b"}" + text("x" * 1000) + HONEST + b"ss.", "contradiction"
    ),
    "a table with a name too long": (b"\x80\x02}" + text("x" * 1000) + b"}" + text("c") + HONEST + b"ss.",
                                     "contradiction"),
    "arrays beside a list of them": (centres(HONEST, text("x") + b"]" + HONEST + b"as"), ""),
    "not a number": (centres(empty() + state(numbers(2, 2), content=struct.pack("<4f", 1, 2, 3, float("nan")))),
                     "bad-numbers"),
    "a number that no float32 holds": (
        centres(empty() + state(numbers(1, 2), kind("f8"), struct.pack("<2d", 1, 1e300))), "bad-numbers"
    ),
}  # fmt: skip
"""Pickles and the codes with which they are refused; one is harmless."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centres_open_as_tensors(tmp_path: Path, dtype: str, order: Any, legacy: bool) -> None:  # noqa: FBT001 - parametrised
    """Whatever scikit-learn and torch made of them: by speaker, in float32, with what stands beside them."""
    tables = tiny_clusters.centres(0, dtype, tenor=5, alto=3)
    for entries in tables.values():
        entries["cluster_centers_"] = np.asarray(entries["cluster_centers_"], order=order)
    path = written(tmp_path / "kmeans_10000.pt", saved(tables, legacy=legacy))
    assert glance.glance(path) == "arrays"
    opened = open_checkpoint(path)
    assert list(opened.tensors) == ["tenor/cluster_centers_", "alto/cluster_centers_"]
    for name, entries in tables.items():
        found = opened.tensors[f"{name}/cluster_centers_"]
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), entries["cluster_centers_"].astype(np.float32))
    assert opened.outline.rest["alto"] == {"n_features_in_": 6, "_n_threads": 8}
    assert (opened.outline.tensor_key, opened.outline.keys) == (None, ("tenor", "alto"))


def test_numpys_older_name_is_known(tmp_path: Path) -> None:
    """Most files in the world were written by NumPy 1."""
    parts = members(saved(tiny_clusters.centres(alto=3)))
    pickle_ = next(data for name, data in parts.items() if name.endswith("/data.pkl"))
    older = pickle_.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert older != pickle_
    opened = open_checkpoint(written(tmp_path / "k.pt", around(older)))
    assert opened.tensors["alto/cluster_centers_"].shape == (3, 6)


def test_the_frame_is_sound_without_the_harm(tmp_path: Path) -> None:
    """The hand-made pickle around honest numbers opens: the harm is what is refused."""
    for file in (around(centres(HONEST)), legacy_around(centres(HONEST))):
        opened = open_checkpoint(written(tmp_path / "k.pt", file))
        assert opened.tensors["alto/cluster_centers_"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.requirement(20)
@pytest.mark.parametrize("form", ["archive", "stream"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_centres_are_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    """In both forms of a checkpoint, at once, and without room for what they ask for."""
    monkeypatch.chdir(tmp_path)
    opcodes, code = HOSTILE[name]
    path = written(tmp_path / "k.pt", around(opcodes) if form == "archive" else legacy_around(opcodes))
    open_checkpoint(written(tmp_path / "sound.pt", saved(tiny_clusters.centres(alto=3))))  # imports what is needed
    found = ""
    with harmless(seconds=30, extra_bytes=2**28):
        try:
            open_checkpoint(path)
        except Refusal as refusal:
            found = refusal.code
    assert found == code
    assert {entry.name for entry in tmp_path.iterdir()} == {"k.pt", "sound.pt"}


@pytest.mark.requirement(20)
@pytest.mark.parametrize("speakers", [False, True], ids=["of one speaker", "of many speakers"])
def test_one_array_under_many_names_is_refused_before_it_is_copied(tmp_path: Path, speakers: bool) -> None:  # noqa: FBT001 - parametrised
    """A name takes a few bytes, so a small file could else ask for gigabytes."""
    array = np.ones((2**18, 1))
    names = [f"k{number}" for number in range(300)]
    tables = {name: {"c": array} for name in names} if speakers else {"a": dict.fromkeys(names, array)}
    path = written(tmp_path / "k.pt", saved(tables))
    with harmless(seconds=60, extra_bytes=2**26), pytest.raises(Refusal, match="bears two names") as refusal:
        open_checkpoint(path)
    assert refusal.value.code == "contradiction"


@pytest.mark.requirement(20)
def test_what_stands_beside_the_centres_is_copied_if_it_is_small(tmp_path: Path) -> None:
    """A text or a list in many tables at once would else become as many."""
    tables = tiny_clusters.centres(**{f"s{number}": 1 for number in range(2000)})
    much = {"text": "x" * 20_000, "list": [*range(1000, 15_000)], "x" * 1001: 1}
    files = {name: entries | much for name, entries in tables.items()}
    numbers = {str(number): number for number in range(15_000)}  # in tables without centres
    path = written(tmp_path / "k.pt", saved(files | {f"n{number}": numbers for number in range(2000)}))
    with harmless(seconds=60, extra_bytes=2**26):
        opened = open_checkpoint(path)
    assert opened.outline.rest["s1999"] == {"n_features_in_": 6, "_n_threads": 8}


@pytest.mark.requirement(20)
@pytest.mark.parametrize(
    "extra",
    [HONEST, data(FEW), kind(), empty(), NDARRAY, ENCODE, b"cnumpy.core.multiarray\n_reconstruct\n"],
    ids=["an array", "bytes", "a type", "an empty array", "the class", "the code", "the maker"],
)
def test_a_voice_has_no_use_for_arrays(tmp_path: Path, extra: bytes) -> None:
    """Beside tensors each of the names is refused, whether it is used as it should be or not."""
    honest = table(a=tensor("FloatStorage", "0", 4, (4,), (1,)))
    bent = honest[:-2] + b"s" + text("more") + extra + b"s."
    for file in (
        around(bent, s0=FEW),
        legacy_around(bent.replace(b"tQ", b"NtQ"), ["0"], struct.pack("<q", 4) + FEW),
    ):
        with pytest.raises(Refusal, match="something that no voice has") as refusal:
            open_checkpoint(written(tmp_path / "v.pth", file))
        assert refusal.value.code == NOT


def test_only_a_table_with_arrays_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that centres need is no room for others."""
    monkeypatch.setattr(glance, "MAX_TABLE", 3000)
    tables = tiny_clusters.centres(alto=500)
    assert open_checkpoint(written(tmp_path / "k.pt", saved(tables))).tensors
    with pytest.raises(Refusal, match="far larger than a voice's"):
        open_checkpoint(written(tmp_path / "v.pth", saved(voice(info="x" * 5000))))
    monkeypatch.setattr(glance, "MAX_ARRAYS", 3000)
    with pytest.raises(Refusal, match="far larger than a voice's"):
        open_checkpoint(written(tmp_path / "k.pt", saved(tables)))


def test_centres_alone_in_a_pickle_are_no_checkpoint(tmp_path: Path) -> None:
    """What Python's own pickle makes of them is not what torch writes."""
    for protocol in PROTOCOLS:
        file = pickle.dumps(tiny_clusters.centres(alto=3), protocol=protocol)
        with pytest.raises(Refusal) as refusal:
            open_checkpoint(written(tmp_path / "k.pkl", file))
        assert refusal.value.code == (UNSAFE if protocol == max(PROTOCOLS) else NOT)
