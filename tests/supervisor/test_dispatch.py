"""Several workers: who gets which voice and how many cores, and that the loss of one is no loss to the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fake_worker import FakeWorker
from kiln import Kiln, good, voice_bytes
from voicekiln.folders.voices import State
from voicekiln.job import Ending, Lost
from voicekiln.supervisor.hiring import WORKER_BYTES
from voicekiln.supervisor.intake import RESERVE
from voicekiln.worker.wire import Convert, Looked, Request

Build = Callable[..., Kiln]
SMALL, LARGE = voice_bytes("x"), voice_bytes("x" * 20_000_000)
LOST = Lost("the worker was killed (SIGKILL)")


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Return what makes a daemon whose workers, four if nothing else is said, hold on to what they were given."""
    built: list[Kiln] = []

    def make(workers: int = 4, **changes: Any) -> Kiln:
        built.append(Kiln(tmp_path, hold, workers=workers, **changes))
        return built[-1]

    yield make
    for kiln in built:
        kiln.close()


def hold(request: Request) -> None:
    """Answer as a worker that is not done yet."""
    del request


def content(request: Request) -> bytes:
    assert isinstance(request, Convert)
    return request.job.source.read_bytes()


def drop(kiln: Kiln, *names: str) -> None:
    """Drop voices and let time pass, until all have begun or are queued."""
    for name in names:
        kiln.drop(name)
    kiln.run()


def drop_one(kiln: Kiln, name: str, body: bytes, seconds: float) -> None:
    """Drop a voice that is seen at once, and let so much time pass."""
    kiln.drop(name, body)
    kiln.service.intake.look_soon()
    kiln.run(seconds)


def let_go(kiln: Kiln) -> None:
    """Let what is in work be done, and hold on to what comes after it."""
    kiln.answer = good
    kiln.service.tick(kiln.now)
    kiln.answer = hold
    kiln.run()


def in_work(kiln: Kiln) -> set[str]:
    """Return the voices that are with a worker."""
    return {voice.relpath.name for voice in kiln.ledger.voices(State.CONVERTING)}


def threads(kiln: Kiln) -> dict[str, int]:
    """Return how many cores each voice was given, in the order in which they were begun."""
    return {line["file"]: line["threads"] for line in kiln.log.of("job.started")}


# --- side by side ----------------------------------------------------------------------------------------------------


def test_voices_are_converted_side_by_side(build: Build) -> None:
    """As many as there are workers; meanwhile the next ones are copied, one for each worker and two more."""
    kiln = build(workers=4)
    drop(kiln, *(f"{number}.pth" for number in range(20)))
    assert [len(keeper.begun) for keeper in kiln.keepers] == [1, 1, 1, 1]
    assert len(kiln.ledger.voices(State.QUEUED)) == 6
    kiln.answer = good
    kiln.run(60)
    assert len(kiln.results()) == 40
    assert kiln.litter() == []


def test_a_worker_that_is_up_is_asked_before_another_is_started(build: Build) -> None:
    """Voices that come one at a time need one process."""
    kiln = build()
    kiln.answer = good
    for name in ("a.pth", "b.pth", "c.pth"):
        drop(kiln, name)
    assert [len(keeper.begun) for keeper in kiln.keepers] == [3, 0, 0, 0]


@pytest.mark.parametrize(("free", "together"), [(0.0, 1), (0.9, 1), (1.9, 1), (2.0, 2), (3.9, 3), (99.0, 4)])
def test_processes_are_started_as_memory_allows(build: Build, free: float, together: int) -> None:
    """One in any case; another only where there is room for it beside those that have just been started."""
    kiln = build()
    kiln.machine.has_bytes = free * WORKER_BYTES
    drop(kiln, *(f"{number}.pth" for number in range(6)))
    assert len(in_work(kiln)) == together


