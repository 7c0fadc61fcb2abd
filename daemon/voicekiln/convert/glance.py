"""What a file is by its first bytes and its frame, before PyTorch sees it.

A person who drops a web page, a Git-LFS pointer or half a download gets told just that. A checkpoint leaves here
as one of two kinds: a ZIP archive as torch.save writes it (nothing compressed, every name once, all checksums
right), or the older stream of pickles. What its pickle claims to store is compared with what the file has, so that
no tensor can be made of memory that nobody filled.
"""

from __future__ import annotations

import errno
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Final, Literal

from voicekiln.convert import pickles
from voicekiln.errors import Damaged, Empty, LfsPointer, NotACheckpoint, Refusal, Safetensors, UnsafePickle, WebPage

Form = Literal["zip", "legacy"]

MAX_TABLE = 16 * 2**20
"""Bytes of a checkpoint's pickle. A training checkpoint with optimizer has about 0.3 million."""

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
_ZIP_END: Final = b"PK\x05\x06"
_BROKEN_ZIP: Final = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error,
                      zlib.error, OverflowError)  # fmt: skip
"""What `zipfile` raises on archives that are broken (ValueError: bad names), encrypted or of unknown make."""


def glance(path: Path) -> Form:
    """Say which of PyTorch's two forms the file has.

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
            _check_zip(file, size)
            return "zip"
        if head.startswith(_LEGACY_MAGIC):
            _check_legacy(file, size)
            return "legacy"
        raise _not_ours(head, file, size)


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


def _check_zip(file: BinaryIO, size: int) -> None:
    """Check the archive and its table of contents; raises as `glance` does."""
    file.seek(max(0, size - 22))
    end = file.read()
    if not (end.startswith(_ZIP_END) and end.endswith(b"\0\0")):
        raise Damaged(what="the end of the archive is missing, as after a copy that broke off")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size)
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
    folder = table.filename.removesuffix("data.pkl")
    sizes = {m.filename: m.file_size for m in members}
    for key, claimed in reading.storages.items():
        if sizes.get(f"{folder}data/{key}") != claimed:
            raise Damaged(what=f"its part {key[:20]} is missing or not as long as its table of contents says")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [m.filename for m in members]
    tables = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(tables) != 1 or any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise NotACheckpoint(what=_archive(names))
    if len(names) != len(set(names)):
        raise Damaged(what="its archive has several parts of one name")
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
        raise NotACheckpoint(what="its archive is compressed or encrypted, which PyTorch never does")
    if sum(m.file_size for m in members) > size or tables[0].file_size > MAX_TABLE:
        raise Damaged(what="its parts claim to be larger than the file")


def _archive(names: list[str]) -> str:
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "it is a TorchScript program, which holds code beside the weights"
    shown = ", ".join(name[:40] for name in names[:3])
    return f"it is a ZIP archive with other things in it ({shown}{', …' if len(names) > 3 else ''})"  # noqa: PLR2004 - as many as are shown


def _check_legacy(file: BinaryIO, size: int) -> None:
    """Check the stream: magic, protocol, system, the object, the list of its storages, then their bytes."""
    file.seek(0)
    *_, table, keys = (pickles.read(file) for _ in range(5))
    if set(table.storages) != set(keys.texts) or len(keys.texts) != len(table.storages):
        raise Damaged(what="its list of parts does not match its table of contents")
    missing = sum(claimed + 8 for claimed in table.storages.values()) - (size - file.tell())
    if missing > 0:
        raise Damaged(what=f"{missing} bytes are missing at its end")
