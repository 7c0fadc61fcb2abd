"""What a stranger's file may not do while it is looked at, and a guard that notices all of it.

The guard listens to Python's own audit events: a program that is started, a connection, a file that is opened for
writing outside the folders that are ours. A hook cannot be taken out again, so there is one, which sleeps between
tests. Time is bounded by an alarm, memory by the kernel.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty|startfile|link|symlink|putenv|kill)"
    r"|subprocess\.Popen|socket\.(connect|bind|getaddrinfo)|pickle\.find_class|ctypes\.dlopen|shutil\..*|pty\.spawn"
    r"|webbrowser\.open|urllib\.Request"
)
"""Audit events of which a checkpoint sets off none."""
CHANGES = re.compile(r"os\.(rename|remove|mkdir|rmdir|truncate)")
"""Those that are in order within our own folders."""


class HungError(BaseException):
    """The alarm went off; no broad `except` for a stranger's bytes may catch it."""


class _Guard:
    """The one audit hook."""

    def __init__(self) -> None:
        self.ours: tuple[str, ...] | None = None
        """Folders in which may be written; None while nobody listens."""
        self.heard: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.ours is None:
            return
        if FORBIDDEN.fullmatch(event):
            self.heard.append(f"{event} {arguments!r:.200}")
        elif (event == "open" and _writes(arguments)) or CHANGES.fullmatch(event):
            path = arguments[0]
            if isinstance(path, str | bytes | os.PathLike) and not os.fsdecode(path).startswith(self.ours):
                self.heard.append(f"{event} {arguments!r:.200}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


_guards: list[_Guard] = []


@contextmanager
def harmless(*ours: Path, seconds: int = 60, extra_bytes: int = 2**30) -> Iterator[None]:
    """Fail if anything forbidden happens within, if it takes longer, or wants so much more memory than there is now.

    `ours` are the folders in which may be written.
    """
    if not _guards:
        _guards.append(_Guard())
    guard = _guards[0]
    guard.heard.clear()
    guard.ours = tuple(map(str, ours)) or ("/nowhere/",)
    try:
        with _bounded(seconds, extra_bytes):
            yield
    finally:
        guard.ours = None
    assert not guard.heard, guard.heard[:5]


@contextmanager
def _bounded(seconds: int, extra_bytes: int) -> Iterator[None]:
    def hung(*_: object) -> None:
        raise HungError(f"not done within {seconds} s")

    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) * 1024
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_DATA, (used + extra_bytes, limits[1]))
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=2)  # for C code, which hears no alarm
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGALRM, before)
