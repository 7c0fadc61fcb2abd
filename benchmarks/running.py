"""Figures 4 to 7: the daemon itself, as a process of its own with its usual settings, on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.harness import Figure, Room, Target
from voicekiln.families.sample import V2_40K, checkpoint
from voicekiln.settings import Scan, Settle

CONFIG = "worker: {device: cpu}\nlog: {format: json}\n"
HASTY = "settle: {quiet: 0.2s}\n"
"""For what does not measure how long a voice takes to arrive."""
PATIENCE_S = 1800.0
"""After this a daemon that has not done what is waited for has failed."""

VOICES = 40
BOTH_TO_ONE = Target(">=", 1.6)
OVERHEAD_S = Target("<=", 1.5)
FILES = 10_000
SUPERVISOR_MB = Target("<=", 35)
IDLE_PERCENT = Target("<=", 0.5)
CONVERSIONS = 200
WORKER_MB = Target("<=", 1100)
GROWTH_MB = Target("<=", 10)
"""What counts as none: less than the allocator's own coming and going."""
NO_FILES = Target("<=", 0)

MB = 1000 * 1000


def throughput(room: Room) -> list[Figure]:
    """Figure 4: voices dropped at once, on two cores and on one of them."""
    voices = VOICES // 4 if room.quick else VOICES
    two = sorted(os.sched_getaffinity(0))[:2]
    per_minute: dict[int, list[float]] = {2: [], 1: []}
    for turn in range(room.rounds):
        for count in (2, 1) if turn % 2 == 0 else (1, 2):
            per_minute[count].append(60 * voices / _drop_at_once(room, voices, two[:count]))
    gains = [both / one for both, one in zip(per_minute[2], per_minute[1], strict=True)]
    return [
        Figure(4, f"{voices} verified voices at once, both cores", per_minute[2], "a minute"),
        Figure(4, f"{voices} verified voices at once, one core", per_minute[1], "a minute"),
        Figure(4, "both cores / one", gains, target=BOTH_TO_ONE),
    ]


def _drop_at_once(room: Room, voices: int, cores: Collection[int]) -> float:
    """Return the seconds from the drop to the last sidecar."""
    paths = [room.voice(seed) for seed in range(len(cores), len(cores) + voices)]
    with room.scratch() as folder, Daemon(folder, cores=cores) as daemon:
        daemon.warm(room, len(cores))
        begun = time.perf_counter()
        for path in paths:
            daemon.drop(path, path.name)
        daemon.until_published(len(cores) + voices)
        return time.perf_counter() - begun


def overhead(room: Room) -> list[Figure]:
    """Figure 5: what passes between a drop and its sidecar beside settling, conversion and verification."""
    seconds = []
    with room.scratch() as folder, Daemon(folder) as daemon:
        daemon.warm(room, 1)
        for seed in range(1, room.rounds + 1):
            path = room.voice(seed)
            begun = time.perf_counter()
            daemon.drop(path, path.name)
            daemon.until_published(1 + seed)
            passed = time.perf_counter() - begun
            sidecar: dict[str, Any] = json.loads((daemon.outbox / f"{path.stem}.json").read_text())
            seconds.append(passed - sum(sidecar["seconds"].values()) - Settle().quiet)
    return [Figure(5, "drop to sidecar beside settling and conversion", seconds, "s", OVERHEAD_S)]


def supervisor(room: Room) -> list[Figure]:
    """Figure 6: the daemon without work, thousands of voices and their results lying there.

    They are copies of one small voice, which the daemon publishes without converting it again.
    """
    small = replace(V2_40K, channels=4, hidden=4, filter_channels=4, layers=1, flows=1, flow_layers=1, initial=16)
    files = FILES // 10 if room.quick else FILES
    resident, idle = [], []
    with room.scratch() as folder, Daemon(folder, HASTY) as daemon:
        voice = folder / "voice.pth"
        torch.save(checkpoint(replace(small, speakers=1, gin_channels=4), seed=0), voice)
        daemon.drop(voice, "first.pth")
        daemon.until_published(1)
        for number in range(1, files):
            daemon.drop(Path(shutil.copyfile(voice, folder / "copy.pth")), f"{number}.pth")
            (folder / "copy.pth").unlink()
        daemon.until_published(files)
        for turn in range(-1, room.rounds):
            before = cpu_s(daemon.process.pid)
            time.sleep(Scan().rescan)  # one look at everything, and whatever else there is to do
            if turn >= 0:
                idle.append(100 * (cpu_s(daemon.process.pid) - before) / Scan().rescan)
                resident.append(memory_mb(daemon.process.pid, "VmRSS"))
    return [
        Figure(6, f"supervisor, {files} voices lying there: memory", resident, "MB", SUPERVISOR_MB),
        Figure(6, f"supervisor, {files} voices lying there: CPU while idle", idle, "% of a core", IDLE_PERCENT),
    ]