def test_workers_that_are_up_go_on_when_memory_becomes_short(build: Build) -> None:
    """They have what they need already; only no further one is started."""
    kiln = build()
    drop(kiln, "a.pth", "b.pth")
    kiln.machine.has_bytes = 0.0
    drop(kiln, "c.pth", "d.pth", "e.pth")
    assert in_work(kiln) == {"a.pth", "b.pth"}
    let_go(kiln)
    assert len(in_work(kiln)) == 2
    let_go(kiln)
    assert len(in_work(kiln)) == 1


def test_a_worker_that_was_lost_needs_memory_again(build: Build) -> None:
    """What was lost with it is not begun anew before there is room for another process."""
    kiln = build(workers=2)
    drop(kiln, "a.pth", "b.pth")
    kiln.machine.has_bytes = 0.0
    kiln.answer = lambda request: LOST if b"b.pth" in content(request) else None
    kiln.run()
    assert in_work(kiln) == {"a.pth"}
    assert kiln.voice("b.pth").attempts == 1


def test_a_worker_that_was_idle_and_left_needs_memory_again(build: Build) -> None:
    """That two were up once says nothing about the voices that come then."""
    kiln = build(workers=2)
    for keeper in kiln.keepers:
        keeper._idle_s = 10.0
    drop(kiln, "a.pth", "b.pth")
    let_go(kiln)
    kiln.machine.has_bytes = 0.0
    drop(kiln, "c.pth", "d.pth")
    assert len(in_work(kiln)) == 1


def test_memory_that_comes_free_is_noticed(build: Build) -> None:
    """A voice that waits for it is begun although nothing else happens."""
    kiln = build()
    kiln.machine.has_bytes = 0.0
    drop(kiln, "a.pth", "b.pth")
    assert len(in_work(kiln)) == 1
    kiln.machine.has_bytes = 3 * WORKER_BYTES
    kiln.run(10)
    assert in_work(kiln) == {"a.pth", "b.pth"}


def test_equal_voices_dropped_at_once_are_converted_once(build: Build) -> None:
    """Also when several workers become free at the same moment and both are queued."""
    kiln = build()
    twins = ["one.pth", "two.pth", "three.pth"]
    drop(kiln, *(f"{number}.pth" for number in range(4)))
    for name in twins:
        kiln.drop(name, voice_bytes("twins"))
    kiln.run()
    assert len(kiln.ledger.voices(State.QUEUED)) == 3
    let_go(kiln)
    assert len(in_work(kiln)) == 1
    kiln.answer = good
    kiln.run(60)
    assert len(kiln.asked) == 5
    assert {f"{Path(name).stem}.json" for name in twins} <= kiln.results()


# --- cores -----------------------------------------------------------------------------------------------------------


def test_a_voice_that_is_alone_has_all_cores(build: Build) -> None:
    """However many workers there could be."""
    kiln = build()
    kiln.answer = good
    drop(kiln, "a.pth")
    drop(kiln, "b.pth")
    assert threads(kiln) == {"a.pth": 8, "b.pth": 8}


def test_many_voices_share_the_cores(build: Build) -> None:
    """Those that begin together, and those that begin beside others that are in work."""
    kiln = build()
    drop(kiln, *(f"{number}.pth" for number in range(9)))
    assert list(threads(kiln).values()) == [8, 4, 2, 2]
    let_go(kiln)
    assert list(threads(kiln).values())[4:] == [2, 2, 2, 2]
    let_go(kiln)
    assert list(threads(kiln).values())[8:] == [8]


def test_everybody_has_a_core(build: Build) -> None:
    """Also where there are fewer of them than GPUs."""
    kiln = build()
    kiln.machine.has_cores = 2
    drop(kiln, *(f"{number}.pth" for number in range(4)))
    assert list(threads(kiln).values()) == [2, 1, 1, 1]


def test_what_cannot_run_now_takes_no_cores(build: Build) -> None:
    """A twin, which waits for the other one's ending."""
    kiln = build(workers=2)
    drop(kiln, "x.pth", "y.pth")
    for name in ("a.pth", "b.pth"):
        kiln.drop(name, voice_bytes("twins"))
    kiln.run()
    let_go(kiln)
    assert list(threads(kiln).values())[2:] == [8]


