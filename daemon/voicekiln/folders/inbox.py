"""One look at the inbox: which voices lie there now, in which state, and what could not be seen.

The scan is the truth; events only say when to look. It follows no link, opens no file and leaves out what
`names` ignores. A root that does not answer is `ShareAwayError`, never an empty inbox, and a folder that could not
be read says so, so that nobody takes what lies in it for deleted.

Accepted: a folder that is renamed while the scan is under way may be missed by it; the next one sees it. Another file
system that is mounted *below* the root and goes away looks as if its files were deleted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from voicekiln.errors import ShareAwayError
from voicekiln.folders.beside import Neighbours, digest, may_be_companion
from voicekiln.folders.names import Conflict, Folder, Ignored, Voice, fold, is_sync_marker, judge_name
from voicekiln.job import FileStamp

MAX_DEPTH = 16
"""Folders between the root and a voice, at most. Each level keeps one descriptor open during the scan."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What was listed is not there any more or has become something else: seen as what it is by the next scan."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one scan saw; paths are relative to the root, in the order of their names, the same in every scan."""

    files: dict[PurePosixPath, FileStamp] = field(default_factory=dict)
    """The voices, with what lies beside them in their stamps."""
    beside: dict[PurePosixPath, tuple[str, ...]] = field(default_factory=dict)
    """Of voices that have companions, the names of those."""
    conflicts: dict[PurePosixPath, str] = field(default_factory=dict)
    """Conflict copies, with the tool that made them."""
    odd: dict[PurePosixPath, str] = field(default_factory=dict)
    """Under a voice's name something that is not a file, in words such as "a link"."""
    unreadable: dict[PurePosixPath, str] = field(default_factory=dict)
    """Folders and files that could not be looked at, with the reason; they may well be there."""
    markers: tuple[PurePosixPath, ...] = ()
    """Entries that show that the folder around them is synced with other devices."""
    folders: int = 0
    """How many folders were read, the root included."""

    @property
    def synced(self) -> tuple[PurePosixPath, ...]:
        """Folders that a sync tool keeps equal with other devices."""
        return tuple(marker.parent for marker in self.markers)

    def covers(self, relpath: PurePosixPath) -> bool:
        """Return whether this scan can tell that `relpath` is not there."""
        return relpath not in self.unreadable and not any(p in self.unreadable for p in relpath.parents)


def stamp_of(st: os.stat_result, *, inodes: bool) -> FileStamp:
    """Return the stamp in a stat result, without the inode where the file system makes it up."""
    stamp = FileStamp.of(st)
    return stamp if inodes else FileStamp(0, stamp.size, stamp.mtime_ns, stamp.ctime_ns)


def kind_of(mode: int) -> str | None:
    """Return what an entry of this mode is, in words, or None for a plain file."""
    if stat.S_ISREG(mode):
        return None
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((words for is_kind, words in kinds if is_kind(mode)), "a device")


def scan(root: Path, *, inodes: bool = True, conflicts_are_voices: bool = False) -> Snapshot:
    """Return what lies below `root`. `inodes` is `FileSystem.stable_inodes`.

    The stamps come from a look, not from an opened file: good enough to see whether something changes, and compared
    with a freshly opened file by `spool.take`.

    Raises:
        ShareAwayError: if the root cannot be opened or listed.
    """
    look = _Look(inodes=inodes, conflicts_are_voices=conflicts_are_voices)
    try:
        with _opened(root, None) as fd:
            look.folder(fd, PurePosixPath(), None)
    except OSError as error:
        raise ShareAwayError(f"the folder cannot be read: {_reason(error)}") from error
    return Snapshot(
        look.files, look.beside, look.conflicts, look.odd, look.unreadable, tuple(look.markers), look.folders
    )


def recipe_of(relpath: PurePosixPath, recipe_names: Collection[str], default: str) -> str:
    """Return the recipe that the first-level folder of `relpath` names, in any case, or else `default`."""
    if len(relpath.parts) < 2:  # noqa: PLR2004 - a folder and a name
        return default
    wanted = fold(relpath.parts[0])
    return next((name for name in recipe_names if fold(name) == wanted), default)


@contextmanager
def _opened(path: Path | str, dir_fd: int | None) -> Iterator[int]:
    # Only the root itself may be a link: that is the configuration's business.
    no_links = 0 if dir_fd is None else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | no_links, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


