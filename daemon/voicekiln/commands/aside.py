"""A question that may hang is asked in a process of its own, which is left behind if it gives no answer in time.

A thread would not do: one that waits for a dead share in the kernel keeps its process from ending.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from voicekiln.errors import plain


@dataclass(slots=True)
class Found:
    """What was found out of one thing."""

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Sentences for a person: what looks wrong, and what to do."""


class Asked:
    """A question on its way. To be asked before there are threads, since the process is forked."""

    def __init__(self, what: str, question: Callable[[], Found]) -> None:
        self.what = what
        self._answer, ours = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._answer)
            _reply(ours, question)
        os.close(ours)

    def answer(self, until: float) -> Found:
        """Return the answer, or that there is none by then (seconds of `time.monotonic`)."""
        said = b""
        with open(self._answer, "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor has no path
            while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                if not (piece := pipe.read(1 << 16)):
                    os.waitpid(self._pid, 0)
                    return _understood(said)
                said += piece
        os.kill(self._pid, signal.SIGKILL)  # whether it dies, nobody waits for
        return Found(
            ["gives no answer"],
            [f"{self.what} gives no answer. If it lies on a network drive, see whether the server is up."],
        )

    @classmethod
    def all(cls, questions: dict[str, Callable[[], Found]]) -> dict[str, Self]:
        """Ask all of them at once."""
        return {what: cls(what, question) for what, question in questions.items()}


def _reply(pipe: int, question: Callable[[], Found]) -> None:
    """Answer and end; for the process that was forked."""
    try:
        _let_go_of_the_terminal()
        try:
            found = question()
        except Exception as error:  # noqa: BLE001 - whatever is broken here is what is being looked for
            found = Found([f"could not be found out: {plain(str(error), 200)} ({type(error).__name__})"])
        with open(pipe, "w", encoding="utf-8", errors="replace") as out:
            json.dump({"lines": found.lines, "wrong": found.wrong}, out)
    finally:
        os._exit(0)


def _let_go_of_the_terminal() -> None:
    """Whoever reads what the command says must see its end, also where this process is left behind."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)


def _understood(said: bytes) -> Found:
    try:
        return Found(**json.loads(said))
    except ValueError:  # it has ended before it had said all
        return Found(["could not be found out"])


def become_owner_of(folder: Path) -> None:
    """Where root asks, go on as the user whose folder it is: the daemon's rights are what counts. For `Asked` only."""
    if os.geteuid() != 0 or not (st := folder.stat()).st_uid:
        return
    try:
        os.initgroups(pwd.getpwuid(st.st_uid).pw_name, st.st_gid)
    except KeyError:
        os.setgroups([])
    os.setgid(st.st_gid)
    os.setuid(st.st_uid)
