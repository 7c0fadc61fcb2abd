"""Events are a hint; that none will come must not go unnoticed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from arrivals import archive, in_own_namespace, stamp_in
from voicekiln.folders import watch as module
from voicekiln.folders.inbox import scan
from voicekiln.folders.spool import take
from voicekiln.folders.watch import FileSystem, Watch, file_system, sync_marker

PATIENCE_S = 10.0
"""No event takes that long; a test that waits for one ends when it comes."""


@pytest.fixture
def woken() -> threading.Event:
    """Set by the watch."""
    return threading.Event()


@pytest.fixture
def watch(tmp_path: Path, woken: threading.Event) -> Iterator[Watch]:
    """A running watch of an inbox."""
    (tmp_path / "inbox").mkdir()
    running = Watch(tmp_path / "inbox", woken.set)
    running.start()
    yield running
    running.stop()


CHANGES: list[Callable[[Path], object]] = [
    lambda root: (root / "new.pth").write_bytes(b"x"),
    lambda root: (root / "sub").mkdir(),
    lambda root: (root / "sub/voice.pth").write_bytes(b"x"),
    lambda root: (root / "new.pth").rename(root / "sub/new.pth"),
    lambda root: (root / "sub/new.pth").chmod(0o600),
    lambda root: (root.parent / "outside.pth").replace(root / "outside.pth"),
    lambda root: (root / "outside.pth").unlink(),
]


@pytest.mark.usefixtures("watch")
def test_every_change_wakes(tmp_path: Path, woken: threading.Event) -> None:
    """In the root, in a new folder, by renaming within it and from outside."""
    (tmp_path / "outside.pth").write_bytes(b"x")
    for number, change in enumerate(CHANGES):
        woken.clear()
        change(tmp_path / "inbox")
        assert woken.wait(PATIENCE_S), number


def test_our_own_looking_does_not_wake(tmp_path: Path, woken: threading.Event) -> None:
    """Else every scan would cause the next one."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "voice.pth").write_bytes(archive())
    watch = Watch(inbox, woken.set)
    watch.start()
    scan(inbox)
    take(inbox, PurePosixPath("voice.pth"), stamp_in(inbox), tmp_path / "job", 10**9)
    assert not woken.wait(0.3)
    watch.stop()


def test_a_root_behind_a_link_is_watched(tmp_path: Path, woken: threading.Event) -> None:
    """The folder, not the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "inbox").symlink_to("real")
    watch = Watch(tmp_path / "inbox", woken.set)
    watch.start()
    (tmp_path / "real/voice.pth").write_bytes(b"x")
    assert woken.wait(PATIENCE_S)
    watch.stop()


def test_a_watch_is_healthy_from_its_start_to_its_stop(watch: Watch, tmp_path: Path) -> None:
    """Before and after, nobody may rely on it; stopping twice is no error."""
    assert watch.healthy()
    assert watch.problem is None
    watch.stop()
    assert not watch.healthy()
    watch.stop()
    assert not Watch(tmp_path, lambda: None).healthy()


def test_a_root_that_cannot_be_watched_is_told(tmp_path: Path) -> None:
    """Starting does not raise: scanning goes on without events."""
    watch = Watch(tmp_path / "absent", lambda: None)
    threads = threading.active_count()
    watch.start()
    assert not watch.healthy()
    assert watch.problem == "No such file or directory"
    assert threading.active_count() == threads


def test_a_system_out_of_watchers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on inotify instances, which other programs of the same user can use up."""

    def none_left(*, timeout: float) -> None:
        del timeout
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(module, "InotifyObserver", none_left)
    watch = Watch(tmp_path, lambda: None)
    watch.start()
    assert not watch.healthy()
    assert watch.problem == "inotify instance limit reached"


