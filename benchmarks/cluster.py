"""Figures 14 to 17: what it costs that the work is done by Dask workers, everything on this one machine.

A stand-in that makes its results at once shows the engine alone. Daemon, scheduler, Dask workers and converters share
the cores here, so what more than one Dask worker per core would bring, no figure can say; their CPU times hold on.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks import conversions
from benchmarks.clusters import Cluster, Driver, far, side_by_side
from benchmarks.harness import Figure, Room, Seat, Target
from benchmarks.running import HASTY, Daemon, cpu_s, memory_mb
from tiny_voices import TINY
from voicekiln.families.sample import checkpoint

ENGINE_MS = Target("<=", 30)
ENGINE_PERCENT = Target("<=", 2)
JOBS = 100
"""One after the other, a round."""
FLOW = 1000
"""In flight, a round."""
MARGIN = 2
"""As `cluster.crew` has it."""
SOURCE_MB, RESULT_MB = 55, 110
"""Of an RVC voice in half precision, and in single precision as ONNX."""
PARCELS = 4
SIZES = (1, 2, 4)
"""Dask workers."""
HERE = "this host's workers"
VOICES = 40
GIGABIT_MB = 125
"""What a gigabit a second carries in a second."""
WAYS = {"TCP": False, "TLS": True}
"""Whether they are encrypted."""


def engine(room: Room) -> Iterator[Figure]:
    """Figure 14: empty jobs one at a time, in the cluster and with a worker of this host in turns."""
    jobs = JOBS // 4 if room.quick else JOBS
    conversion_ms = _conversion_ms(room)
    yield Figure(14, "a verified conversion of 55 MB", conversion_ms, "ms")
    for way, encrypted in WAYS.items():
        here, there = [], []
        with room.scratch() as folder, side_by_side(folder, encrypted=encrypted) as (driver, near, far):
            source = _source(folder, 1000)
            for turn in range(-1, room.rounds):
                took = [1000 * driver.drive([keeper], jobs, source) / jobs for keeper in (near, far)]
                if turn >= 0:
                    here.append(took[0])
                    there.append(took[1])
        cost = [far_ms - near_ms for far_ms, near_ms in zip(there, here, strict=True)]
        part = [100 * ms / statistics.median(conversion_ms) for ms in cost]
        behind = f"{statistics.median(there):.1f} ms - {statistics.median(here):.1f} ms"
        yield Figure(14, f"an empty job, {way}: what the cluster adds", cost, "ms", ENGINE_MS, behind)
        yield Figure(14, f"an empty job, {way}: of a conversion", part, "%", ENGINE_PERCENT)


def _conversion_ms(room: Room) -> list[float]:
    """Return what one that the default settings ask for takes in a warm process, on all cores."""
    with Seat(**conversions.KILN) as seat:
        found = []
        for turn in range(-1, 3):
            with room.scratch() as folder:
                took = seat.cost(conversions.convert, folder, room.voice(0), room.templates, "fp32", "full").wall
            if turn >= 0:
                found.append(1000 * took)
        return found


def flow(room: Room) -> Iterator[Figure]:
    """Figure 15: empty jobs as many at once as a daemon would have in flight, and whose CPU time that takes."""
    jobs = FLOW // 4 if room.quick else FLOW
    for workers, places in [*((size, 1) for size in SIZES), (SIZES[1], 16)]:
        with room.scratch() as folder, Cluster(folder, workers, places=places) as cluster:
            bell = threading.Event()
            with cluster.line(bell) as line:
                keepers = [far(line, bell) for _ in range(workers * places + MARGIN)]
                driver, source = Driver(folder, bell), _source(folder, 1000)
                driver.drive(keepers, 10 * len(keepers), source)
                assert cluster.scheduler is not None  # noqa: S101 - it is started
                scheduler, hosts = cluster.scheduler.pid, [worker.pid for worker in cluster.workers]
                before_mb = memory_mb(scheduler, "VmRSS")
                rates, used = [], []
                for _ in range(3):
                    spent = time.process_time(), cpu_s(scheduler), sum(map(cpu_s, hosts))
                    rates.append(jobs / driver.drive(keepers, jobs, source))
                    now = time.process_time(), cpu_s(scheduler), sum(map(cpu_s, hosts))
                    used.append([1000 * (after - was) / jobs for after, was in zip(now, spent, strict=True)])
                grown_mb = memory_mb(scheduler, "VmRSS") - before_mb
                for keeper in keepers:
                    keeper.close(0.0)
        what = f"empty jobs, {named(workers)} of {places}"
        yield Figure(15, what, rates, "a second")
        for who, values in zip(("daemon", "scheduler", "Dask workers"), zip(*used, strict=True), strict=True):
            yield Figure(15, f"{what}: CPU of the {who}", values, "ms a job")
        yield Figure(15, f"{what}: scheduler's growth over {3 * jobs}", [grown_mb], "MB")


def parcels(room: Room) -> Iterator[Figure]:
    """Figure 16: the bytes of a usual voice, there and back, beyond what the same job takes on this host."""
    for way, encrypted in WAYS.items():
        with room.scratch() as folder, side_by_side(folder, encrypted=encrypted) as (driver, near, far):
            small, large = _source(folder, 1000), _source(folder, SOURCE_MB * 1_000_000)
            loads = {f"a source of {SOURCE_MB} MB": (large, 0, SOURCE_MB)}
            loads[f"a result of {RESULT_MB} MB"] = small, RESULT_MB, RESULT_MB
            for what, (source, megabytes, size) in loads.items():
                walls, cpus = [], []
                for turn in range(-1, room.rounds):
                    os.sync()
                    alone = driver.drive([near], PARCELS, source, megabytes)
                    os.sync()
                    spent = time.process_time()
                    took = driver.drive([far], PARCELS, source, megabytes) - alone
                    if turn >= 0:
                        walls.append(took / PARCELS)
                        cpus.append(1000 * (time.process_time() - spent) / (PARCELS * size))
                behind = f"{size / statistics.median(walls) / GIGABIT_MB:.1f} Gbit/s"
                yield Figure(16, f"{what}, {way}", walls, "s", behind=behind)
                yield Figure(16, f"{what}, {way}: CPU of the daemon", cpus, "ms a MB")


def throughput(room: Room) -> Iterator[Figure]:
    """Figure 17: the whole daemon and the real converter, with thin voices, which leave most of the time to the way."""
    voices, rounds = (VOICES // 4, 1) if room.quick else (VOICES, 2)
    paths = [_thin(room, seed) for seed in range(voices + 2 * SIZES[-1])]
    per_minute: dict[int, list[float]] = {size: [] for size in (0, *SIZES)}
    for turn in range(rounds):
        sizes = [*per_minute]
        for size in sizes[turn % len(sizes) :] + sizes[: turn % len(sizes)]:
            per_minute[size].append(60 * voices / _drop(room, paths, size))
    for size, found in per_minute.items():
        who = named(size) if size else HERE
        yield Figure(17, f"{voices} thin voices at once, {who}", found, "a minute")
        if size:
            gains = [there / here for there, here in zip(found, per_minute[0], strict=True)]
            yield Figure(17, f"{who} / {HERE}", gains)


def named(workers: int) -> str:
    """Return the name of so many Dask workers in the figures."""
    return f"{workers} Dask worker{'s' * (workers > 1)}"


def _drop(room: Room, paths: list[Path], size: int) -> float:
    """Return the seconds from the drop to the last sidecar, with `size` Dask workers, or none."""
    with room.scratch() as folder, ExitStack() as stack:
        config = HASTY
        if size:
            cluster = stack.enter_context(Cluster(folder, size, real=True))
            config += f"workers: {{engine: dask, scheduler: '{cluster.address}'}}\n"
        daemon = stack.enter_context(Daemon(folder, config))
        warming = 2 * SIZES[-1]  # the same for all, and enough for each to have its template
        for path in paths[:warming]:
            daemon.drop(path, path.name)
        daemon.until_published(warming)
        began = time.perf_counter()
        for path in paths[warming:]:
            daemon.drop(path, path.name)
        daemon.until_published(len(paths))
        return time.perf_counter() - began


def _thin(room: Room, seed: int) -> Path:
    path = room.folder / f"thin-{seed}.pth"
    if not path.exists():
        torch.save(checkpoint(TINY, seed), path)
    return path


def _source(folder: Path, size: int) -> Path:
    path = folder / f"source-{size}.pth"
    path.write_bytes(os.urandom(size))
    return path
