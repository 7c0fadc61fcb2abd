"""A feature index opens without faiss, exactly as faiss wrote it, and asks for no more than it has."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import reference_voices
import tiny_clusters
from convert.small_checkpoints import Pickled, written
from convert.watched import harmless
from voicekiln.convert import feature_index
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.glance import glance
from voicekiln.errors import Refusal

NOT, DAMAGED, UNSAFE = "not-a-checkpoint", "damaged", "unsafe-pickle"
RNG = np.random.default_rng(1)
LISTS = [RNG.standard_normal((count, 3)).astype(np.float32) for count in (4, 0, 2)]
CENTROIDS = RNG.standard_normal((3, 3)).astype(np.float32)
WHOLE = tiny_clusters.faiss(LISTS, CENTROIDS)
SOUND = tiny_clusters.pickled(s0=WHOLE)
CALLS_OS = b"\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch canary\x85R"
LONG = b"B" + struct.pack("<I", 5000) + b"A" * 5000
STUB = b"\x8c\x0ffaiss.swigfaiss\x8c\x0cIndexIVFFlat\x93"
AT = {"width": 4, "count": 8, "trained": 32, "measure": 33, "lists": 37, "probes": 45, "inner": 53}
"""Where numbers stand in an index."""


def at(place: str, form: str, value: int, *, after: int = 0) -> bytes:
    """Return the index with another number in a place, or so many bytes after it."""
    data = bytearray(WHOLE)
    struct.pack_into(form, data, AT[place] + after, value)
    return bytes(data)


def behind(mark: bytes, form: str, value: int, *, after: int = 4) -> bytes:
    """Return the index with another number behind a mark in it."""
    data = bytearray(WHOLE)
    struct.pack_into(form, data, data.index(mark) + after, value)
    return bytes(data)


BYTES: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", DAMAGED),
    "a mark and no more": (b"IwFl", DAMAGED),
    "another index": (b"IwPQ" + WHOLE[4:], NOT),
    "another quantizer": (WHOLE.replace(b"IxF2", b"IHNf"), NOT),
    "an index within the index": (WHOLE.replace(b"IxF2", b"IwFl"), NOT),
    "lists on a disk": (WHOLE.replace(b"ilar", b"ilod"), NOT),
    "another measure": (at("measure", "<i", 0), NOT),
    "a measure with an argument": (at("measure", "<i", 5), NOT),
    "not trained": (at("trained", "<B", 0), DAMAGED),
    "no width": (at("width", "<i", 0), DAMAGED),
    "a negative width": (at("width", "<i", -3), DAMAGED),
    "a width without end": (at("width", "<i", 2**31 - 1), DAMAGED),
    "another width inside": (at("inner", "<i", 2, after=4), DAMAGED),
    "no vectors": (tiny_clusters.faiss([LISTS[1]] * 3, CENTROIDS), DAMAGED),
    "a negative number of vectors": (at("count", "<q", -1), DAMAGED),
    "vectors without end": (at("count", "<q", 2**62), DAMAGED),
    "a vector more than there is": (at("count", "<q", 7), DAMAGED),
    "a milliard of lists": (at("lists", "<Q", 10**9), DAMAGED),
    "lists beyond all words": (at("lists", "<Q", 2**64 - 1), DAMAGED),
    "a milliard of centres": (behind(b"IxF2", "<q", 10**9, after=8), DAMAGED),
    "centres of another number": (behind(b"IxF2", "<Q", 8, after=37), DAMAGED),
    "a map without end": (behind(CENTROIDS.tobytes(), "<Q", 2**61, after=CENTROIDS.nbytes + 1), DAMAGED),
    "a map of an unknown kind": (behind(CENTROIDS.tobytes(), "<B", 3, after=CENTROIDS.nbytes), DAMAGED),
    "other lists inside": (behind(b"ilar", "<Q", 4), DAMAGED),
    "vectors of another size": (behind(b"ilar", "<Q", 8, after=12), DAMAGED),
    "sizes of an unknown form": (WHOLE.replace(b"full", b"dull"), DAMAGED),
    "sizes without end": (behind(b"full", "<Q", 2**60), DAMAGED),
    "a size too few": (behind(b"full", "<Q", 2), DAMAGED),
    "a size too small": (behind(b"full", "<q", 1, after=28), DAMAGED),
    "a size too large": (behind(b"full", "<q", 3, after=28), DAMAGED),
    "a negative size": (behind(b"full", "<q", -2, after=12), DAMAGED),
    "a size beyond all": (behind(b"full", "<q", 2**62, after=12), DAMAGED),
    "sizes that come round to the sum": (
        WHOLE.replace(np.array([4, 0, 2]).tobytes(), np.array([2**63 - 1, 2**63 - 1, 8]).tobytes()), DAMAGED
    ),
    "pairs of a list beyond": (WHOLE.replace(b"full" + struct.pack("<QQQQ", 3, 4, 0, 2),
                                             b"sprs" + struct.pack("<QQQQQ", 4, 0, 4, 9, 2)), DAMAGED),
    "pairs of a list twice": (WHOLE.replace(b"full" + struct.pack("<QQQQ", 3, 4, 0, 2),
                                            b"sprs" + struct.pack("<QQQQQ", 4, 1, 4, 1, 6)), DAMAGED),
    "pairs of a negative list": (WHOLE.replace(b"full" + struct.pack("<QQQQ", 3, 4, 0, 2),
                                               b"sprs" + struct.pack("<Qqq", 2, -1, 6)), DAMAGED),
    "a pair and a half": (WHOLE.replace(b"full" + struct.pack("<QQQQ", 3, 4, 0, 2),
                                        b"sprs" + struct.pack("<QQQQ", 3, 0, 3, 2)), DAMAGED),
    "more behind its end": (WHOLE + b"\0", DAMAGED),
    "not a number": (WHOLE.replace(CENTROIDS[:1].tobytes(), struct.pack("<3f", 1, float("nan"), 2)), "bad-numbers"),
}  # fmt: skip
"""Bytes of an index and the codes with which they are refused."""

PICKLES: dict[str, tuple[bytes, str]] = {
    "a program for a state": (SOUND.replace(b"}\x8c\x04this", CALLS_OS + b"b}\x8c\x04this"), UNSAFE),
    "a program beside it": (SOUND.replace(b"u.", b"K\x01" + CALLS_OS + b"u."), UNSAFE),
    "a program before it": (SOUND.replace(b"}(", CALLS_OS + b"0}(", 1), UNSAFE),
    "a program by its older opcode": (SOUND.replace(b"u.", b"K\x01cposix\nsystem\nu."), UNSAFE),
    "a stub with an argument": (SOUND.replace(b")\x81", b"K\x01\x81"), NOT),
    "a stub that is called": (SOUND.replace(b")\x81", b")R"), NOT),
    "a stub in a stub": (SOUND.replace(b")\x81", b")\x81" + b"}\x8c\x04this" + STUB + b")\x81sb", 1), NOT),
    "a stub of a stub": (SOUND.replace(b")\x81", b")\x81)\x81"), NOT),
    "a state that is set twice": (SOUND.replace(b"sbu.", b"sb}\x8c\x04thisC\x01xsbu."), NOT),
    "a state with more bytes in it": (SOUND.replace(b"sbu.", b"s\x8c\x04moreC\x01xsbu."), NOT),
    "a state that is a text": (SOUND.partition(b"this")[0] + b"this\x8c\x04IwFlsbu.", NOT),
    "no state": (b"\x80\x04}(K\x00" + STUB + b")\x81u.", NOT),
    "the class for a stub": (b"\x80\x04}(K\x00" + STUB + b"u.", NOT),
    "another class of faiss": (SOUND.replace(b"\x8c\x0cIndexIVFFlat", b"\x8c\x0bIndexIVFFlt"), UNSAFE),
    "another module of faiss": (SOUND.replace(b"\x8c\x0ffaiss.swigfaiss", b"\x8c\x12faiss.swigfaiss.os"), UNSAFE),
    "a harmless name": (SOUND.replace(b"u.", b"K\x01ccollections\nOrderedDict\nu."), NOT),
    "a list of them": (b"\x80\x04]" + STUB + b")\x81a.", NOT),
    "an empty table": (b"\x80\x04}" + STUB + b"0.", NOT),
    "a number alone": (b"\x80\x04" + STUB + b"K\x01.", DAMAGED),
    "a table for a key": (SOUND.replace(b"K\x00" + STUB, b"}" + STUB), NOT),
    "a negative speaker": (SOUND.replace(b"K\x00" + STUB, b"J\xff\xff\xff\xff" + STUB), NOT),
    "a speaker beyond all": (SOUND.replace(b"K\x00" + STUB, b"J\x00\x00\x00\x7f" + STUB), NOT),
    "a speaker twice": (tiny_clusters.pickled(s0=WHOLE).replace(b"u.", SOUND[4:-2] + b"u."), NOT),
    "speakers of one name": (
        SOUND.replace(b"u.", b"\x8c\x010" + SOUND[SOUND.index(STUB) : -2] + b"u."), "contradiction"
    ),
    "two speakers with one index": (
        SOUND.replace(b"sbu.", b"q\x01sbK\x01" + STUB + b")\x81}\x8c\x04thish\x01sbu."), "contradiction"
    ),
    "bytes without end": (SOUND.replace(b"B" + struct.pack("<I", len(WHOLE)), b"\x8e" + struct.pack("<Q", 2**62)),
                          DAMAGED),
    "more bytes than there are": (SOUND.replace(b"B" + struct.pack("<I", len(WHOLE)), b"B\xff\xff\xff\x7f"), DAMAGED),
    **{
        f"{kind}, without end": (SOUND.replace(b"u.", opcode + struct.pack(form, 5000) + b"A" * 5000 + b"0u."), DAMAGED)
        for kind, opcode, form in (
            ("a text", b"X", "<I"),
            ("an older text", b"T", "<I"),
            ("a text of a newer kind", b"\x8d", "<Q"),
            ("a number", b"\x8b", "<I"),
            ("bytes that can be changed", b"\x96", "<Q"),
        )
    },
    "a text without end and nothing else": (
        b"\x80\x04\x8c\x0ffaiss.swigfaissT" + struct.pack("<I", 5000) + b"A" * 5000 + b".", DAMAGED
    ),
    "bytes for a module": (SOUND.replace(b"u.", b"K\x01" + LONG + b"\x8c\x0cIndexIVFFlat\x93u."), DAMAGED),
    "bytes for a speaker": (SOUND.replace(b"u.", LONG + b"K\x01u."), NOT),
    "a place in the memo without end": (SOUND.replace(b"u.", b"r\xff\xff\xff\xffu."), ""),
    "a place that was never filled": (SOUND.replace(b"u.", b"h\x07u."), DAMAGED),
    "a mark too few": (SOUND.replace(b"}(", b"}", 1), DAMAGED),
    "tables in tables": (b"\x80\x04" + STUB + b"0" + b"}" * 30_000 + b".", NOT),
    "tuples in tuples": (SOUND.replace(b"u.", b")" + b"\x85" * 30_000 + b"0u."), NOT),
    "opcodes without end": (SOUND.replace(b"u.", (b"\x95" + bytes(8)) * 30_000 + b"u."), NOT),
    "code behind the end": (SOUND + CALLS_OS + b".", NOT),
    "a number of a million digits": (SOUND.replace(b"u.", b"L" + b"9" * 10**6 + b"L\nu."), DAMAGED),
    "nothing on the stack": (b"\x80\x04\x95faiss.swigfaiss.", DAMAGED),
    "a name with backslashes": (SOUND.replace(b"u.", b"K\x01cfai\\^ss\nos\nu."), UNSAFE),
    "nothing behind the class": (b"\x80\x04}(K\x00" + STUB, DAMAGED),
    "a real one of faiss in an older protocol": (
        SOUND.replace(b"\x80\x04", b"\x80\x02").replace(STUB, b"cfaiss.swigfaiss\nIndexIVFFlat\n"), UNSAFE
    ),
    **{
        f"a program as Python {protocol} pickles it": (
            pickle.dumps({0: Pickled(os.system, ("touch canary",)), "faiss.swigfaiss": 1}, protocol=protocol), UNSAFE
        )
        for protocol in range(3, 6)
    },
}  # fmt: skip
"""Pickles and the codes with which they are refused; one is harmless."""


def test_a_real_index_opens_as_faiss_wrote_it(tmp_path: Path) -> None:
    """Centres and vectors are the same numbers; each vector is in the list whose centre is the nearest."""
    path = written(tmp_path / "feature_and_index.pkl", tiny_clusters.REAL_INDEX.read_bytes())
    assert glance(path) == "index"
    opened = open_checkpoint(path)
    assert (opened.outline.keys, opened.outline.rest["1"]) == (("0", "1"), {"probes": 1})
    for speaker, told in zip("01", reference_voices.arrays("faiss-index"), strict=True):
        found = {
            name: opened.tensors[f"{speaker}/{name}"].numpy() for name in ("vectors", "centroids", "lists", "starts")
        }
        assert np.array_equal(found["centroids"], told["centroids"])
        assert sorted(map(tuple, found["vectors"])) == sorted(map(tuple, told["vectors"]))
        apart = np.linalg.norm(found["vectors"][:, None] - found["centroids"], axis=2)
        assert np.array_equal(apart.argmin(1), found["lists"])
        assert np.array_equal(np.searchsorted(found["lists"], range(len(told["centroids"]) + 1)), found["starts"])


@pytest.mark.parametrize("ending", ["", "_avx2", "_avx512_spr", "_sve"])
def test_the_processors_name_does_not_matter(tmp_path: Path, ending: str) -> None:
    """The class has the name of the machine on which it was pickled."""
    name = b"faiss.swigfaiss" + ending.encode()
    file = SOUND.replace(b"\x0ffaiss.swigfaiss", bytes([len(name)]) + name)
    opened = open_checkpoint(written(tmp_path / "i.pkl", file))
    assert torch.equal(opened.tensors["0/vectors"], torch.from_numpy(np.concatenate(LISTS)))
    assert opened.tensors["0/starts"].tolist() == [0, 4, 4, 6]
    assert opened.tensors["0/lists"].tolist() == [0, 0, 0, 0, 2, 2]


@pytest.mark.parametrize("sparse", [False, True])
def test_lists_without_vectors_are_known(tmp_path: Path, sparse: bool) -> None:  # noqa: FBT001 - parametrised
    """Where most lists are empty, faiss names the others alone."""
    lists = [LISTS[1], LISTS[0], LISTS[1]]
    file = tiny_clusters.pickled(s3=tiny_clusters.faiss(lists, CENTROIDS, sparse=sparse))
    opened = open_checkpoint(written(tmp_path / "i.pkl", file))
    assert opened.tensors["3/starts"].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("entries", [(), (5, 6)])
def test_where_vectors_lie_is_passed_over(tmp_path: Path, entries: tuple[int, ...]) -> None:
    """It may keep a table of it, or pairs."""
    for kind in (1, 2):
        pairs = struct.pack(f"<Q{2 * len(entries)}q", len(entries), *entries, *entries) if kind == 2 else b""
        table = struct.pack(f"<BQ{len(entries)}q", kind, len(entries), *entries) + pairs
        data = WHOLE.replace(struct.pack("<BQ", 0, 0) + b"ilar", table + b"ilar")
        assert open_checkpoint(written(tmp_path / "i.pkl", tiny_clusters.pickled(s0=data))).tensors


def test_speakers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Whatever the order in the file."""
    file = tiny_clusters.pickled(**{f"s{who}": tiny_clusters.faiss(LISTS, CENTROIDS + who) for who in (10, 2, 0)})
    assert open_checkpoint(written(tmp_path / "i.pkl", file)).outline.keys == ("0", "2", "10")


