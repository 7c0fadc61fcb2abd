"""Proof that a file has arrived as a whole.

A modern .pth is a ZIP archive: its table of contents comes last and holds a CRC-32 of every part, which tells a
truncated, preallocated or holed file from a whole one. Size and time alone do not: Explorer writes into a file that
has its final size from the first byte. All other forms (a legacy pickle ends in raw numbers, with nothing after
them) are `Proof.NONE`: only a longer quiet time speaks for them, and only a blank end against them.

Nothing is judged here but the arrival, and nothing is inflated: an archive whose parts are packed, encrypted,
overlapping or absurdly many is `Proof.ARCHIVE` - its table has arrived, the worker will say what it thinks of it.
Memory stays within some 20 MB (see `MAX_TABLE`), the time within one reading of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, BinaryIO

from voicekiln.errors import Incomplete, StillEmpty

MAX_TABLE = 4 * 1024 * 1024
"""Bytes. The table of contents of a voice has about 50 kB, that of a large training checkpoint about 500 kB."""
_CHUNK = 1024 * 1024
_PROBE = 4096
"""Bytes of an archive's end that are looked at for having been left blank."""
_BLANK_TAIL = 64 * 1024
"""Bytes. So many zeros at the end of a file without a table of contents are no weights that anybody trained."""

_FIRST = b"PK\3\4"
_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_MAX_COMMENT = 0xFFFF
_FULL_32 = 0xFFFFFFFF
"""In a 32-bit field: the value stands in the 64-bit one."""
_BLANK_END = "its end is still blank; the space was set aside, but the data is missing"


class Proof(Enum):
    """What speaks for a file's having arrived as a whole."""

    CHECKSUMS = "checksums"
    """Every byte that weights can lie in was compared with the archive's checksums."""
    ARCHIVE = "archive"
    """The archive's end is there, but its parts cannot be compared without unpacking them."""
    NONE = "none"
    """Not an archive: nothing in it says where it ends."""


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    """Of its local header."""
    packed: int
    """Bytes in the file."""
    size: int
    """Bytes that it is said to have when unpacked."""
    crc: int
    stored: bool
    """Neither compressed nor encrypted."""


def glance(file: BinaryIO) -> Proof:
    """Return the proof that can be hoped for from the file's beginning, end and table of contents, read from `file`.

    Cheap; meant for the share, before anything is copied.

    Raises:
        Incomplete: if that much already shows that a part is missing.
    """
    members = _table(file)
    if members is None:
        return Proof.NONE
    return Proof.CHECKSUMS if _checkable(members, _size(file)) else Proof.ARCHIVE


def prove(file: BinaryIO) -> Proof:
    """Return the proof that the file holds, after reading all of it.

    Raises:
        Incomplete: if a part is missing or does not agree with its checksum.
    """
    members = _table(file)
    if members is None:
        return Proof.NONE
    size = _size(file)
    if not _checkable(members, size):
        return Proof.ARCHIVE
    for member in members:
        _check(file, member, size)
    return Proof.CHECKSUMS


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _record(file: BinaryIO, offset: int, form: struct.Struct) -> tuple[Any, ...]:
    found = _at(file, offset, form.size)
    if len(found) < form.size:  # it was cut off since its size was read
        raise Incomplete("its end is missing")
    return form.unpack(found)


def _table(file: BinaryIO) -> list[_Member] | None:
    """Return the archive's members, an empty list for one that is too large to list, None if it is no archive."""
    size = _size(file)
    if size == 0:
        raise StillEmpty("it is still empty")
    if size < len(_FIRST):
        raise Incomplete(f"it has only {size} bytes")
    head = _at(file, 0, len(_FIRST))
    if not any(head):  # no form of checkpoint begins with zeros
        raise Incomplete("its beginning is still blank; the space was set aside, but the data is missing")
    if head not in (_FIRST, b"PK\5\6"):
        if size > _BLANK_TAIL and not any(_at(file, size - _BLANK_TAIL, _BLANK_TAIL)):
            raise Incomplete(_BLANK_END)
        return None
    count, start, length = _end(file, size)
    if length > MAX_TABLE:
        return []
    return list(_members(_at(file, start, length), count))


