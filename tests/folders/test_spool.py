"""Taking a file: the right bytes or none, from within the inbox only, and nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from arrivals import archive, in_own_namespace, legacy, noise, stamp_in
from voicekiln.errors import Changed, Incomplete, NotYet, ShareAwayError, StillEmpty, TooLarge, Unproven
from voicekiln.folders.complete import Proof
from voicekiln.folders.spool import _opened, take
from voicekiln.job import FileStamp

VOICE = PurePosixPath("voice.pth")
LARGE = archive({"voice/data/0": noise(3_000_000)})


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty inbox."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty spool."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def nothing_in(folder: Path) -> bool:
    """Return whether the folder is empty."""
    return not list(folder.iterdir())


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_whole_voice_is_taken_with_its_hash(inbox: Path, spool: Path, umask: int) -> None:
    """The copy has the same bytes, can be read by us alone, and the source is untouched."""
    (inbox / "voice.pth").write_bytes(LARGE)
    stamp = stamp_in(inbox)
    before = os.umask(umask)
    try:
        spooled = take(inbox, VOICE, stamp, spool / "job", 10**9)
    finally:
        os.umask(before)
    assert (spooled.sha256, spooled.bytes) == (hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    assert (spooled.stamp, spooled.proof) == (stamp, Proof.CHECKSUMS)
    assert (spool / "job").read_bytes() == LARGE
    assert (spool / "job").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in spool.iterdir()] == ["job"]
    assert stamp_in(inbox) == stamp


def test_what_a_crash_left_is_replaced(inbox: Path, spool: Path) -> None:
    """Even a link, which is removed and not written through."""
    (inbox / "voice.pth").write_bytes(archive())
    (spool / "precious").write_bytes(b"mine")
    (spool / "job.part").symlink_to(spool / "precious")
    take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9)
    assert (spool / "precious").read_bytes() == b"mine"
    assert (spool / "job").read_bytes() == archive()


@pytest.mark.requirement(20)
def test_a_hard_link_is_a_file(inbox: Path, spool: Path) -> None:
    """Sync tools and backup tools make them."""
    (inbox.parent / "elsewhere").write_bytes(archive())
    (inbox / "voice.pth").hardlink_to(inbox.parent / "elsewhere")
    assert take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9).bytes == len(archive())


@pytest.mark.requirement(2)
def test_a_legacy_file_is_taken_only_when_the_caller_vouches_for_its_quiet(inbox: Path, spool: Path) -> None:
    """Nothing in it says where it ends."""
    (inbox / "voice.pth").write_bytes(legacy())
    with pytest.raises(Unproven):
        take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9)
    assert nothing_in(spool)
    assert take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9, unproven_ok=True).proof is Proof.NONE


@pytest.mark.requirement(2)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        LARGE[: len(LARGE) // 2],
        bytes(len(LARGE)),
        LARGE[:100_000] + bytes(len(LARGE) - 100_000),
        LARGE[:100_000] + bytes(1_000_000) + LARGE[1_100_000:],
        LARGE[:-1],
    ],
    ids=["empty", "half", "preallocated", "preallocated-and-begun", "hole", "last-byte-missing"],
)
def test_a_half_file_is_never_taken_however_quiet_it_was(inbox: Path, spool: Path, data: bytes) -> None:
    """Size and time stamps are stable; the file still is not whole."""
    (inbox / "voice.pth").write_bytes(data)
    with pytest.raises(Incomplete) as caught:
        take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9, unproven_ok=True)
    assert isinstance(caught.value, StillEmpty) == (data == b"")
    assert nothing_in(spool)


def rewritten(path: Path, at: int, data: bytes, *, restore: bool) -> None:
    """Write into a file in place, as `rsync --inplace` does, and set its time stamps back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    if restore:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """Put another whole file in its place by renaming, with the same size and time stamps."""
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(archive({"voice/data/0": noise(3_000_000, 7)}))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


def linked(path: Path) -> None:
    """Put a link to a file of the same content in its place."""
    path.rename(path.with_name("old"))
    path.symlink_to("old")


def piped(path: Path) -> None:
    """Put a pipe in its place."""
    path.unlink()
    os.mkfifo(path)


def folder_swapped(path: Path) -> None:
    """Put a link to a folder in the place of the file's folder."""
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": replaced,
    "removed": Path.unlink,
    "truncated": lambda path: os.truncate(path, 2_000_000),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: rewritten(path, len(LARGE), b"more", restore=True),
    "rewritten": lambda path: rewritten(path, 2_500_000, b"new", restore=False),
    "rewritten-mtime-restored": lambda path: rewritten(path, 2_500_000, b"new", restore=True),
    "touched": os.utime,
    "link": linked,
    "pipe": piped,
    "folder-link": folder_swapped,
}