def test_workers_without_memory_take_no_cores(build: Build) -> None:
    """One that cannot be started leaves its share to those that are up."""
    kiln = build()
    kiln.machine.has_bytes = 0.0
    drop(kiln, "a.pth", "b.pth", "c.pth")
    let_go(kiln)
    assert list(threads(kiln).values()) == [8, 8]


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("later", "begun"), [(3.0, ["small.pth", "large.pth"]), (5.0, ["large.pth", "small.pth"])])
def test_a_small_voice_passes_a_large_one_that_came_shortly_before(
    build: Build, later: float, begun: list[str]
) -> None:
    """20 MB let others pass for four seconds, from the spool to a worker."""
    kiln = build(workers=1)
    drop(kiln, "busy.pth")
    drop_one(kiln, "large.pth", LARGE, later)
    drop_one(kiln, "small.pth", SMALL, 30)
    kiln.answer = good
    kiln.run()
    assert list(threads(kiln))[1:] == begun


def test_a_job_carries_its_turn(build: Build) -> None:
    """Where it waits once more, beyond the dispatch, the order is the ledger's."""
    kiln = build(workers=2)
    drop_one(kiln, "large.pth", LARGE, 30)
    drop_one(kiln, "small.pth", SMALL, 30)
    turns = {voice.job: voice.turn[0] for voice in kiln.ledger.voices()}
    assert {request.id: request.turn for request in kiln.asked if isinstance(request, Convert)} == turns
    assert len(turns) == 2
    assert min(turns.values()) > 0


@pytest.mark.parametrize(("later", "copied"), [(3.0, ["small.pth", "large.pth"]), (5.0, ["large.pth", "small.pth"])])
def test_a_small_voice_is_copied_before_a_large_one(build: Build, later: float, copied: list[str]) -> None:
    """The same holds from the inbox to the spool, where a huge copy could hold up everybody."""
    kiln = build(workers=1)
    drop(kiln, *(f"{number}.pth" for number in range(4)))
    drop_one(kiln, "large.pth", LARGE, later)
    drop_one(kiln, "small.pth", SMALL, 30)
    assert len(kiln.log.of("file.settled")) == 4
    kiln.answer = good
    kiln.run()
    assert [line["file"] for line in kiln.log.of("file.settled")][4:] == copied


# --- room on the disk ------------------------------------------------------------------------------------------------


def test_the_local_disk_is_promised_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of the voices in work has to fit beside the next one; until then it waits, and nobody passes."""
    kiln = build()
    size = len(voice_bytes("x" * 1000))
    free = SimpleNamespace(free=RESERVE + 8 * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    for name in ("a.pth", "b.pth"):
        kiln.drop(name, voice_bytes(name[0] * 1000))
    kiln.run()
    drop(kiln, "small.pth")
    assert in_work(kiln) == {"a.pth"}
    assert [voice.relpath.name for voice in kiln.ledger.voices(State.SETTLING)] == ["b.pth", "small.pth"]
    kiln.answer = good
    kiln.run()
    assert len(kiln.results()) == 6


def test_a_voice_that_never_fits_stops_nobody_else(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing else is in work it is tried, told of and put off, and the next one has its turn."""
    kiln = build()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=RESERVE + 2000))
    kiln.drop("large.pth", voice_bytes("x" * 1000))
    drop(kiln, "small.pth")
    kiln.answer = good
    kiln.run()
    assert "too little room" in kiln.voice("large.pth").reason
    assert kiln.results() == {"small.onnx", "small.json"}


def test_copies_of_what_is_done_do_not_fill_the_disk(build: Build) -> None:
    """They need no worker, but while the outbox is away they wait for it in the spool, and so only a few are taken."""
    kiln = build(workers=1)
    kiln.answer = good
    drop(kiln, "a.pth")
    kiln.outbox.rename(kiln.at / "away")
    for number in range(30):
        kiln.drop(f"{number}.pth", voice_bytes("a.pth"))
    kiln.run(120)
    assert len(list((kiln.settings.state / "spool").iterdir())) <= 10
    (kiln.at / "away").rename(kiln.outbox)
    kiln.run(900)
    assert len(kiln.results()) == 62