def _end(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return the number of members and the offset and length of the table of contents."""
    tail_at = max(0, size - _END.size - _MAX_COMMENT)
    tail = _at(file, tail_at, size - tail_at)
    found = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    while found >= 0:
        count, start, length = _end_64(file, tail_at + found) or _end_32(tail[found : found + _END.size])
        if start + length <= tail_at + found and _is_table(file, start, count, tail_at + found):
            return count, start, length
        found = tail.rfind(b"PK\5\6", 0, found + 3)
    if not any(tail[-_PROBE:]):
        raise Incomplete(_BLANK_END)
    raise Incomplete("its end is missing")


def _is_table(file: BinaryIO, start: int, count: int, end_at: int) -> bool:
    # Zeros after an end mark would read as an archive without parts; a real one is nothing but its end.
    return _at(file, start, 4) == b"PK\1\2" if count else end_at == 0


def _end_32(record: bytes) -> tuple[int, int, int]:
    _, _, _, _, count, length, start, _ = _END.unpack(record)
    return count, start, length


def _end_64(file: BinaryIO, end_at: int) -> tuple[int, int, int] | None:
    if end_at < _LOCATOR.size + _END_64.size:
        return None
    mark, _, record_at, _ = _record(file, end_at - _LOCATOR.size, _LOCATOR)
    if mark != b"PK\6\7" or record_at > end_at - _LOCATOR.size - _END_64.size:
        return None
    mark, _, _, _, _, _, _, count, length, start = _record(file, record_at, _END_64)
    return (count, start, length) if mark == b"PK\6\6" else None


def _members(table: bytes, count: int) -> Iterator[_Member]:
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(table) or table[at : at + 4] != b"PK\1\2":
            raise Incomplete("its table of contents is incomplete")
        _, _, _, flags, method, _, _, crc, packed, size, names, extras, notes, _, _, _, offset = _ENTRY.unpack_from(
            table, at
        )
        extra = table[at + _ENTRY.size + names :][:extras]
        size, packed, offset = _wide(extra, size, packed, offset)
        yield _Member(offset, packed, size, crc, stored=method == 0 and not flags & 1)
        at += _ENTRY.size + names + extras + notes


def _wide(extra: bytes, *narrow: int) -> list[int]:
    """Return the values, those that did not fit into 32 bits replaced from the 64-bit extra field."""
    wide = iter(_wide_field(extra))
    return [next(wide, value) if value == _FULL_32 else value for value in narrow]


def _wide_field(extra: bytes) -> tuple[int, ...]:
    while len(extra) >= 4:  # noqa: PLR2004 - a field's head: its kind and its length
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            values = extra[4 : 4 + length]
            return struct.unpack(f"<{len(values) // 8}Q", values[: len(values) // 8 * 8])
        extra = extra[4 + length :]
    return ()


def _checkable(members: list[_Member], size: int) -> bool:
    # Members that together are larger than the file overlap: reading them all could take for ever.
    honest = all(m.stored and m.packed == m.size for m in members)
    return bool(members) and honest and sum(m.packed for m in members) <= size


def _check(file: BinaryIO, member: _Member, size: int) -> None:
    """Compare one member with its checksum.

    Raises:
        Incomplete: if it does not agree.
    """
    offset = min(member.offset, size)
    where = f"a part of it, {100 * offset // size} % of the way in, is missing or damaged"
    header = _at(file, offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_FIRST):
        raise Incomplete(where)
    *_, names, extras = _LOCAL.unpack(header)
    file.seek(offset + _LOCAL.size + names + extras)
    crc, left = 0, member.packed
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    if left or crc != member.crc:
        raise Incomplete(where)
