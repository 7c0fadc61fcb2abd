"""The scan: all voices, nothing else, and no mistaking of what could not be seen for what is not there."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path, PurePosixPath

import pytest

from arrivals import in_own_namespace
from voicekiln.errors import ShareAwayError
from voicekiln.folders import inbox
from voicekiln.folders.inbox import MAX_DEPTH, recipe_of, scan
from voicekiln.job import FileStamp


def put(root: Path, *names: str) -> None:
    """Create files of one byte, with their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def seen(root: Path) -> list[str]:
    """Return the voices that a scan sees, in its order."""
    return [str(relpath) for relpath in scan(root).files]


def test_voices_are_found_in_all_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Two scans of one state give the same list, whatever the file system's order."""
    put(tmp_path, "b.pth", "a/z.pth", "a/b/y.PTH", "c.pth", "a.pth", "notes.txt", "a/config.json")
    assert seen(tmp_path) == ["a/b/y.PTH", "a/z.pth", "a.pth", "b.pth", "c.pth"]
    assert scan(tmp_path).folders == 3


def test_the_stamp_is_that_of_the_file(tmp_path: Path) -> None:
    """Device, inode, size and both time stamps; none of the first two where the file system makes them up."""
    put(tmp_path, "voice.pth")
    stamp = FileStamp.of((tmp_path / "voice.pth").stat())
    assert list(scan(tmp_path).files.values()) == [stamp]
    (without,) = scan(tmp_path, inodes=False).files.values()
    assert without == FileStamp(0, stamp.size, stamp.mtime_ns, stamp.ctime_ns)


def test_junk_folders_are_not_entered(tmp_path: Path) -> None:
    """A voice in the share's bin was thrown away by somebody."""
    put(tmp_path, "#recycle/voice.pth", "@eaDir/voice.pth", ".stversions/voice.pth", ".voice.pth", "voice.pth.part")
    assert scan(tmp_path).files == {}
    assert scan(tmp_path).folders == 1


@pytest.mark.requirement(12)
def test_names_of_any_bytes_survive(tmp_path: Path) -> None:
    """A name that is no text is found and leads back to its file."""
    put(tmp_path, os.fsdecode(b"\xff\xfe/vo\nce\x80.pth"))
    (relpath,) = scan(tmp_path).files
    assert (tmp_path / relpath).read_bytes() == b"x"


@pytest.mark.requirement(20)
def test_links_are_never_followed(tmp_path: Path) -> None:
    """Neither to a file nor to a folder, inside or outside; a link under a voice's name is told."""
    put(tmp_path, "outside/secret.pth", "inbox/voice.pth")
    root = tmp_path / "inbox"
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    (root / "link.pth").symlink_to(tmp_path / "outside/secret.pth")
    (root / "dangling.pth").symlink_to("nowhere")
    (root / "folder.pth").symlink_to(tmp_path / "outside")
    assert seen(root) == ["voice.pth"]
    assert scan(root).odd == {PurePosixPath(f"{name}.pth"): "a link" for name in ("dangling", "folder", "link")}


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    """That is the owner's choice, not a visitor's."""
    put(tmp_path, "real/voice.pth")
    (tmp_path / "inbox").symlink_to("real")
    assert seen(tmp_path / "inbox") == ["voice.pth"]


