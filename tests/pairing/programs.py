"""Programs beside the daemon: in sessions of their own, on ports that were free, waited for with patience."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

PATIENCE_S = 120.0
"""Whatever has not come about by then will not."""
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
"""Servers are at a place of their own, which is not in everybody's PATH."""
ENDS_S = 20.0
"""For so long a program may take to end before it is killed."""


class Program:
    """A program that runs beside us; use it as a context, which ends it and all that it has started."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        """`log` takes whatever it says."""
        self.command = [str(word) for word in command]
        self.log = log
        self.env = {**os.environ, "PATH": PATH, **(env or {})}

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_S)
        self.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; nothing happens where nobody is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End all of it at once, also what made a process group of its own (Syncthing does)."""
        for pid in _in_session(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def runs(self) -> bool:
        return self.process.poll() is None

    def busy(self) -> bool:
        """Say whether it, or anything that it has started, still runs."""
        return self.runs() or any(_in_session(self.process.pid))

    def finish(self) -> None:
        """Wait for the end; fail if it is no good one."""
        assert self.process.wait(PATIENCE_S) == 0, self.said()

    def said(self) -> str:
        return f"{self.command[0]}: {self.log.read_text(errors='replace')[-3000:]}"


def _in_session(session: int) -> Iterator[int]:
    """Give all processes of the session that have not ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                state, _, _, of, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(of) == session and state not in "ZX":
                    yield int(entry.name)


def until(what: Callable[[], bool], why: Callable[[], str] = lambda: "it never came about") -> None:
    """Wait until `what` is true; fail with `why` if it never is."""
    end_s = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end_s, why()
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Say whether somebody does."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def version(program: str, digits: int) -> str:
    """Return the first numbers of the version that a program says it has: of 1.60.1 two are 1.60."""
    word = "version" if program == "rclone" else "--version"
    told = subprocess.run([program, word], capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    found = re.search(r"\d+(?:\.\d+)+", told)
    assert found is not None, told
    return ".".join(found[0].split(".")[:digits])


def missing(programs: Sequence[str]) -> str:
    """Return why a test that needs these programs cannot be done, "" if it can."""
    absent = [name for name in programs if shutil.which(name, path=PATH) is None]
    if not absent and "fusermount3" in programs and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "this user may not use /dev/fuse"
    return f"not installed: {', '.join(absent)}" if absent else ""
