"""What every keeper of a worker promises: the real one with a process, and the tests' own in memory."""

from __future__ import annotations

import threading
from pathlib import Path

from endings import converted
from fake_worker import FakeWorker
from keeper_contract import KeeperContract
from stub_worker import PATIENCE, one_room, stub
from voicekiln.errors import Empty
from voicekiln.job import STAGES, Ending, Lost, Refused
from voicekiln.worker.keeper import Keeper
from voicekiln.worker.parent import Worker
from voicekiln.worker.wire import Convert, Inspect, Looked, Request

STUB = """
ready()
while True:
    job = hear()
    if job.startswith("good"):
        say("entered", id=job, stage="load")
        finish(job)
    elif job.startswith("look"):
        say("looked", id=job, model={"family": "rvc"}, notes=[])
    elif job.startswith("bad"):
        say("declined", id=job, code="empty", found={})
    elif job.startswith("hang"):
        say("entered", id=job, stage="load")
    else:
        os._exit(1)
"""


def answer(request: Request) -> Ending | Looked | None:
    """Do in memory what the stub does."""
    match request:
        case Convert(job) if job.id.startswith("good"):
            return converted(job)
        case Inspect(name):
            return Looked(name, {"family": "rvc"}, ())
        case Convert(job) if job.id.startswith("bad"):
            return Refused(Empty())
        case Convert(job) if job.id.startswith("hang"):
            return None
        case _:
            return Lost("the worker ended with status 1")


class TestWorker(KeeperContract):
    """The real one."""

    def make(self, tmp_path: Path, woken: threading.Event, idle_s: float = 30.0) -> Keeper:
        """Keep a process of plain Python."""
        return Worker(
            command=stub(tmp_path, STUB),
            device="cpu",
            rooms=one_room(tmp_path),
            deadlines={"start": 60.0} | dict.fromkeys(STAGES, 60.0),
            idle_s=idle_s,
            memory_bytes=10**9,
            wake=woken.set,
            patience=PATIENCE,
        )


class TestFakeWorker(KeeperContract):
    """The one in memory."""

    def make(self, tmp_path: Path, woken: threading.Event, idle_s: float = 30.0) -> Keeper:
        """Keep nothing at all."""
        del tmp_path, woken
        return FakeWorker(answer, idle_s=idle_s)
