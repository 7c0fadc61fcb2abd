"""The whole daemon with a Dask cluster for its workers, on loopback, while parts of it go and come back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from cluster.published import published_once
from cluster_running import ENV, Cluster
from cluster_stand_in import KILL, LEAVE, wait
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon
from stub_worker import vanishes

VOICES = 30


def daemon(at: Path, scheduler: str, more: str = "", prelude: str = "", config: str = CONFIG) -> Daemon:
    at.mkdir(exist_ok=True)
    workers = f"workers: {{engine: dask, scheduler: '{scheduler}'{more}}}\n"
    return Daemon(at, workers + config, prelude, ENV | {"DASK_DISTRIBUTED__WORKER__PRELOAD": "cluster_stand_in"})


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
        at = daemon(tmp_path / "d", cluster.address)
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
    at = daemon(tmp_path / "d", cluster.address)
    drop(at, 1)
    with at:
        at.until(lambda: "cannot be reached" in json.dumps(at.status()) if at.events("service.started") else False)
        assert at.events("job.started") == []
        with cluster:
            until_done(at, 1)


def test_this_host_does_the_work_if_it_shall(cluster: Cluster, tmp_path: Path) -> None:
    """After a while without a scheduler."""
    soon = f"{PRELUDE}\nfrom voicekiln.cluster import crew\ncrew.AWAY_S = 1.0\n"
    at = daemon(tmp_path / "d", cluster.address, ", fallback: local", soon)
    drop(at, 1)
    with at:
        until_done(at, 1)
        assert "own workers" in json.dumps(at.status())
        with cluster:
            at.until(lambda: at.events("service.ready") != [])
            drop(at, 2)
            until_done(at, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_is_started_again_publishes_each_voice_once(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    """What was published, what ran and what waited; that the daemon goes is no attempt of any."""
    go = tmp_path / "go"
    with cluster:
        at = daemon(tmp_path / "d", cluster.address)
        drop(at, 1)
        with at:
            until_done(at, 1)
            (at.inbox / "v2.pth").write_bytes(voice_bytes(wait(go)))
            at.until(lambda: any(line["file"] == "v2.pth" for line in at.events("stage.entered")))
            drop(at, 3, 4, 5, 6)
            at.until(lambda: any(line["file"] == "v6.pth" for line in at.events("file.settled")))
            at.process.send_signal(number)
            at.process.wait()
        go.touch()
        with at:
            attempts = published_once(at, *(f"v{name}" for name in range(1, 7)))
        assert set(attempts.values()) == {1}


@pytest.mark.parametrize("asked", [LEAVE, KILL], ids=["the caged process", "the Dask worker"])
def test_a_voice_that_ends_its_worker_each_time_is_refused(tmp_path: Path, asked: str) -> None:
    """After as many attempts as on one machine; the others come out, and cost no more attempts than their own."""
    with Cluster(tmp_path, nanny=True) as cluster:
        at = daemon(tmp_path / "d", cluster.address, config=CONFIG.replace("cpu", "cpu, attempts: 2"))
        at.inbox.mkdir()
        (at.inbox / "v0.pth").write_bytes(voice_bytes(asked))
        with at:
            at.until(lambda: at.events("worker.lost") != [])
            drop(at, 1, 2, 3)
            until_done(at, 1, 2, 3)
            at.until_there("v0.error.json")
            assert at.read("v0.error.json")["code"] == "worker-lost"
            lost = [(line["file"], line["attempt"]) for line in at.events("worker.lost")]
            assert lost == [("v0.pth", 1), ("v0.pth", 2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cluster_of_its_own(tmp_path: Path, number: signal.Signals) -> None:
    """On this host, started and ended with the daemon, however that ends."""
    at = daemon(tmp_path / "d", "local")
    drop(at, 1, 2, 3)
    with at:
        until_done(at, 1, 2, 3)
        offspring = [pid for pid in running() if is_below(at.process.pid, pid)]
        assert len(offspring) > 1
        at.process.send_signal(number)
        at.process.wait()
    assert all(vanishes(pid) for pid in offspring)


def running() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def is_below(ancestor: int, pid: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor
