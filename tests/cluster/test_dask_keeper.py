"""The place in a Dask cluster, against a real scheduler and real worker processes: it plays a worker's part."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler
from distributed.protocol.serialize import to_serialize

import stub_worker
from cluster_running import PLACES, Cluster, until
from keeper_contract import KeeperContract
from stub_worker import VOICE, ending, has, vanishes
from stub_worker import until as polled
from voicekiln.cluster.host import LEAVING
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.letters import LostError, Terms
from voicekiln.cluster.line import Line
from voicekiln.job import STAGES, Converted, Lost, staged_files
from voicekiln.worker.keeper import At, Ended, Event, Keeper, Left, Started
from voicekiln.worker.wire import Convert, Ready, encode


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of one worker."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def convert(tmp_path: Path, name: str) -> Convert:
    (tmp_path / "voice.pth").write_bytes(VOICE)
    return stub_worker.convert(tmp_path, name)


def terms(idle_s: float = 30.0) -> Terms:
    return Terms("cpu", {"start": 60.0} | dict.fromkeys(STAGES, 60.0), idle_s, 10**9)


def called(cluster: Cluster, wake: Callable[[], None]) -> Line:
    line = Line(cluster.address, None, "test", wake)
    until(lambda: line.places)
    return line


class TestDaskKeeper(KeeperContract):
    """The one whose process is on another host."""

    @pytest.fixture(autouse=True)
    def line(self, cluster: Cluster, woken: threading.Event) -> Iterator[Line]:
        """Return a line to the cluster."""
        self.on = called(cluster, woken.set)
        yield self.on
        self.on.close()

    def make(self, tmp_path: Path, woken: threading.Event, idle_s: float = 30.0) -> Keeper:
        """Keep a place in the cluster."""
        (tmp_path / "voice.pth").write_bytes(VOICE)
        return DaskKeeper(self.on, terms(idle_s), woken.set)


@pytest.fixture
def woken() -> threading.Event:
    """Return what the keeper wakes."""
    return threading.Event()


@pytest.fixture
def line(cluster: Cluster, woken: threading.Event) -> Iterator[Line]:
    """Return a line to the cluster."""
    line = called(cluster, woken.set)
    yield line
    line.close()


@pytest.fixture
def keeper(line: Line, woken: threading.Event) -> Iterator[DaskKeeper]:
    """Return a place in the cluster, empty after the test."""
    keeper = DaskKeeper(line, terms(), woken.set)
    yield keeper
    keeper.close(1.0)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster of one worker that the test may break."""
    with Cluster(tmp_path) as own:
        yield own


def run(keeper: Keeper, woken: threading.Event, tmp_path: Path, name: str) -> list[Event]:
    keeper.begin(convert(tmp_path, name), time.monotonic())
    return polled(keeper, woken, has(Ended), 30.0)


def in_work(keeper: Keeper, woken: threading.Event, tmp_path: Path) -> list[Event]:
    """Return the events of a job that does not end, up to its first stage."""
    keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
    return polled(keeper, woken, has(At), 20.0)


def test_a_process_that_stays_is_announced_once(keeper: DaskKeeper, woken: threading.Event, tmp_path: Path) -> None:
    """It is the same one, whichever place of the cluster asks it."""
    assert has(Started)(run(keeper, woken, tmp_path, "good1"))
    again = run(keeper, woken, tmp_path, "good2")
    assert not has(Started)(again)
    assert not has(Ready)(again)


ABANDON = """
import sys, threading, time
from pathlib import Path
from stub_worker import has, until
from test_dask_keeper import called, convert, terms
from cluster_running import Cluster
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.worker.keeper import At, Started

cluster, woken = Cluster(Path()), threading.Event()
cluster.address = sys.argv[1]
keeper = DaskKeeper(called(cluster, woken.set), terms(), woken.set)
keeper.begin(convert(Path(sys.argv[2]), "hang1"), time.monotonic())
events = until(keeper, woken, has(At), 20.0)
print(next(event.pid for event in events if isinstance(event, Started)), flush=True)
time.sleep(60)
"""


