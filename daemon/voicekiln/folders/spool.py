"""Taking a file from the share: opened once, without following a link, copied to local disk while it is hashed.

Everything later works on the copy, so that the share may vanish and the person may replace the file. The copy is
only kept if the file was the same before and after, under a freshly opened descriptor each time (that is when NFS
asks the server again), and if the copy itself passes `complete.prove`. The companions (see `beside`) are copied with
it and have to be the same before and after, too.

Hard links are welcome: they are files, and sync and backup tools make them. Nothing is ever written into a source, and
the sweeper only takes the inbox's name away, so the file's other names lose nothing. The state folder is closed to
others, who therefore can make no link into it; elsewhere Linux lets nobody link to what is not theirs to write
(`fs.protected_hardlinks`). Accepted: where that is switched off, a text that only we may read can be linked to, and
the refusal quotes its first 80 characters.

Accepted: a program that rewrites bytes in place and leaves size and both time stamps as they were, within the time
of one copy, is not seen unless the archive's checksums show it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from voicekiln.errors import Changed, TooLarge, Unproven
from voicekiln.folders.beside import digest, most_bytes
from voicekiln.folders.complete import Proof, glance, prove
from voicekiln.folders.files import NOT_A_FILE, open_folder, open_plain, sync_folder
from voicekiln.folders.inbox import stamp_of
from voicekiln.job import FileStamp
from voicekiln.steps import Step, passed

_CHUNK = 1024 * 1024
_BLANK = bytes(_CHUNK)
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file that was taken: the copy lies on local disk, synced, readable by us alone."""

    sha256: str
    bytes: int
    stamp: FileStamp
    """Of the source and its companions, unchanged before and after the copy."""
    proof: Proof
    beside: Mapping[str, str | None] = field(default_factory=dict)
    """The companions by their names, with the sha256 of each; None for one that is too large or closed to us."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that lay beside a voice when it was copied."""

    stamp: FileStamp
    sha256: str | None
    """None for one that was not read: it is too large or closed to us."""


