"""Archives made to lie: each is refused with its code before anything of it is unpacked, believed or read twice."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.small_checkpoints import archive, members, saved, voice, written
from convert.watched import harmless
from voicekiln.convert import glance as glance_module
from voicekiln.convert.glance import glance
from voicekiln.errors import Refusal

pytestmark = pytest.mark.requirement(20)

PARTS = members(saved(voice()))
FOLDER = next(iter(PARTS)).partition("/")[0] + "/"
PLAIN = archive(PARTS)
WIDE = saved(voice())
"""As PyTorch writes it, with an end of 64 bits."""

NOT, DAMAGED = "not-a-checkpoint", "damaged"


def refused(tmp_path: Path, data: bytes) -> Refusal:
    """Return the refusal of a file with these bytes."""
    path = written(tmp_path / "voice.pth", data)
    with harmless(seconds=20, extra_bytes=2**28), pytest.raises(Refusal) as caught:
        glance(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["voice.pth"]
    return caught.value


def patched(data: bytes, at: int, form: str, *numbers: int) -> bytes:
    """Return the bytes with numbers written over them."""
    made = bytearray(data)
    struct.pack_into(form, made, at % len(data), *numbers)
    return bytes(made)


def entry(data: bytes, name: str) -> int:
    """Return where the archive's directory tells of a part."""
    at = data.index(b"PK\1\2")
    while data[at + 46 :][: len(name)] != name.encode():
        at = data.index(b"PK\1\2", at + 4)
    return at


def local(data: bytes, name: str) -> int:
    """Return where a part begins."""
    offset: int = struct.unpack_from("<L", data, entry(data, name) + 42)[0]
    return offset


def in_entry(name: str, offset: int, form: str, *numbers: int) -> bytes:
    """Return the sound archive with numbers written over a field of one part's entry."""
    return patched(PLAIN, entry(PLAIN, FOLDER + name) + offset, form, *numbers)


def with_more(**more: bytes) -> bytes:
    """Return the voice's archive with more parts in it."""
    return archive(PARTS | more)


def renamed(old: str, new: bytes) -> bytes:
    """Return the voice's archive with one more part whose name is written over by bytes of the same length."""
    return with_more(**{FOLDER + old: b"xx"}).replace((FOLDER + old).encode(), FOLDER.encode() + new)


def ten_gigabytes() -> bytes:
    """Return the voice's archive with its table of contents in the place of ten gigabytes of packed zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * 10_000 + packer.flush(zlib.Z_FINISH)
    name = FOLDER + "data.pkl"
    data = archive(PARTS | {name: packed})
    for at, size in ((local(data, name), 22), (entry(data, name), 24)):
        data = patched(data, at + size - 14, "<H", zipfile.ZIP_DEFLATED)
        data = patched(data, at + size, "<L", 10_000 * 2**20 & 0xFFFFFFFF)
    return data


def overlapping() -> bytes:
    """Return the archive with one part lying within another."""
    return in_entry("data/1", 42, "<L", local(PLAIN, FOLDER + "data/0"))


def nested() -> bytes:
    """Return an archive one part of which is a part itself."""
    inner = PLAIN[local(PLAIN, FOLDER + "version") :][: 30 + len(FOLDER) + 7 + 2]
    data = with_more(**{FOLDER + "data/box": inner})
    inside = local(data, FOLDER + "data/box") + 30 + len(FOLDER) + 8
    return patched(data, entry(data, FOLDER + "version") + 42, "<L", inside)


def of_another_program() -> bytes:
    """Return an archive with TorchScript's mark in capital letters, which PyTorch takes for the same."""
    return with_more(**{FOLDER + "CONSTANTS.PKL": b"\x80\x02)."})


END = len(PLAIN) - 22
RECORD = WIDE.rindex(b"PK\6\6")

