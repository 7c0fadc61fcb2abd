"""Publishing: a reader never sees half of anything, and nobody's file is overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from voicekiln import steps
from voicekiln.errors import NameTaken, ShareAwayError
from voicekiln.folders.inbox import MAX_DEPTH
from voicekiln.folders.names import BELOW, temp_name
from voicekiln.folders.outbox import Delivery, Piece, Rights, StagingLostError, clear_temps, intact, publish
from voicekiln.folders.voices import Published
from voicekiln.job import FileStamp
from voicekiln.steps import Step

ONNX = PurePosixPath("sub/voice.onnx")
SIDECAR = PurePosixPath("sub/voice.json")
RIGHTS = Rights()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sidecar_for(content: bytes, source: str = "sub/voice.pth") -> bytes:
    body = {
        "made_by": {"name": "voicekiln"},
        "source": {"path": source},
        "onnx": [{"sha256": sha(content), "bytes": len(content)}],
    }
    return json.dumps(body).encode()


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    return tmp_path / "outbox"


@pytest.fixture
def deliver(tmp_path: Path) -> Callable[..., Delivery]:
    def make(content: bytes = b"onnx", stale: Sequence[PurePosixPath] = (), **ours: bytes) -> Delivery:
        staged = tmp_path / f"staged-{sha(content)[:8]}"
        staged.write_bytes(content)
        pieces = [
            Piece(ONNX, "onnx", staged, sha(content), len(content)),
            Piece(SIDECAR, "sidecar", text=sidecar_for(content)),
        ]
        paths = {PurePosixPath(f"sub/{name}".replace("__", ".")): was for name, was in ours.items()}
        known = {path: Published(path, "onnx", sha(was), len(was)) for path, was in paths.items()}
        return Delivery(pieces, stale, known, "feed0001")

    return make


def refusal(*, old: bool = False) -> Delivery:
    text = json.dumps({"made_by": {"name": "voicekiln"}, "source": {"path": "sub/voice.pth"}, "old": old}).encode()
    return Delivery([Piece(PurePosixPath("sub/voice.error.json"), "refusal", text=text)], (), {}, "feed0001")


@contextmanager
def at_each_step(look: Callable[[Step], None]) -> Iterator[None]:
    steps.on_passed, before = look, steps.on_passed
    try:
        yield
    finally:
        steps.on_passed = before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted only


def names(outbox: Path) -> set[str]:
    return {path.name for path in (outbox / "sub").iterdir()} if (outbox / "sub").exists() else set()


@pytest.mark.requirement(17)
@pytest.mark.parametrize("umask", [0o077, 0o027, 0o000])
def test_files_lie_under_their_names_with_the_rights_asked_for(
    outbox: Path, deliver: Callable[..., Delivery], umask: int
) -> None:
    """Content, mode of file and of the new folder, and what is returned all agree, whatever the daemon's umask."""
    old = os.umask(umask)
    try:
        done = publish(outbox, deliver(), Rights(0o664, 0o2775, None))
    finally:
        os.umask(old)
    assert (outbox / ONNX).read_bytes() == b"onnx"
    assert stat.S_IMODE((outbox / ONNX).stat().st_mode) == 0o664
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o2775
    assert (done[0].path, done[0].kind, done[0].sha256, done[0].bytes) == (ONNX, "onnx", sha(b"onnx"), 4)
    assert names(outbox) == {"voice.onnx", "voice.json"}