def take(  # noqa: PLR0913 - the four nouns of the act and its three conditions
    root: Path,
    relpath: PurePosixPath,
    expected: FileStamp,
    target: Path,
    max_bytes: int,
    *,
    beside: Sequence[str] = (),
    inodes: bool = True,
    unproven_ok: bool = False,
) -> Spooled:
    """Copy the voice `relpath` below `root` to the local path `target` and return what was taken.

    `expected` is the stamp with which it settled, `beside` the names of its companions then; their copies lie where
    `copies_beside` says. `inodes` is `FileSystem.stable_inodes`. `unproven_ok` says that it was quiet for so long that
    a file without proof of completeness may be taken.

    After any failure nothing of the copy is left, neither at `target` nor beside it.

    Raises:
        NotYet: `Changed`, `Incomplete` or `Unproven`: to be looked at again later.
        TooLarge: if it has more than `max_bytes`; nothing was read.
        ShareAwayError: if the root cannot be opened.
        OSError: if the share or the local disk fails; worth trying again.
    """
    itself = replace(expected, beside="")
    with _opened(root, relpath) as source:
        _same(source, itself, inodes=inodes)
        if expected.size > max_bytes:
            raise TooLarge(size_mb=-(-expected.size // _MB), limit_mb=max_bytes // _MB)
        if glance(source) is Proof.NONE and not unproven_ok:
            raise Unproven(
                "this kind of file does not show its end, so it is left alone for longer to be sure that it has arrived"
            )
        ours = part = target.with_name(target.name + ".part")
        try:
            sha256 = _copy(source, part, expected.size)
            companions = _take_beside(root, relpath, beside, target, inodes=inodes)
            _same_beside({name: companion.stamp for name, companion in companions.items()}, expected)
            with _opened(root, relpath) as again:
                _same(again, itself, inodes=inodes)
            _same_beside(_stamps_beside(root, relpath, beside, inodes=inodes), expected)
            passed(Step.COPYING)
            with part.open("rb") as copy:
                proof = prove(copy)
            ours = part.rename(target)
            with open_folder(target.parent, PurePosixPath()) as folder:
                sync_folder(folder)
            passed(Step.COPIED)
        except BaseException:
            for path in (ours, *all_beside(target)):
                path.unlink(missing_ok=True)
            raise
    hashes = {name: companion.sha256 for name, companion in companions.items()}
    return Spooled(sha256, expected.size, expected, proof, hashes)


def places_beside(target: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return where the copies of the companions of the copy `target` have their places, by name."""
    return {name: target.with_name(f"{target.stem}.{number}.beside") for number, name in enumerate(sorted(names))}


def copies_beside(target: Path, beside: Mapping[str, str | None]) -> dict[str, Path | None]:
    """Return where the copies of the companions of the copy `target` lie, by name; None for one that was not read."""
    places = places_beside(target, beside)
    return {name: None if beside[name] is None else place for name, place in places.items()}


def all_beside(target: Path) -> list[Path]:
    """Return what lies there of the copies of companions of the copy `target`."""
    return list(target.parent.glob(f"{target.stem}.*.beside"))


def copy_beside(root: Path, relpath: PurePosixPath, place: Path, most: int, *, inodes: bool = True) -> Companion | None:
    """Copy the companion `relpath` below `root` to the local path `place`; None if no plain file lies there.

    One of more than `most` bytes is not read.

    Raises:
        Changed: if it becomes shorter meanwhile.
        OSError: as `take`.
    """
    with _seen(root, relpath, inodes=inodes) as (stamp, file):
        if stamp is None:
            return None
        return Companion(stamp, None if file is None or stamp.size > most else _copy(file, place, stamp.size))


def _take_beside(
    root: Path, relpath: PurePosixPath, names: Iterable[str], target: Path, *, inodes: bool
) -> dict[str, Companion]:
    """Copy those of the files `names` that lie beside the voice `relpath`."""
    places = places_beside(target, names).items()
    each = ((n, copy_beside(root, relpath.with_name(n), place, most_bytes(n), inodes=inodes)) for n, place in places)
    return {name: companion for name, companion in each if companion is not None}


def _stamps_beside(root: Path, relpath: PurePosixPath, names: Iterable[str], *, inodes: bool) -> dict[str, FileStamp]:
    """Return the stamps of the same files, opened anew; nothing is read."""
    found = {}
    for name in names:
        with _seen(root, relpath.with_name(name), inodes=inodes) as (stamp, _):
            found[name] = stamp
    return {name: stamp for name, stamp in found.items() if stamp is not None}


def _same_beside(stamps: Mapping[str, FileStamp], expected: FileStamp) -> None:
    if digest(stamps) != expected.beside:
        raise Changed("a file beside it has changed since it was last looked at")


@contextmanager
def _seen(root: Path, relpath: PurePosixPath, *, inodes: bool) -> Iterator[tuple[FileStamp | None, BinaryIO | None]]:
    """Yield the stamp of a companion, None if no plain file lies there; and the file, None if it is closed to us."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder(root, relpath.parent))
        st = file = None
        try:
            file = stack.enter_context(open_plain(folder, relpath.name))
            st = os.fstat(file.fileno())
        except PermissionError:
            st = os.stat(relpath.name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *NOT_A_FILE):
                raise
        yield None if st is None else stamp_of(st, inodes=inodes), file


@contextmanager
def _opened(root: Path, relpath: PurePosixPath) -> Iterator[BinaryIO]:
    """Yield the source, opened anew; whatever else lies there by now is `Changed` and for the next scan to tell."""
    if not relpath.parts or relpath.is_absolute() or ".." in relpath.parts:
        raise ValueError("not a path below the inbox")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(open_folder(root, relpath.parent))
            file = stack.enter_context(open_plain(folder, relpath.name))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Changed("it is not there any more") from error
            if error.errno in NOT_A_FILE:
                raise Changed("something else lies in its place") from error
            raise
        yield file


def _same(file: BinaryIO, expected: FileStamp, *, inodes: bool) -> None:
    if stamp_of(os.fstat(file.fileno()), inodes=inodes) != expected:
        raise Changed("it has changed since it was last looked at")


def _copy(source: BinaryIO, part: Path, size: int) -> str:
    """Write exactly `size` bytes to the new file `part`, synced and readable by us alone; return their sha256."""
    sha256 = hashlib.sha256()
    part.unlink(missing_ok=True)  # left by a crash
    with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as copy:
        source.seek(0)
        left = size
        while left and (chunk := source.read(min(left, _CHUNK))):
            sha256.update(chunk)
            if chunk == _BLANK[: len(chunk)]:
                copy.seek(len(chunk), os.SEEK_CUR)  # a hole stays a hole: gigabytes of it cost nobody anything
            else:
                copy.write(chunk)
            left -= len(chunk)
        copy.truncate(size - left)
        if left:
            raise Changed("it became shorter while it was copied")
        copy.flush()
        os.fsync(copy.fileno())
    return sha256.hexdigest()
