"""What a file is by its first bytes and its frame, before PyTorch sees it.

A person who drops a web page, a Git-LFS pointer or half a download gets told just that. A checkpoint leaves here
as one of two kinds: a ZIP archive as torch.save writes it (nothing compressed, every name once, all in one
folder, no part within another, all checksums right), or the older stream of pickles. What its pickle claims to store
is compared with what the file has, so that no tensor can be made of memory that nobody filled. Python and PyTorch
read archives differently, so one that the two could see differently is refused. Two more kinds come through here that
are no voices: a checkpoint whose pickle holds NumPy arrays (cluster centres), and a feature index.
"""

from __future__ import annotations

import errno
import io
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from voicekiln.convert import feature_index, pickles
from voicekiln.errors import Damaged, Empty, LfsPointer, NotACheckpoint, Refusal, Safetensors, UnsafePickle, WebPage

Form = Literal["zip", "legacy", "arrays", "index"]
"""PyTorch's two, one of them with arrays in its pickle (and nothing elsewhere), and a pickle of faiss indexes."""

MAX_TABLE = 16 * 2**20
"""Bytes of a checkpoint's pickle, and of its archive's directory. A training checkpoint with optimizer has about 0.3
million."""
MAX_ARRAYS = 2**29
"""The same, of a pickle that holds arrays. The usual 10 000 cluster centres take 46 MB for each speaker."""
MAX_PARTS = 65_535
"""Of an archive. A training checkpoint with optimizer has about 2000."""

_MAGICS: Final = (
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"BZh", "a bzip2 archive"),
    (b"GGUF", "a GGUF language model"),
    (b"Iw", "a search index (the .index file that comes with a voice)"),
    (b"Ix", "a search index (the .index file that comes with a voice)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format", "a database"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"RIFF", "a sound recording or film"),
    (b"ID3", "a sound recording"),
    (b"fLaC", "a sound recording"),
    (b"OggS", "a sound recording"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
)
_LEGACY_MAGIC: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ONNX_BEGINNING: Final = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x3a\x42]")
"""Field 1 is the version of the format; then comes the producer's name, version, domain, the graph or the opset."""
_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCAL: Final = struct.Struct("<26s2H")
"""What stands before a part: its length is the last two numbers', of its name and of its extra field."""
_UTF_8: Final = 0x800
"""Flag of a part: its name is in this code."""
_BROKEN_ZIP: Final = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error,
                      zlib.error, OverflowError)  # fmt: skip
"""What `zipfile` raises on archives that are broken (ValueError: bad names), encrypted or of unknown make."""


def glance(path: Path) -> Form:
    """Say which of the forms the file has.

    Raises:
        Refusal: if it has neither, or is empty, damaged or not what it says.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if not head:
            raise Empty
        if head.startswith(b"PK\x03\x04"):
            return _check_zip(file, size)
        if head.startswith(_LEGACY_MAGIC):
            if _is_tar(head):
                raise NotACheckpoint(what="it is a tar archive")
            return _check_legacy(file, size)
        if feature_index.begins(head):
            return "index"
        raise _not_ours(head, file, size)


def _is_tar(head: bytes) -> bool:
    """Say whether PyTorch, which looks for its oldest form first, would begin to unpack it."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _not_ours(head: bytes, file: BinaryIO, size: int) -> Refusal:
    """Return the refusal that names what the file is instead."""
    if head.startswith(b"version https://git-lfs"):
        return LfsPointer(size_mb=_lfs_megabytes(head))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return Safetensors()
    what = next((what for magic, what in _MAGICS if head.startswith(magic)), None)
    if what is None and head[257:262] == b"ustar":
        what = "a tar archive"
    if what is None and _ONNX_BEGINNING.match(head):
        what = "an ONNX file, which is what voicekiln makes"
    if what is not None:
        return NotACheckpoint(what=f"it is {what}")
    if not any(head):
        return Damaged(what="it begins with nothing but zeros, as a download that was reserved but never filled does")
    return _text(head) or _pickle(file)


def _lfs_megabytes(head: bytes) -> int:
    sizes = [line.split()[-1] for line in head.splitlines() if line.startswith(b"size ")]
    return max(1, round(int(sizes[0][:18]) / 1e6)) if sizes and sizes[0].isdigit() else 0


def _text(head: bytes) -> WebPage | None:
    """Return the refusal of a text, unless it may be a pickle in its old text form."""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    odd = sum(not (c.isprintable() or c.isspace()) or c == "\N{REPLACEMENT CHARACTER}" for c in text)
    if odd > 1:  # one character may be cut in two at the end of the head
        return None
    if not text.startswith(("<", "{", "[")) and _imports(head):
        return None
    return WebPage(beginning=" ".join(text.split())[:80])


def _imports(head: bytes) -> bool:
    """Tell whether the text is a pickle that imports something."""
    try:
        pickles.read(io.BytesIO(head))
    except UnsafePickle as unsafe:
        return " " not in str(unsafe.found["wants"])
    except Refusal:
        return False
    return False


def _pickle(file: BinaryIO) -> Refusal:
    """Return the refusal of a pickle that torch.save did not write, or of bytes that mean nothing."""
    file.seek(0)
    try:
        pickles.read(file)
    except Damaged:
        return NotACheckpoint(what="its first bytes are of no kind that voicekiln knows")
    except Refusal as refusal:
        return refusal
    return NotACheckpoint(what="it is a Python pickle that PyTorch did not write")


