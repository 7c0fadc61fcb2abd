"""How many voices a cluster is given at once, and who does them without it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from resource import RLIM_INFINITY

import dask
import pytest
from distributed import Security

from cluster_running import Cluster, until
from fake_worker import FakeWorker
from kiln import Lines
from voicekiln.cluster import crew as crews
from voicekiln.cluster.connection import _dashboard, _room_for_connections, why_unreachable
from voicekiln.cluster.crew import Crew
from voicekiln.cluster.letters import Terms
from voicekiln.cluster.line import Line
from voicekiln.page.board import Cluster as Facts

TERMS = Terms("cpu", {}, 1.0, 1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster that is not started yet."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.__exit__()


@pytest.fixture
def line(cluster: Cluster) -> Iterator[Line]:
    """Return a line to it."""
    line = Line(cluster.address, None, "test", lambda: None)
    yield line
    line.close()


def test_there_are_as_many_as_places_and_two_more(cluster: Cluster, line: Line) -> None:
    """Threads, as long as no worker has a GPU; two alone where nobody is, so that a cluster can grow with its work."""
    crew = Crew(line, TERMS, lambda: None, [], Lines())
    assert len(crew) == 0
    cluster.start_scheduler()
    until(lambda: line.connected)
    until(lambda: len(crew) == 2)
    until(lambda: crew.trouble() == "the cluster has no workers")
    cluster.start_worker("--nthreads", "3")
    until(lambda: len(crew) == 3 + 2)
    first = list(crew)
    cluster.start_worker("--resources", "GPU=2")
    until(lambda: len(crew) == 2 + 2)
    assert list(crew) == first[: 2 + 2]
    assert crew.trouble() is None


def test_without_a_scheduler_nobody_is_there(line: Line) -> None:
    """Voices wait; what keeps them is said; and the daemon sleeps."""
    crew = Crew(line, TERMS, lambda: None, [], Lines())
    until(lambda: "cannot be reached" in str(crew.trouble()))
    assert crew.step() == float("inf")
    assert list(crew) == []


def test_certificates_that_dask_cannot_use_are_told_of() -> None:
    """And tried again: they may be renewed meanwhile."""
    line = Line("tls://127.0.0.1:8786", Security(require_encryption=True), "test", lambda: None)
    until(lambda: "TLS" in str(line.trouble))
    line.close()


def test_this_host_helps_after_a_while(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it shall; with the cores and the memory that it has."""
    local = [FakeWorker([])]
    crew = Crew(line, TERMS, lambda: None, local, Lines())
    assert list(crew) == []
    assert crew.step() < float("inf")
    monkeypatch.setattr(crews, "AWAY_S", 0.0)
    assert list(crew) == local
    assert crew.machine.free_bytes() < 1e15
    assert crew.step() == float("inf")


def test_people_see_where_the_places_are(cluster: Cluster, line: Line) -> None:
    """And how many there are; none while the scheduler is away."""
    crew = Crew(line, TERMS, lambda: None, [], Lines())
    assert crew.facts() == Facts(cluster.address, 0, None)
    cluster.start_scheduler("--dashboard-address", "127.0.0.1:0", "--dashboard")
    cluster.start_worker()
    until(lambda: crew.facts().places == 1)
    assert str(crew.facts().dashboard).startswith("http://127.0.0.1:")
    cluster.kill(cluster.scheduler)
    until(lambda: crew.facts() == Facts(cluster.address, 0, None))


@pytest.mark.parametrize(
    ("scheduler", "port", "link"),
    [
        ("tls://gpu1.example:8786", 8787, "http://gpu1.example:8787/status"),
        ("tcp://[::1]:8786", 8787, "http://[::1]:8787/status"),
        ("tls://gpu1.example:8786", None, None),
    ],
)
def test_the_dashboard_is_where_the_scheduler_is(scheduler: str, port: int | None, link: str | None) -> None:
    """If it has one."""
    assert _dashboard(scheduler, port) == link


def test_only_what_a_browser_may_open_is_a_dashboard() -> None:
    """Dask's own configuration may give it any form."""
    with dask.config.set({"distributed.dashboard.link": "javascript:{port}"}):
        assert _dashboard("tls://gpu1.example:8786", 8787) is None


@pytest.mark.parametrize(
    ("limits", "places", "raised"),
    [
        ((1024, 1024), 512, None),
        ((1024, 4096), 4096 - 512, (4096, 4096)),
        ((1024, RLIM_INFINITY), 65_536 - 512, (65_536, RLIM_INFINITY)),
        ((RLIM_INFINITY, RLIM_INFINITY), 65_536 - 512, None),
    ],
)
def test_places_are_no_more_than_connections(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], places: int, raised: tuple[int, int] | None
) -> None:
    """A job beyond that would wait for one, and be taken for lost."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: asked.append(wanted))
    assert _room_for_connections() == places
    assert asked == ([] if raised is None else [raised])


def test_the_log_is_told_when_the_cluster_goes_and_comes(cluster: Cluster, line: Line) -> None:
    """Once each time, however often somebody looks."""
    log = Lines()
    crew = Crew(line, TERMS, lambda: None, [], log)

    def told(event: str, times: int) -> bool:
        crew.step()
        return len(log.of(event)) == times

    until(lambda: told("cluster.troubled", 1))
    assert "nothing listens there" in log.of("cluster.troubled")[0]["reason"]
    with cluster:
        until(lambda: told("cluster.ready", 1))
        assert log.of("cluster.ready") == [{"scheduler": cluster.address, "places": 1}]
        before = len(log.events)
        crew.step()
        assert len(log.events) == before


@pytest.mark.parametrize(
    ("scheduler", "why"),
    [
        ("tls://no-such-host.invalid:8786", "the name no-such-host.invalid is unknown"),
        ("tcp://127.0.0.1:1", "nothing listens there; see whether the scheduler runs"),
    ],
)
def test_why_there_is_no_scheduler_is_told_in_words(scheduler: str, why: str) -> None:
    """And not in those of Dask, which only say that it took too long."""
    assert why_unreachable(scheduler, OSError("Timed out")) == why


def test_somebody_who_is_no_scheduler_is_told_of() -> None:
    """Something of another kind has the port, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        assert why_unreachable(address, OSError("refused")) == "refused; the scheduler's own log may say more"
        line = Line(address, None, "test", lambda: None)
        until(lambda: "does not answer" in str(line.trouble))
        line.close()