def at_each_chunk(monkeypatch: pytest.MonkeyPatch, beat: Callable[[], object]) -> None:
    """Let `beat` be called for each megabyte that is copied."""
    real = hashlib.sha256

    class Beating:
        def __init__(self, content: bytes = b"") -> None:
            self.digest = real(content)

        def update(self, content: bytes) -> None:
            beat()
            self.digest.update(content)

        def hexdigest(self) -> str:
            return self.digest.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Beating)


@pytest.mark.requirement(2)
@pytest.mark.parametrize("when", [0, 1, 2], ids=["first", "second", "last-megabyte"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_during_the_copy_is_not_taken(
    inbox: Path, spool: Path, change: Callable[[Path], object], when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the copy has got to, the copy is thrown away."""
    (inbox / "sub").mkdir()
    (inbox / "sub/voice.pth").write_bytes(LARGE)
    beats = iter(range(99))

    def beat() -> None:
        if next(beats) == when:
            change(inbox / "sub/voice.pth")

    at_each_chunk(monkeypatch, beat)
    with pytest.raises(Changed):
        take(inbox, "sub" / VOICE, stamp_in(inbox, "sub/voice.pth"), spool / "job", 10**9)
    assert nothing_in(spool)


@pytest.mark.requirement(2)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changed_since_it_settled_is_not_taken(
    inbox: Path, spool: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is not what lies there; nothing is copied."""
    (inbox / "sub").mkdir()
    (inbox / "sub/voice.pth").write_bytes(LARGE)
    stamp = stamp_in(inbox, "sub/voice.pth")
    change(inbox / "sub/voice.pth")

    def beat() -> None:
        pytest.fail("copied")

    at_each_chunk(monkeypatch, beat)
    with pytest.raises(Changed):
        take(inbox, "sub" / VOICE, stamp, spool / "job", 10**9)
    assert nothing_in(spool)


def test_made_up_inode_numbers_are_no_change(inbox: Path, spool: Path) -> None:
    """On SMB the same file may bear another number each time."""
    (inbox / "voice.pth").write_bytes(archive())
    stamp = stamp_in(inbox)
    other = FileStamp(0, stamp.size, stamp.mtime_ns, stamp.ctime_ns)
    with pytest.raises(Changed):
        take(inbox, VOICE, other, spool / "job", 10**9)
    assert take(inbox, VOICE, other, spool / "job", 10**9, inodes=False).stamp == other


@pytest.mark.requirement(20)
def test_a_huge_file_is_refused_unread(inbox: Path, spool: Path) -> None:
    """A sparse terabyte costs nothing to make."""
    with (inbox / "voice.pth").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(TooLarge) as caught:
        take(inbox, VOICE, stamp_in(inbox), spool / "job", 2 * 10**9)
    assert caught.value.found == {"size_mb": 1_000_000, "limit_mb": 2000}
    assert nothing_in(spool)


def test_the_caller_can_end_the_copy(inbox: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a shutdown nobody waits for half a gigabyte."""
    (inbox / "voice.pth").write_bytes(LARGE)

    def beat() -> None:
        raise KeyboardInterrupt

    at_each_chunk(monkeypatch, beat)
    with pytest.raises(KeyboardInterrupt):
        take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9)
    assert nothing_in(spool)


def test_nothing_is_left_when_the_copy_cannot_be_made_lasting(
    inbox: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step, syncing the folder, fails."""
    (inbox / "voice.pth").write_bytes(archive())
    fsync, calls = os.fsync, iter([False, True])

    def failing(fd: int) -> None:
        if next(calls):
            raise OSError(errno.EIO, "made up")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="made up"):
        take(inbox, VOICE, stamp_in(inbox), spool / "job", 10**9)
    assert nothing_in(spool)


def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(inbox: Path) -> None:
    """A real small file system in memory; the error is the system's own and to be tried again."""
    (inbox / "voice.pth").write_bytes(archive({"voice/data/0": noise(1_000_000)}))
    script = """
import errno, os, subprocess, sys
from pathlib import Path, PurePosixPath
from voicekiln.folders import inbox, spool
root, disk, relpath = Path(sys.argv[1]), Path(sys.argv[2]), PurePosixPath("voice.pth")
stamp = inbox.scan(root).files[relpath]
try:
    spool.take(root, relpath, stamp, disk / "job", 10**9)
except OSError as error:
    print(errno.errorcode[error.errno], os.listdir(disk))
subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
print(spool.take(root, relpath, stamp, disk / "job", 10**9).bytes > 1_000_000, os.listdir(disk))
"""
    disk = inbox.parent / "disk"
    disk.mkdir()
    said = in_own_namespace('mount -t tmpfs -o size=256k none "$2"', script, inbox, disk)
    assert said == "ENOSPC []\nTrue ['job']\n"


def test_a_share_that_vanishes_is_away(inbox: Path, spool: Path) -> None:
    """The root itself is gone: not this file's fault."""
    (inbox / "voice.pth").write_bytes(archive())
    stamp = stamp_in(inbox)
    inbox.rename(inbox.with_name("unplugged"))
    with pytest.raises(ShareAwayError):
        take(inbox, VOICE, stamp, spool / "job", 10**9)


@pytest.mark.requirement(20)
def test_nothing_but_a_plain_file_is_opened(inbox: Path) -> None:
    """Whatever has been put in a file's place is a change; none of it holds us up."""
    (inbox / "real").write_bytes(b"x")
    (inbox / "link").symlink_to("real")
    (inbox / "dangling").symlink_to("nowhere")
    (inbox / "folder").mkdir()
    os.mkfifo(inbox / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(inbox / "socket"))
    for name in ("link", "dangling", "folder", "pipe", "socket"):
        with pytest.raises(Changed, match="something else"), _opened(inbox, PurePosixPath(name)):
            pass


@pytest.mark.requirement(20)
@pytest.mark.parametrize("change", [linked, piped, Path.unlink], ids=["link", "pipe", "removed"])
def test_what_is_swapped_between_the_look_and_the_opening_is_not_read(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    """The look said that it is a plain file; the opening follows no link all the same and does not wait."""
    (inbox / "voice.pth").write_bytes(archive())
    stat = os.stat

    def swapping(path: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        before = stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        monkeypatch.undo()
        change(inbox / "voice.pth")
        return before

    monkeypatch.setattr(os, "stat", swapping)
    with pytest.raises(Changed), _opened(inbox, VOICE):
        pass


@pytest.mark.requirement(20)
def test_no_path_leads_out_of_the_inbox(inbox: Path) -> None:
    """Neither by its own parts nor through a link on the way."""
    (inbox.parent / "secret").write_bytes(b"x")
    (inbox / "way").symlink_to("..")
    for relpath in ("../secret", "way/../../secret", "/etc/passwd", "."):
        with pytest.raises(ValueError, match="not a path below the inbox"), _opened(inbox, PurePosixPath(relpath)):
            pass
    for relpath in ("way/secret", "real/secret"):
        with pytest.raises(Changed), _opened(inbox, PurePosixPath(relpath)):
            pass


def test_no_descriptor_is_left_open(inbox: Path, spool: Path) -> None:
    """Whatever comes of it."""
    (inbox / "a/b").mkdir(parents=True)
    (inbox / "a/b/voice.pth").write_bytes(archive())
    (inbox / "half.pth").write_bytes(archive()[:-1])
    (inbox / "link").symlink_to("half.pth")
    stamp = stamp_in(inbox, "a/b/voice.pth")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - no paths wanted
    take(inbox, PurePosixPath("a/b/voice.pth"), stamp, spool / "job", 10**9)
    for relpath in ("half.pth", "link", "a/c/voice.pth", "a/b"):
        with pytest.raises(NotYet):
            take(inbox, PurePosixPath(relpath), stamp, spool / "job2", 10**9)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - as above


@pytest.mark.requirement(20)
def test_a_race_against_links_is_never_lost(inbox: Path, spool: Path) -> None:
    """Somebody keeps swapping the voice, and its folder, for links to a file that is not theirs to read."""
    voice, secret = archive(), archive({"voice/secret": noise(500, 5)})
    (inbox / "sub").mkdir()
    (inbox.parent / "outside").mkdir()
    (inbox.parent / "outside/voice.pth").write_bytes(secret)
    path, done = inbox / "sub/voice.pth", threading.Event()
    path.write_bytes(voice)

    def swap() -> None:
        while not done.wait(0.0003):  # else no look would ever find it in its place
            path.rename(inbox / "aside")
            path.symlink_to("../../outside/voice.pth")
            path.unlink()
            (inbox / "aside").rename(path)
            (inbox / "sub").rename(inbox / "sub-aside")
            (inbox / "sub").symlink_to("../outside")
            (inbox / "sub").unlink()
            (inbox / "sub-aside").rename(inbox / "sub")

    attacker = threading.Thread(target=swap)
    attacker.start()
    taken = 0
    try:
        for _ in range(1000):
            try:
                with _opened(inbox, PurePosixPath("sub/voice.pth")) as file:
                    taken += 1
                    assert file.read() == voice
            except Changed:
                pass
    finally:
        done.set()
        attacker.join(10)
    assert taken
    assert nothing_in(spool)