def test_a_run_without_a_daemon_is_given_up(own: Cluster, woken: threading.Event, tmp_path: Path) -> None:
    """A daemon that was killed leaves no job in a place where the next one could be."""
    command = [sys.executable, "-c", ABANDON, own.address, str(tmp_path)]
    places = os.pathsep.join([*PLACES, str(Path(__file__).parent)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": places}) as daemon:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        daemon.kill()
    assert vanishes(child)
    line = called(own, woken.set)
    assert isinstance(ending(run(DaskKeeper(line, terms(), woken.set), woken, tmp_path, "good1")), Converted)
    line.close()


class TestFiles:
    """What goes there and comes back is what it was, or the job is lost; and that counts, so that it cannot loop."""

    def test_results_lie_in_the_staging_folder(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path
    ) -> None:
        """All that the ending names, in several chunks, with the content that it names, and nothing else."""
        events = run(keeper, woken, tmp_path, "big1")
        converted, staging = ending(events), tmp_path / "staging-big1"
        assert isinstance(converted, Converted)
        files = staged_files(converted.conversion, staging)
        assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()} == set(files)
        assert sorted(staging.iterdir()) == sorted(files.values())

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("wrong1", "another hash"), ("link1", "no plain file"), ("absent1", "no plain file")],
    )
    def test_a_result_that_is_not_what_was_named_is_lost(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, name: str, reason: str
    ) -> None:
        """Other bytes, a link to what the Dask worker may read and the caged process may not, nothing at all."""
        lost = ending(run(keeper, woken, tmp_path, name))
        assert isinstance(lost, Lost)
        assert reason in lost.reason
        assert lost.counts
        assert list((tmp_path / f"staging-{name}").iterdir()) == []

    def test_a_source_that_arrives_as_another_is_lost(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is converted that is not what the ledger knows."""
        monkeypatch.setattr("voicekiln.cluster.ways.to_serialize", lambda chunk: to_serialize(b"!" + chunk[1:]))
        lost = ending(run(keeper, woken, tmp_path, "good1"))
        assert isinstance(lost, Lost)
        assert "another hash" in lost.reason
        assert lost.counts

    @pytest.mark.parametrize(("door", "name"), [("put", "good1"), ("get", "big1")])
    def test_a_missing_chunk_is_noticed(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        keeper: DaskKeeper,
        line: Line,
        woken: threading.Event,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        door: str,
        name: str,
    ) -> None:
        """On either way."""
        ask, asked = line.ask, []

        async def forgetful(where: Any, at: str, **values: Any) -> dict[str, Any]:
            if at == door:
                asked.append(values)
                if len(asked) == 2:
                    if door == "put":
                        return {}
                    await ask(where, at, **values)
            return await ask(where, at, **values)

        monkeypatch.setattr(line, "ask", forgetful)
        request = convert(tmp_path, name)
        if door == "put":
            request.job.source.write_bytes(bytes(20_000_000))
            job = replace(request.job, sha256=hashlib.sha256(bytes(20_000_000)).hexdigest())
            request = replace(request, job=job)
        keeper.begin(request, time.monotonic())
        lost = ending(polled(keeper, woken, has(Ended), 20.0))
        assert isinstance(lost, Lost)
        assert "a chunk is missing" in lost.reason
        assert lost.counts

    def test_nothing_stays_behind(
        self, keeper: DaskKeeper, cluster: Cluster, woken: threading.Event, tmp_path: Path
    ) -> None:
        """In the Dask worker's folder, whatever the ending was."""
        for name in ("good1", "bad1", "lost1", "wrong1"):
            run(keeper, woken, tmp_path, name)
        until(
            lambda: (
                not [name for at, _, names in os.walk(cluster.at) if "voicekiln" in Path(at).parts for name in names]
            )
        )


def test_a_job_waits_until_a_dask_worker_takes_it_on(
    cluster: Cluster, line: Line, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path
) -> None:
    """The cluster has one place."""
    in_work(keeper, woken, tmp_path)
    assert not keeper.waits
    second = DaskKeeper(line, terms(), woken.set)
    second.begin(convert(tmp_path, "good1"), time.monotonic())
    with Client(cluster.address, set_as_default=False) as client:
        until(lambda: client.run_on_scheduler(tasks) == 2)
    assert second.poll(time.monotonic()) == []
    assert second.waits
    keeper.stop(time.monotonic())
    polled(second, woken, has(Started), 30.0)
    assert not second.waits
    polled(second, woken, has(Ended), 30.0)
    second.begin(convert(tmp_path, "hang1"), time.monotonic())
    second.close(1.0)
    assert not second.waits, "what has ended waits for nothing"


def test_of_those_that_wait_the_least_turn_comes_first(
    cluster: Cluster, line: Line, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path
) -> None:
    """Whatever the order in which they were sent; the ledger's turns favour the small and the old."""
    told: list[str] = []
    keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
    polled(keeper, woken, has(At), 20.0)
    turns = {"good0": 3.5e9, "good1": 1.5e9, "good2": 2.5e9, "good3": 0.5e9}
    for name, turn in turns.items():
        place = DaskKeeper(line, terms(), partial(told.append, name))
        place.begin(replace(convert(tmp_path, name), turn=turn), time.monotonic())
    with Client(cluster.address, set_as_default=False) as client:
        until(lambda: client.run_on_scheduler(tasks) == 1 + len(turns))
    keeper.stop(time.monotonic())
    until(lambda: len(set(told)) == len(turns))
    assert [*dict.fromkeys(told)] == sorted(turns, key=turns.__getitem__)


def tasks(dask_scheduler: Scheduler) -> int:
    """Return how many tasks a scheduler has; Dask knows by the name that it is wanted here."""
    return len(dask_scheduler.tasks)


class TestTrouble:
    """Processes that go in the middle of a job."""

    def test_a_job_whose_dask_worker_dies_is_lost(self, own: Cluster, woken: threading.Event, tmp_path: Path) -> None:
        """It counts, its caged process dies with it, and the next job goes to another one."""
        line = called(own, woken.set)
        keeper = DaskKeeper(line, terms(), woken.set)
        events = in_work(keeper, woken, tmp_path)
        own.kill(own.workers[0])
        own.start_worker()
        events += polled(keeper, woken, has(Left), 20.0)
        lost = ending(events)
        assert isinstance(lost, Lost)
        assert lost.counts
        assert "went away" in lost.reason
        assert vanishes(next(event.pid for event in events if isinstance(event, Started)))
        assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)
        line.close()

    def test_a_second_run_of_a_lost_job_gives_its_place_up(
        self, own: Cluster, woken: threading.Event, tmp_path: Path
    ) -> None:
        """The scheduler sends the job of a dead worker to another one, unasked: attempts are the ledger's."""
        line = called(own, woken.set)
        own.start_worker()
        until(lambda: line.places == 2)
        keeper = DaskKeeper(line, terms(), woken.set)
        events = in_work(keeper, woken, tmp_path)
        child = next(event.pid for event in events if isinstance(event, Started))
        (dead,) = [worker for worker in own.workers if worker.pid == parent_of(child)]
        own.kill(dead)
        assert isinstance(ending(events + polled(keeper, woken, has(Ended), 20.0)), Lost)
        assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)
        line.close()

    @pytest.mark.parametrize("nanny", [False, True])
    @pytest.mark.parametrize("how", ["signal", "retire"])
    def test_a_job_whose_dask_worker_is_told_to_leave_does_not_count(
        self, tmp_path: Path, woken: threading.Event, how: str, *, nanny: bool
    ) -> None:
        """Updates of its host and a cluster that becomes smaller are no fault of the voice's; the next one has it."""
        with Cluster(tmp_path, nanny=nanny) as own:
            line = called(own, woken.set)
            keeper = DaskKeeper(line, terms(), woken.set)
            events = in_work(keeper, woken, tmp_path)
            if how == "signal":
                own.workers[0].send_signal(signal.SIGTERM)
            else:
                with Client(own.address, set_as_default=False) as client:
                    client.retire_workers(list(client.scheduler_info()["workers"]))
            events += polled(keeper, woken, has(Left), 20.0)
            lost = ending(events)
            assert isinstance(lost, Lost)
            assert LEAVING in lost.reason
            assert not lost.counts
            assert own.workers[0].wait(20.0) == 0
            assert vanishes(next(event.pid for event in events if isinstance(event, Started)))
            own.start_worker()
            assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)
            line.close()

    def test_a_job_whose_scheduler_goes_does_not_count(
        self, own: Cluster, woken: threading.Event, tmp_path: Path
    ) -> None:
        """It is nobody's fault; the line says so, and is taken up again when the scheduler is back."""
        line = called(own, woken.set)
        keeper = DaskKeeper(line, terms(), woken.set)
        events = in_work(keeper, woken, tmp_path)
        own.kill(own.scheduler)
        lost = ending(events + polled(keeper, woken, has(Ended), 20.0))
        assert isinstance(lost, Lost)
        assert not lost.counts
        until(lambda: line.trouble is not None)
        again = ending(run(keeper, woken, tmp_path, "good2"))
        assert isinstance(again, Lost)
        assert not again.counts
        own.start_scheduler()
        own.kill(own.workers[0])
        own.start_worker()
        until(lambda: line.places and line.trouble is None)
        assert isinstance(ending(run(keeper, woken, tmp_path, "good3")), Converted)
        line.close()

    def test_a_network_that_is_cut_is_not_taken_for_a_dead_dask_worker(
        self, own: Cluster, woken: threading.Event, tmp_path: Path
    ) -> None:
        """The scheduler is silent then, too, though the line to it does not know yet."""
        line = called(own, woken.set)
        keeper = DaskKeeper(line, terms(), woken.set)
        events = in_work(keeper, woken, tmp_path)
        assert own.scheduler is not None
        own.scheduler.send_signal(signal.SIGSTOP)
        own.kill(own.workers[0])
        lost = ending(events + polled(keeper, woken, has(Ended), 60.0))
        assert lost == Lost(f"the scheduler at {own.address} went away", counts=False)
        line.close()

    def test_a_job_for_a_gpu_does_not_wait_where_none_is_left(
        self, own: Cluster, woken: threading.Event, tmp_path: Path
    ) -> None:
        """The host came back without: its driver failed, or its unit was changed. The scheduler would keep it."""
        own.kill(own.workers[0])
        gpu = own.start_worker("--resources", "GPU=1")
        line = called(own, woken.set)
        with Client(own.address, set_as_default=False) as client:
            until(lambda: any(worker["resources"] for worker in client.scheduler_info()["workers"].values()))
            until(lambda: line.places == 1)
            first, second = (DaskKeeper(line, terms(), woken.set) for _ in range(2))
            in_work(first, woken, tmp_path)
            second.begin(convert(tmp_path, "good1"), time.monotonic())
            until(lambda: client.run_on_scheduler(tasks) == 2)
        own.kill(gpu)
        own.start_worker()
        lost = ending(polled(second, woken, has(Ended), 60.0))
        assert lost == Lost("the Dask workers that it waited for have left", counts=False)
        until(lambda: line.places)
        assert isinstance(ending(run(second, woken, tmp_path, "good2")), Converted)
        line.close()

    @pytest.mark.parametrize(("door", "counts"), [("put", False), ("begin", True), ("hear", True), ("get", False)])
    def test_only_who_goes_while_a_voice_is_open_may_have_gone_of_it(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        keeper: DaskKeeper,
        line: Line,
        woken: threading.Event,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        door: str,
        *,
        counts: bool,
    ) -> None:
        """A firewall, or a link that goes while files are on their way, makes no voice a poison; it is told of."""
        rpc = line._client.rpc  # type: ignore[union-attr]  # it is connected

        def cut(address: str) -> object:
            class Doors:
                def __getattr__(self, name: str) -> object:
                    if name == f"voicekiln_{door}":
                        raise OSError("no route to host")
                    return getattr(rpc(address), name)

            return Doors()

        monkeypatch.setattr(line._client, "rpc", cut)
        lost = ending(run(keeper, woken, tmp_path, "good1"))
        assert isinstance(lost, Lost)
        assert lost.counts == counts
        if door == "put":
            until(lambda: "see whether a firewall is in between" in str(line.trouble))
            monkeypatch.setattr(line._client, "rpc", rpc)
            assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)
            until(lambda: line.trouble is None)

    @pytest.mark.parametrize("silent", [True, False])
    def test_a_job_that_was_given_up_there_does_not_count(
        self, line: Line, woken: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, silent: bool
    ) -> None:
        """Its daemon was suspended, or its scheduler away for a moment. One that is not known there does count."""
        keeper, ask = DaskKeeper(line, terms(), woken.set), line.ask

        async def late(where: Any, at: str, **values: Any) -> dict[str, Any]:
            if at == "hear" and not silent:
                where = replace(where, run="another")
            elif at == "hear":
                await line._send_away(where)
                while True:
                    await ask(where, at)
            return await ask(where, at, **values)

        monkeypatch.setattr(line, "ask", late)
        keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
        lost = ending(polled(keeper, woken, has(Ended), 60.0))
        assert isinstance(lost, Lost)
        assert "given the job up" in lost.reason
        assert lost.counts is not silent

    def test_a_defect_there_costs_an_attempt_and_no_place(
        self, line: Line, woken: threading.Event, tmp_path: Path
    ) -> None:
        """As where a daemon of another version knows other stages: the job is lost, and the next one has its turn."""
        other = replace(terms(), deadlines={"start": 10.0})
        lost = ending(run(DaskKeeper(line, other, woken.set), woken, tmp_path, "good1"))
        assert isinstance(lost, Lost)
        assert "given the job up" in lost.reason
        assert lost.counts
        assert isinstance(ending(run(DaskKeeper(line, terms(), woken.set), woken, tmp_path, "good2")), Converted)

    def test_a_job_of_a_scheduler_that_went_does_not_count(self, own: Cluster, tmp_path: Path) -> None:
        """Also where the next one is there before the daemon has a word for the job again."""
        line, begun, go, found = called(own, lambda: None), threading.Event(), asyncio.Event(), list[Lost]()

        async def job() -> None:
            try:
                async with line.job("good1", encode(convert(tmp_path, "good1")), terms(), 0.0) as where:
                    begun.set()
                    await go.wait()
                    await line.ask(where, "begin")
            except LostError as error:
                found.append(error.lost)

        line.carry(job())
        assert begun.wait(30.0)
        own.kill(own.scheduler)
        own.kill(own.workers[0])
        until(lambda: not line.connected)
        own.start_scheduler()
        own.start_worker()
        until(lambda: line.places)
        line.call(go.set)
        until(lambda: found)
        assert found == [Lost(f"the scheduler at {own.address} went away", counts=False)]
        line.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
