"""Taking a file from the share: opened once, without following a link, copied to local disk while it is hashed.

Everything later works on the copy, so that the share may vanish and the person may replace the file. The copy is
only kept if the file was the same before and after, under a freshly opened descriptor each time (that is when NFS
asks the server again), and if the copy itself passes `complete.prove`. Hard links are welcome: they are files.

Accepted: a program that rewrites bytes in place and leaves size and both time stamps as they were, within the time
of one copy, is not seen unless the archive's checksums show it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from voicekiln.errors import Changed, NotAFile, ShareAwayError, TooLarge, Unproven
from voicekiln.folders.complete import Proof, glance, prove
from voicekiln.folders.inbox import kind_of, stamp_of
from voicekiln.job import FileStamp

_CHUNK = 1024 * 1024
_MB = 1_000_000
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""The path leads no longer to a plain file without links on the way: something else was put there."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file that was taken: the copy lies on local disk, synced, readable by us alone."""

    sha256: str
    bytes: int
    stamp: FileStamp
    """Of the source, unchanged before and after the copy."""
    proof: Proof


def open_source(root: Path, relpath: PurePosixPath) -> int:
    """Return a descriptor, open for reading, of the plain file `relpath` below `root`. No component may be a link.

    Raises:
        Changed: if it is not there, or a folder on the way is not a folder.
        NotAFile: if it is a link, a pipe, a device or a folder.
        ShareAwayError: if the root cannot be opened.
        ValueError: if `relpath` could lead out of the root.
        OSError: if it may not or cannot be opened for another reason; worth trying again.
    """
    if not relpath.parts or relpath.is_absolute() or ".." in relpath.parts:
        raise ValueError("not a path below the inbox")
    folder = _open_root(root)
    try:
        for name in relpath.parts[:-1]:
            above, folder = folder, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(above)
        return _open_file(relpath.name, folder)
    except OSError as error:
        if error.errno in _GONE:
            raise Changed("it is not there any more") from error
        raise
    finally:
        os.close(folder)


_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a pipe that somebody put there after the look must not hold us up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _open_root(root: Path) -> int:
    try:
        return os.open(root, _FOLDER)
    except OSError as error:
        raise ShareAwayError(f"the folder cannot be opened: {error.strerror}") from error


def _open_file(name: str, folder: int) -> int:
    # Looked at before it is opened, because opening a device can have effects; and after, because it may have changed.
    _only_plain(os.stat(name, dir_fd=folder, follow_symlinks=False))
    fd = os.open(name, _FILE, dir_fd=folder)
    try:
        _only_plain(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _only_plain(st: os.stat_result) -> None:
    kind = kind_of(st.st_mode)
    if kind is not None:
        raise NotAFile(what=kind)


def take(  # noqa: PLR0913 - the four nouns of the act and its three conditions
    root: Path,
    relpath: PurePosixPath,
    expected: FileStamp,
    target: Path,
    max_bytes: int,
    *,
    inodes: bool = True,
    unproven_ok: bool = False,
    beat: Callable[[], None] = lambda: None,
) -> Spooled:
    """Copy the voice `relpath` below `root` to the local path `target` and return what was taken.

    `expected` is the stamp with which it settled, `inodes` is `FileSystem.stable_inodes`. `unproven_ok` says that it
    was quiet for so long that a file without proof of completeness may be taken. `beat` is called about every
    megabyte; what it raises ends the copy.

    After any failure nothing of the copy is left, neither at `target` nor beside it.

    Raises:
        NotYet: `Changed`, `Incomplete` or `Unproven`: to be looked at again later.
        TooLarge: if it has more than `max_bytes`; nothing was read.
        ShareAwayError: if the root cannot be opened.
        OSError: if the share or the local disk fails; worth trying again.
    """
    with _opened(root, relpath) as source:
        _same(source, expected, inodes=inodes)
        if expected.size > max_bytes:
            raise TooLarge(size_mb=-(-expected.size // _MB), limit_mb=max_bytes // _MB)
        if glance(source) is Proof.NONE and not unproven_ok:
            raise Unproven("it has no end mark, so it must be left alone for longer to count as complete")
        ours = part = target.with_name(target.name + ".part")
        try:
            sha256 = _copy(source, part, expected.size, beat)
            with _opened(root, relpath) as again:
                _same(again, expected, inodes=inodes)
            with part.open("rb") as copy:
                proof = prove(copy)
            ours = part.rename(target)
            _sync_folder(target.parent)
        except BaseException:
            ours.unlink(missing_ok=True)
            raise
    return Spooled(sha256, expected.size, expected, proof)


def _opened(root: Path, relpath: PurePosixPath) -> BinaryIO:
    try:
        return open(open_source(root, relpath), "rb")
    except NotAFile as error:
        # It settled as a file; what it is now is for the next scan to say.
        raise Changed("something else lies in its place") from error


def _same(file: BinaryIO, expected: FileStamp, *, inodes: bool) -> None:
    if stamp_of(os.fstat(file.fileno()), inodes=inodes) != expected:
        raise Changed("it has changed since it was last looked at")


def _copy(source: BinaryIO, part: Path, size: int, beat: Callable[[], None]) -> str:
    """Write exactly `size` bytes to the new file `part`, synced and readable by us alone; return their sha256."""
    sha256 = hashlib.sha256()
    part.unlink(missing_ok=True)  # left by a crash
    with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as copy:
        source.seek(0)
        left = size
        while left and (chunk := source.read(min(left, _CHUNK))):
            beat()
            sha256.update(chunk)
            copy.write(chunk)
            left -= len(chunk)
        if left:
            raise Changed("it became shorter while it was copied")
        copy.flush()
        os.fsync(copy.fileno())
    return sha256.hexdigest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
