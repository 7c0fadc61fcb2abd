"""What must be true of the folders before the daemon starts."""

import errno
import grp
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from voicekiln import fences
from voicekiln.folders.watch import FileSystem
from voicekiln.settings import Metrics, Notify, Publish, Settings, Status, Sweep, Workers

NOBODY = 65534
KEEP = Sweep(sources=None)


def settings_in(folder: Path, **changes: object) -> Settings:
    """Three absolute folders, of which inbox and outbox exist."""
    for name in ("inbox", "outbox"):
        (folder / name).mkdir(exist_ok=True)
    return replace(Settings.in_folder(folder), beside=frozenset(), **changes)  # type: ignore[arg-type]  # any field


def keys(problems: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in problems]


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A folder of a user without privileges, who the test is meanwhile: root may write everywhere."""
    folder = Path(tempfile.mkdtemp())
    before = os.geteuid()
    if before == 0:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(before)
    for path in (folder / "inbox", folder / "outbox", folder):
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_good_folders_pass_and_nothing_is_left_in_them(tmp_path: Path) -> None:
    """The probes that were written are removed; state is made, private."""
    settings = settings_in(tmp_path)
    assert fences.problems(settings) == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inbox", "outbox", "state"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_probe_left_by_a_crash_is_removed(tmp_path: Path) -> None:
    """The probe has one name, so a stale one does not stay for ever."""
    settings = settings_in(tmp_path)
    (settings.outbox / fences._PROBE).touch()
    assert fences.problems(settings) == []
    assert list(settings.outbox.iterdir()) == []


@pytest.mark.requirement(10)
@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"outbox": "inbox"}, "outbox", "same folder as inbox"),
        ({"outbox": "inbox/out"}, "outbox", "inside the inbox"),
        ({"inbox": "outbox/a/b"}, "inbox", "inside the outbox"),
        ({"state": "inbox/.state"}, "state", "inside the inbox"),
        ({"outbox": "state/results"}, "outbox", "inside the state"),
        ({"outbox": "other/../inbox"}, "outbox", "same folder as inbox"),
        ({"outbox": "INBOX"}, "outbox", "same folder as inbox"),
        ({"outbox": "Inbox/done"}, "outbox", "inside the inbox"),
        ({"inbox": "caf\u00e9", "outbox": "cafe\u0301/x"}, "outbox", "inside the inbox"),
        ({"outbox": "link"}, "outbox", "same folder as inbox"),
        ({"outbox": "link/deeper"}, "outbox", "inside the inbox"),
        ({"inbox": "up/inbox"}, "inbox", "inside the outbox"),
        ({"outbox": "deep"}, "outbox", "inside the inbox"),
    ],
)
def test_folders_in_each_other_are_refused(tmp_path: Path, changes: dict[str, str], key: str, words: str) -> None:
    """By name, through links, and in other letters of case: results must never come back as voices."""
    settings = settings_in(tmp_path, **{name: tmp_path / where for name, where in changes.items()})
    (tmp_path / "caf\u00e9").mkdir()
    (tmp_path / "link").symlink_to("inbox")
    (tmp_path / "up").symlink_to("outbox")
    (tmp_path / "deep").symlink_to("inbox/not/there")
    before = sorted(tmp_path.rglob("*"))
    [problem] = fences.problems(settings)
    assert problem.startswith(f"{key}: ")
    assert words in problem
    assert sorted(tmp_path.rglob("*")) == before  # nothing was made


def test_neighbours_with_like_names_pass(tmp_path: Path) -> None:
    """`inbox` is not inside `in`, nor the same as `inbox2`."""
    (tmp_path / "inbox2").mkdir()
    assert fences.problems(settings_in(tmp_path, outbox=tmp_path / "inbox2", state=tmp_path / "in")) == []


@pytest.mark.requirement(10)
def test_one_folder_under_two_names_is_found_by_its_identity(tmp_path: Path) -> None:
    """Where paths say nothing (a case-blind file system, a bind mount), the file system is asked."""
    (tmp_path / "a").mkdir()
    assert fences._same(tmp_path / "a", Path(f"/proc/self/root{tmp_path}/a"))


def test_folders_that_are_still_to_be_made_are_no_problem(tmp_path: Path) -> None:
    """A mistake elsewhere keeps them from being made; that one is told alone."""
    assert list(fences.problems(Settings.in_folder(tmp_path / "new"), make=False)) == []
    assert not (tmp_path / "new").exists()


def test_relative_folders_are_made_with_all_above_them(tmp_path: Path) -> None:
    """What was given relative to the file is ours to make."""
    settings = replace(Settings.in_folder(tmp_path / "new"), sweep=KEEP)
    assert fences.problems(settings) == []
    assert settings.inbox.is_dir()
    assert settings.outbox.is_dir()


def test_absolute_folders_that_are_absent_are_not_made(tmp_path: Path) -> None:
    """A missing mount must not become an empty local folder."""
    settings = settings_in(tmp_path, inbox=tmp_path / "nas/in", outbox=tmp_path / "nas/out")
    found = fences.problems(settings)
    assert keys(found) == ["inbox", "outbox"]
    assert all("absent" in line and "not mounted" in line for line in found)
    assert not (tmp_path / "nas").exists()


def test_a_file_in_a_folders_place_is_a_problem(tmp_path: Path) -> None:
    """Given or to be made, a folder has to be one."""
    (tmp_path / "file").touch()
    given = settings_in(tmp_path, inbox=tmp_path / "file")
    assert fences.problems(given) == [f"inbox: {tmp_path}/file cannot be used (not a directory)"]
    taken = settings_in(tmp_path, state=tmp_path / "file")
    assert fences.problems(taken) == [f"state: {tmp_path}/file is a file, not a folder"]
    below = settings_in(tmp_path, state=tmp_path / "file/below")
    assert fences.problems(below) == [f"state: {tmp_path}/file/below cannot be made (not a directory)"]


def test_a_state_on_a_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks cannot be relied on there; what carries the whole system counts as local."""
    where = FileSystem("nfs4", tmp_path, "nas:/x")
    monkeypatch.setattr(fences, "file_system", lambda _: where)
    [problem] = fences.problems(settings_in(tmp_path))
    assert problem.startswith("state: ")
    assert "(nfs4)" in problem
    where = FileSystem("9p", Path("/"), "root")
    assert fences.problems(settings_in(tmp_path)) == []