def outcome(path: Path) -> str:
    """Return the code with which a file is refused, and notice all else that comes of it."""
    with harmless(seconds=30, extra_bytes=2**28):
        try:
            open_checkpoint(path)
        except Refusal as refusal:
            return refusal.code if refusal.text.isprintable() else "unprintable"
    return ""


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], str]:
    """Return what opens bytes as a file in an empty folder and returns the code of the refusal."""
    monkeypatch.chdir(tmp_path)
    sound = written(tmp_path / "sound.pkl", SOUND)
    assert not outcome(sound)  # whatever is imported late is imported now

    def open_it(data: bytes) -> str:
        code = outcome(written(tmp_path / "i.pkl", data))
        assert {entry.name for entry in tmp_path.iterdir()} == {"i.pkl", "sound.pkl"}
        return code

    return open_it


@pytest.mark.requirement(20)
@pytest.mark.parametrize("name", BYTES)
def test_a_hostile_index_is_refused(refused: Callable[[bytes], str], name: str) -> None:
    """At once and without room for what it claims to have."""
    data, code = BYTES[name]
    assert refused(tiny_clusters.pickled(s0=data)) == code


@pytest.mark.requirement(20)
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_of_faiss_is_refused_and_nothing_is_run(refused: Callable[[bytes], str], name: str) -> None:
    """It knows one class and nothing else."""
    data, code = PICKLES[name]
    assert refused(data) == code


@pytest.mark.requirement(20)
def test_an_index_that_was_cut_is_refused(refused: Callable[[bytes], str]) -> None:
    """At any length, of the file as of the bytes within."""
    for length in range(2, len(SOUND)):
        assert refused(SOUND[:length])
    for length in range(len(WHOLE)):
        assert refused(tiny_clusters.pickled(s0=WHOLE[:length])) in (DAMAGED, NOT)


def test_what_is_no_index_is_not_looked_at() -> None:
    """Only a pickle that names faiss in its beginning is opened here."""
    assert feature_index.begins(SOUND)
    assert feature_index.begins(tiny_clusters.REAL_INDEX.read_bytes()[:4096])
    for other in (b"", b"\x80", b"\x80\x04}.", b"\x80\x04" + b" " * 200 + b"faiss.swigfaiss", b"faiss.swigfaiss"):
        assert not feature_index.begins(other)