def worker(room: Room) -> list[Figure]:
    """Figure 7: one worker's memory over many conversions, every other one to half precision."""
    count = CONVERSIONS // 5 if room.quick else CONVERSIONS
    resident, supervisor, files = [], [], []
    with room.scratch() as folder, Daemon(folder, HASTY) as daemon:
        voice = torch.load(room.voice(0), weights_only=True)
        for number in range(count):
            path = folder / "voice.pth"
            torch.save(voice | {"info": f"number {number}"}, path)
            daemon.drop(path, f"{'fp16/' if number % 2 else ''}{number}.pth")
            path.unlink()
            daemon.until_published(1)
            daemon.clear()  # as people do who have fetched their results
            resident.append(memory_mb(daemon.worker(), "VmRSS"))
            supervisor.append(memory_mb(daemon.process.pid, "VmRSS"))
            files.append(float(open_files(daemon.process.pid) + open_files(daemon.worker())))
        peak = memory_mb(daemon.worker(), "VmHWM")
    return [
        Figure(7, f"worker, {count} conversions: peak memory", [peak], "MB", WORKER_MB),
        Figure(7, f"worker, {count} conversions: memory after each", resident, "MB"),
        Figure(7, "worker: growth from the second quarter to the last", [_growth(resident)], "MB", GROWTH_MB),
        Figure(7, "supervisor: growth from the second quarter to the last", [_growth(supervisor)], "MB", GROWTH_MB),
        Figure(7, "both: growth in open files", [_growth(files)], "files", NO_FILES),
    ]


def _growth(values: Sequence[float]) -> float:
    """Return by how much the last quarter exceeds the second, by medians; the first is for warming up."""
    quarter = len(values) // 4
    return statistics.median(values[3 * quarter :]) - statistics.median(values[quarter : 2 * quarter])


class Daemon:
    """`voicekiln run` on folders of its own; use it as a context, which ends it."""

    def __init__(self, at: Path, config: str = "", cores: Collection[int] | None = None) -> None:
        """`config` goes behind the usual one; `cores` are those that the daemon may use, None for all."""
        self._cores = cores or os.sched_getaffinity(0)
        self._config = at / "config.yaml"
        self._config.write_text(CONFIG + config)
        self._log = at / "log.jsonl"
        self.inbox, self.outbox = at / "inbox", at / "outbox"

    def __enter__(self) -> Self:
        code = "import sys; from voicekiln.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "run", "--config", str(self._config)]
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores)  # children inherit it
        try:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)  # noqa: S603 - ours
        finally:
            os.sched_setaffinity(0, before)
        self._until(self.outbox.is_dir)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    def warm(self, room: Room, workers: int) -> None:
        """Have a voice converted for each worker, so that it is there and has its template."""
        for path in [room.voice(seed) for seed in range(workers)]:
            self.drop(path, path.name)
        self.until_published(workers)

    def drop(self, path: Path, name: str) -> None:
        """Put a file into the inbox at once, as a sync tool does whose copy is complete."""
        target = self.inbox / name
        target.parent.mkdir(exist_ok=True)
        hidden = target.with_name(f".{target.name}.tmp")
        hidden.hardlink_to(path)
        hidden.rename(target)

    def until_published(self, count: int) -> None:
        """Wait until so many sidecars lie in the outbox.

        Raises:
            RuntimeError: if a voice is refused.
        """

        def published() -> bool:
            sidecars = [path for path in self.outbox.rglob("*.json") if not path.name.startswith(".")]
            if refused := next((path for path in sidecars if path.name.endswith(".error.json")), None):
                raise RuntimeError(refused.read_text())
            return len(sidecars) >= count

        self._until(published)

    def clear(self) -> None:
        """Remove all files from inbox and outbox."""
        for path in [*self.inbox.rglob("*"), *self.outbox.rglob("*")]:
            if path.is_file():
                path.unlink(missing_ok=True)

    def events(self) -> list[str]:
        """Return the names of all events in the log."""
        return [json.loads(line)["event"] for line in self._log.read_text().splitlines() if line.startswith("{")]

    def reload(self, times: int) -> None:
        """Have the configuration read anew so many times, one by one; every fifth is refused."""
        text = self._config.read_text()
        told = [event.startswith("config.") for event in self.events()].count(True)
        for number in range(times):
            self._config.write_text(text if number % 5 else "settle: {quiet: soon}\n")
            self.process.send_signal(signal.SIGHUP)
            told += 1
            self._until(lambda told=told: self._log.read_bytes().count(b'"config.re') >= told)  # type: ignore[misc]
        self._config.write_text(text)

    def worker(self) -> int:
        """Return the process number of the worker."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.process.pid and b"voicekiln.worker.child" in words:
                return int(entry.name)
        raise RuntimeError("there is no worker")

    def _until(self, what: Callable[[], bool]) -> None:
        """Wait for something; looking for it takes a twentieth of the time at most.

        Raises:
            RuntimeError: if the daemon ends before, or it takes too long.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            begun = time.monotonic()
            if what():
                return
            if self.process.poll() is not None or begun > end:
                raise RuntimeError(self._log.read_text()[-4000:])
            time.sleep(max(0.01, 20 * (time.monotonic() - begun)))


def memory_mb(process: int, key: str) -> float:
    """Return what the kernel says of a process' memory: `VmRSS`, or `VmHWM`, its peak."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / MB


def open_files(process: int) -> int:
    """Return how many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def cpu_s(process: int) -> float:
    """Return the CPU time that a process has used, all threads, without its children's."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