def test_an_outbox_that_cannot_be_written_is_a_problem(plain_user: Path) -> None:
    """Found at the start, not with the first voice."""
    settings = settings_in(plain_user)
    settings.outbox.chmod(0o555)
    found = fences.problems(settings)
    assert keys(found) == ["outbox"]
    assert "permission denied" in found[0]


def test_an_outbox_in_which_even_root_cannot_write_is_a_problem(tmp_path: Path) -> None:
    """It is really tried, so permission bits do not matter."""
    assert keys(fences.problems(settings_in(tmp_path, outbox=Path("/proc/self/task")))) == ["outbox"]


def test_an_inbox_that_cannot_be_read_is_a_problem(plain_user: Path) -> None:
    """A daemon that sees nothing would wait for ever."""
    settings = settings_in(plain_user, sweep=KEEP)
    settings.inbox.chmod(0o300)
    assert keys(fences.problems(settings)) == ["inbox"]


def test_an_inbox_needs_to_be_writable_only_where_sources_are_swept(plain_user: Path) -> None:
    """An inbox that is only lent for reading is fine with `sources: never`."""
    settings = settings_in(plain_user)
    settings.inbox.chmod(0o555)
    [problem] = fences.problems(settings)
    assert problem.startswith("sweep.sources: ")
    assert "sources: never" in problem
    assert fences.problems(replace(settings, sweep=KEEP)) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE, errno.EIO, errno.EDQUOT])
