"""How each tool puts a file into a folder, call by call (see `TOOLS`).

A tool is a generator: it does one step and yields the seconds that pass before the next. Who drives it decides what a
second is: a made-up clock, or a real one that runs faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from arrivals import noise

STALL = 10
"""Seconds that a tool may do nothing in the middle of its work."""
LONG_AGO_NS = 1_500_000_000_000_000_000

Steps = Iterator[int]
"""A tool at work; it yields the seconds that pass before its next step."""
Tool = Callable[[Path, bytes], Steps]
"""Brings these bytes to this path, whatever lies there."""


def write(path: Path, data: bytes, at: int = 0) -> None:
    """Write into a file in place, creating it if need be."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data, at)
    finally:
        os.close(fd)


def empty(path: Path) -> None:
    """Make the file, or cut what is there down to nothing."""
    write(path, b"")
    os.truncate(path, 0)


def grow(path: Path, data: bytes, *, stall: int = STALL) -> Steps:
    """Write the bytes in four pieces, with pauses between them and next to none after the last."""
    piece = len(data) // 4 + 1
    for at in range(0, len(data), piece):
        write(path, data[at : at + piece], at)
        yield stall if at + piece < len(data) else 1


def date(path: Path, mtime_ns: int = LONG_AGO_NS) -> None:
    """Set the source's old time stamp."""
    os.utime(path, ns=(mtime_ns, mtime_ns))


def under_another_name(temp: str) -> Tool:
    """Return a tool that writes under a name of its own, dates the file and renames it into place."""

    def tool(path: Path, data: bytes) -> Steps:
        part = path.parent / temp.format(name=path.name)
        part.parent.mkdir(parents=True, exist_ok=True)
        empty(part)
        yield from grow(part, data)
        date(part)
        yield STALL
        part.rename(path)

    return tool


def syncthing(path: Path, data: bytes) -> Steps:
    """The older file goes first, the time stamp comes last."""
    part = path.with_name(f".syncthing.{path.name}.tmp")
    empty(part)
    yield from grow(part, data)
    path.unlink(missing_ok=True)
    yield 1
    part.rename(path)
    yield 1
    date(path)


def in_place(path: Path, data: bytes) -> Steps:
    """A temp folder on another file system: the last step is a copy in place."""
    empty(path)
    yield from grow(path, data)
    date(path)


def rsync_inplace(path: Path, data: bytes) -> Steps:
    """Over an older file, whose end stays readable until the last moment."""
    yield from grow(path, data)
    write(path, b"")  # where there are no bytes at all
    os.truncate(path, len(data))
    yield 1
    date(path)


def nextcloud_without_date(path: Path, data: bytes) -> Steps:
    """A server that lost the time stamp gives 1970."""
    part = path.with_name(f".{path.name}.~1a2b3c")
    empty(part)
    yield from grow(part, data)
    date(part, 0)
    part.rename(path)


def explorer(path: Path, data: bytes) -> Steps:
    """The final size first, then the bytes, then the source's date."""
    empty(path)
    os.truncate(path, len(data))
    yield STALL
    yield from grow(path, data)
    date(path)


def finder(path: Path, data: bytes) -> Steps:
    """An empty file and its shadow first."""
    shadow = path.with_name(f"._{path.name}")
    empty(path)
    write(shadow, b"\0\5\x16\7" + noise(4000))
    yield STALL
    yield from grow(path, data)
    date(path)
    write(shadow, noise(4096, 5))
    yield 1
    write(path.with_name(".DS_Store"), noise(6000))


def copy(path: Path, data: bytes) -> Steps:
    """`cp` and its like."""
    empty(path)
    yield from grow(path, data)


def date_restored_after_each_write(path: Path, data: bytes) -> Steps:
    """Only the change time tells."""
    empty(path)
    write(path, bytes(len(data)))
    for pause in grow(path, data, stall=2):
        date(path)
        yield pause


def several_streams(path: Path, data: bytes) -> Steps:
    """The end arrives before the middle."""
    third = len(data) // 3
    empty(path)
    for at in (0, 2 * third, third):
        write(path, data[at : at + third + 3], at)
        yield STALL


def taken_up_again(path: Path, data: bytes) -> Steps:
    """A copy that broke off and was done anew the next day."""
    empty(path)
    write(path, data[: len(data) // 2])
    yield 86_400
    path.unlink()
    empty(path)
    yield from grow(path, data)


TOOLS: dict[str, Tool] = {
    "syncthing": syncthing,
    "syncthing-windows": under_another_name("~syncthing~{name}.tmp"),
    "rsync": under_another_name(".{name}.a1B2c3"),
    "rsync-delayed": under_another_name(".~tmp~/{name}"),
    "rsync-temp-dir": in_place,
    "rsync-inplace": rsync_inplace,
    "rclone": under_another_name("{name}.1a2b3c4d.partial"),
    "rclone-inplace": in_place,
    "nextcloud-client": under_another_name(".{name}.~1a2b"),
    "nextcloud-server": under_another_name("{name}.ocTransferId123456.part"),
    "nextcloud-1970": nextcloud_without_date,
    "dropbox": under_another_name(".dropbox.cache/new_files/{name}"),
    "onedrive": under_another_name("{name}.partial"),
    "unison": under_another_name(".unison.{name}.1a2b.unison.tmp"),
    "resilio": under_another_name(".sync/{name}.!Sync"),
    "insync": under_another_name("{name}.insyncdl"),
    "browser": under_another_name("{name}.crdownload"),
    "explorer": explorer,
    "finder": finder,
    "cp": copy,
    "date-restored": date_restored_after_each_write,
    "several-streams": several_streams,
    "taken-up-again": taken_up_again,
}