# --- losses and ends -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_lost_takes_only_its_own_voice_with_it(build: Build) -> None:
    """The other goes on undisturbed; the voice is tried again, and both come out."""
    kiln = build(workers=2)
    losses = [LOST]

    def answer(request: Request) -> Ending | Looked | None:
        return losses.pop() if losses and b"bad" in content(request) else None

    kiln.drop("bad.pth")
    drop(kiln, "fine.pth")
    kiln.answer = answer
    kiln.run(3)
    assert in_work(kiln) == {"fine.pth"}
    assert kiln.voice("bad.pth").reason == LOST.reason
    kiln.answer = good
    kiln.run()
    assert kiln.results() == {"bad.onnx", "bad.json", "fine.onnx", "fine.json"}
    assert [kiln.voice(f"{name}.pth").attempts for name in ("bad", "fine")] == [2, 1]


def test_a_clean_stop_puts_all_voices_back(build: Build) -> None:
    """None of them has used up an attempt, and after the next start all come out."""
    kiln = build()
    drop(kiln, "a.pth", "b.pth", "c.pth")
    assert kiln.service.stop()
    assert all(keeper.stopped for keeper in kiln.keepers)
    assert [(v.state, v.attempts) for v in kiln.ledger.voices()] == [(State.QUEUED, 0)] * 3
    kiln.answer = good
    kiln.crash()
    kiln.run()
    assert len(kiln.results()) == 6


def test_a_crash_with_several_in_work_loses_none(build: Build) -> None:
    """Each is tried again after the next start."""
    kiln = build()
    drop(kiln, "a.pth", "b.pth", "c.pth")
    kiln.answer = good
    kiln.crash()
    kiln.run()
    assert len(kiln.results()) == 6
    assert kiln.litter() == []


def test_the_status_names_all_that_are_in_work(build: Build) -> None:
    """Each with the stage that it is at, and behind what a person has to see first."""
    kiln = build()
    drop(kiln, "a.pth", "b.pth")
    kiln.inbox.rename(kiln.at / "away")
    kiln.run()
    waiting, done, refused, away, *working = kiln.service.status().split(", ")
    assert (waiting, done, refused) == ("0 waiting", "0 done", "0 refused")
    assert away.startswith("inbox away")
    assert working == ["converting a.pth: load", "converting b.pth: load"]


class Lingerer(FakeWorker):
    """One whose process takes its time to leave."""

    def stop(self, now: float) -> None:
        del now
        self.stopped = True


class TestCrew:
    """Workers that become more and fewer while the daemon runs."""

    def test_a_new_worker_is_given_voices(self, build: Build) -> None:
        """From the next turn on."""
        kiln = build(workers=1)
        drop(kiln, "a.pth", "b.pth")
        assert len(kiln.asked) == 1
        kiln.keepers.append(FakeWorker(hold))
        kiln.run()
        assert len(kiln.asked) == 2

    def test_a_worker_that_goes_ends_its_voice(self, build: Build) -> None:
        """It is given no other one, its process is let go, and its place is gone with that."""
        kiln = build(workers=1)
        gone = Lingerer(hold, idle_s=1000.0)
        kiln.keepers.append(gone)
        drop(kiln, "a.pth", "b.pth")
        kiln.keepers.pop()
        kiln.run()
        assert gone.busy
        assert not gone.stopped
        gone._answer = good
        drop(kiln, "c.pth")
        assert len(gone.begun) == 1
        assert gone.stopped
        assert len(kiln.service.dispatch.benches) == 2
        FakeWorker.stop(gone, kiln.mono)
        kiln.run()
        assert len(kiln.service.dispatch.benches) == 1
        assert [voice.state for voice in kiln.ledger.voices()].count(State.DONE) == 1
