"""Completeness: a half file is never taken for a whole one, and no file can make the proof itself a danger."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arrivals import archive, legacy, noise
from voicekiln.errors import Incomplete
from voicekiln.folders.complete import Proof, glance, prove

WHOLE = archive()
TABLE_AT = WHOLE.index(b"PK\1\2")


def proof(data: bytes) -> Proof:
    """Prove bytes."""
    return prove(io.BytesIO(data))


def incomplete(data: bytes) -> str:
    """Return the reason why these bytes are incomplete."""
    with pytest.raises(Incomplete) as caught:
        proof(data)
    return caught.value.why


def wide(*, members_too: bool) -> bytes:
    """Return an archive in the 64-bit form, as PyTorch writes it; `members_too`: offsets and sizes as well."""
    parts = {"a": noise(300), "b": noise(7000, 2)}
    plain = archive(parts)
    table_at = plain.index(b"PK\1\2")
    end_at = plain.rindex(b"PK\5\6")
    table = plain[table_at:end_at]
    if members_too:
        entries = []
        for chunk in table.split(b"PK\1\2")[1:]:
            entry = bytearray(b"PK\1\2" + chunk)
            packed, size = struct.unpack_from("<LL", entry, 20)
            (offset,) = struct.unpack_from("<L", entry, 42)
            extra = struct.pack("<HHL", 0x4246, 4, 0) + struct.pack("<HHQQQ", 1, 24, size, packed, offset)
            struct.pack_into("<LL", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
            struct.pack_into("<H", entry, 30, len(extra))
            struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
            entries.append(bytes(entry) + extra)
        table = b"".join(entries)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(table), table_at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, table_at + len(table), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(table), 0xFFFFFFFF, 0)
    return plain[:table_at] + table + record + locator + end


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        archive(comment=b"made by a training tool"),
        archive(comment=b"PK\5\6 in a comment " * 3),
        archive(streamed=True),
        archive({f"data/{i}": noise(i, i) for i in range(300)}),
        archive({"big": noise(2_500_000)}),
        wide(members_too=False),
        wide(members_too=True),
    ],
    ids=["plain", "comment", "hostile-comment", "streamed", "many", "large", "wide", "wide-members"],
)
def test_a_whole_archive_is_proven_by_its_checksums(data: bytes) -> None:
    """All forms in which checkpoints are written; the glance hopes for what the proof then finds."""
    assert glance(io.BytesIO(data)) is Proof.CHECKSUMS
    assert proof(data) is Proof.CHECKSUMS


@pytest.mark.requirement(2)
@given(st.integers(0, len(WHOLE) - 1))
def test_no_beginning_of_an_archive_is_complete(length: int) -> None:
    """A file that grows, or was cut off; this much is seen before anything is copied."""
    with pytest.raises(Incomplete):
        glance(io.BytesIO(WHOLE[:length]))


@pytest.mark.requirement(2)
@given(st.integers(0, len(WHOLE.rstrip(b"\0")) - 1))
def test_no_beginning_with_the_final_size_is_complete(length: int) -> None:
    """Explorer gives a file its final size with the first byte."""
    incomplete(WHOLE[:length] + bytes(len(WHOLE) - length))


def test_no_byte_of_the_end_may_be_missing() -> None:
    """Each length within the table of contents and the end record, cut off and followed by zeros."""
    for length in range(TABLE_AT, len(WHOLE.rstrip(b"\0"))):
        incomplete(WHOLE[:length])
        incomplete(WHOLE[:length] + bytes(len(WHOLE) - length))


# Not from 1 to 3: holes begin at the borders of blocks.
@pytest.mark.requirement(2)
@given(st.just(0) | st.integers(4, TABLE_AT - 1), st.integers(4, 50_000))
def test_a_hole_is_found(at: int, count: int) -> None:
    """A multi-stream copy writes the end before the middle."""
    holed = WHOLE[:at] + bytes(min(count, len(WHOLE) - at)) + WHOLE[at + count :]
    parts_before = [
        WHOLE[i.header_offset + 30 + len(i.filename) :][: i.file_size]
        for i in zipfile.ZipFile(io.BytesIO(WHOLE)).infolist()
    ]
    assume(not all(part in holed for part in parts_before))  # else only a file's date or name was hit
    incomplete(holed)


@pytest.mark.requirement(2)
@given(st.integers(0, 69_999), st.integers(1, 255))
def test_a_single_wrong_byte_is_found(at: int, change: int) -> None:
    """In any of the weights."""
    data = bytearray(archive({"a": noise(70_000)}))
    data[31 + at] ^= change
    incomplete(bytes(data))


@pytest.mark.requirement(2)
def test_an_older_longer_file_under_the_new_one_is_no_proof() -> None:
    """A copy in place over a longer file: the old table of contents is still there."""
    old = archive({"voice/data.pkl": noise(500), "voice/data/0": noise(90_000, 9)})
    for length in (len(WHOLE) // 2, len(WHOLE) - 30):
        incomplete(WHOLE[:length] + old[length:])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is still empty"),
        (b"PK", "it has only 2 bytes"),
        (bytes(70_000), "its beginning is still blank; the space was set aside, but the data is missing"),
        (WHOLE[:30_000], "its end is missing"),
        (WHOLE[:60_000] + bytes(10_000), "its end is still blank; the space was set aside, but the data is missing"),
        (legacy() + bytes(70_000), "its end is still blank; the space was set aside, but the data is missing"),
        (WHOLE[:500] + bytes(30_000) + WHOLE[30_500:], "a part of it, 0 % of the way in, is missing or damaged"),
        (WHOLE[:50_000] + bytes(300) + WHOLE[50_300:], "a part of it, 57 % of the way in, is missing or damaged"),
        (WHOLE[: TABLE_AT + 60] + bytes(40) + WHOLE[TABLE_AT + 100 :], "its table of contents is incomplete"),
    ],
)
def test_the_reason_is_in_words(data: bytes, why: str) -> None:
    """A person reads it in the status and, if it lasts, in the refusal."""
    assert incomplete(data) == why


def test_a_reason_becomes_a_refusal_when_it_lasts() -> None:
    """An empty file is refused as empty, any other as damaged, with the reason."""
    for data, code in ((b"", "empty"), (WHOLE[:-9], "damaged")):
        with pytest.raises(Incomplete) as caught:
            proof(data)
        assert caught.value.refusal().code == code
    assert "its end is missing" in caught.value.refusal().text


@pytest.mark.parametrize(
    "data", [legacy(), b"<!DOCTYPE html><title>404</title>", noise(100_000), b"version https://git-lfs"]
)
def test_other_files_prove_nothing(data: bytes) -> None:
    """They are left to the clock and then to the worker."""
    assert glance(io.BytesIO(data)) is proof(data) is Proof.NONE


@pytest.mark.requirement(20)
def test_a_bomb_is_not_inflated() -> None:
    """What is packed is the worker's business: 300 MB in 300 kB have arrived, no more is said here."""
    bomb = archive({"bomb": bytes(30_000_000)}, method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    assert proof(bomb) is Proof.ARCHIVE
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def forged(data: bytes, *, entry: dict[int, tuple[str, int]]) -> bytes:
    """Return the archive with fields of its first table entry overwritten, by their offset."""
    made, at = bytearray(data), data.index(b"PK\1\2")
    for offset, (form, value) in entry.items():
        struct.pack_into(form, made, at + offset, value)
    return bytes(made)


@pytest.mark.parametrize(
    "entry",
    [
        {24: ("<L", 0x7FFFFFFF)},  # the size when unpacked
        {20: ("<L", 0x7FFFFFFF), 24: ("<L", 0x7FFFFFFF)},  # both sizes
        {8: ("<H", 1)},  # encrypted
        {10: ("<H", 99)},  # an unknown method
    ],
)
def test_an_archive_that_lies_about_its_parts_is_left_to_the_worker(entry: dict[int, tuple[str, int]]) -> None:
    """It has arrived; that it is nonsense is for others to say."""
    assert proof(forged(WHOLE, entry=entry)) is Proof.ARCHIVE


@pytest.mark.requirement(20)
def test_parts_that_overlap_are_not_read_again_and_again() -> None:
    """A table that names one large part ten thousand times would keep us busy for hours."""
    data = archive({"a": noise(200_000)})
    table_at, end_at = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    table = data[table_at:end_at] * 10_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10_000, 10_000, len(table), table_at, 0)
    assert proof(data[:table_at] + table + end) is Proof.ARCHIVE


