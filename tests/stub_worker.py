"""Worker processes made of a few lines of plain Python, and a loop that keeps one as the supervisor would."""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from endings import converted
from voicekiln.job import STAGES, Job, Recipe
from voicekiln.worker.keeper import Ended, Event, Keeper, Left
from voicekiln.worker.parent import Worker
from voicekiln.worker.process import Patience
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.wire import Convert, Finished, Request, encode

PATIENCE = Patience(ask_s=0.2, terminate_s=0.2, kill_s=60.0, drain_s=0.2)

VOICE = b"a voice"

PRELUDE = """
import json, os, signal, sys, time

FINISHED = json.loads({finished!r})

def write(line):
    while line:
        line = line[os.write(1, line):]

def say(kind, **facts):
    write(json.dumps({{"is": kind}} | facts).encode() + b"\\n")

def ready():
    say("ready", device={{"kind": "cpu"}}, versions={{"torch": "0"}})

def hear():
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    request = json.loads(line)
    return request.get("id") or request["job"]["id"]

def finish(job, **other):
    say("finished", id=job, conversion=FINISHED | other)

def hang():
    while True:
        time.sleep(60)
"""


def convert(tmp_path: Path, name: str = "j1", recipe: Recipe | None = None) -> Convert:
    """Return a request to convert, with its staging folder made; whoever opens the source puts `VOICE` there."""
    source, staging, sha256 = tmp_path / "voice.pth", tmp_path / f"staging-{name}", hashlib.sha256(VOICE).hexdigest()
    staging.mkdir(exist_ok=True)
    return Convert(Job(name, source, staging, sha256, recipe or Recipe("default")), threads=1)


def stub(tmp_path: Path, body: str) -> list[str]:
    """Write a worker; return the command that starts it."""
    conversion = asdict(converted(convert(tmp_path, "made").job).conversion)
    path = tmp_path / "stub.py"
    path.write_text(PRELUDE.format(finished=json.dumps(conversion)) + textwrap.dedent(body))
    return [sys.executable, "-I", "-S", str(path)]


def one_room(folder: Path) -> Rooms:
    """Return rooms that lie in one folder, the sources and the jobs' folders in `folder` itself."""
    return Rooms(folder / "templates", folder, folder)


def finished_line(tmp_path: Path, name: str) -> bytes:
    """Return the line with which a worker says that a job is done."""
    return encode(Finished(name, converted(convert(tmp_path, name).job).conversion))


class Bench:
    """A real `Worker` and a loop that polls it only when it wakes us or when it said that it would be due."""

    def __init__(  # noqa: PLR0913 - each is a setting of the worker
        self,
        command: list[str] | None,
        rooms: Rooms,
        *,
        stage_s: float = 30.0,
        start_s: float = 30.0,
        idle_s: float = 30.0,
        memory_bytes: int = 10**9,
        patience: Patience = PATIENCE,
        processor_s: float | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.woken = threading.Event()
        self.worker = Worker(
            command=command,
            device="cpu",
            rooms=rooms,
            deadlines={"start": start_s} | dict.fromkeys(STAGES, stage_s),
            idle_s=idle_s,
            memory_bytes=memory_bytes,
            wake=wake or self.woken.set,
            patience=patience,
            processor_s=processor_s,
        )
        self.events: list[Event] = []

    def until(self, enough: Callable[[list[Event]], bool], bound_s: float = 60.0) -> list[Event]:
        """Poll until the events since the last call are enough; fail after `bound_s`."""
        return until(self.worker, self.woken, enough, bound_s)

    def run(self, request: Request, bound_s: float = 60.0) -> list[Event]:
        """Begin a request and return all events up to its end."""
        self.worker.begin(request, time.monotonic())
        return self.until(has(Ended), bound_s)

    def gone(self) -> list[Event]:
        """Return all events up to the end of the process."""
        return self.until(has(Left))


def until(keeper: Keeper, woken: threading.Event, enough: Callable[[list[Event]], bool], bound_s: float) -> list[Event]:
    """Poll `keeper` as the supervisor does until the events are enough."""
    by = time.monotonic() + bound_s
    events: list[Event] = []
    while True:
        now = time.monotonic()
        woken.clear()
        events += keeper.poll(now)
        if enough(events):
            return events
        assert now < by, f"only {events}"
        woken.wait(min(max(0.0, keeper.next_due(now) - now), by - now))


def has(kind: type[Event]) -> Callable[[list[Event]], bool]:
    """Return a test for an event of this kind."""
    return lambda events: any(isinstance(event, kind) for event in events)


def ending(events: list[Event]) -> object:
    """Return the one ending among the events."""
    (only,) = [event.ending for event in events if isinstance(event, Ended)]
    return only


def exists(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def vanishes(pid: int) -> bool:
    """Say whether a process is gone within half a minute."""
    by = time.monotonic() + 30
    while exists(pid) and time.monotonic() < by:
        time.sleep(0.01)
    return not exists(pid)