LIES: dict[str, tuple[Callable[[], bytes] | bytes, str]] = {
    "ten gigabytes, packed": (ten_gigabytes, NOT),
    "packed by an unknown method": (in_entry("data/0", 10, "<H", 99), NOT),
    "encrypted": (in_entry("data/0", 8, "<H", 1), NOT),
    # Which directory?
    "one archive before another": (archive({FOLDER + "data.pkl": b"\x80\x02}."}) + PLAIN, DAMAGED),
    "a directory somewhere else": (patched(PLAIN, END + 16, "<L", 5), DAMAGED),
    "a directory that is shorter": (patched(PLAIN, END + 12, "<L", 60), DAMAGED),
    "fewer parts than it has": (patched(PLAIN, END + 8, "<HH", len(PARTS) - 1, len(PARTS) - 1), DAMAGED),
    "more parts than it has": (patched(PLAIN, END + 8, "<HH", len(PARTS) + 1, len(PARTS) + 1), DAMAGED),
    "two numbers of parts": (patched(PLAIN, END + 8, "<H", 1), DAMAGED),
    "a remark at its end": (archive(PARTS)[:-2] + b"\2\0PK", DAMAGED),
    # 64 bits.
    "an end that points to another end": (patched(WIDE, RECORD + 56 + 8, "<Q", 77), DAMAGED),
    "an end that points beyond all numbers": (patched(WIDE, RECORD + 56 + 8, "<Q", 2**64 - 1), DAMAGED),
    "an end of 64 bits that is none": (patched(WIDE, RECORD, "<L", 0), DAMAGED),
    "parts beyond all numbers": (patched(WIDE, RECORD + 24, "<QQ", 2**63, 2**63), NOT),
    "a directory beyond all numbers": (patched(WIDE, RECORD + 40, "<Q", 2**63), NOT),
    "a directory that begins beyond all numbers": (patched(WIDE, RECORD + 48, "<Q", 2**64 - 1), DAMAGED),
    # Sizes and places.
    "a part of more bytes": (in_entry("data/0", 20, "<LL", 2**30, 2**30), DAMAGED),
    "a part that grows when it is read": (in_entry("data/0", 24, "<L", 2**30), DAMAGED),
    "a part that shrinks when it is read": (in_entry("data/0", 24, "<L", 1), DAMAGED),
    "a part of two sizes and the checksum of the smaller": (
        in_entry("version", 16, "<LLL", zlib.crc32(PARTS[FOLDER + "version"][:1]), len(PARTS[FOLDER + "version"]), 1),
        DAMAGED,
    ),
    "a part of 64 bits without them": (in_entry("data/0", 24, "<L", 2**32 - 1), DAMAGED),
    "a part that lies behind the end": (in_entry("data/0", 42, "<L", 2**31), DAMAGED),
    "a part that lies in the directory": (in_entry("data/0", 42, "<L", len(PLAIN) - 100), DAMAGED),
    "parts that overlap": (overlapping, DAMAGED),
    "a part within a part": (nested, DAMAGED),
    "a wrong checksum": (in_entry("data/0", 16, "<L", 1), DAMAGED),
    # Names.
    "beside its folder": (with_more(**{"other/data/0": b"x"}), NOT),
    "above its folder": (with_more(**{"../data/0": b"x"}), NOT),
    "up and down": (with_more(**{FOLDER + "../../etc/x": b"x"}), NOT),
    "from the root": (with_more(**{"/etc/x": b"x"}), NOT),
    "two tables of contents": (with_more(**{"b/data.pkl": b"x"}), NOT),
    "a table in a deeper folder": (archive({f"a/{name}": data for name, data in PARTS.items()}), NOT),
    "a table at the top": (archive({name.removeprefix(FOLDER): data for name, data in PARTS.items()}), NOT),
    "one name twice": (renamed("data/#", b"data/0"), DAMAGED),
    "one name in two cases": (with_more(**{FOLDER + "DATA/0": b"x"}), DAMAGED),
    "a table of contents in two cases": (with_more(**{FOLDER + "DATA.pkl": b"x"}), DAMAGED),
    "one name in two codes": (
        with_more(**{FOLDER + "data/\xe9": b"a", FOLDER + "data/##": b"b"}).replace(b"data/##", "data/\xe9".encode()),
        DAMAGED,
    ),
    "one name with more behind a zero": (renamed("data/0##", b"data/0\0#"), DAMAGED),
    "a program in capital letters": (of_another_program, NOT),
}


@pytest.mark.parametrize("name", LIES)
def test_an_archive_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    """Neither Python's reader nor PyTorch's is asked which of two truths it prefers."""
    made, code = LIES[name]
    assert refused(tmp_path, made() if callable(made) else made).code == code


def test_the_archive_is_sound_without_the_lie(tmp_path: Path) -> None:
    """In both widths: the lies are what is refused."""
    for data in (PLAIN, WIDE, with_more(**{FOLDER + "data/\xe9": b"x"})):
        assert glance(written(tmp_path / "voice.pth", data)) == "zip"


@pytest.mark.parametrize("offset", [24, 40], ids=["parts", "bytes"])
def test_a_directory_beyond_all_measure_is_not_read(
    tmp_path: Path, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would make an object for each of its entries: gigabytes, before anybody could ask how many there are."""

    def read(*_: object) -> None:
        pytest.fail("the archive was opened")

    monkeypatch.setattr(zipfile, "ZipFile", read)
    assert refused(tmp_path, patched(WIDE, RECORD + offset, "<QQ", 2**20 + 2**24, 2**20 + 2**24)).code == NOT


def test_as_many_parts_as_a_long_training_has_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the number that is written, not one less."""
    path = written(tmp_path / "voice.pth", PLAIN)
    monkeypatch.setattr(glance_module, "MAX_PARTS", len(PARTS))
    assert glance(path) == "zip"
    monkeypatch.setattr(glance_module, "MAX_PARTS", len(PARTS) - 1)
    assert refused(tmp_path, PLAIN).code == NOT


def test_a_packed_part_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is inflated here, whatever comes of it."""

    def inflate(*_: object) -> None:
        pytest.fail("something was unpacked")

    monkeypatch.setattr(zlib, "decompressobj", inflate)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in PARTS.items():
            out.writestr(name, data)
    assert refused(tmp_path, buffer.getvalue()).code == NOT
