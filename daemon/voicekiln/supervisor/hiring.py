"""How many workers there are, on which devices, with which limits, and what this machine has for them.

Nothing of it can be configured, because the machine can be asked: one worker per GPU, or per core where there is
none. How many of them get a process is decided when there is work, by the memory that is free then (see `dispatch`):
what was free when the daemon started says little about the weeks after.

Control groups are read in their version 2 only. Under version 1 a container's limits are not seen: more workers than
its memory holds would be ended by the kernel, and their voices tried again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from voicekiln.settings import Settings
from voicekiln.settings import Worker as WorkerSettings
from voicekiln.worker.parent import Worker
from voicekiln.worker.rooms import Rooms

MAX_WORKERS = 8
"""On the processor. So many finish several voices a second, each of 110 MB and more: no share takes them faster."""

WORKER_BYTES = 1_500_000_000
"""Main memory that has to be free for one more worker; with a voice of the usual size it peaks at 1.1 GB."""


class Machine:
    """What this machine, or the container that we are in, lets us have. Read anew at each call, for it changes."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` is the folder in which `proc` and `sys` lie."""
        self._proc = root / "proc"
        self._groups = root / "sys/fs/cgroup"

    def gpus(self) -> int:
        """Return how many the NVIDIA driver lists: it has a folder for each."""
        try:
            return sum(1 for _ in (self._proc / "driver/nvidia/gpus").iterdir())
        except OSError:
            return 0

    def cores(self) -> int:
        """Return how many cores this process may use, at least 1.

        A quota of one and a half counts as two: rounded down, a half would never be used.
        """
        shares = [len(os.sched_getaffinity(0))]
        for group in self._own_groups():
            match _words(group / "cpu.max"):
                case [quota, period] if quota != "max":
                    shares.append(math.ceil(int(quota) / int(period)))
        return max(1, min(shares))

    def free_bytes(self) -> float:
        """Return how much main memory can be had without taking it from anybody; 0 where nobody knows."""
        available = _numbers(self._proc / "meminfo").get("MemAvailable", 0) * 1024
        return max(0.0, min([available, *map(_left_bytes, self._own_groups())]))

    def _own_groups(self) -> list[Path]:
        """Return the folders of the control groups that hold this process; a limit on any of them is one on us.

        Inside a container the outermost folder is, as a rule, its own group, whatever path the kernel names.
        """
        lines = _text(self._proc / "self/cgroup").splitlines()
        path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
        own = self._groups / path.lstrip("/")
        return [own, *(parent for parent in own.parents if parent.is_relative_to(self._groups))]


HERE = Machine()


def devices(wanted: str, machine: Machine = HERE) -> tuple[str, ...]:
    """Return the device of each worker: one per GPU that the driver lists; without any, one per core, at most eight.

    The driver's folder is read and not torch, which would cost the supervisor 200 MB; whether a GPU can really be
    used, the worker finds out and says. One that cannot have its GPU works on the processor and counts like any other.
    """
    if wanted != "cpu" and (gpus := machine.gpus()):
        return tuple(f"cuda:{number}" for number in range(gpus))
    return (wanted,) * min(machine.cores(), MAX_WORKERS)


def rooms(settings: Settings) -> Rooms:
    """Return the folders that the daemon's workers may use, those of `Common.spool` and `Common.staging`."""
    return Rooms(settings.templates, settings.state / "spool", settings.state / "staging")


def hire(settings: WorkerSettings, device: str, rooms: Rooms, wake: Callable[[], None]) -> Worker:
    """Return the keeper of a worker on that device; the process starts with the first request."""
    return Worker(
        device=device,
        rooms=rooms,
        deadlines=asdict(settings.deadlines),
        idle_s=settings.idle,
        memory_bytes=settings.memory,
        wake=wake,
    )


def _left_bytes(group: Path) -> float:
    """Return how much memory a control group may still take. Its share of the page cache gives way, so it is free."""
    limit = min(_limit(group / name) for name in ("memory.max", "memory.high"))
    if limit == math.inf:
        return limit
    stat = _numbers(group / "memory.stat")
    cached = stat.get("active_file", 0) + stat.get("inactive_file", 0)
    return limit - _limit(group / "memory.current") + cached


def _limit(path: Path) -> float:
    """Return the number in a file; infinity for `max`, and where there is no such file."""
    match _words(path):
        case [number] if number != "max":
            return int(number)
        case _:
            return math.inf


def _numbers(path: Path) -> dict[str, int]:
    """Return the lines `name number`, as the kernel writes its tables."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1}


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Return what a file of the kernel says; nothing if it is not there or not for us."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
