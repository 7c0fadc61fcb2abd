"""A command of the person's own: it gets what it needs, and no more time, room or knowledge than that."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from voicekiln.supervisor import program
from voicekiln.supervisor.program import MAX_LINE, MAX_LINES, Outcome, environment, run


@pytest.fixture(autouse=True)
def _long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a program on a busy machine the time to end when it is asked to."""
    monkeypatch.setattr(program, "ASK_S", 60.0)


def python(code: str, *words: str, timeout_s: float = 120.0, hurry: threading.Event | None = None) -> Outcome:
    """Run some Python as a command."""
    return run([sys.executable, "-c", code, *words], dict(os.environ), timeout_s, hurry or threading.Event())


def once_written(path: Path) -> threading.Event:
    """Return an event that is set when something stands in the file."""
    event = threading.Event()

    def wait() -> None:
        while not (path.exists() and path.read_text()):
            time.sleep(0.02)
        event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


def test_it_gets_its_words_as_they_are() -> None:
    """No shell looks at them."""
    done = python("import sys; print(sys.argv[1:])", "$HOME", "a b", "*", ";", "`id`")
    assert (done.status, done.ended, done.said) == (0, "by itself", ("['$HOME', 'a b', '*', ';', '`id`']",))


def test_it_gets_few_variables() -> None:
    """What it is told, and what a program needs to find its way; nothing that is meant for the daemon."""
    around = {"PATH": "/bin", "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "A_TOKEN": "secret", "LANG": "C"}
    told = environment(around, {"VOICEKILN_CODE": "empty"})
    assert told == {"PATH": "/bin", "LANG": "C", "VOICEKILN_CODE": "empty"}
    done = run(["/usr/bin/env"], told, 30.0, threading.Event())
    assert set(done.said) == {"PATH=/bin", "LANG=C", "VOICEKILN_CODE=empty"}


def test_it_inherits_nothing() -> None:
    """Its standard input is empty, no other descriptor of ours is open, and its group is its own."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # noqa: FBT003 - the library's way
    code = """
import os, json
print(json.dumps([os.readlink("/proc/self/fd/0"), os.listdir("/proc/self/fd"), os.getpgrp()]))
"""
    ours = os.dup(0)
    os.dup2(reading, 0)  # whatever pytest has put there
    try:
        done = python(code)
    finally:
        os.dup2(ours, 0)
    for descriptor in (reading, writing, ours):
        os.close(descriptor)
    stdin, descriptors, group = json.loads(done.said[0])
    assert stdin == "/dev/null"
    assert set(descriptors) <= {"0", "1", "2", "3"}  # 3 is the folder that it lists
    assert group != os.getpgrp()


def test_what_it_writes_is_cleaned_and_cut() -> None:
    """A flood on both its outputs neither stops it nor fills the log."""
    code = """
import sys
print("\\x1b[31mred", file=sys.stderr, flush=True)
for _ in range(3000): print("x" * 1000)
"""
    done = python(code)
    assert done.status == 0
    assert done.said[0] == "\N{REPLACEMENT CHARACTER}[31mred"
    assert len(done.said) <= MAX_LINES
    assert max(map(len, done.said)) == MAX_LINE


def test_only_the_beginning_of_what_it_writes_is_kept() -> None:
    """Memory is bounded by bytes, not by lines that may be empty."""
    assert python(f"print(chr(10) * {program.MAX_OUTPUT} + 'late')").said == ()


def test_its_status_is_told() -> None:
    """A failure is seen."""
    assert python("raise SystemExit(3)").status == 3


def test_out_of_time_it_is_asked_to_end() -> None:
    """As soon as its time has passed."""
    done = python("import time; time.sleep(600)", timeout_s=0.1)
    assert (done.status, done.ended) == (-15, "asked")


def test_asked_to_end_it_may_clear_up(tmp_path: Path) -> None:
    """Its last words and its status are its own."""
    code = """
import signal, sys, time
def end(*_): print("clearing up", flush=True); sys.exit(5)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
open(sys.argv[1], "w").write("ready")
time.sleep(600)
"""
    ready = tmp_path / "ready"
    done = python(code, str(ready), hurry=once_written(ready))
    assert (done.status, done.ended, done.said) == (5, "asked", ("ready", "clearing up"))


def test_what_does_not_end_is_killed_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a child that holds the output open."""
    monkeypatch.setattr(program, "ASK_S", 0.3)
    code = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""
    pid = tmp_path / "pid"
    done = python(code, str(pid), hurry=once_written(pid))
    assert (done.status, done.ended) == (-9, "killed")
    assert gone(int(pid.read_text()))


def test_what_it_leaves_behind_is_killed(tmp_path: Path) -> None:
    """A command that has ended itself takes its children with it."""
    code = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
"""
    done = python(code, str(tmp_path / "pid"))
    assert (done.status, done.ended) == (0, "by itself")
    assert gone(int((tmp_path / "pid").read_text()))


def gone(pid: int) -> bool:
    """Say whether a process has ended, or does within some seconds; nobody may have buried it."""
    for _ in range(100):
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_it_can_be_told_to_hurry() -> None:
    """A stop of the daemon does not wait for its whole time."""
    hurry = threading.Event()
    hurry.set()
    assert python("import time; time.sleep(600)", hurry=hurry).status == -15


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_what_may_not_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that becomes another user (sudo) is told of as what it is, and holds nobody up."""
    monkeypatch.setattr(program, "ASK_S", 0.1)
    monkeypatch.setattr(program, "KILL_S", 0.1)
    real, pids = os.killpg, []

    def forbidden(group: int, _: int) -> None:
        pids.append(group)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", forbidden)
    try:
        done = python("import time; time.sleep(600)", timeout_s=0.1)
        assert (done.status, done.ended) == (None, "left behind, since it cannot be killed")
        by_itself = python("print('well')")
        assert (by_itself.status, by_itself.said) == (0, ("well",))
    finally:
        real(pids[0], 9)


def test_a_program_that_is_not_there_is_an_error() -> None:
    """It is for the caller to tell."""
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], {}, 1.0, threading.Event())
