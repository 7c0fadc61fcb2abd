"""A Dask cluster on loopback: a real scheduler and real workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from ports import free_port

PATIENCE_S = 60.0

PLACES = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(PLACES)}
"""Dask copies a file that it shall load first into a folder of its own, but a module it imports from where it lies."""


class Cluster:
    """Use it as a context, which ends all of it."""

    def __init__(self, at: Path, *, nanny: bool = False, stand_in: str | None = "cluster_stand_in") -> None:
        """With a `nanny`, as by default with Dask, each worker is the child of a process that starts it again.

        The module `stand_in` is loaded first; without one the caged process is the real one.
        """
        self.host = "127.0.0.1"
        """Of the workers."""
        self.env = ENV
        self.before: dict[str, list[str]] = {"scheduler": [], "worker": []}
        """What stands in front of their commands."""
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.at = at
        self._own = ["--nanny" if nanny else "--no-nanny", *(["--preload", stand_in] if stand_in else [])]
        self.scheduler: subprocess.Popen[bytes] | None = None
        """None before it was started."""
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.start_scheduler()
        self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, *filter(None, [self.scheduler])):
            process.kill()
            process.wait()

    def start_scheduler(self, *options: str) -> None:
        """Start it on the address that it had before, if it had one."""
        self.scheduler = self._start("scheduler", "--host", self.address, "--no-dashboard", "--no-show", *options)

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start one more, with one thread."""
        folder = self.at / f"worker-{len(self.workers)}"
        folder.mkdir()
        own = ["--nthreads", "1", "--no-dashboard", "--host", self.host, "--local-directory", str(folder)]
        self.workers.append(self._start("worker", self.address, *own, *self._own, *options))
        return self.workers[-1]

    @staticmethod
    def kill(process: subprocess.Popen[bytes] | None) -> None:
        """End a process as a power cut would."""
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.at / "log").open("ab") as log:
            command = [*self.before[what], sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env)


def until(what: object, bound_s: float = PATIENCE_S) -> None:
    """Wait until a function says yes."""
    assert callable(what)
    by = time.monotonic() + bound_s
    while not what():
        assert time.monotonic() < by
        time.sleep(0.02)
