"""Dask workers of another voicekiln, or of none, are told of and given no voice."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from distributed import Client

from cluster.another_version import VERSION
from cluster.test_dask_keeper import run, terms
from cluster_running import ENV, Cluster, until
from stub_worker import ending
from voicekiln import __version__
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.line import Line
from voicekiln.job import Converted

HERE = str(Path(__file__).parent)


def test_one_that_is_mute_hides_no_other(tmp_path: Path) -> None:
    """Dask's answer is that of all or none."""
    cluster = Cluster(tmp_path)
    cluster.env = ENV | {VERSION: "9.9", "PYTHONPATH": os.pathsep.join([HERE, ENV["PYTHONPATH"]])}
    with cluster:
        cluster.start_worker("--preload", "another_version")
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(2, 60)
        cluster.workers[0].send_signal(signal.SIGSTOP)
        line = Line(cluster.address, None, "test", lambda: None)
        until(lambda: "has voicekiln 9.9" in str(line.trouble))
        assert line.places == 1
        line.close()


@pytest.mark.parametrize(
    ("version", "trouble"),
    [
        ("", "has no voicekiln; install it there"),
        ("9.9", f"has voicekiln 9.9 and not {__version__}; install one on all hosts"),
    ],
)
def test_one_of_another_version_gets_no_voice(tmp_path: Path, version: str, trouble: str) -> None:
    """It would not understand the job, or die of it; the next one of ours gets the voice."""
    cluster, woken = Cluster(tmp_path), threading.Event()
    cluster.env = ENV | {VERSION: version, "PYTHONPATH": os.pathsep.join([HERE, ENV["PYTHONPATH"]])}
    with cluster:
        cluster.kill(cluster.workers[0])
        other = cluster.start_worker("--preload", "another_version")
        line = Line(cluster.address, None, "test", woken.set)
        until(lambda: trouble in str(line.trouble))
        assert line.places == 0
        assert line.unusable
        cluster.env = ENV
        ours = cluster.start_worker()
        until(lambda: line.places == 1)
        for name in ("good1", "good2", "good3"):
            assert isinstance(ending(run(DaskKeeper(line, terms(), woken.set), woken, tmp_path, name)), Converted)
        assert (other.poll(), ours.poll()) == (None, None)
        cluster.kill(other)
        until(lambda: line.trouble is None)
        line.close()