def test_trouble_that_passes_by_itself_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full disk is waited for; exit status 78 would end the service for good."""

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    settings = settings_in(tmp_path)
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(os, "open", fails)
    assert fences.problems(settings) == []


def test_an_unknown_group_is_a_problem(tmp_path: Path) -> None:
    """Name it, since the file may be right and the machine wrong."""
    settings = settings_in(tmp_path, publish=Publish(group="no-such-group"))
    assert fences.problems(settings) == ["publish.group: there is no group 'no-such-group' on this machine"]


def test_a_group_of_which_one_is_no_member_is_a_problem(plain_user: Path) -> None:
    """Only members, and root, may give files to a group; a group may be given by number."""
    mine = {os.getegid(), *os.getgroups()}
    foreign = next(g.gr_name for g in grp.getgrall() if g.gr_gid not in mine)
    assert keys(fences.problems(settings_in(plain_user, publish=Publish(group=foreign)))) == ["publish.group"]
    assert fences.problems(settings_in(plain_user, publish=Publish(group=str(os.getegid())))) == []


def test_a_synced_inbox_is_refused_unless_the_originals_are_elsewhere(tmp_path: Path) -> None:
    """Sweeping it would delete the voices on the person's own computer."""
    settings = settings_in(tmp_path)
    (settings.inbox / ".stfolder").mkdir()
    [problem] = fences.problems(settings)
    assert problem.startswith("sweep.sources: ")
    assert str(settings.inbox / ".stfolder") in problem
    assert "sources: never" in problem
    assert "originals_elsewhere: true" in problem
    assert fences.problems(replace(settings, sweep=KEEP)) == []
    assert fences.problems(replace(settings, sweep=Sweep(originals_elsewhere=True))) == []


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """One restart, one list."""
    settings = settings_in(tmp_path, outbox=tmp_path / "gone", publish=Publish(group="no-such-group"))
    (tmp_path / ".dropbox").touch()
    assert keys(fences.problems(settings)) == ["outbox", "publish.group", "sweep.sources"]


def test_metrics_that_can_be_written_are_no_problem(tmp_path: Path) -> None:
    """Also beside a file and a socket of the last time; the unit's own folder below /run comes with its start."""
    (tmp_path / "a.prom").touch()
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "a.sock"))
        assert fences.problems(settings_in(tmp_path, metrics=Metrics(tmp_path / "a.prom", tmp_path / "a.sock"))) == []
    assert fences.problems(settings_in(tmp_path, metrics=Metrics(socket=Path("/run/no-such/a.sock")))) == []


@pytest.mark.parametrize(
    ("textfile", "local", "words"),
    [
        ("a.txt", None, "ends in .prom"),
        (".prom", None, "ends in .prom"),
        ("no/a.prom", None, "there is no folder"),
        (None, "no/a.sock", "there is no folder"),
        ("folder.prom", None, "something else"),
        (None, "file", "something else"),
        (None, "x" * 120, "too long"),
    ],
)
def test_metrics_that_could_not_be_written_are_a_problem(
    tmp_path: Path, textfile: str | None, local: str | None, words: str
) -> None:
    """Each under its key, and what stands in the way is left alone."""
    (tmp_path / "folder.prom").mkdir()
    (tmp_path / "file").write_text("mine")
    paths = [None if name is None else tmp_path / name for name in (textfile, local)]
    [problem] = fences.problems(settings_in(tmp_path, metrics=Metrics(*paths)))
    assert problem.startswith("metrics.textfile: " if textfile else "metrics.socket: ")
    assert words in problem
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_for_metrics_without_the_right_to_write_is_a_problem(plain_user: Path) -> None:
    """As it is without the drop-in of the unit."""
    settings = settings_in(plain_user)
    (plain_user / "node").mkdir(mode=0o555)
    found = fences.problems(replace(settings, metrics=Metrics(plain_user / "node" / "a.prom")))
    assert keys(found) == ["metrics.textfile"]
    assert "permission denied" in found[0]


