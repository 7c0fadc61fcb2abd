"""Each host has its own templates: the first voices of an architecture cost it one export, also if they are several."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.counted_exports import ASKED, EXPORTED, MEET
from cluster_running import ENV, Cluster, until
from stub_worker import convert, ending, has
from stub_worker import until as polled
from tiny_voices import write_tiny
from voicekiln.cluster.host import NAME
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.letters import Terms
from voicekiln.cluster.line import Line
from voicekiln.job import STAGES, Converted, Recipe
from voicekiln.worker.keeper import Ended, Event, Keeper
from voicekiln.worker.wire import Convert

TERMS = Terms("cpu", {"start": 120.0} | dict.fromkeys(STAGES, 120.0), 600.0, 3 * 10**9)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster that has no Dask workers yet."""
    cluster = Cluster(tmp_path, stand_in="counted_exports")
    cluster.env = ENV | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), ENV["PYTHONPATH"]])}
    cluster.start_scheduler()
    yield cluster
    cluster.__exit__()


def start_worker(cluster: Cluster, host: Path) -> None:
    """Start a Dask worker on one of the hosts that we pretend to have, each of which has a folder for all of them."""
    cluster.start_worker("--local-directory", str(host))


def request(at: Path, number: int) -> Convert:
    """Return a request for a voice of its own, of the architecture that all of them have."""
    job = convert(at, f"j{number}", Recipe("r", verify="quick")).job
    source = write_tiny(at / f"{number}.pth", seed=number)
    return Convert(replace(job, source=source, sha256=hashlib.sha256(source.read_bytes()).hexdigest()), threads=1)


def exports(host: Path) -> int:
    """Return how many graphs were exported on a host."""
    return len(list(templates(host).glob(f"{EXPORTED}*")))


def templates(host: Path) -> Path:
    """Return where a host's templates are: beside the folders that Dask makes for its workers."""
    return host / "dask-scratch-space" / f"{NAME}-templates"


def test_two_dask_workers_of_a_host_export_once(cluster: Cluster, tmp_path: Path) -> None:
    """And both voices come out right; a Dask worker on another host exports for itself."""
    one, other = tmp_path / "one host", tmp_path / "another host"
    templates(one).mkdir(mode=0o700, parents=True)
    (templates(one) / MEET).touch()
    woken = threading.Event()
    line = Line(cluster.address, None, "test", woken.set)
    for _ in range(2):
        start_worker(cluster, one)
    until(lambda: line.places == 2)
    keepers = [DaskKeeper(line, TERMS, woken.set) for _ in range(2)]
    for number, keeper in enumerate(keepers):
        keeper.begin(request(tmp_path, number), time.monotonic())
    endings = [ending(ended(keeper, woken)) for keeper in keepers]
    assert all(isinstance(each, Converted) for each in endings)
    assert len(list(templates(one).glob(f"{ASKED}*"))) == 2
    assert exports(one) == 1

    for worker in cluster.workers:
        cluster.kill(worker)
    until(lambda: line.places == 0)
    start_worker(cluster, other)
    until(lambda: line.places == 1)
    keepers[0].begin(request(tmp_path, 2), time.monotonic())
    assert isinstance(ending(ended(keepers[0], woken)), Converted)
    assert (exports(one), exports(other)) == (1, 1)
    for keeper in keepers:
        keeper.close(5.0)
    line.close()


def ended(keeper: Keeper, woken: threading.Event) -> list[Event]:
    return polled(keeper, woken, has(Ended), 240.0)
