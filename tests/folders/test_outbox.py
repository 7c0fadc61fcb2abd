"""Publishing: a reader never sees half of anything, and nobody's file is overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from voicekiln import steps
from voicekiln.errors import NameTaken, ShareAwayError
from voicekiln.folders.names import temp_name
from voicekiln.folders.outbox import Delivery, Piece, Rights, StagingLostError, clear_temps, intact, publish
from voicekiln.folders.voices import Published
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
    assert (done[0].path, done[0].kind, done[0].sha256) == (ONNX, "onnx", sha(b"onnx"))
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
    publish(outbox, deliver(), Rights(0o600, 0o700, 12345))
    assert names(outbox) == {"voice.onnx", "voice.json"}


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
    """Each file is synced before any is renamed, the folder before the sidecar comes and after it."""
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        calls.append("sync folder" if path.is_dir() else f"sync {path.name.removeprefix('.~').partition('.feed')[0]}")
        sync(file)

    def renamed(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append(f"rename {new}")
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    (outbox / "sub").mkdir()
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    publish(outbox, deliver(b"new"), RIGHTS)
    assert calls == [
        *("sync voice.onnx", "sync voice.json", "rename voice.onnx", "sync folder"),
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
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)
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


def test_a_sidecar_of_another_source_makes_nothing_ours(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """What another daemon, or the command convert, made of another voice under the same name is not overwritten."""
    publish(outbox, deliver(b"old"), RIGHTS)
    (outbox / SIDECAR).write_bytes(sidecar_for(b"old", source="voice.pth"))
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
    assert clear_temps(outbox, "feed") == 1
    subprocess.run(["rm", "-rf", str(outbox / "d")], check=True)  # noqa: S607 - pytest's own clearing up is recursive


def test_stale_files_go_only_while_they_are_ours(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """An older fp16 file and refusal of ours go with the new result; one that somebody edited stays."""
    (outbox / "sub").mkdir()
    (outbox / "sub/voice.fp16.onnx").write_bytes(b"half")
    (outbox / "sub/voice.error.json").write_bytes(b"edited")
    stale = [PurePosixPath("sub/voice.fp16.onnx"), PurePosixPath("sub/voice.error.json")]
    publish(outbox, deliver(b"new", stale, voice__fp16__onnx=b"half", voice__error__json=b"refusal"), RIGHTS)
    assert names(outbox) == {"voice.onnx", "voice.json", "voice.error.json"}


def test_changed_or_missing_staging_is_found_out(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """Bytes other than those that were verified are never published."""
    delivery = deliver(b"good")
    source = delivery.pieces[0].source
    assert source is not None
    source.write_bytes(b"evil")
    with pytest.raises(StagingLostError, match="changed"):
        publish(outbox, delivery, RIGHTS)
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
    with pytest.raises(NameTaken):
        publish(outbox, deliver(), RIGHTS)
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
    assert clear_temps(outbox, "feed") == 1
    assert not ours.exists()
    assert all(path.exists() for path in others)


def test_intact_means_every_byte(outbox: Path, deliver: Callable[..., Delivery]) -> None:
    """A missing or changed file is not intact, and neither is nothing at all."""
    files = publish(outbox, deliver(), RIGHTS)
    assert intact(outbox, files)
    assert not intact(outbox, [])
    assert not intact(outbox, [replace(files[0], sha256=sha(b"other"))])
    (outbox / ONNX).unlink()
    assert not intact(outbox, files)