def test_a_command_that_cannot_be_run_is_a_problem(tmp_path: Path) -> None:
    """Told at the start and not with the first refusal."""
    assert fences.problems(settings_in(tmp_path, notify=Notify(("/bin/true", "x")))) == []
    for name, words in (("gone", "there is no program"), ("text", "chmod a+x"), (".", "there is no program")):
        (tmp_path / "text").write_text("no program")
        [problem] = fences.problems(settings_in(tmp_path, notify=Notify((f"{tmp_path}/{name}",))))
        assert problem.startswith("notify.command: ")
        assert words in problem


@pytest.mark.parametrize("what", ["file", "link", "dangling"])
def test_a_status_page_below_something_that_is_no_folder_is_a_problem(tmp_path: Path, what: str) -> None:
    """A link is not followed there either; a folder that is there or still to be made is none."""
    settings = settings_in(tmp_path, status=Status(page=Path("a.onnx/sub/x.html")))
    assert fences.problems(settings) == []
    inner = settings.outbox / "a.onnx"
    match what:
        case "file":
            inner.touch()
        case "link":
            inner.symlink_to(tmp_path / "inbox")
        case "dangling":
            inner.symlink_to(tmp_path / "nowhere")
    [problem] = fences.problems(settings)
    assert problem == "status.page: a.onnx lies in the outbox already and is no folder; write another path"
    inner.unlink()
    inner.mkdir()
    assert fences.problems(settings) == []


def test_a_status_page_that_is_a_folder_is_a_problem(tmp_path: Path) -> None:
    """As where somebody gave the folder of the web server alone."""
    (tmp_path / "www").mkdir()
    [problem] = fences.problems(settings_in(tmp_path, status=Status(page=tmp_path / "www")))
    assert problem == f"status.page: {tmp_path}/www is a folder; write the path of a file in it"


def test_a_cluster_is_looked_at_too(tmp_path: Path) -> None:
    """See `cluster.test_fences`."""
    assert keys(fences.problems(settings_in(tmp_path, workers=Workers("dask")))) == ["workers.scheduler"]


def dask(spool: Path) -> Workers:
    return Workers("dask", "tcp://127.0.0.1:8786", spool=spool)


def test_a_shared_folder_has_to_be_there(tmp_path: Path) -> None:
    """As a folder of its own, that this machine can write to."""
    [problem] = fences.problems(settings_in(tmp_path, workers=dask(tmp_path / "elsewhere")))
    assert problem.startswith(f"workers.spool: there is no folder {tmp_path}/elsewhere. If it lies on a share,")
    (tmp_path / "elsewhere").mkdir()
    assert fences.problems(settings_in(tmp_path, workers=dask(tmp_path / "elsewhere"))) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("spool", "words"),
    [
        ("inbox", "lies in the folder inbox"),
        ("outbox/kiln", "lies in the folder outbox"),
        ("state/kiln", "lies in the folder state"),
        (".", "the folder inbox lies inside"),
        ("link", "lies in the folder inbox"),
    ],
)
def test_a_shared_folder_is_none_of_the_others(tmp_path: Path, spool: str, words: str) -> None:
    """Who sees it sees all in it, and jobs would be taken for voices."""
    (tmp_path / "link").symlink_to("inbox")
    [problem] = fences.problems(settings_in(tmp_path, workers=dask(tmp_path / spool)))
    assert problem.startswith("workers.spool: ")
    assert words in problem


def test_a_shared_folder_has_to_be_written_to(plain_user: Path) -> None:
    """Where root has made it, for instance."""
    locked = plain_user / "kiln"
    locked.mkdir(mode=0o500)
    [problem] = fences.problems(settings_in(plain_user, workers=dask(locked)))
    assert problem.startswith(f"workers.spool: nothing can be written to {locked} (permission denied); give the user")


def test_a_shared_folder_is_for_a_cluster(tmp_path: Path) -> None:
    """On one machine nothing would ever go through it."""
    [problem] = fences.problems(settings_in(tmp_path, workers=Workers(spool=tmp_path)))
    assert problem == "workers.spool: without engine: dask nothing goes through a folder; write spool: null"