@pytest.mark.requirement(20)
def test_a_folder_swapped_for_a_link_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was listed as a folder and is a link when it is opened."""
    put(tmp_path, "outside/secret.pth", "inbox/sub/voice.pth", "inbox/z.pth")
    open_ = os.open

    def swapping(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "sub":
            (tmp_path / "inbox/sub").rename(tmp_path / "moved")
            (tmp_path / "inbox/sub").symlink_to(tmp_path / "outside")
        return open_(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)
    assert seen(tmp_path / "inbox") == ["z.pth"]


@pytest.mark.requirement(20)
def test_what_is_no_file_is_told_and_not_opened(tmp_path: Path) -> None:
    """A pipe would hold up whoever opens it."""
    os.mkfifo(tmp_path / "pipe.pth")
    put(tmp_path, "folder.pth/voice.pth")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.pth"))
    assert {str(k): v for k, v in scan(tmp_path).odd.items()} == {"pipe.pth": "a pipe", "socket.pth": "a socket"}
    assert seen(tmp_path) == ["folder.pth/voice.pth"]


@pytest.mark.requirement(20)
def test_a_device_is_told() -> None:
    """Devices lie in every /dev."""
    assert inbox.kind_of(Path("/dev/null").stat().st_mode) == "a device"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_lies_in_an_unreadable_folder_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The rest is seen; below the folder the scan claims to know nothing."""
    put(tmp_path, "sub/deep/voice.pth", "z.pth")
    open_ = os.open

    def failing(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "sub":
            raise OSError(number, os.strerror(number))
        return open_(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", failing)
    snapshot = scan(tmp_path)
    assert list(snapshot.files) == [PurePosixPath("z.pth")]
    assert snapshot.unreadable == {PurePosixPath("sub"): os.strerror(number)}
    assert not snapshot.covers(PurePosixPath("sub/deep/voice.pth"))
    assert not snapshot.covers(PurePosixPath("sub"))
    assert snapshot.covers(PurePosixPath("gone.pth"))
    assert snapshot.covers(PurePosixPath("subway/gone.pth"))


def test_a_folder_without_permission_is_unreadable(tmp_path: Path) -> None:
    """The kernel's own refusal, which it spares root unless root's powers end at a namespace."""
    put(tmp_path, "locked/voice.pth", "z.pth")
    (tmp_path / "locked").chmod(0)
    script = (
        "import sys; from pathlib import Path; from voicekiln.folders.inbox import scan;"
        "s = scan(Path(sys.argv[1])); print([str(p) for p in s.files], {str(k): v for k, v in s.unreadable.items()})"
    )
    said = in_own_namespace("", script, tmp_path, unshare="-U")
    assert said == "['z.pth'] {'locked': 'Permission denied'}\n"


def test_what_vanishes_during_the_scan_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was deleted after it was listed is no error and nothing unknown."""
    put(tmp_path, "sub/voice.pth", "z.pth")
    open_ = os.open

    def deleting(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "sub":
            (tmp_path / "sub/voice.pth").unlink()
            (tmp_path / "sub").rmdir()
        return open_(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", deleting)
    snapshot = scan(tmp_path)
    assert list(snapshot.files) == [PurePosixPath("z.pth")]
    assert snapshot.covers(PurePosixPath("sub/voice.pth"))


def test_a_root_that_is_not_there_is_away_and_not_empty(tmp_path: Path) -> None:
    """Absent, or a file, or a dangling link."""
    put(tmp_path, "file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("absent", "file", "dangling"):
        with pytest.raises(ShareAwayError, match=r"the folder cannot be read: (No such|Not a)"):
            scan(tmp_path / name)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT, errno.EACCES, errno.EHOSTDOWN])
def test_a_root_that_does_not_answer_is_away_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The share went away after the root was opened."""
    put(tmp_path, "voice.pth")

    def failing(fd: int) -> None:
        del fd
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(ShareAwayError, match=os.strerror(number)):
        scan(tmp_path)


def test_folders_without_end_come_to_an_end(tmp_path: Path) -> None:
    """Below the deepest folder the scan claims to know nothing."""
    deep = PurePosixPath(*["d"] * MAX_DEPTH)
    put(tmp_path, str(deep / "voice.pth"), str(deep / "d/voice.pth"))
    snapshot = scan(tmp_path)
    assert list(snapshot.files) == [deep / "voice.pth"]
    assert list(snapshot.unreadable) == [deep / "d"]


def test_the_scan_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """It runs every minute for years."""
    put(tmp_path, "a/b/c/voice.pth", "d/voice.pth")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - no paths wanted
    for _ in range(3):
        scan(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - as above


def test_conflict_copies_are_listed_apart_unless_wanted(tmp_path: Path) -> None:
    """Nobody asked for them; who wants them converted says so."""
    copy = PurePosixPath("a/voice (Bob's conflicted copy 2024-01-31).pth")
    put(tmp_path, str(copy), "a/voice.pth", "voices (Case Conflict)/x.pth")
    snapshot = scan(tmp_path)
    assert list(snapshot.files) == [PurePosixPath("a/voice.pth")]
    assert snapshot.conflicts == {copy: "Dropbox", PurePosixPath("voices (Case Conflict)/x.pth"): "Dropbox"}
    assert copy in scan(tmp_path, conflicts_are_voices=True).files


def test_a_synced_folder_within_the_inbox_is_told(tmp_path: Path) -> None:
    """Deleting there deletes on somebody's phone."""
    put(tmp_path, "phone/voice.pth", "plain/voice.pth")
    (tmp_path / "phone/.stfolder").mkdir()
    assert scan(tmp_path).markers == (PurePosixPath("phone/.stfolder"),)


@pytest.mark.parametrize(
    ("relpath", "recipe"),
    [
        ("voice.pth", "standard"),
        ("fp16", "standard"),
        ("fp16/voice.pth", "fp16"),
        ("FP16/a/voice.pth", "fp16"),
        ("a/fp16/voice.pth", "standard"),
        ("fp166/voice.pth", "standard"),
    ],
)
def test_the_first_folder_selects_the_recipe(relpath: str, recipe: str) -> None:
    """On a share, folders are the only switches a person has, and few people mind their case."""
    assert recipe_of(PurePosixPath(relpath), ["standard", "fp16"], "standard") == recipe