class _Look:
    """A scan under way: the snapshot's parts as they grow."""

    def __init__(self, *, inodes: bool, conflicts_are_voices: bool) -> None:
        self.inodes = inodes
        self.conflicts_are_voices = conflicts_are_voices
        self.files: dict[PurePosixPath, FileStamp] = {}
        self.beside: dict[PurePosixPath, tuple[str, ...]] = {}
        self.conflicts: dict[PurePosixPath, str] = {}
        self.odd: dict[PurePosixPath, str] = {}
        self.unreadable: dict[PurePosixPath, str] = {}
        self.markers: list[PurePosixPath] = []
        self.folders = 0

    def folder(self, fd: int, relpath: PurePosixPath, conflict: Conflict | None) -> None:
        """Look at all in the folder `relpath`, open as `fd`; `conflict` is what a folder above it is.

        Raises:
            OSError: if this folder cannot be listed; what was seen of it until then stays.
        """
        with os.scandir(fd) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        self.folders += 1
        around = _Around(entries, inodes=self.inodes)
        for entry in entries:
            try:
                self._entry(fd, relpath / entry.name, entry, around, conflict)
            except OSError as error:
                if error.errno not in _GONE:
                    self.unreadable[relpath / entry.name] = _reason(error)

    def _entry(
        self, fd: int, relpath: PurePosixPath, entry: os.DirEntry[str], around: _Around, conflict: Conflict | None
    ) -> None:
        is_dir = entry.is_dir(follow_symlinks=False)
        if is_sync_marker(entry.name, is_dir=is_dir):
            self.markers.append(relpath)
        match judge_name(entry.name, is_dir=is_dir):
            case Folder():
                self._descend(fd, relpath, conflict)
            case Conflict() as new if is_dir:
                self._descend(fd, relpath, new)
            case Voice():
                self._file(relpath, entry, around, conflict)
            case Conflict() as new:
                self._file(relpath, entry, around, new)
            case Ignored():
                pass

    def _descend(self, fd: int, relpath: PurePosixPath, conflict: Conflict | None) -> None:
        if len(relpath.parts) > MAX_DEPTH:
            self.unreadable[relpath] = f"more than {MAX_DEPTH} folders inside one another"
            return
        with _opened(relpath.name, fd) as below:
            self.folder(below, relpath, conflict)

    def _file(
        self, relpath: PurePosixPath, entry: os.DirEntry[str], around: _Around, conflict: Conflict | None
    ) -> None:
        st = entry.stat(follow_symlinks=False)
        kind = kind_of(st.st_mode)
        if kind is not None:
            self.odd[relpath] = kind
        elif conflict is not None and not self.conflicts_are_voices:
            self.conflicts[relpath] = conflict.tool
        else:
            names, beside = around.companions(entry.name)
            self.files[relpath] = replace(stamp_of(st, inodes=self.inodes), beside=beside)
            if names:
                self.beside[relpath] = names


class _Around:
    """What lies in one folder beside its voices. Each file is looked at once, for however many voices."""

    def __init__(self, entries: Iterable[os.DirEntry[str]], *, inodes: bool) -> None:
        self._entries = {entry.name: entry for entry in entries if may_be_companion(entry.name)}
        self._inodes = inodes
        self._neighbours = Neighbours(self._entries)
        self._known: dict[tuple[str, ...], tuple[tuple[str, ...], str]] = {(): ((), "")}

    def companions(self, voice: str) -> tuple[tuple[str, ...], str]:
        """Return the names of a voice's companions, and what becomes part of its stamp.

        Raises:
            OSError: if one of them is there and cannot be looked at.
        """
        names = self._neighbours.of(voice)
        if names not in self._known:
            stamps = {name: stamp for name in names if (stamp := self._stamp(self._entries[name])) is not None}
            self._known[names] = tuple(stamps), digest(stamps)
        return self._known[names]

    def _stamp(self, entry: os.DirEntry[str]) -> FileStamp | None:
        """Return the stamp of a plain file; None for anything else, and for what is not there any more."""
        try:
            st = entry.stat(follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return stamp_of(st, inodes=self._inodes) if kind_of(st.st_mode) is None else None
