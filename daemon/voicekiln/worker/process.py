"""One child process and all that it started: how it is begun, measured and got rid of.

Getting rid of it is a ladder that never waits unbounded: ask (close its standard input), SIGTERM, SIGKILL to the
whole process group, give up. Each rung has a time after which the next one is taken; nothing here blocks. A process
that SIGKILL does not end hangs in the kernel, mostly in a driver; nobody can do more than say so.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from voicekiln.worker.lines import Listener
from voicekiln.worker.rooms import environment

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Rung(IntEnum):
    """The steps of the ladder, in the order in which they are climbed."""

    ASK = 0
    TERMINATE = 1
    KILL = 2
    GIVE_UP = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that each rung is given before the next one is taken."""

    ask_s: float = 2.0
    terminate_s: float = 3.0
    kill_s: float = 10.0
    drain_s: float = 0.5
    """How long the pipes of a dead process are read on (a grandchild may hold them open for ever), and how long a
    process may live on after it has closed them."""

    def of(self, rung: Rung) -> float:
        """Return the time that belongs to a rung."""
        return (self.ask_s, self.terminate_s, self.kill_s, float("inf"))[rung]


class Process:
    """A child in a session of its own, so that a terminal's Ctrl-C does not reach it and its group can be killed.

    The kernel may tie the child's life to the *thread* that starts it (PR_SET_PDEATHSIG), so that thread has to
    live as long as the daemon does.
    """

    def __init__(self, command: Sequence[str], wake: Callable[[], None], patience: Patience) -> None:
        """Start it.

        Raises:
            OSError: if it cannot be started.
        """
        self._popen = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment(os.environ),
            start_new_session=True,
        )
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr  # noqa: S101, PT018 - for the type checker
        os.set_blocking(self._popen.stdin.fileno(), False)
        self._stdin = self._popen.stdin
        self._patience = patience
        self.pid = self._popen.pid
        self.listener = Listener(self._popen.stdout, self._popen.stderr, wake)
        self.rung: Rung | None = None
        """How far up the ladder it is; None if nobody wants to be rid of it."""
        self.due = float("inf")
        """When `climb` has something to do."""

    def tell(self, line: bytes) -> None:
        """Write a request. It fits into an empty pipe, so this does not block.

        Raises:
            OSError: if the process does not take it.
        """
        if self._stdin.write(line) != len(line):
            raise BlockingIOError("the worker does not read")

    def dismiss(self, now: float, rung: Rung) -> None:
        """Begin to get rid of it, from `rung` up. A rung that was passed already is not taken again."""
        if self.rung is not None and rung <= self.rung:
            return
        self.rung = rung
        self.due = now + self._patience.of(rung)
        match rung:
            case Rung.ASK:
                self._stdin.close()
            case Rung.TERMINATE:
                self._signal(signal.SIGTERM)
            case Rung.KILL:
                self._signal(signal.SIGKILL)
            case Rung.GIVE_UP:
                self._stdin.close()
                self.listener.close()

    def climb(self, now: float) -> None:
        """Take the next rung if its time has come."""
        if self.rung is not None and now >= self.due:
            self.dismiss(now, Rung(self.rung + 1))

    def dead(self) -> bool:
        """Say whether it has ended, without burying it: until then its number and its group belong to nobody else."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # where SIGCHLD is ignored, the kernel buries it at once
            return True

    def kill_offspring(self) -> None:
        """Kill what a dead process has left in its group."""
        self._signal(signal.SIGKILL)

    def bury(self) -> int:
        """Release all that belongs to a dead process; return its status as `subprocess` counts it."""
        self._stdin.close()
        if self.rung is not Rung.GIVE_UP:
            self.listener.close()
        return self._popen.wait()

    def memory(self) -> int:
        """Return the bytes of memory that it and its session hold and cannot give back (files mapped do not count)."""
        return sum(_memory(entry) for entry in Path("/proc").iterdir() if _session(entry) == self.pid)

    def processor_s(self) -> float:
        """Return the seconds of processor time that it has had, all its threads together."""
        fields = _stat(Path("/proc", str(self.pid)))
        return sum(int(field) for field in fields[11:13]) / TICKS_A_SECOND

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def how_it_ended(status: int) -> str:
    """Return the clause that tells a person what an exit status means."""
    if status > 0:
        return f"the worker ended with status {status}"
    if status == 0:
        return "the worker ended without an answer"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if name == "SIGKILL":
        return "the worker was killed (SIGKILL), often for want of memory"
    crashes = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")
    return f"the worker {'crashed' if name in crashes else 'was stopped'} ({name})"


def _session(entry: Path) -> int | None:
    """Return the session of a process in /proc; None if it is none or has just gone."""
    fields = _stat(entry) if entry.name.isdecimal() else []
    return int(fields[3]) if fields else None


def _stat(entry: Path) -> list[bytes]:
    """Return the fields of a process in /proc from its state on, the third; none if it has just gone."""
    try:
        # The name stands in brackets and may hold brackets and blanks itself, so count from its end.
        return (entry / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _memory(entry: Path) -> int:
    try:
        status = (entry / "status").read_text(errors="replace")
    except OSError:
        return 0
    fields = (line.split() for line in status.splitlines())
    return sum(int(field[1]) * 1024 for field in fields if field[:1] in (["RssAnon:"], ["RssShmem:"]))