def _check_zip(file: BinaryIO, size: int) -> Form:
    """Check the archive and its table of contents, and say which form it has; raises as `glance` does."""
    try:
        count, directory = _end(file, size)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) != count:
                raise Damaged(what="its archive has another number of parts than it says")
            folder = _check_members(members, size)
            _check_places(file, members, directory)
            bad = archive.testzip()
            if bad is not None:
                raise Damaged(what=f"the checksum of its part {bad[:60]} is wrong")
            table = next(m for m in members if m.filename.endswith("/data.pkl"))
            reading = pickles.read(io.BytesIO(archive.read(table)))
    except OSError as error:
        if error.errno != errno.EINVAL:  # that one is a position before the file's beginning
            raise
        raise Damaged(what="its archive cannot be read") from error
    except _BROKEN_ZIP as error:
        raise Damaged(what="its archive cannot be read") from error
    if table.file_size > MAX_TABLE and not reading.arrays:
        raise NotACheckpoint(what="its table of contents is far larger than a voice's")
    sizes = {_name(m): m.file_size for m in members}
    for key, claimed in reading.storages.items():
        if sizes.get(folder + b"data/" + key.encode()) != claimed:
            raise Damaged(what=f"its part {key[:20]} is missing or not as long as its table of contents says")
    return "arrays" if reading.arrays else "zip"


def _end(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return how many parts the archive says it has, and where its directory begins, right before its end.

    Python looks for the directory there, PyTorch at the offset that is given; both have to mean the same.
    """
    at = size - _END.size
    mark, _, _, here, count, length, start, comment = _record(file, at, _END)
    if mark != b"PK\5\6" or comment:
        raise Damaged(what="the end of the archive is missing, as after a copy that broke off")
    mark, _, record_at, _ = _record(file, at - _LOCATOR.size, _LOCATOR)
    if mark == b"PK\6\7":
        at -= _LOCATOR.size + _END_64.size
        mark, *_, here, count, length, start = _record(file, at, _END_64)
        if mark != b"PK\6\6" or record_at != at:
            raise Damaged(what="its archive has more than one end")
    if count > MAX_PARTS or length > MAX_TABLE:
        raise NotACheckpoint(what="its archive has far more parts than a voice")
    if start + length != at or here != count:
        raise Damaged(what="its archive's directory is not where it should be")
    return count, start


def _record(file: BinaryIO, at: int, form: struct.Struct) -> tuple[Any, ...]:
    """Return a record of the archive; of zeros if there is none at this place."""
    file.seek(max(0, at))
    found = file.read(form.size) if at >= 0 else b""
    return form.unpack(found.ljust(form.size, b"\0"))


def _name(member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a part's name, which are what PyTorch compares."""
    return member.orig_filename.encode("utf-8" if member.flag_bits & _UTF_8 else "cp437")


def _check_places(file: BinaryIO, members: list[zipfile.ZipInfo], end: int) -> None:
    """Refuse parts that overlap: each has to end before the next begins, the last before the directory at `end`."""
    places = sorted(members, key=lambda m: m.header_offset)
    for member, next_at in zip(places, [*(m.header_offset for m in places[1:]), end], strict=True):
        _, name, extra = _record(file, member.header_offset, _LOCAL)
        if member.header_offset + _LOCAL.size + name + extra + member.compress_size > next_at:
            raise Damaged(what="parts of its archive overlap")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> bytes:
    """Check what the archive's directory says; return the folder in which all parts lie, as it is written there."""
    names = [m.filename for m in members]
    tables = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(tables) != 1 or any(map(_is_program, names)):
        raise NotACheckpoint(what=_archive(names))
    folder = _name(tables[0]).removesuffix(b"data.pkl")
    exact = [_name(m) for m in members]
    if folder.count(b"/") != 1 or not all(name.startswith(folder) and b"/../" not in name for name in exact):
        raise NotACheckpoint(what=_archive(names))
    # PyTorch takes upper and lower case of ASCII for one; Python ends a name at a zero.
    if len(exact) != len({name.lower() for name in exact}) or any(b"\0" in name for name in exact):
        raise Damaged(what="its archive has several parts of one name")
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
        raise NotACheckpoint(what="its archive is compressed or encrypted, which PyTorch never does")
    if any(m.file_size != m.compress_size for m in members) or sum(m.file_size for m in members) > size:
        raise Damaged(what="its parts claim to be larger than the file")
    if tables[0].file_size > MAX_ARRAYS:
        raise NotACheckpoint(what="its table of contents is far larger than a voice's")
    return folder


def _is_program(name: str) -> bool:
    """Say whether a part of this name is TorchScript's."""
    return name.lower().endswith("/constants.pkl") or "/code/" in name.lower()


def _archive(names: list[str]) -> str:
    if any(map(_is_program, names)):
        return "it is a TorchScript program, which holds code beside the weights"
    shown = ", ".join(name[:40] for name in names[:3])
    return f"it is a ZIP archive with other things in it ({shown}{', …' if len(names) > 3 else ''})"  # noqa: PLR2004 - as many as are shown


def _check_legacy(file: BinaryIO, size: int) -> Form:
    """Check the stream: magic, protocol, system, the object, the list of its storages, then their bytes.

    Returns:
        Its form; raises as `glance` does.
    """
    file.seek(0)
    *_, table, keys = (pickles.read(file) for _ in range(5))
    if set(table.storages) != set(keys.texts) or len(keys.texts) != len(table.storages):
        raise Damaged(what="its list of parts does not match its table of contents")
    missing = sum(claimed + 8 for claimed in table.storages.values()) - (size - file.tell())
    if missing > 0:
        raise Damaged(what=f"{missing} bytes are missing at its end")
    return "arrays" if table.arrays else "legacy"