def test_a_root_that_was_deleted_is_not_healthy(watch: Watch, tmp_path: Path, woken: threading.Event) -> None:
    """Also when a new folder stands in its place, of which no event will ever come."""
    (tmp_path / "inbox").rmdir()
    assert woken.wait(PATIENCE_S)
    (tmp_path / "inbox").mkdir()
    _until(lambda: not watch.healthy())


@pytest.mark.requirement(3)
@pytest.mark.parametrize("dead", ["observer", "emitter", "reader"])
def test_a_dead_thread_is_noticed(watch: Watch, monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    """Each of the three can end without the others; nothing else would tell."""
    observer = watch._observer
    assert observer is not None
    (emitter,) = observer.emitters
    thread = {"observer": observer, "emitter": emitter, "reader": observer._inotify_fd}[dead]
    monkeypatch.setattr(thread, "is_alive", lambda: False)
    assert not watch.healthy()
    monkeypatch.undo()
    assert watch.healthy()


def test_a_watch_of_fewer_folders_than_there_are_is_not_healthy(watch: Watch, tmp_path: Path) -> None:
    """One watch each; junk folders may have one too."""
    for name in ("a", "b", "@eaDir"):
        (tmp_path / "inbox" / name).mkdir()
    _until(lambda: watch.healthy(4))
    assert watch.healthy(scan(tmp_path / "inbox").folders)
    assert not watch.healthy(5)


@pytest.mark.requirement(15)
def test_the_systems_limit_is_noticed(tmp_path: Path) -> None:
    """The kernel's own limit, which watchdog swallows: ten watches for thirty-one folders."""
    for number in range(30):
        (tmp_path / str(number)).mkdir()
    script = """
import sys
from pathlib import Path
from voicekiln.folders.inbox import scan
from voicekiln.folders.watch import Watch
watch = Watch(Path(sys.argv[1]), lambda: None)
watch.start()
print(watch.healthy(), scan(Path(sys.argv[1])).folders, watch.healthy(31))
watch.stop()
"""
    assert in_own_namespace("echo 10 > /proc/sys/user/max_inotify_watches", script, tmp_path) == "True 31 False\n"


def test_an_unmounted_root_is_noticed(tmp_path: Path) -> None:
    """The watch gets no events and stays alive; the empty folder below the mount point is not the inbox."""
    script = """
import subprocess, sys, threading, time
from pathlib import Path
from voicekiln.folders.watch import Watch, file_system
root = Path(sys.argv[1])
before = file_system(root)
watch = Watch(root, lambda: None)
watch.start()
print(watch.healthy(), before.type, before.mount_point == root)
subprocess.run(["umount", root], check=True)
end = time.monotonic() + 10
while watch.healthy() and time.monotonic() < end:
    time.sleep(0.01)
print(watch.healthy(), file_system(root) == before)
watch.stop()
"""
    said = in_own_namespace('mount -t tmpfs none "$1"', script, tmp_path)
    assert said == "True tmpfs True\nFalse False\n"


def _until(true: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        if true():
            return
        tick.wait(0.01)
    pytest.fail("never came true")


MOUNTS = rb"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /srv/my\040models rw,relatime - cifs //nas/voices rw,vers=3.1.1
31 22 0:41 / /srv/models rw - autofs systemd-1 rw
32 22 0:42 / /srv/models rw shared:7 master:2 - nfs4 nas:/models rw
33 22 0:43 / /srv/models/usb rw - exfat /dev/sdb1 rw
34 22 0:44 / /home/ann/remote rw - fuse.sshfs ann@host: rw
35 22 0:45 / /mnt/ntfs rw - fuseblk /dev/sdc1 rw
36 22 0:46 / /mnt/z rw - zfs tank/z rw
broken
"""


@pytest.mark.parametrize(
    ("path", "kind", "source", "network", "inodes"),
    [
        ("/srv/other", "ext4", "/dev/vda", False, True),
        ("/srv/models2/inbox", "ext4", "/dev/vda", False, True),
        ("/srv/my models/inbox", "cifs", "//nas/voices", True, False),
        ("/srv/models", "nfs4", "nas:/models", True, True),
        ("/srv/models/not/there/yet", "nfs4", "nas:/models", True, True),
        ("/srv/models/usb/inbox", "exfat", "/dev/sdb1", False, False),
        ("/home/ann/remote/x", "fuse.sshfs", "ann@host:", True, False),
        ("/mnt/ntfs/x", "fuseblk", "/dev/sdc1", False, False),
        ("/mnt/z", "zfs", "tank/z", False, True),
    ],
)
def test_the_file_system_of_a_path_is_known(  # noqa: PLR0913 - a row of the table
    tmp_path: Path, path: str, kind: str, source: str, *, network: bool, inodes: bool
) -> None:
    """The deepest mount point counts, the topmost of two mounts, and names may hold spaces."""
    table = tmp_path / "mountinfo"
    table.write_bytes(MOUNTS)
    found = file_system(Path(path), table)
    assert (found.type, found.source, found.is_network, found.stable_inodes) == (kind, source, network, inodes)


@pytest.mark.requirement(15)
@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "9p", "vboxsf"),
        *("ceph", "afs", "glusterfs", "fuse.glusterfs", "davfs", "fuse.davfs2", "virtiofs", "autofs", "lustre"),
    ],
)
def test_on_a_network_nobody_waits_for_events(kind: str) -> None:
    """Changes made on other machines cause none here."""
    assert FileSystem(kind, Path("/"), "x").is_network


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "exfat", "unknown"])
def test_a_local_file_system_has_events(kind: str) -> None:
    """What the kernel itself writes, it tells."""
    assert not FileSystem(kind, Path("/"), "x").is_network


def test_a_kernel_that_does_not_say_leaves_it_unknown(tmp_path: Path) -> None:
    """No list of mounts."""
    assert file_system(tmp_path, tmp_path / "absent").type == "unknown"


def test_this_machines_own_list_is_understood(tmp_path: Path) -> None:
    """The folder of the tests lies somewhere."""
    assert file_system(tmp_path).type != "unknown"


def test_a_sync_tools_mark_is_found_in_the_folder_and_above(tmp_path: Path) -> None:
    """Deleting below it deletes on the other devices."""
    inbox = tmp_path / "share/voices/inbox"
    inbox.mkdir(parents=True)
    assert sync_marker(inbox) is None
    (tmp_path / "share/.stfolder").mkdir()
    assert sync_marker(inbox) == tmp_path / "share/.stfolder"
    (inbox / ".sync_1a2b.db").touch()
    assert sync_marker(inbox) == inbox / ".sync_1a2b.db"
    (tmp_path / "link").symlink_to(inbox)
    assert sync_marker(tmp_path / "link") == inbox / ".sync_1a2b.db"


def test_a_mark_above_the_mount_point_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mounted there is another tree; its own top does count."""
    top = tmp_path / "mounted"
    (top / "inbox").mkdir(parents=True)
    (tmp_path / ".stfolder").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == top)
    assert sync_marker(top / "inbox") is None
    (top / ".dropbox").touch()
    assert sync_marker(top / "inbox") == top / ".dropbox"


SELF_BIND = """
import sys
from pathlib import Path
from voicekiln.folders.watch import file_system
print(file_system(Path(sys.argv[1])).mount_point == file_system(Path(sys.argv[1]).parent).mount_point)
"""


def test_a_folder_mounted_upon_itself_lies_where_it_lay(tmp_path: Path) -> None:
    """Systemd does that with the folders that a service may write to; the share has not moved for it."""
    assert in_own_namespace(f"mount --bind {tmp_path} {tmp_path}", SELF_BIND, tmp_path).strip() == "True"


def test_a_file_system_mounted_there_is_another(tmp_path: Path) -> None:
    """A share over the folder is told from the folder."""
    assert in_own_namespace(f"mount -t tmpfs none {tmp_path}", SELF_BIND, tmp_path).strip() == "False"
