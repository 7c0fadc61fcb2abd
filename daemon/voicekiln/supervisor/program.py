"""Runs a command of the person's own to its end, within limits. For a thread that has nothing else to do.

No shell; nothing of ours goes in but the words, a few variables and an empty standard input. What it writes is read
while it runs, so that it never waits for us, and kept up to a limit. Out of time it is asked to end (SIGTERM), then it
and all that it has started in its group are killed. What SIGKILL does not end, because it hangs in the kernel or runs
as another user (sudo), is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

from voicekiln.errors import plain

ASK_S = 2.0
KILL_S = 5.0
DRAIN_S = 0.5
"""How long it may take to end after SIGTERM, after SIGKILL, and how long its pipe is read on once it has ended."""

LONGEST_END_S = ASK_S + KILL_S + DRAIN_S + 1.0
"""Within this time of being told to hurry, `run` returns."""

BEAT_S = 0.1
"""So often it is seen whether it has ended."""

MAX_OUTPUT = 8192
MAX_LINES = 20
MAX_LINE = 300
"""Bytes, lines and characters of a line that are kept of what it writes."""

LET_IN = ("PATH", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LC_CTYPE", "TZ")
"""Variables of the daemon's that it gets. The others may hold what is meant for the daemon alone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    status: int | None
    """As `subprocess` counts; None if it could not be got rid of."""
    seconds: float
    said: tuple[str, ...]
    """The beginning of what it wrote, cleaned."""
    ended: str
    """`by itself`, `asked`, `killed`, or that it was left behind."""


def environment(around: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a command: few of the daemon's, and what it is told."""
    return {name: around[name] for name in LET_IN if name in around} | dict(facts)


def run(words: Sequence[str], env: Mapping[str, str], timeout_s: float, hurry: threading.Event) -> Outcome:
    """Run it and wait; `hurry` ends it before its time.

    Raises:
        OSError: if it cannot be started.
    """
    began = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - the words are the configuration's, and the last an absolute path
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        cwd="/",
        env=env,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - for the type checker
    lives, ended = partial(_lives, process.pid), "by itself"
    with process.stdout as pipe:
        output = _Output(pipe.fileno())
        output.listen(timeout_s, lambda: lives() and not hurry.is_set())
        if lives():
            ended = "asked"
            _signal(process.pid, signal.SIGTERM)
            output.listen(ASK_S, lives)
        output.listen(DRAIN_S, lambda: output.open and not lives())  # a grandchild may hold it open for ever
        if lives():
            ended = "killed"
        _signal(process.pid, signal.SIGKILL)  # its number is not free yet: nobody has asked for its status
        output.listen(KILL_S, lives)
    if lives():
        return Outcome(None, time.monotonic() - began, output.lines(), "left behind, since it cannot be killed")
    return Outcome(process.wait(), time.monotonic() - began, output.lines(), ended)


def _signal(group: int, number: signal.Signals) -> None:
    """Send a signal to a group, as far as there is one and we may."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _lives(pid: int) -> bool:
    """Say whether a child has not ended; its status stays to be asked for, and its number its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # where SIGCHLD is ignored, the kernel buries it at once
        return False


class _Output:
    """What comes out of a pipe: all of it read, the beginning kept."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = b""
        self.open = True

    def listen(self, seconds: float, on: Callable[[], bool]) -> None:
        """Read for so long, as long as `on` says so."""
        end = time.monotonic() + seconds
        while on() and (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._descriptor] if self.open else [], [], [], min(left, BEAT_S))
            if ready:
                chunk = os.read(self._descriptor, MAX_OUTPUT)
                self.open = bool(chunk)
                self._kept += chunk[: MAX_OUTPUT - len(self._kept)]

    def lines(self) -> tuple[str, ...]:
        """Return what was kept."""
        lines = (plain(line, MAX_LINE) for line in self._kept.decode(errors="replace").splitlines())
        return tuple(islice((line for line in lines if line.strip()), MAX_LINES))
