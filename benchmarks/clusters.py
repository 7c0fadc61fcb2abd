"""A Dask cluster on loopback, each part a process of its own, and jobs that are driven through keepers of workers."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Self

from distributed import Security

import cluster_running
from benchmarks import stand_in
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.letters import Terms
from voicekiln.cluster.line import Line
from voicekiln.folders.files import remove_tree
from voicekiln.job import STAGES, Converted, Job, Recipe
from voicekiln.worker.keeper import Ended, Keeper
from voicekiln.worker.parent import Worker
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.wire import Convert

PATIENCE_S = 60.0
DEADLINES = {"start": PATIENCE_S} | dict.fromkeys(STAGES, PATIENCE_S)
MEMORY_BYTES = 2_000_000_000
RECIPE = Recipe("benchmark", verify="off")
"""The stand-in has nothing to verify."""
ROOT = Path(__file__).parents[1]


class Cluster(cluster_running.Cluster):
    """The tests' own, of so many Dask workers, each as if on a host of its own."""

    def __init__(self, at: Path, workers: int, *, places: int = 1, encrypted: bool = False, real: bool = False) -> None:
        """`places` are those of each Dask worker; with `real`, they convert, else the stand-in plays the part."""
        super().__init__(at, stand_in=None if real else "benchmarks.stand_in")
        self.env = os.environ | {"PYTHONPATH": str(ROOT)}
        self._security = Security.temporary() if encrypted else None
        self._tls = _certificates(at, self._security) if self._security else []
        if encrypted:
            self.address = self.address.replace("tcp://", "tls://")
        self._workers, self._places = workers, places

    def __enter__(self) -> Self:
        self.start_scheduler(*self._tls)
        for number in range(self._workers):
            folder = self.at / f"host-{number}" / "worker"  # beside it lie the templates of the host
            folder.mkdir(parents=True)
            own = ["--nthreads", str(self._places), "--local-directory", str(folder), "--memory-limit", "0"]
            self.start_worker(*own, *self._tls)
        return self

    @contextmanager
    def line(self, bell: threading.Event) -> Iterator[Line]:
        """Give a line on which all places have been counted."""
        line = Line(self.address, self._security, "benchmark", bell.set)
        try:
            by = time.monotonic() + PATIENCE_S
            while line.places < self._workers * self._places:
                if time.monotonic() > by:
                    raise RuntimeError(line.trouble or (self.at / "log").read_text()[-4000:])
                time.sleep(0.05)
            yield line
        finally:
            line.close()


def _certificates(at: Path, security: Security) -> list[str]:
    """Write certificates that exist in memory alone to disk; return the words that name them to a part of Dask."""
    made = security.get_tls_config_for_role("worker")
    files = {what: at / f"{what}.pem" for what in ("ca_file", "cert", "key")}
    for what, path in files.items():
        path.write_text(made[what])
    return [f"--tls-{what.replace('_', '-')}={path}" for what, path in files.items()]


def near(folder: Path, bell: threading.Event) -> Worker:
    """Return the keeper of a stand-in on this host."""
    return Worker(
        command=stand_in.COMMAND,
        device="cpu",
        rooms=Rooms(folder / "templates", folder, folder),
        deadlines=DEADLINES,
        idle_s=PATIENCE_S,
        memory_bytes=MEMORY_BYTES,
        wake=bell.set,
    )


def far(line: Line, bell: threading.Event) -> DaskKeeper:
    """Return a place in the cluster."""
    return DaskKeeper(line, Terms("cpu", DEADLINES, PATIENCE_S, MEMORY_BYTES), bell.set)


@contextmanager
def side_by_side(folder: Path, *, encrypted: bool) -> Iterator[tuple[Driver, Keeper, Keeper]]:
    """Give a driver, a worker of this host, and a place in a cluster of one Dask worker."""
    bell = threading.Event()
    with Cluster(folder, 1, encrypted=encrypted) as cluster, cluster.line(bell) as line:
        keepers = near(folder, bell), far(line, bell)
        yield Driver(folder, bell), *keepers
        for keeper in keepers:
            keeper.close(1.0)


class Driver:
    """Gives keepers jobs as the supervisor does, as soon as they are idle."""

    def __init__(self, folder: Path, bell: threading.Event) -> None:
        self._folder = folder
        self._bell = bell
        self._numbers = count()
        self._hashes: dict[Path, str] = {}
        self._stagings: dict[int, Path] = {}

    def drive(self, keepers: Sequence[Keeper], jobs: int, source: Path, megabytes: int = 0) -> float:
        """Return the seconds that so many jobs take, with results of so many megabytes.

        Raises:
            RuntimeError: if a job ends otherwise than it should, or hangs.
        """
        begun, ended, began = 0, 0, time.perf_counter()
        while ended < jobs:
            self._bell.clear()
            for keeper in keepers:
                ended += self._ended(keeper)
                if begun < jobs and not keeper.busy:
                    self._begin(keeper, source, megabytes)
                    begun += 1
            if ended < jobs:
                self._wait(keepers)
        return time.perf_counter() - began

    def _begin(self, keeper: Keeper, source: Path, megabytes: int) -> None:
        name = stand_in.job(next(self._numbers), megabytes)
        staging = self._stagings[id(keeper)] = self._folder / f"staging-{name}"
        staging.mkdir()
        if source not in self._hashes:
            self._hashes[source] = hashlib.sha256(source.read_bytes()).hexdigest()
        job = Job(name, source, staging, self._hashes[source], RECIPE)
        keeper.begin(Convert(job, threads=1), time.monotonic())

    def _ended(self, keeper: Keeper) -> int:
        """Return how many jobs have ended with this keeper since the last call."""
        ended = 0
        for event in keeper.poll(time.monotonic()):
            match event:
                case Ended(_, Converted()):
                    remove_tree(self._stagings.pop(id(keeper)))
                    ended += 1
                case Ended(_, other):
                    raise RuntimeError(str(other))
        return ended

    def _wait(self, keepers: Sequence[Keeper]) -> None:
        """Wait until there is news, or somebody is due."""
        due_s = min(keeper.next_due(time.monotonic()) for keeper in keepers) - time.monotonic()
        if not self._bell.wait(min(max(0.0, due_s), PATIENCE_S)) and due_s > PATIENCE_S:
            raise RuntimeError("a job hangs")