@pytest.mark.requirement(17)
def test_a_share_that_sets_the_rights_itself_is_no_failure(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMB answers EPERM to chmod and chown; the files are published all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    publish(outbox, deliver(), Rights(0o664, 0o2775, 12345))
    assert names(outbox) == {"voice.onnx", "voice.json"}
    assert stat.S_IMODE((outbox / ONNX).stat().st_mode) == 0o600  # closed to others until it has its group
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o700


@pytest.mark.requirement(17)
def test_files_and_new_folders_get_the_group_asked_for_and_keep_their_owner(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, and none if no group is asked for."""
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        os, "fchown", lambda file, uid, gid: given.append((Path(f"/proc/self/fd/{file}").readlink().name, uid, gid))
    )
    publish(outbox, deliver(), Rights())
    assert given == []
    (outbox / "sub").rename(outbox / "before")
    publish(outbox, deliver(), Rights(gid=12345))
    assert given[0] == ("sub", -1, 12345)
    assert {(name.partition(".feed")[0], *ids) for name, *ids in given[1:]} == {
        (".~voice.onnx", -1, 12345),
        (".~voice.json", -1, 12345),
    }


def test_what_nobody_decided_about_is_readable_for_all(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """The rights that the command `convert` gives."""
    seen: list[Step] = []
    with at_each_step(seen.append):
        publish(outbox, deliver(), RIGHTS)
    assert seen[0] is Step.FOLDER_MADE
    assert stat.S_IMODE((outbox / ONNX).stat().st_mode) == 0o644
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o755


@pytest.mark.requirement(5)
def test_at_every_step_a_sidecar_tells_the_truth(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """Replacing a result, a reader at any step finds whole files, and a sidecar only beside the ONNX it describes."""
    first = deliver(b"old")
    publish(outbox, first, RIGHTS)
    seen: list[Step] = []

    def look(step: Step) -> None:
        seen.append(step)
        assert (outbox / ONNX).read_bytes() in (b"old", b"new")
        if (outbox / SIDECAR).exists():
            described = json.loads((outbox / SIDECAR).read_text())["onnx"][0]["sha256"]
            assert described == sha((outbox / ONNX).read_bytes())

    steps.on_passed, before = look, steps.on_passed
    try:
        publish(outbox, deliver(b"new", voice__onnx=b"old", voice__json=sidecar_for(b"old")), RIGHTS)
    finally:
        steps.on_passed = before
    written = [Step.TEMP_WRITTEN] * 2
    assert seen == [*written, Step.OLD_SIDECAR_GONE, Step.ONNX_RENAMED, Step.SIDECAR_RENAMED]
    assert (outbox / ONNX).read_bytes() == b"new"


@pytest.mark.requirement(5)
def test_bytes_are_on_the_disk_before_they_have_a_name(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder first, each file before any is renamed, the folder before the sidecar comes and after it."""
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        calls.append("sync folder" if path.is_dir() else f"sync {path.name.removeprefix('.~').partition('.feed')[0]}")
        sync(file)

    def renamed(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append(f"rename {new}")
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    publish(outbox, deliver(b"new"), RIGHTS)
    assert calls == [
        *("sync folder", "sync voice.onnx", "sync voice.json", "rename voice.onnx", "sync folder"),
        *("rename voice.json", "sync folder"),
    ]


@pytest.mark.parametrize("step", [Step.TEMP_WRITTEN, Step.OLD_SIDECAR_GONE, Step.ONNX_RENAMED])
def test_publishing_again_after_a_stop_finishes_the_work(
    outbox: Path, deliver: Callable[..., Delivery], step: Step
) -> None:
    """Whatever a crash left, the same delivery once more ends with the new result and nothing else."""

    class Crash(BaseException):
        pass

    def crash(at: Step) -> None:
        if at is step:
            raise Crash

    publish(outbox, deliver(b"old"), RIGHTS)
    delivery = deliver(b"new", voice__onnx=b"old", voice__json=sidecar_for(b"old"))
    steps.on_passed, before = crash, steps.on_passed
    try:
        with pytest.raises(Crash):
            publish(outbox, delivery, RIGHTS)
    finally:
        steps.on_passed = before
    publish(outbox, delivery, RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"new"
    assert json.loads((outbox / SIDECAR).read_text())["onnx"][0]["sha256"] == sha(b"new")
    assert names(outbox) == {"voice.onnx", "voice.json"}


@pytest.mark.parametrize("taken", ["voice.onnx", "voice.json"])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_not_ours_is_never_overwritten(
    outbox: Path, deliver: Callable[..., Delivery], taken: str, kind: str
) -> None:
    """A stranger's file, link or folder under a final name stops the publication before anything is changed."""
    (outbox / "sub").mkdir()
    path = outbox / "sub" / taken
    match kind:
        case "file":
            path.write_bytes(b"theirs")
        case "link":
            path.symlink_to("/etc/hostname")
        case "folder":
            path.mkdir()
    with pytest.raises(NameTaken) as refused:
        publish(outbox, deliver(), RIGHTS)
    assert refused.value.found == {"name": f"sub/{taken}"}
    assert names(outbox) == {taken}
    assert kind != "file" or path.read_bytes() == b"theirs"


def test_a_result_that_somebody_changed_is_theirs(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """The ledger's hash decides, not the name alone."""
    publish(outbox, deliver(b"old"), RIGHTS)
    (outbox / ONNX).write_bytes(b"edited")
    with pytest.raises(NameTaken):
        publish(outbox, deliver(b"new", voice__onnx=b"old", voice__json=sidecar_for(b"old")), RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"edited"


def test_after_a_lost_ledger_our_own_files_are_known_by_their_sidecar(
    outbox: Path, deliver: Callable[..., Delivery]
) -> None:
    """A reinstalled daemon replaces what an earlier one made, and what it made only."""
    publish(outbox, deliver(b"old"), RIGHTS)
    publish(outbox, deliver(b"new"), RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"new"


def test_bare_numbers_are_known_by_their_sidecar_as_well(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """They are listed by themselves."""
    body = {"made_by": {"name": "voicekiln"}, "source": {"path": "sub/voice.pth"}}
    told = {"onnx": [], "data": [{"sha256": sha(b"old"), "bytes": 3}]}
    publish(outbox, deliver(b"old", voice__json=json.dumps(body | told).encode()), RIGHTS)
    publish(outbox, deliver(b"new"), RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"new"


@pytest.mark.parametrize("source", ["voice.pth", "other/voice.pth"])
def test_a_sidecar_of_another_source_makes_nothing_ours(
    outbox: Path, deliver: Callable[..., Delivery], source: str
) -> None:
    """What another daemon, or the command convert, made of another voice under the same name is not overwritten."""
    publish(outbox, deliver(b"old"), RIGHTS)
    (outbox / SIDECAR).write_bytes(sidecar_for(b"old", source=source))
    with pytest.raises(NameTaken):
        publish(outbox, deliver(b"new"), RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["pipe", "hard link", "link"])
def test_a_planted_temporary_file_is_replaced_and_not_written_into(
    outbox: Path, tmp_path: Path, deliver: Callable[..., Delivery], kind: str
) -> None:
    """Whatever lies under the name that we will use, nothing waits for it and nothing else is overwritten."""
    precious, planted = tmp_path / "precious", outbox / "sub" / temp_name("voice.onnx", "feed0001")
    precious.write_bytes(b"precious")
    planted.parent.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(planted)
        case "hard link":
            planted.hardlink_to(precious)
        case "link":
            planted.symlink_to(precious)
    publish(outbox, deliver(b"new"), RIGHTS)
    assert precious.read_bytes() == b"precious"
    assert (outbox / ONNX).read_bytes() == b"new"


def test_a_pipe_in_place_of_a_twins_result_is_no_result(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """What is to be copied from the outbox may have been exchanged; nobody waits for it."""
    delivery = deliver(b"good")
    source = delivery.pieces[0].source
    assert source is not None
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(StagingLostError):
        publish(outbox, delivery, RIGHTS)


@pytest.mark.parametrize("size", ["1e999", '"x"', "null", "1e3"])
def test_a_sidecar_with_odd_figures_vouches_for_nothing(
    outbox: Path, deliver: Callable[..., Delivery], size: str
) -> None:
    """Whatever stands there, it is an answer and no end of the daemon."""
    (outbox / "sub").mkdir()
    (outbox / ONNX).write_bytes(b"mine")
    (outbox / SIDECAR).write_text(
        '{"made_by": {"name": "voicekiln"}, "source": {"path": "sub/voice.pth"}, '
        f'"onnx": [{{"sha256": "", "bytes": {size}}}, {{"sha256": "{sha(b"mine")}", "bytes": {size}}}]}}'
    )
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)


def test_a_deep_tree_of_a_strangers_is_not_walked_to_its_end(outbox: Path) -> None:
    """Nothing of ours lies that deep, and the walk must not break off."""
    top = os.open(outbox, os.O_RDONLY)
    folder = top
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    ours = outbox / temp_name("voice.onnx", "feed0001")
    ours.touch()
    assert clear_temps(outbox, ["feed"]) == 1
    subprocess.run(["rm", "-rf", str(outbox / "d")], check=True)  # noqa: S607 - pytest's own clearing up is recursive


def test_stale_files_go_only_while_they_are_ours(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """An older fp16 file and refusal of ours go with the new result; one that somebody edited stays."""
    (outbox / "sub").mkdir()
    (outbox / "sub/voice.fp16.onnx").write_bytes(b"half")
    (outbox / "sub/voice.error.json").write_bytes(b"REFUSAL")  # of the same length as ours
    stale = [PurePosixPath("sub/voice.fp16.onnx"), PurePosixPath("sub/voice.error.json")]
    seen: list[Step] = []
    with at_each_step(seen.append):
        publish(outbox, deliver(b"new", stale, voice__fp16__onnx=b"half", voice__error__json=b"refusal"), RIGHTS)
    assert names(outbox) == {"voice.onnx", "voice.json", "voice.error.json"}
    assert seen[-4:] == [Step.ONNX_RENAMED, Step.STALE_REMOVED, Step.STALE_REMOVED, Step.SIDECAR_RENAMED]


def test_changed_or_missing_staging_is_found_out(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """Bytes other than those that were verified are never published."""
    delivery = deliver(b"good")
    source = delivery.pieces[0].source
    assert source is not None
    for evil in (b"evil", b"bad!", b"foul", b"vile"):
        source.write_bytes(evil)
        with pytest.raises(StagingLostError, match="changed"):
            publish(outbox, delivery, RIGHTS)
        assert names(outbox) == set()
    source.unlink()
    with pytest.raises(StagingLostError, match="cannot be read"):
        publish(outbox, delivery, RIGHTS)
    assert names(outbox) == set()


def test_a_full_disk_leaves_no_part_behind(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC, also when only fsync tells of it, leaves the outbox as it was."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(outbox, deliver(b"old"), RIGHTS)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(outbox, deliver(b"new", voice__onnx=b"old", voice__json=sidecar_for(b"old")), RIGHTS)
    assert names(outbox) == {"voice.onnx", "voice.json"}
    assert (outbox / ONNX).read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_where_a_folder_belongs_is_told_of(
    outbox: Path, tmp_path: Path, deliver: Callable[..., Delivery], kind: str
) -> None:
    """A sub-folder that somebody replaced by a link is not followed out of the outbox, nor a file overwritten."""
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        (outbox / "sub").symlink_to(tmp_path / "elsewhere")
    else:
        (outbox / "sub").touch()
    with pytest.raises(NameTaken) as refused:
        publish(outbox, deliver(), RIGHTS)
    assert refused.value.found == {"name": "sub"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_huge_file_in_the_way_is_not_read(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length alone says that it is not ours; hashing it would hold up everybody."""
    (outbox / "sub").mkdir()
    with (outbox / ONNX).open("wb") as file:
        file.truncate(10**11)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read"))
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)


def test_a_source_that_has_grown_is_not_copied_to_its_end(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """A twin's result that somebody blew up does not fill the outbox."""
    delivery = deliver(b"good")
    source = delivery.pieces[0].source
    assert source is not None
    with source.open("ab") as file:
        file.truncate(10**11)
    with pytest.raises(StagingLostError):
        publish(outbox, delivery, RIGHTS)


def test_a_hostile_sidecar_in_the_way_is_only_a_file(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """However deep its brackets, it vouches for nothing and harms nobody."""
    (outbox / "sub").mkdir()
    (outbox / ONNX).write_bytes(b"mine")
    (outbox / SIDECAR).write_bytes(b"[" * 200_000)
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)


def test_an_absent_outbox_is_not_made(tmp_path: Path, deliver: Callable[..., Delivery]) -> None:
    """An unmounted share is waited for, not recreated beneath its mount point."""
    with pytest.raises(ShareAwayError):
        publish(tmp_path / "absent", deliver(), RIGHTS)
    assert not (tmp_path / "absent").exists()


def test_only_our_own_temporary_files_are_cleared(outbox: Path) -> None:
    """After a crash what bears our mark goes; another daemon's and everybody else's files stay."""
    (outbox / "deep").mkdir()
    ours = outbox / "deep" / temp_name("voice.onnx", "feed0001")
    others = [outbox / temp_name("voice.onnx", "beef0001"), outbox / ".~lock.part", outbox / "deep/voice.onnx"]
    for path in (ours, *others):
        path.touch()
    seen: list[Step] = []
    with at_each_step(seen.append):
        assert clear_temps(outbox, ["feed"]) == 1
    assert seen == [Step.LITTER_REMOVED]
    assert not ours.exists()
    assert all(path.exists() for path in others)


def test_intact_means_every_byte(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """A missing or changed file is not intact, and neither is nothing at all."""
    files = publish(outbox, deliver(), RIGHTS)
    assert intact(outbox, files)
    assert not intact(outbox, [])
    for wrong in ("0" * 64, "f" * 64):
        assert not intact(outbox, [replace(files[0], sha256=wrong)])
    (outbox / ONNX).unlink()
    assert not intact(outbox, files)


def test_no_descriptor_stays_open(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither after a publication nor after one that failed; a daemon runs for months."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = open_files()
    files = publish(outbox, deliver(b"old"), RIGHTS)
    intact(outbox, files)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(outbox, deliver(b"new", voice__onnx=b"old", voice__json=sidecar_for(b"old")), RIGHTS)
    assert open_files() == before


def test_a_disk_that_writes_in_small_parts_gets_all_of_it(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`write` may take fewer bytes than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, chunk: write(file, chunk[:3]))
    publish(outbox, deliver(b"0123456789"), RIGHTS)
    assert (outbox / ONNX).read_bytes() == b"0123456789"


def test_a_disk_that_fills_up_between_two_files_leaves_neither(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary files that were complete go as well."""
    sync = os.fsync

    def full(file: int) -> None:
        if "voice.json" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(outbox, deliver(b"new"), RIGHTS)
    assert names(outbox) == set()


def test_a_share_that_says_only_at_the_end_that_it_is_full_keeps_no_part(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS may tell at `close` what it did not tell before."""
    close = os.close

    def full(file: int) -> None:
        written = Path(f"/proc/self/fd/{file}").readlink().name.endswith(".part")
        close(file)
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(OSError, match="No space"):
        publish(outbox, deliver(b"new"), RIGHTS)
    monkeypatch.undo()
    assert names(outbox) == set()


@pytest.mark.parametrize("mode", [0o700, 0o2700, 0o755, 0o500])
@pytest.mark.requirement(17)
def test_a_folder_that_a_killed_daemon_half_made_gets_its_rights(
    outbox: Path, deliver: Callable[..., Delivery], mode: int
) -> None:
    """It is empty, ours and closed to all others; any other folder keeps the rights that somebody gave it."""
    (outbox / "sub").mkdir()
    (outbox / "sub").chmod(mode)
    before = open_files()
    publish(outbox, deliver(), Rights(folder_mode=0o2775))
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == (0o2775 if mode == 0o700 else mode)
    assert open_files() == before


@pytest.mark.parametrize("uid", [-1, 1])
def test_another_users_folder_keeps_its_rights(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """Whatever they are, and whatever the number."""
    (outbox / "sub").mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: (outbox / "sub").stat().st_uid + uid)
    publish(outbox, deliver(), Rights(folder_mode=0o2775))
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o700


def test_a_closed_folder_in_which_something_lies_keeps_its_rights(
    outbox: Path, deliver: Callable[..., Delivery]
) -> None:
    """Somebody's private one; opening it to all would tell what is in it."""
    (outbox / "sub").mkdir(0o700)
    (outbox / "sub" / "private").touch()
    publish(outbox, deliver(), Rights(folder_mode=0o2775))
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o700


@pytest.mark.requirement(13)
def test_who_may_not_publish_any_more_shows_nothing(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """The last question is asked when all is ready, and a no leaves the outbox as it was."""
    ready: list[set[str]] = []

    def no() -> None:
        ready.append(names(outbox))
        raise ShareAwayError("another daemon's")

    publish(outbox, deliver(b"old"), RIGHTS)
    with pytest.raises(ShareAwayError):
        publish(outbox, deliver(b"new"), RIGHTS, no)
    assert [len(seen) for seen in ready] == [4]
    assert names(outbox) == {"voice.onnx", "voice.json"}
    assert (outbox / ONNX).read_bytes() == b"old"


def test_a_refusal_that_is_replaced_is_never_absent(outbox: Path) -> None:
    """It stands alone, so the newer one comes over it in one go; and it is known as ours without a ledger."""
    seen: list[Step] = []
    publish(outbox, refusal(old=True), RIGHTS)
    with at_each_step(seen.append):
        publish(outbox, refusal(), RIGHTS)
    assert seen == [Step.TEMP_WRITTEN, Step.SIDECAR_RENAMED]
    assert json.loads((outbox / "sub/voice.error.json").read_text())["old"] is False


def test_the_sidecar_comes_last_however_many_files_there_are(
    outbox: Path, tmp_path: Path, deliver: Callable[..., Delivery]
) -> None:
    """Two precisions and a sidecar, published twice over without a ledger."""
    half, path = tmp_path / "half", PurePosixPath("sub/voice.fp16.onnx")
    half.write_bytes(b"half")
    seen: list[tuple[Step, set[str]]] = []
    for content in (b"old", b"new"):
        seen.clear()
        both = deliver(content)
        onnx, sidecar = both.pieces
        pieces = [onnx, Piece(path, "onnx", half, sha(b"half"), 4), sidecar]
        with at_each_step(lambda step: seen.append((step, names(outbox)))):
            publish(outbox, replace(both, pieces=pieces), RIGHTS)
    assert [step for step, _ in seen[3:]] == [
        *(Step.OLD_SIDECAR_GONE, Step.ONNX_RENAMED, Step.ONNX_RENAMED, Step.SIDECAR_RENAMED)
    ]
    assert all("voice.json" not in lie_there for _, lie_there in seen[3:-1])


# --- what is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(6)
def test_the_stamps_are_those_of_the_files_that_lie_there(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """So that the sweeper can tell later, without reading, that nobody has touched them."""
    for file in publish(outbox, deliver(), RIGHTS):
        assert file.stamp == FileStamp.of((outbox / file.path).stat())


@pytest.mark.requirement(6)
@pytest.mark.parametrize("kind", ["another", "a link", "nothing"])
def test_what_was_exchanged_at_once_gets_no_stamp(outbox: Path, deliver: Callable[..., Delivery], kind: str) -> None:
    """The hash was ours, the file that lies there may not be; a link to our own file is no file of ours either."""

    def exchange(step: Step) -> None:
        if step is Step.SIDECAR_RENAMED:
            (outbox / ONNX).rename(outbox / "ours")
            if kind == "another":
                (outbox / ONNX).write_bytes(b"onnx")
            elif kind == "a link":
                (outbox / ONNX).symlink_to(outbox / "ours")

    with at_each_step(exchange):
        onnx, sidecar = publish(outbox, deliver(), RIGHTS)
    assert (onnx.sha256, onnx.stamp) == (sha(b"onnx"), None)
    assert sidecar.stamp is not None


# --- what is in the way ----------------------------------------------------------------------------------------------


def test_stale_files_that_are_no_files_or_gone_are_left_alone(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """A folder in place of an older refusal of ours does not keep the new result back."""
    (outbox / "sub/voice.error.json").mkdir(parents=True)
    stale = [PurePosixPath("sub/voice.fp16.onnx"), PurePosixPath("sub/voice.error.json")]
    publish(outbox, deliver(b"new", stale, voice__fp16__onnx=b"half", voice__error__json=b"refusal"), RIGHTS)
    assert names(outbox) == {"voice.onnx", "voice.json", "voice.error.json"}


@pytest.mark.parametrize("broken", ["sha256_at", "open_folder"])
def test_a_disk_that_cannot_be_read_is_not_taken_for_a_strangers_file(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """It is tried again; a person who is told to move a file away would find none."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"voicekiln.folders.outbox.{broken}", fail)
    with pytest.raises(OSError, match="Input/output"):
        publish(outbox, deliver(), RIGHTS)


@pytest.mark.parametrize("tool", ["another", "xyz"])
def test_a_sidecar_of_another_tool_makes_nothing_ours(
    outbox: Path, deliver: Callable[..., Delivery], tool: str
) -> None:
    """Whatever else it says."""
    publish(outbox, deliver(b"old"), RIGHTS)
    body = json.loads((outbox / SIDECAR).read_text())
    body["made_by"]["name"] = tool
    (outbox / SIDECAR).write_text(json.dumps(body))
    with pytest.raises(NameTaken):
        publish(outbox, deliver(b"new"), RIGHTS)


@pytest.mark.parametrize("told", ["", "0" * 63, 7, None, []])
def test_a_hash_that_is_none_vouches_for_no_file(outbox: Path, deliver: Callable[..., Delivery], told: object) -> None:
    """The empty one least of all: it is what a file of any other size seems to have."""
    publish(outbox, deliver(b"old"), RIGHTS)
    (outbox / ONNX).write_bytes(b"a stranger's")
    body = json.loads((outbox / SIDECAR).read_text())
    body["onnx"] = [{"sha256": told, "bytes": 3}]
    (outbox / SIDECAR).write_text(json.dumps(body))
    with pytest.raises(NameTaken) as taken:
        publish(outbox, deliver(b"new"), RIGHTS)
    assert taken.value.found == {"name": str(ONNX)}


@pytest.mark.parametrize("text", ["{}", "[]", '{"made_by": "x"}', '{"made_by": {"name": "voicekiln"}}'])
def test_a_strangers_json_in_the_way_is_an_answer(outbox: Path, deliver: Callable[..., Delivery], text: str) -> None:
    """Whatever it holds, it is a file that is not ours."""
    (outbox / "sub").mkdir()
    (outbox / SIDECAR).write_text(text)
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)


def test_staging_whose_folder_is_gone_is_lost(outbox: Path, tmp_path: Path, deliver: Callable[..., Delivery]) -> None:
    """The voice is converted again, and nobody waits for a share in vain."""
    delivery = deliver(b"good")
    onnx, sidecar = delivery.pieces
    moved = replace(onnx, source=tmp_path / "gone" / "a.onnx")
    with pytest.raises(StagingLostError, match="cannot be read"):
        publish(outbox, replace(delivery, pieces=[moved, sidecar]), RIGHTS)


def test_temporary_names_are_as_short_as_the_share_wants_them(
    outbox: Path, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encrypted share takes 143 bytes, and the ending must not make a name too long that was not."""
    seen: set[str] = set()
    monkeypatch.setattr(os, "fpathconf", lambda _folder, _what: 25)
    with at_each_step(lambda _: seen.update(names(outbox))):
        publish(outbox, deliver(), RIGHTS)
    assert len(seen) == 4
    assert max(map(len, seen)) <= 25


def test_results_in_a_folder_that_is_gone_are_not_intact(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """Nor those that cannot be read."""
    files = publish(outbox, deliver(), RIGHTS)
    (outbox / "sub").rename(outbox / "elsewhere")
    assert intact(outbox, files) is False


def test_clearing_up_follows_no_link_and_passes_over_what_it_may_not_remove(
    outbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder elsewhere keeps its files, and one file that cannot go keeps no other."""
    name = temp_name("voice.onnx", "feed0001")
    for folder in (tmp_path / "elsewhere", outbox / "a", outbox / "b"):
        folder.mkdir()
        (folder / name).touch()
    (outbox / "link").symlink_to(tmp_path / "elsewhere")
    shut, unlink = (outbox / "a").stat().st_ino, os.unlink

    def unlinked(path: str, *, dir_fd: int) -> None:
        if os.fstat(dir_fd).st_ino == shut:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlinked)
    assert clear_temps(outbox, ["feed"]) == 1
    assert (tmp_path / "elsewhere" / name).exists()
    assert [path.parent.name for path in outbox.glob(f"[ab]/{name}")] == ["a"]


DEEP = PurePosixPath("sub/voice.moevs/voice/voice_RVC.onnx")
BESIDE = PurePosixPath("sub/voice.moevs/voice.json")


def with_folders(delivery: Delivery) -> Delivery:
    """Return the delivery with the same bytes once more in folders of their own, and a client's file beside them."""
    onnx, last = delivery.pieces
    return replace(delivery, pieces=[onnx, replace(onnx, path=DEEP), Piece(BESIDE, "client", text=b"{}"), last])


def tree(outbox: Path) -> set[str]:
    return {str(path.relative_to(outbox)) for path in outbox.rglob("*")}


def test_a_result_may_have_folders_of_its_own(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """With the rights that were asked for, no temporary name left, and the sidecar last of all."""
    done: list[str] = []

    def look(step: Step) -> None:
        if step is Step.ONNX_RENAMED:
            done.append(str((outbox / SIDECAR).exists()))

    with at_each_step(look):
        files = publish(outbox, with_folders(deliver()), Rights(0o664, 0o2775, None))
    assert done == ["False"] * 3
    assert tree(outbox) == {"sub", str(ONNX), str(SIDECAR), str(BESIDE), str(DEEP), *map(str, DEEP.parents[:2])}
    assert [file.kind for file in files] == ["onnx", "onnx", "client", "sidecar"]
    assert all((outbox / file.path).stat().st_ino == file.stamp.ino for file in files if file.stamp)
    for folder in DEEP.parents[:3]:
        assert stat.S_IMODE((outbox / folder).stat().st_mode) == 0o2775
    assert intact(outbox, files)


@pytest.mark.parametrize("taken", [DEEP, BESIDE, DEEP.parent, DEEP.parents[1]])
def test_a_strangers_file_in_the_way_of_a_folder_stops_all_and_leaves_no_empty_folder(
    outbox: Path, deliver: Callable[..., Delivery], taken: PurePosixPath
) -> None:
    """Nothing is published, and nothing of ours is left behind."""
    (outbox / taken).parent.mkdir(parents=True)
    (outbox / taken).write_bytes(b"mine")
    before = tree(outbox)
    with pytest.raises(NameTaken):
        publish(outbox, with_folders(deliver()), RIGHTS)
    assert tree(outbox) == before
    assert (outbox / taken).read_bytes() == b"mine"


def test_a_link_in_the_place_of_a_folder_is_not_followed(
    outbox: Path, deliver: Callable[..., Delivery], tmp_path: Path
) -> None:
    """Whoever may write to the outbox may lay one there."""
    (tmp_path / "elsewhere").mkdir()
    (outbox / "sub").mkdir()
    (outbox / DEEP.parents[1]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NameTaken):
        publish(outbox, with_folders(deliver()), RIGHTS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("stop_at", range(12))
def test_a_result_with_folders_is_finished_by_publishing_again(
    outbox: Path, deliver: Callable[..., Delivery], stop_at: int
) -> None:
    """Wherever it was stopped: what lies there is known as ours by its bytes."""
    count = iter(range(100))

    def stop(_: Step) -> None:
        if next(count) == stop_at:
            raise KeyboardInterrupt

    with at_each_step(stop), suppress(KeyboardInterrupt):
        publish(outbox, with_folders(deliver()), RIGHTS)
    done = publish(outbox, with_folders(deliver()), RIGHTS)
    assert intact(outbox, done)
    assert tree(outbox) == {"sub", str(ONNX), str(SIDECAR), str(BESIDE), str(DEEP), *map(str, DEEP.parents[:2])}


def test_folders_of_a_result_that_is_replaced_go_when_they_are_empty(
    outbox: Path, deliver: Callable[..., Delivery]
) -> None:
    """What somebody has put into one stays there."""
    first = publish(outbox, with_folders(deliver()), RIGHTS)
    ours = {file.path: file for file in first}
    plain = replace(deliver(b"newer"), stale=[DEEP, BESIDE], ours=ours)
    publish(outbox, plain, RIGHTS)
    assert tree(outbox) == {"sub", str(ONNX), str(SIDECAR)}
    again = replace(with_folders(deliver()), ours={file.path: file for file in publish(outbox, plain, RIGHTS)})
    ours = {file.path: file for file in publish(outbox, again, RIGHTS)}
    (outbox / DEEP.parent / "mine").touch()
    publish(outbox, replace(deliver(b"newer"), stale=[DEEP, BESIDE], ours=ours), RIGHTS)
    assert tree(outbox) == {
        "sub",
        str(ONNX),
        str(SIDECAR),
        str(DEEP.parents[1]),
        str(DEEP.parent),
        str(DEEP.parent / "mine"),
    }


def test_litter_is_found_as_deep_as_results_lie(outbox: Path) -> None:
    """Below the deepest folder that sources may have, those of a result."""
    deepest = outbox.joinpath(*"d" * (MAX_DEPTH + BELOW))
    deepest.mkdir(parents=True)
    (deepest / temp_name("a.onnx", "feed0001")).touch()
    assert clear_temps(outbox, ["feed"]) == 1
