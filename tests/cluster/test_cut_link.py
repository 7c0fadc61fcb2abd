"""Two hosts, each a network namespace, and the link between them, which is cut in the middle of a job and comes back.

A cut link is not a closed connection: nobody is told of anything, and each side has to find out by itself. In the tests
they find out sooner than they do by default, which is within 40 s (Dask's `distributed.comm.timeouts.tcp` is 30 s).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from cluster.published import published_once
from cluster_running import ENV, Cluster, until
from cluster_stand_in import wait
from kiln import voice_bytes
from running import CONFIG, Daemon

IP = shutil.which("ip") or "/usr/sbin/ip"

ADDRESSES = {"here": "10.9.0.1", "there": "10.9.0.2"}
PORT = 8786

SOON = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",  # Dask takes no less
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
}
SOON_HERE = "from voicekiln.cluster import line\nline.CALL_S, line.LAST_PAUSE_S = 12.0, 2.0\n"


class Link:
    """Two network namespaces with a cable between them; use it as a context, which removes them."""

    def __init__(self) -> None:
        self.names = {side: f"voicekiln-{side}-{os.getpid()}" for side in ADDRESSES}

    def __enter__(self) -> Self:
        here, there = self.names.values()
        try:
            for name in self.names.values():
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", here, "type", "veth", "peer", "name", "cable", "netns", there)
            for side, address in ADDRESSES.items():
                ip("-n", self.names[side], "address", "add", f"{address}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    ip("-n", self.names[side], "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names.values():
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)

    def cut(self) -> None:
        """Pull the cable."""
        ip("-n", self.names["there"], "link", "set", "cable", "down")

    def mend(self) -> None:
        """Plug it in again."""
        ip("-n", self.names["there"], "link", "set", "cable", "up")

    def inside(self, side: str) -> list[str]:
        """Return what stands in front of a command that shall run on a side."""
        return ["nsenter", f"--net=/run/netns/{self.names[side]}"]

    def enter(self, side: str) -> str:
        """Return Python that takes its process to a side."""
        name = f"/run/netns/{self.names[side]}"
        return f"import ctypes, os\nassert ctypes.CDLL(None).setns(os.open({name!r}, os.O_RDONLY), {0x40000000}) == 0\n"


def ip(*words: str) -> None:
    subprocess.run([IP, *words], check=True, capture_output=True)


def why_not() -> str:
    """Return why there can be no link here."""
    if not Path(IP).exists() or shutil.which("nsenter") is None:
        return "ip or nsenter is not installed"
    try:
        with Link() as link:
            subprocess.run([*link.inside("here"), "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here ({error.stderr.decode(errors='replace').strip()})"
    return ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def link() -> Iterator[Link]:
    """Return the two hosts, linked."""
    with Link() as link:
        yield link


def between(link: Link, at: Path, scheduler: str, soon: dict[str, str]) -> Cluster:
    """Return a cluster, not started yet, whose workers are there and whose scheduler is on the side `scheduler`."""
    cluster = Cluster(at)
    cluster.address = f"tcp://{ADDRESSES[scheduler]}:{PORT}"
    cluster.host = ADDRESSES["there"]
    cluster.env = ENV | soon
    cluster.before = {"scheduler": link.inside(scheduler), "worker": link.inside("there")}
    return cluster


def daemon(link: Link, at: Path, cluster: Cluster, soon: dict[str, str], prelude: str = "") -> Daemon:
    """Return the daemon, which is here."""
    at.mkdir()
    workers = f"workers: {{engine: dask, scheduler: '{cluster.address}', plain_tcp: true}}\n"
    return Daemon(at, workers + CONFIG, link.enter("here") + prelude, ENV | soon)


def drop(daemon: Daemon, name: str, content: str) -> None:
    daemon.inbox.mkdir(exist_ok=True)
    (daemon.inbox / f"{name}.pth").write_bytes(voice_bytes(content))


def begun(daemon: Daemon, name: str) -> bool:
    """Say whether a voice is in the middle of its job."""
    return any(line["file"] == f"{name}.pth" for line in daemon.events("stage.entered"))


def test_a_cut_that_nobody_notices_costs_nothing(link: Link, tmp_path: Path) -> None:
    """What was on its way arrives when the link is back; the job goes on."""
    go = tmp_path / "go"
    with between(link, tmp_path, "here", {}) as cluster, daemon(link, tmp_path / "d", cluster, {}) as at:
        drop(at, "first", wait(go))
        at.until(lambda: begun(at, "first"))
        link.cut()
        go.touch()
        drop(at, "second", "a voice")
        at.until(lambda: any(line["file"] == "second.pth" for line in at.events("file.settled")))
        link.mend()
        assert published_once(at, "first", "second") == {"first": 1, "second": 1}


def test_a_worker_that_is_cut_off_costs_its_voice_an_attempt(link: Link, tmp_path: Path) -> None:
    """The status says that nobody is there. The Dask worker ends by itself, and whoever minds it starts it again."""
    go = tmp_path / "go"
    with between(link, tmp_path, "here", SOON) as cluster, daemon(link, tmp_path / "d", cluster, SOON, SOON_HERE) as at:
        drop(at, "first", wait(go))
        at.until(lambda: begun(at, "first"))
        link.cut()
        drop(at, "second", "a voice")
        at.until(lambda: at.events("worker.lost") != [])
        at.until(lambda: "the cluster has no workers" in json.dumps(at.status()))
        until(lambda: cluster.workers[0].poll() is not None)
        go.touch()
        link.mend()
        cluster.start_worker()
        assert published_once(at, "first", "second") == {"first": 2, "second": 1}


def test_a_scheduler_that_is_cut_off_costs_nobody_an_attempt(link: Link, tmp_path: Path) -> None:
    """The status says so. What is finished there meanwhile is not published beside what is made when it is back."""
    go = tmp_path / "go"
    with (
        between(link, tmp_path, "there", SOON) as cluster,
        daemon(link, tmp_path / "d", cluster, SOON, SOON_HERE) as at,
    ):
        drop(at, "first", wait(go))
        at.until(lambda: begun(at, "first"))
        link.cut()
        drop(at, "second", "a voice")
        at.until(lambda: "does not answer" in json.dumps(at.status()) or "cannot be reached" in json.dumps(at.status()))
        go.touch()
        link.mend()
        assert published_once(at, "first", "second") == {"first": 1, "second": 1}
        assert cluster.workers[0].poll() is None
