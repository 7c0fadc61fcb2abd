"""A cluster that grows with its work and shrinks when there is none, as Dask does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from cluster.published import published_once
from cluster_running import ENV, until
from cluster_stand_in import wait
from kiln import voice_bytes
from running import CONFIG, Daemon

ADAPTIVE = """
import sys
from distributed import LocalCluster

with LocalCluster(n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
    cluster.adapt(minimum=0, maximum=2, interval="200ms", target_duration="500ms", wait_count=2)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Return the address of one without workers, which starts some when there is work."""
    env = ENV | {"DASK_DISTRIBUTED__WORKER__PRELOAD": "cluster_stand_in", "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
    command = [sys.executable, "-c", ADAPTIVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate(timeout=60)


def test_workers_come_with_the_voices_and_go_when_all_is_done(scheduler: str, tmp_path: Path) -> None:
    """From none to as many as there are voices for, and back to none, twice; no voice pays for it with an attempt."""
    at, go = tmp_path / "d", [tmp_path / "go0", tmp_path / "go1"]
    at.mkdir()
    with (
        Client(scheduler, set_as_default=False) as client,
        Daemon(at, f"workers: {{engine: dask, scheduler: '{scheduler}'}}\n{CONFIG}", env=ENV) as daemon,
    ):

        def workers() -> int:
            return len(client.scheduler_info(n_workers=-1)["workers"])

        daemon.until(daemon.inbox.is_dir)
        for turn in (0, 1):
            until(lambda: workers() == 0)
            for number in range(4):
                (daemon.inbox / f"v{turn}{number}.pth").write_bytes(voice_bytes(f"{turn}{number} {wait(go[turn])}"))
            daemon.until(lambda turn=turn: len(daemon.events("stage.entered")) == 4 * turn + 2)  # type: ignore[misc]
            until(lambda: workers() == 2)
            go[turn].touch()
            names = [f"v{which}{number}" for which in range(turn + 1) for number in range(4)]
            attempts = published_once(daemon, *names)
            assert set(attempts.values()) == {1}
        until(lambda: workers() == 0)
