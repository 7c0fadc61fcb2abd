"""`doctor`: one block for whoever helps, whatever is broken, and no secret in it."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import re
import signal
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from cluster_running import Cluster, until
from voicekiln import cli, loop
from voicekiln.commands import discreet, doctor, machine, premises
from voicekiln.commands.aside import Asked, Found, become_owner_of
from voicekiln.errors import Damaged
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.voices import State
from voicekiln.job import FileStamp, Refused
from voicekiln.oneoff import Desk, NotDoneError
from voicekiln.settings import Settings
from voicekiln.supervisor.common import TROUBLE
from voicekiln.supervisor.hiring import HERE
from voicekiln.worker.wire import Ready


@pytest.fixture(autouse=True)
def _a_worker_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker say what it runs on without being started; that it can is shown by `check`.

    And let this machine have memory and time, whatever else it is doing.
    """
    monkeypatch.setattr(HERE, "free_bytes", lambda: 10**10)
    monkeypatch.setattr(doctor, "ANSWER_S", 60.0)
    ready = Ready({"kind": "cpu", "name": "a test", "why_cpu": "none there", "cage": ["files: open"]}, {"torch": "2"})
    monkeypatch.setattr(Desk, "greeting", lambda _: ready)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An empty configuration beside folders that are there."""
    for name in ("inbox", "outbox", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml").touch()
    return tmp_path / "config.yaml"


def block(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.main(["doctor", "--config", str(config)])
    return status, capsys.readouterr().out


def ledger(config: Path) -> Ledger:
    return Ledger(config.parent / "state" / loop.LEDGER)


def test_where_nothing_is_wrong_it_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One block between marks, a part for each thing that is asked for, exit status 0."""
    status, said = block(config, capsys)
    assert said.startswith("```text\nNothing looks wrong.\n\nconfig ")
    assert said.endswith("\n```\n")
    assert said.count("```") == 2
    parts = "config software system user clock graphics service inbox outbox state rights events watches daemon worker"
    assert [line.split()[0] for line in said.splitlines()[3:-1] if line[0] != " "] == parts.split()
    for fact in (sys.prefix, os.uname().release, "torch 2", "umask 0", "max_user_watches", "none there", "never run"):
        assert fact in said
    assert "could not be found out" not in said
    assert status == cli.OK


def test_nothing_is_left_behind(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It looks and touches nothing, not even where folders are missing."""
    (config.parent / "inbox").rmdir()
    block(config, capsys)
    assert {path.name for path in config.parent.rglob("*")} == {"config.yaml", "outbox", "state"}


def test_no_secret_is_told(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a command only the program, and the home folder as ~."""
    monkeypatch.setenv("HOME", str(config.parent))
    config.write_text("notify: {command: /usr/bin/curl -u bob:geheim https://example.org/x}\nscan: {poll: 9s}\n")
    said = block(config, capsys)[1]
    assert "geheim" not in said
    assert "example.org" not in said
    assert "notify.command: /usr/bin/curl (3 arguments, not shown)" in said
    assert "scan.poll: 9s" in said
    assert str(config.parent) not in said
    assert "~/inbox" in said


def test_no_secret_of_a_broken_configuration_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said, in which key, but not what stands there if it is a command; the rest goes on."""
    config.write_text('notify: {command: "curl \'geheim"}\nscan: {pol: 9s}\n')
    status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert said.startswith("```text\nLooks wrong:\n- ")
    assert "scan.pol: unknown key" in " ".join(said.split())
    assert "notify.command" in said
    assert "geheim" not in said
    assert "umask" in said


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("smb://bob:geheim@nas/share", "smb://[hidden]@nas/share"),
        ("bob:geheim@nas:/share", "[hidden]@nas:/share"),
        ("https://geheim@host/", "https://[hidden]@host/"),
        ("smb://bob:ge@heim@nas/share", "smb://[hidden]@nas/share"),
        ("https://ge@heim@host/", "https://[hidden]@host/"),
        ("on /mnt, rw,password=geheim,uid=5", "on /mnt, rw,[hidden],uid=5"),
        ("API_KEY: geheim and more", "[hidden] and more"),
        ("Authorization: Bearer geheim", "Authorization: Bearer [hidden]"),
        ("ghp_geheim0123456789abcdefABCDEF0123456789", "[hidden]"),
        ("/home/bob/voices, /home/bobby", "~/voices, /home/bobby"),
        ("10:42:07, kernel 6.1.0-18-amd64, mode drwxr-xr-x", "10:42:07, kernel 6.1.0-18-amd64, mode drwxr-xr-x"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(line: str, shown: str) -> None:
    """And what does not is left as it is."""
    assert discreet.hide(line, "/home/bob") == shown


def test_a_name_cannot_end_the_block(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is told stays between the marks."""
    with ledger(config) as book:
        book.set_fact("status", "```</pre>")
    assert block(config, capsys)[1].count("```") == 2


def test_without_a_configuration_the_machine_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none was named and none is in the usual place, that is not wrong; a named one has to be there."""
    monkeypatch.setattr(doctor, "DEFAULT_CONFIG", tmp_path / "usual.yaml")
    status, said = block(tmp_path / "usual.yaml", capsys)
    assert status == cli.OK
    assert said.startswith("```text\nNothing looks wrong with this machine. Folders and daemon were not looked at:\n")
    assert "name yours with --config" in said
    assert "umask" in said
    assert block(tmp_path / "named.yaml", capsys)[0] == cli.NOT_DONE


def test_a_daemon_that_has_run_and_does_not_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With how to start it."""
    ledger(config).close()
    status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert "The daemon does not run. Start it:" in said


def test_what_troubles_the_daemon_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says itself, how many voices there are, and the last that were refused."""
    with ledger(config) as book, loop.only_daemon(config.parent / "state"):
        voice = book.sight(PurePosixPath("half.pth"), "default", FileStamp(1, 2, 3, 4), 5.0)
        book.ended(voice.id, Refused(Damaged(what="it is cut off")))
        book.published(voice.id, [], [], 9.0)
        book.set_fact(TROUBLE, "inbox away")
        status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert "kept from its work: inbox away" in said
    assert "ledger: 1 refused" in said
    assert re.search(r" refused: 1970-\S+ \S+ \S+ half\.pth \(damaged\): The file is damaged", said)
    assert "trouble:" not in said
    assert "clean end" not in said


@pytest.mark.parametrize(("state", "label", "status"), [("queued", "trouble", 1), ("incomplete", "waits", 0)])
def test_what_is_tried_again_looks_wrong(
    config: Path, capsys: pytest.CaptureFixture[str], state: str, label: str, status: int
) -> None:
    """Unless a file is only given time to arrive, as every file is."""
    with ledger(config) as book, loop.only_daemon(config.parent / "state"):
        voice = book.sight(PurePosixPath("half.pth"), "default", FileStamp(1, 2, 3, 4), 5.0)
        book.wait(voice.id, State(state), "no room", 9.0)
        found, said = block(config, capsys)
    assert found == status
    assert f"{label}: half.pth until 1970-01-01" in said
    assert ("are tried again" in said) == ("Nothing looks wrong." not in said) == bool(status)


def test_settings_are_told_as_the_configuration_writes_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that differ from the defaults, so that they can be pasted into another; recipes that are gone as such."""
    lines = [
        "max_bytes: 1500MB",
        "scan.poll: 0.5s",
        'publish.mode: "0660"',
        "status.page: off",
        "sweep.sources: never",
        "sweep.results: 90m",
        "sweep.max_share: 12.5%",
    ]
    text = "sweep: {sources: never, results: 90m, max_share: 12.5%}\nscan: {poll: 0.5s}\nmax_bytes: 1.5GB\n"
    text += 'publish: {mode: "660"}\nstatus: {page: off}\n'
    config.write_text(f"{text}recipes: {{live: {{interface: [rvc, moevs]}}, both: {{precision: both}}}}\n")
    said = block(config, capsys)[1]
    assert set(lines) <= {line.strip() for line in said.splitlines()}
    assert "recipes.live: precision fp32, opset 17, interface [rvc, moevs], verify full" in said
    assert "recipes.fp16: is not there" in said
    assert "recipes.default" not in said
    assert "recipes.both" not in said


def test_a_ledger_that_is_none_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what will become of it."""
    (config.parent / "state" / loop.LEDGER).write_bytes(b"not a database" * 1000)
    status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert "its ledger cannot be read" in said
    assert "kept aside" in said


def test_what_would_keep_the_daemon_from_starting_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `run` would say it."""
    (config.parent / "outbox").rmdir()
    config.write_text(f"outbox: {config.parent}/inbox/out\n")
    status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert "The daemon would not start: outbox:" in said


def test_a_disk_that_is_nearly_full_is_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the outbox and the state folder; what little room the inbox has is nobody's trouble here."""
    monkeypatch.setattr(premises, "LITTLE_BYTES", 1 << 80)
    said = block(config, capsys)[1]
    assert "The disk of the outbox is nearly full" in said
    assert "The disk of the inbox" not in said


def test_two_runtimes_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wheel overwrites the other's files; none at all is told as well."""
    monkeypatch.setattr(metadata, "version", lambda _: "1.0")
    (wrong,) = machine.software().wrong
    assert "onnxruntime and onnxruntime-gpu are both installed" in wrong
    assert "uninstall" in wrong

    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    (wrong,) = machine.software().wrong
    assert "not installed" in wrong


def test_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a conversion needs; a system that does not name itself keeps nobody from that."""
    monkeypatch.setattr(HERE, "free_bytes", lambda: 10**8)

    def nameless() -> dict[str, str]:
        raise OSError(errno.ENOENT, "No such file or directory", "/etc/os-release")

    monkeypatch.setattr(machine.platform, "freedesktop_os_release", nameless)  # type: ignore[attr-defined]
    found = machine.system()
    assert found.lines[0].startswith("an unknown system, kernel ")
    assert found.wrong[0].startswith("Only 0.1 GB of memory are free")


def test_a_gpu_that_is_not_used_is_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the worker's reason; not where the configuration wants it so."""
    monkeypatch.setattr(HERE, "gpus", lambda: 1)
    assert "There is an NVIDIA GPU, but it is not used: none there." in block(config, capsys)[1]
    config.write_text("worker: {device: cpu}\n")
    assert "Nothing looks wrong." in block(config, capsys)[1]


def test_a_worker_that_cannot_start_is_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is told all the same."""

    def lost(_: Desk) -> Ready:
        raise NotDoneError("the worker crashed (SIGILL)")

    monkeypatch.setattr(Desk, "greeting", lost)
    status, said = block(config, capsys)
    assert status == cli.NOT_DONE
    assert "cannot start (the worker crashed (SIGILL))" in " ".join(said.split())
    assert "umask" in said


def hangs() -> Found:
    signal.pause()
    return Found()


def fails() -> Found:
    raise RuntimeError("odd\x1b[2J")


def dies() -> Found:
    os.kill(os.getpid(), signal.SIGKILL)
    return Found()


def test_a_question_that_hangs_holds_nothing_up() -> None:
    """It is told as a thing that looks wrong, and its process does not stay."""
    asked = Asked("inbox", hangs)
    found = asked.answer(time.monotonic())
    assert found.lines == ["gives no answer"]
    assert "inbox gives no answer" in found.wrong[0]
    assert os.WTERMSIG(os.waitpid(asked._pid, 0)[1]) == signal.SIGKILL


def test_a_question_that_fails_is_a_line() -> None:
    """Whether it raises or its process dies, be it in the midst of its answer."""
    until = time.monotonic() + 60
    assert Asked("x", fails).answer(until).lines == [
        "could not be found out: odd\N{REPLACEMENT CHARACTER}[2J (RuntimeError)"
    ]
    assert Asked("x", dies).answer(until).lines == ["could not be found out"]
    cut_off = Found(["it breaks off"], [object()])  # type: ignore[list-item]  # at which the writing ends
    assert Asked("x", lambda: cut_off).answer(until).lines == ["could not be found out"]
    assert Asked("x", lambda: Found(["ä" * 100_000], ["b"])).answer(until) == Found(["ä" * 100_000], ["b"])


def test_a_question_keeps_no_pipe_open() -> None:
    """Whoever reads what the command says sees its end, also where a question is left behind."""
    asked = Asked("x", lambda: Found([os.readlink(f"/proc/self/fd/{number}") for number in range(3)]))  # noqa: PTH115
    assert asked.answer(time.monotonic() + 60).lines == [os.devnull] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_asks_as_the_user_whose_state_it_is(tmp_path: Path) -> None:
    """Rights that root has say nothing about the daemon."""
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)

    def who() -> Found:
        become_owner_of(tmp_path)
        return Found([f"{os.geteuid()} {os.getegid()} {0 in os.getgroups()}"])

    answer = Asked("who", who).answer(time.monotonic() + 60)
    assert answer.lines == [f"{nobody.pw_uid} {nobody.pw_gid} False"]


def test_watches_are_counted(config: Path) -> None:
    """Of each instance as many as it has; other open files are none."""
    libc = ctypes.CDLL(None)
    instance = libc.inotify_init1(os.O_CLOEXEC)
    for name in ("inbox", "outbox"):
        assert libc.inotify_add_watch(instance, os.fsencode(config.parent / name), 0x100) >= 0
    assert premises._count(Path(f"/proc/self/fdinfo/{instance}")) == 2
    assert premises._count(Path("/proc/self/fdinfo/0")) is None
    os.close(instance)


def test_a_watch_is_tried_and_given_up(config: Path) -> None:
    """Whether it can be set or not, no instance of it stays."""
    before = set(Path("/proc/self/fd").iterdir())
    assert premises._watch(config.parent / "inbox") == 0
    assert premises._watch(config.parent / "absent") == errno.ENOENT
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_limit_that_is_reached_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key and how to raise it; a network drive has no events to miss."""
    settings = Settings.in_folder(config.parent)
    monkeypatch.setattr(premises, "_watch", lambda _: errno.ENOSPC)
    monkeypatch.setattr(premises, "become_owner_of", lambda _: None)
    (wrong,) = premises.events(settings).wrong
    assert "fs.inotify.max_user_watches" in wrong
    off = replace(settings, scan=replace(settings.scan, events="off"))
    assert premises.events(off).wrong == []


def test_a_cluster_is_asked_how_many_places_it_has(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And whether it is there at all."""
    cluster = Cluster(tmp_path)
    config.write_text(f"workers: {{engine: dask, scheduler: '{cluster.address}'}}\n")
    status, told = block(config, capsys)
    assert status == 1
    assert "The cluster cannot be used: the scheduler at" in " ".join(told.split())
    with cluster:
        until(lambda: "places: 1;" in block(config, capsys)[1])
        cluster.kill(cluster.workers[0])
        until(lambda: "The cluster has no workers." in block(config, capsys)[1])
