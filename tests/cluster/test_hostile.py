"""Hostile files before a real Dask worker and its real caged process: each ends as it does on one machine.

The Dask worker is the one process of another host that must not fall: all that a stranger's file may bring down is the
caged process below it, and most do not even bring down that.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_running import Cluster, until
from convert.hostile_files import far_reaching, hostile_files
from convert.small_checkpoints import saved, written
from convert.test_hostile_voices import Spoilt, fuzz, tables, voices
from stub_worker import convert, ending, has, one_room
from stub_worker import until as polled
from tiny_voices import tiny
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.letters import Terms
from voicekiln.cluster.line import Line
from voicekiln.families.sample import write_sample
from voicekiln.job import STAGES, Converted, Lost, Recipe, Refused
from voicekiln.worker.keeper import Ended, Event, Keeper, Left, Started
from voicekiln.worker.parent import Worker

pytestmark = pytest.mark.requirement(20)

ENOUGH_S = 120.0
TERMS = Terms("cpu", {"start": ENOUGH_S} | dict.fromkeys(STAGES, ENOUGH_S), 600.0, 3 * 10**9)


@dataclass(frozen=True, slots=True)
class Pair:
    """The cluster and this host side by side."""

    cluster: Cluster
    line: Line
    place: Path
    woken: threading.Event

    def on_the_cluster(self, terms: Terms) -> Keeper:
        """Return a place in the cluster."""
        return DaskKeeper(self.line, terms, self.woken.set)

    def on_this_host(self, terms: Terms) -> Keeper:
        """Return a worker on this host, under the same terms."""
        return Worker(
            device=terms.device,
            rooms=one_room(self.place),
            deadlines=terms.deadlines,
            idle_s=terms.idle_s,
            memory_bytes=terms.memory_bytes,
            wake=self.woken.set,
        )

    def events(self, keeper: Keeper, source: Path) -> list[Event]:
        """Return the events of a file's job up to its end; nothing is left of it."""
        request = convert(self.place, recipe=Recipe("r", verify="quick"))
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        keeper.begin(replace(request, job=replace(request.job, source=source, sha256=sha256)), time.monotonic())
        events = polled(keeper, self.woken, has(Ended), 2 * ENOUGH_S)
        for path in request.job.staging.iterdir():
            path.unlink()
        return events


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return a cluster with the real caged process, and a line to it."""
    with Cluster(tmp_path_factory.mktemp("cluster"), stand_in=None) as cluster:
        woken = threading.Event()
        line = Line(cluster.address, None, "test", woken.set)
        until(lambda: line.places)
        yield Pair(cluster, line, tmp_path_factory.mktemp("place"), woken)
        line.close()


@pytest.fixture(scope="module")
def there(pair: Pair) -> Iterator[Keeper]:
    """Return a place in the cluster that lasts through the tests."""
    keeper = pair.on_the_cluster(TERMS)
    yield keeper
    keeper.close(5.0)


@pytest.fixture(scope="module")
def here(pair: Pair) -> Iterator[Keeper]:
    """Return a worker on this host that lasts through the tests."""
    keeper = pair.on_this_host(TERMS)
    yield keeper
    keeper.close(5.0)


@pytest.fixture(autouse=True)
def _the_dask_worker_stays(pair: Pair) -> Iterator[None]:
    """No file ends it: it is the process that was started first, and it is connected."""
    yield
    assert pair.cluster.workers[0].poll() is None
    assert pair.line.places == 1


def told(events: list[Event]) -> tuple[object, ...]:
    """Return what a person or the ledger gets to know of an ending."""
    match ending(events):
        case Refused(refusal):
            return "refused", refusal.code, str(refusal)
        case Lost(reason, counts):
            return "lost", reason, counts
        case Converted(conversion):
            return "converted", {(file.name, file.sha256) for file in conversion.files}
        case other:
            pytest.fail(f"{other}")


def test_every_hostile_file_is_refused_as_on_one_machine(pair: Pair, here: Keeper, there: Keeper) -> None:
    """In the same words, by one caged process below one Dask worker, which then convert a sound voice."""
    files = [*hostile_files(), ("far-reaching", far_reaching())]
    children = set()
    for name, data in files:
        source = written(pair.place / "voice.pth", data)
        events = pair.events(there, source)
        assert told(events)[0] == "refused", name
        assert told(events) == told(pair.events(here, source)), name
        assert not has(Left)(events), name
        children |= {event.pid for event in events if isinstance(event, Started)}
    assert len(children) == 1
    source = written(pair.place / "voice.pth", saved(tiny()))
    assert told(pair.events(there, source)) == told(pair.events(here, source))
    assert isinstance(ending(pair.events(there, source)), Converted)


@fuzz(6)
@given(spoilt=st.one_of(voices(), tables()))
def test_spoilt_voices_end_as_on_one_machine(pair: Pair, here: Keeper, there: Keeper, spoilt: Spoilt) -> None:
    """As in `convert.test_hostile_voices`: converted, or refused in the same words."""
    source = written(pair.place / "voice.pth", spoilt.data)
    assert told(pair.events(there, source)) == told(pair.events(here, source))


HARD: dict[str, tuple[Terms, str]] = {
    "out of memory": (replace(TERMS, memory_bytes=350 * 10**6), "memory"),
    "too slow": (replace(TERMS, deadlines={**TERMS.deadlines, "verify": 0.01}), "longer"),
}
"""Terms under which the sample voice cannot be converted, and why."""


@pytest.mark.parametrize("name", HARD)
def test_a_file_that_costs_the_caged_process_its_life_is_lost_as_on_one_machine(pair: Pair, name: str) -> None:
    """In the same words, as an attempt that counts; the sample voice is converted there at once afterwards."""
    terms, reason = HARD[name]
    write_sample(pair.place / "sample.pth", seed=1)
    keepers = pair.on_the_cluster(terms), pair.on_this_host(terms), pair.on_the_cluster(TERMS)
    there, here, after = [pair.events(keeper, pair.place / "sample.pth") for keeper in keepers]
    for keeper in keepers:
        keeper.close(5.0)
    lost = told(there)
    assert lost == told(here)
    assert lost[0] == "lost"
    assert reason in str(lost[1])
    assert lost[2]
    assert isinstance(ending(after), Converted)