@pytest.mark.requirement(20)
def test_a_table_beyond_all_measure_is_not_read() -> None:
    """The end is there; five megabytes of entries are no voice."""
    data = b"PK\3\4" + noise(100) + b"PK\1\2" + noise(5_000_000)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(data) - 104, 104, 0)
    assert proof(data + end) is Proof.ARCHIVE


def test_an_archive_without_parts_has_arrived() -> None:
    """That it holds no voice is for the worker to say."""
    assert proof(archive({})) is Proof.ARCHIVE


@pytest.mark.parametrize("offset", [24, 32, 40, 48])
def test_an_end_that_points_beyond_all_numbers_points_nowhere(offset: int) -> None:
    """Counts, lengths and offsets of 64 bits, which no seek would take."""
    data = bytearray(wide(members_too=False))
    record_at = data.index(b"PK\6\6")
    data[record_at + offset : record_at + offset + 8] = b"\xff" * 8
    if offset == 24:  # nobody needs the number of members on this disk
        assert proof(bytes(data)) is Proof.CHECKSUMS
    else:
        incomplete(bytes(data))


def test_a_part_that_lies_beyond_all_numbers_is_missing() -> None:
    """An offset of 64 bits in the table itself."""
    data = bytearray(wide(members_too=True))
    offset_at = data.index(b"PK\1\2") + 46 + len("a") + 8 + 4 + 16
    data[offset_at : offset_at + 8] = b"\xff" * 8
    assert incomplete(bytes(data)) == "a part of it, 100 % of the way in, is missing or damaged"


@given(st.binary(max_size=300).map(lambda tail: b"PK\3\4" + tail) | st.binary(max_size=300))
def test_no_bytes_end_in_anything_but_an_answer(data: bytes) -> None:
    """Any file at all: a proof or `Incomplete`."""
    with suppress(Incomplete):
        assert proof(data) in Proof


@given(st.data())
def test_no_damage_to_the_table_ends_in_anything_but_an_answer(data: st.DataObject) -> None:
    """Wrong offsets and lengths of all sizes, in both forms of the table."""
    made = bytearray(wide(members_too=True))
    at = made.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(at, len(made) - 8))
        made[where : where + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + bytes(7), noise(8)]))
    with suppress(Incomplete):
        assert proof(bytes(made)) in Proof
