"""The whole daemon with a Dask cluster for its workers, on loopback, while parts of it go and come back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from cluster_running import Cluster
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

VOICES = 30


def daemon(at: Path, cluster: Cluster, more: str = "", prelude: str = "") -> Daemon:
    at.mkdir(exist_ok=True)
    workers = f"workers: {{engine: dask, scheduler: '{cluster.address}'{more}}}\n"
    return Daemon(at, workers + CONFIG, prelude)


def drop(daemon: Daemon, *numbers: int) -> None:
    daemon.inbox.mkdir(exist_ok=True)
    for number in numbers:
        (daemon.inbox / f"v{number}.pth").write_bytes(voice_bytes(f"voice {number}"))


def until_done(daemon: Daemon, *numbers: int) -> None:
    daemon.until_there(*(f"v{number}.json" for number in numbers))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Return a cluster that is not started yet."""
    return Cluster(tmp_path)


def test_all_voices_come_out_whatever_goes(cluster: Cluster, tmp_path: Path) -> None:
    """Worker, scheduler and daemon are killed in the middle: each voice is published, none refused or left behind."""
    with cluster:
        at = daemon(tmp_path / "d", cluster)
        drop(at, *range(VOICES))
        with at:
            until_done(at, 0)
            cluster.kill(cluster.workers[0])
            cluster.start_worker()
            until_done(at, 10)
            cluster.kill(cluster.scheduler)
            cluster.start_scheduler()
            cluster.kill(cluster.workers[1])
            cluster.start_worker()
            at.until(lambda: len(list(at.outbox.glob("*.json"))) > 15)
            at.process.send_signal(signal.SIGKILL)
            at.process.wait()
        with at:
            until_done(at, *range(VOICES))
            at.until(lambda: not at.litter())
        assert list(at.outbox.glob("*.error.json")) == []


def test_the_status_says_that_the_scheduler_is_away(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is begun meanwhile, and all is done when it is back."""
    at = daemon(tmp_path / "d", cluster)
    drop(at, 1)
    with at:
        at.until(lambda: "cannot be reached" in json.dumps(at.status()) if at.state.exists() else False)
        assert at.events("job.started") == []
        with cluster:
            until_done(at, 1)


def test_this_host_does_the_work_if_it_shall(cluster: Cluster, tmp_path: Path) -> None:
    """After a while without a scheduler."""
    soon = f"{PRELUDE}\nfrom voicekiln.cluster import crew\ncrew.AWAY_S = 1.0\n"
    at = daemon(tmp_path / "d", cluster, ", fallback: local", soon)
    drop(at, 1)
    with at:
        until_done(at, 1)
        assert "own workers" in json.dumps(at.status())
        with cluster:
            at.until(lambda: at.events("service.ready") != [])
            drop(at, 2)
            until_done(at, 2)
