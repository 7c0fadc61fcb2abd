"""Events from the file system as a hint that it is time to look, and what is to be known of where a folder lies.

The only door to watchdog. Its events are not read: some are lost, some are wrong, and every one of them means the
same - wake up and scan. What must not be missed is that no events will come: a dead thread, fewer watches than
folders (watchdog swallows the error), an unmounted root, a network mount, on which other machines' changes make no
events at all. Then `healthy` or `is_network` says so, and scanning at short intervals does the work alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog import events
from watchdog.observers.inotify import InotifyObserver

from voicekiln.folders.names import is_sync_marker

_STOP_S = 5.0
"""Seconds that watchdog's threads get to end; they are daemons and cannot hold up the exit."""

# Not "opened" and "closed without writing": our own scans would wake us.
_EVENTS: list[type[events.FileSystemEvent]] = [
    events.FileCreatedEvent,
    events.FileModifiedEvent,
    events.FileAttribEvent,
    events.FileClosedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
    events.DirDeletedEvent,
]


class _Wake(events.FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        del event
        self._wake()


class Watch:
    """The events of one folder and all below it. Started and stopped once; for a new try, a new one."""

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        """`wake` is called on a thread of watchdog's, often, and has to return at once."""
        self._root = root
        self._wake = wake
        self._observer: InotifyObserver | None = None
        self.problem: str | None = None
        """Why the watch could not be set up, in words."""

    def start(self) -> None:
        """Begin to watch; if that fails, `healthy` is False and `problem` says why. Call it before a full scan.

        It walks through all folders, so on a share it may take as long as a scan.
        """
        try:
            self._observer = InotifyObserver(timeout=0.5)
            root = Path(os.path.realpath(self._root))  # one that is a link would be watched as a link
            self._observer.schedule(_Wake(self._wake), root, recursive=True, event_filter=_EVENTS)
            self._observer.start()
        except OSError as error:
            self.problem = error.strerror or str(error)
            self.stop()

    def stop(self) -> None:
        """End the watch, within some seconds."""
        observer, self._observer = self._observer, None
        if observer is None:
            return
        observer.stop()
        if observer.ident is not None:
            observer.join(_STOP_S)

    def healthy(self, folders: int = 1) -> bool:
        """Return whether events may be relied on to come; touches no file.

        `folders` is how many there are (`Snapshot.folders`): if fewer are watched, the system's limit was reached or
        the root was unmounted.
        """
        return self.alive() and self.watched() >= folders

    def alive(self) -> bool:
        """Return whether all threads of watchdog's live; each of them can end without a word."""
        observer = self._observer
        if observer is None or not observer.emitters:
            return False
        return all(t.is_alive() for t in (observer, observer._inotify_fd, *observer.emitters))  # noqa: SLF001 - watchdog tells nobody

    def watched(self) -> int:
        """Return how many folders are watched; watchdog says nothing when the system allows no more."""
        return len(self._observer._inotify_fd._watch_for_wd) if self._observer else 0  # noqa: SLF001 - as above


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a folder lies. It differs from before when the share was unmounted or something mounted over it."""

    type: str
    """As the kernel calls it: `ext4`, `nfs4`, `fuse.sshfs`; "unknown" where the kernel does not say."""
    mount_point: Path
    source: str
    """The device or share."""

    @property
    def is_network(self) -> bool:
        """Whether other machines can change it without an event here; then only scanning finds new files."""
        return self.type in _NETWORK or self.type == "fuse" or self.type.startswith(("fuse.", "nfs", "smb"))

    def has_events(self, wanted: str) -> bool:
        """Return whether to rely on events here; `wanted` is the setting `scan.events`: auto, on or off."""
        return wanted == "on" or (wanted == "auto" and not self.is_network)

    @property
    def stable_inodes(self) -> bool:
        """Whether a file keeps its inode number as long as it is the same file."""
        return self.type not in _MADE_UP and not self.type.startswith(("fuse", "smb"))


_NETWORK = {
    *("cifs", "ncpfs", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner", "osxfs", "grpcfuse", "drvfs"),
    *("ceph", "afs", "coda", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "gfs2", "ocfs2", "davfs", "autofs"),
}
_MADE_UP = {"cifs", "9p", "vboxsf", "vmhgfs", "prl_fs", "davfs", "vfat", "msdos", "exfat"}


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """Return the file system on which `path` lies, or would lie if it does not exist yet.

    `mounts` lists the mounts in the form of proc(5). A folder that is mounted upon itself, as systemd does with those
    that a service may write to, counts as what it is without that.
    """
    real = Path(os.path.realpath(path))
    above: dict[Path, _Mount] = {}
    with suppress(FileNotFoundError):
        for mount in _mounts(mounts.read_bytes()):
            if real.is_relative_to(mount.system.mount_point):
                above[mount.system.mount_point] = mount  # among equals the last one lies on top
    found = [above[point] for point in sorted(above, key=lambda point: len(point.parts))]
    while len(found) > 1 and found[-1].repeats(found[-2]):
        found.pop()
    return found[-1].system if found else FileSystem("unknown", Path("/"), "")


@dataclass(frozen=True, slots=True)
class _Mount:
    system: FileSystem
    device: str
    root: Path
    """Which folder of the file system is mounted there."""

    def repeats(self, outer: _Mount) -> bool:
        """Whether it shows just what lies there in the outer one anyway."""
        inside = self.system.mount_point.relative_to(outer.system.mount_point)
        return self.device == outer.device and self.root == outer.root / inside


def _mounts(table: bytes) -> Iterator[_Mount]:
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        left, right = before.split(b" "), after.split(b" ")
        if len(left) > 4 and len(right) > 1:  # noqa: PLR2004 - the fields of proc(5) up to the mount point and source
            system = FileSystem(_text(right[0]), Path(_text(left[4])), _text(right[1]))
            yield _Mount(system, _text(left[2]), Path(_text(left[3])))


def _text(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field))


def sync_marker(path: Path) -> Path | None:
    """Return what shows that `path` lies in a tree that is synced with other devices, None if nothing does.

    Looked for in the folder and in those above it, up to the mount point. A folder that may not be listed is passed
    over. Markers *below* a folder are `Snapshot.markers`.
    """
    folder = Path(os.path.realpath(path))
    while True:
        with suppress(OSError), os.scandir(folder) as listing:
            found = sorted(e.name for e in listing if is_sync_marker(e.name, is_dir=e.is_dir()))
            if found:
                return folder / found[0]
        if os.path.ismount(folder) or folder == folder.parent:
            return None
        folder = folder.parent
