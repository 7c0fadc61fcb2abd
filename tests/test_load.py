"""Thousands of voices, thousands of turns: what is asked, kept open, kept in memory and written does not grow by it.

Nothing is timed here; the times are figures of benchmarks/. What a tick costs is counted in steps of the database.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import voicekiln
from endings import converted
from kiln import Kiln, SlowHands
from voicekiln import report
from voicekiln.folders.sweep import Ground, Lives, Plan, carry_out
from voicekiln.folders.voices import Kind, Published, State
from voicekiln.job import FileStamp, Job, Recipe
from voicekiln.settings import Scan, Settle, Sweep

DAY = 86400.0
TEN_YEARS = 10 * 365 * DAY
STEPS = 100
"""So many steps of the database are counted as one."""


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    kilns: list[Kiln] = []

    def make(*args: Any, **changes: Any) -> Kiln:
        kilns.append(Kiln(tmp_path, *args, **changes))
        return kilns[-1]

    yield make
    for kiln in kilns:
        kiln.close()


def lying_there(kiln: Kiln, count: int, *, on_disk: bool = True, source: str = "there") -> None:
    """Enter voices that were converted at the time that is now, with their results."""
    recipe, stamp = Recipe("default"), FileStamp(1, 2, 3, 4)
    staging = kiln.at / "staging"
    staging.mkdir(exist_ok=True)
    ending = converted(Job("j", staging, staging, "aa", recipe))
    with kiln.ledger.together():
        for number in range(count):
            name = PurePosixPath(f"old {number}.pth")
            voice = kiln.ledger.sight(name, "default", stamp, kiln.wall).id
            kiln.ledger.spooled(voice, stamp, f"{number:064}", recipe, f"key {number}", f"job{number}")
            kiln.ledger.ended(voice, ending)
            kiln.ledger.claim_base(voice, name.with_suffix(""), [f"{name.stem}.json", f"{name.stem}.onnx"])
            files = [_file(kiln, name.with_suffix(suffix), on_disk=on_disk) for suffix in (".onnx", ".json")]
            kiln.ledger.published(voice, files, [], kiln.wall)
            if source == "gone":
                kiln.ledger.vanished(voice)


def _file(kiln: Kiln, path: PurePosixPath, *, on_disk: bool) -> Published:
    kind: Kind = "onnx" if path.suffix == ".onnx" else "sidecar"
    stamp = None
    if on_disk:
        (kiln.outbox / path).write_bytes(b"result")
        stamp = FileStamp.of((kiln.outbox / path).stat())
    return Published(path, kind, "bb", 6, stamp)


def steps_of(kiln: Kiln, work: Callable[[], object]) -> int:
    """Return how many hundreds of steps the database takes for something."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    kiln.ledger._db.set_progress_handler(count, STEPS)
    work()
    kiln.ledger._db.set_progress_handler(None, 0)
    return taken


def a_tick(kiln: Kiln) -> int:
    """Return what the cheapest of some ticks costs: one in which no scan comes home."""
    costs = []
    for _ in range(6):
        costs.append(steps_of(kiln, lambda: kiln.service.tick(kiln.now)))
        kiln.mono += 0.02
        kiln.wall += 0.02
    return min(costs)


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(16)
def test_a_tick_costs_the_same_however_many_wait(build: Callable[..., Kiln]) -> None:
    """Two thousand voices that settle, and one in work: whose turn is next is found without a walk."""
    kiln = build(lambda _: None, settle=Settle(quiet=1.0))
    kiln.drop("first.pth")
    kiln.run(15)
    before = a_tick(kiln)
    for number in range(2000):
        kiln.drop(f"{number}.pth")
    kiln.run(15)
    assert kiln.ledger.counts()[State.SETTLING] > 1900
    assert a_tick(kiln) <= before + 15
    assert steps_of(kiln, lambda: kiln.ledger.first(lambda _: True, State.SETTLING, State.INCOMPLETE)) <= 5


@pytest.mark.requirement(16)
def test_those_that_wait_for_a_time_cost_nothing_until_then(build: Callable[..., Kiln]) -> None:
    """Files without a proof are let alone for a minute, a thousand of them too; all are taken in the end."""
    kiln = build(settle=Settle(quiet=1.0))
    kiln.run(15)
    before = a_tick(kiln)
    for number in range(300):
        kiln.drop(f"{number}.pth", b"an older pickle, perhaps %d" % number)
    kiln.run(45)
    assert kiln.ledger.counts() == {State.SETTLING: 300}
    assert a_tick(kiln) <= before + 15
    kiln.run(60)
    kiln.run(60)
    assert {state: n for state, n in kiln.ledger.counts().items() if n} == {State.DONE: 300}


@pytest.mark.requirement(16)
def test_thousands_are_told_in_one_line(build: Callable[..., Kiln]) -> None:
    """A journal keeps so many lines in half a minute and drops the others, whoever wrote them."""
    kiln = build(lambda _: None)
    for number in range(1000):
        kiln.drop(f"{number}.pth")
    kiln.run(20)
    assert kiln.log.of("files.seen") == [{"count": 1000}]
    assert len(kiln.log.events) < 1000 + 40  # those of the level debug, which is not written
    assert kiln.ledger.counts()[State.SETTLING] > 990


@pytest.mark.requirement(16)
def test_thousands_are_entered_in_portions(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick enters more than two of them, and what a crash in between leaves out is found by the next scan."""
    monkeypatch.setattr("voicekiln.supervisor.intake.PORTION", 30)
    kiln = build(lambda _: None)
    kiln.run(10)
    for number in range(100):
        kiln.drop(f"{number}.pth")
    kiln.mono += 60.0
    entered = [known(kiln)]
    while entered[-1] < 60:
        kiln.service.tick(kiln.now)
        entered.append(known(kiln))
    assert sorted({*entered}) == [0, 60]
    assert kiln.service.intake.due() == kiln.mono
    kiln.crash()
    kiln.run(20)
    assert known(kiln) == 100


def known(kiln: Kiln) -> int:
    return sum(1 for _ in kiln.ledger.paths())


@pytest.mark.requirement(16)
def test_what_lies_in_the_inbox_takes_little_memory(build: Callable[..., Kiln]) -> None:
    """Two kilobytes a file at most, even while all of them are new."""
    kiln = build(lambda _: None, settle=Settle(quiet=1.0))
    kiln.run(10)
    for number in range(2000):
        kiln.drop(f"{number}.pth")
    kiln.log.events.clear()
    with traced() as grown:
        kiln.run(10)
        kiln.log.events.clear()
    assert kiln.ledger.counts()[State.SETTLING] > 1900
    assert grown() < 2000 * 2000


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that says by how many bytes has grown, within, what our own code keeps in memory.

    Not what the interpreter keeps in tables of its own, which grow by leaps: names that C code looks up, above all
    (`isoformat`, `__match_args__`), of which its cache of types' attributes holds thousands of equal ones.
    """
    gc.collect()
    tracemalloc.start()
    ended = 0
    try:
        yield lambda: ended
        gc.collect()
        sys._clear_type_cache()
        ours = tracemalloc.Filter(inclusive=True, filename_pattern=f"{Path(voicekiln.__file__).parent}/*")
        ended = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    finally:
        tracemalloc.stop()


# --- a large ledger --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(16)
def test_voices_that_are_over_cost_nothing(build: Callable[..., Kiln]) -> None:
    """Neither a tick nor a scan asks about those whose source is gone, and a new voice finds its way among them."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=None))
    kiln.run(20)
    before = a_tick(kiln), steps_of(kiln, lambda: kiln.run(10))
    lying_there(kiln, 3000, on_disk=False, source="gone")
    kiln.ledger.set_fact("outbox known", "yes")
    assert a_tick(kiln) <= before[0] + 5
    assert steps_of(kiln, lambda: kiln.run(10)) <= before[1] + 50
    kiln.drop("new.pth")
    assert steps_of(kiln, lambda: kiln.run(30)) < 3000 * 4 / STEPS * 5
    assert "new.json" in kiln.results()


def test_a_status_of_thousands_is_told_line_by_line(build: Callable[..., Kiln]) -> None:
    """As JSON too: one object in the end, but never all of it in memory."""
    kiln = build()
    lying_there(kiln, 3000, on_disk=False)
    for told in (report.status, report.status_json):
        gc.collect()
        tracemalloc.start()
        count = sum(1 for _ in told(kiln.ledger, running=True))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > 3000
        assert peak < 3_000_000
    whole = json.loads("\n".join(report.status_json(kiln.ledger, running=True)))
    assert [row["file"] for row in whole["files"]] == [f"old {number}.pth" for number in range(3000)]


# --- sweeping --------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(16)
def test_a_voice_is_published_while_thousands_are_swept(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hands take what else there is to do between two pieces of a sweep."""
    monkeypatch.setattr("voicekiln.supervisor.sweeping.PIECE", 5)
    kiln = build(
        hands=SlowHands,
        scan=Scan(poll=0.5),
        settle=Settle(quiet=0.1),
        sweep=Sweep(every=30 * DAY, sources=None, max_share=1.0),
    )
    kiln.run(10)
    lying_there(kiln, 1000, source="gone")
    kiln.mono += 8 * DAY
    kiln.wall += 8 * DAY
    kiln.ledger.set_fact("sweep wanted", "yes")
    kiln.drop("new.pth")
    for _ in range(40):
        if "new.json" not in kiln.results():
            kiln.run(0.5)
    assert "new.json" in kiln.results()
    assert 500 < len(kiln.results()) < 1900
    kiln.run(60)
    assert kiln.results() == {"new.json", "new.onnx"}
    assert kiln.ledger.counts()[State.DONE] == 1


@pytest.mark.requirement(6)
@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS])
@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarting"])
def test_a_wall_clock_that_is_wrong_by_years_sweeps_nothing(
    build: Callable[..., Kiln], jump: float, *, restarts: bool
) -> None:
    """Neither while it is wrong nor when it is right again; what lies there goes when it has lain there long enough.

    A daemon that starts while the clock is wrong cannot tell that from having been off, and counts a day for it.
    """
    kiln = build(sweep=Sweep(max_share=1.0))
    kiln.drop("a.pth")
    kiln.run(60)
    kiln.wall += jump
    if restarts:
        kiln.crash()
    kiln.drop("b.pth")
    kiln.run(60)
    kiln.skip(2 * DAY)
    assert {"a.json", "a.onnx", "b.json", "b.onnx"} <= kiln.results()
    kiln.wall -= jump
    if restarts:
        kiln.crash()
    kiln.run(60)
    kiln.skip(3.5 * DAY)
    assert {"a.json", "a.onnx", "b.json", "b.onnx"} <= kiln.results()
    assert (kiln.inbox / "a.pth").exists()
    kiln.skip(2 * DAY)
    assert kiln.results() == set()
    assert list(kiln.inbox.glob("*.pth")) == []


def test_a_voice_whose_files_a_person_has_taken_away_is_forgotten(build: Callable[..., Kiln]) -> None:
    """Or the ledger would keep it for ever where results are never swept; one with a file left is kept."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=None, every=3600.0))
    for name in ("a.pth", "b.pth", "c.pth"):
        kiln.drop(name)
    kiln.run(60)
    for name in ("inbox/a.pth", "outbox/a.onnx", "outbox/a.json", "inbox/b.pth", "outbox/b.json", "outbox/c.json"):
        (kiln.at / name).unlink()
    kiln.skip(3700)
    assert [voice.relpath.name for voice in kiln.ledger.voices()] == ["b.pth", "c.pth"]
    assert kiln.log.of("voices.forgotten")[0]["count"] == 1


def test_a_share_that_is_away_has_lost_nothing(build: Callable[..., Kiln]) -> None:
    """Neither before the look at what lies there, nor if it goes during it."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=None, every=3600.0))
    kiln.drop("a.pth")
    kiln.run(60)
    (kiln.inbox / "a.pth").unlink()
    kiln.run(60)
    points = kiln.service.common.homes.mount_points
    at_home = points[str(kiln.outbox)]
    away = kiln.at / "away"

    def vanish(voices: object, outbox: Path, enough: object) -> tuple[int, list[object]]:
        del outbox, enough
        points[str(kiln.outbox)] = str(kiln.outbox)
        return 1, list(voices)  # type: ignore[call-overload]  # all of them seem to be gone

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voicekiln.supervisor.sweeping.collected", vanish)
        kiln.skip(3700)
    assert len(kiln.ledger.voices()) == 1
    kiln.outbox.rename(away)
    kiln.skip(3700)
    assert len(kiln.ledger.voices()) == 1
    away.rename(kiln.outbox)
    points[str(kiln.outbox)] = at_home
    kiln.skip(3700)
    assert len(kiln.ledger.voices()) == 1


def test_the_time_of_a_piece_is_that_of_removals_too(build: Callable[..., Kiln]) -> None:
    """A disk that takes long to remove a file would otherwise keep copies and publications waiting for all of them."""
    kiln = build()
    lying_there(kiln, 10)
    ground = Ground(kiln.outbox, inodes=True)
    plan = Plan(kiln.ledger, Lives(None, 0.0, None), 1.0, kiln.ledger.clock)
    swept = carry_out(plan.next(10), ground, ground, lambda: len(kiln.results()) <= 20 - 3)
    assert len(swept) == 3
    assert len(kiln.results()) == 20 - 6


def test_a_trouble_that_thousands_share_is_told_once(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each sweep says it again."""
    kiln = build(sweep=Sweep(every=DAY, sources=None, max_share=1.0))
    kiln.run(10)
    lying_there(kiln, 50, source="gone")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("voicekiln.folders.sweep.os.unlink", refuse)
    kiln.skip(8 * DAY)
    assert [line["reason"] for line in kiln.log.of("sweep.failed")] == ["Permission denied"]
    kiln.skip(2 * DAY)
    assert len(kiln.log.of("sweep.failed")) == 2
    assert kiln.ledger.counts()[State.DONE] == 50


# --- long lives ------------------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_voices_one_after_the_other_leave_nothing_behind(build: Callable[..., Kiln]) -> None:
    """No descriptor, no thread, no memory, no row, and a handful of lines each."""
    kiln = build(settle=Settle(quiet=0.5))

    def do(numbers: range) -> None:
        for number in numbers:
            kiln.drop(f"{number}.pth")
            kiln.run(8)
            for path in (kiln.inbox / f"{number}.pth", *kiln.outbox.glob(f"{number}.*")):
                path.unlink()
            kiln.keepers[0].begun.clear()

    do(range(20))
    before, told = (open_files(), threading.active_count()), len(kiln.log.events)
    kiln.log.events.clear()
    with traced() as grown:
        do(range(20, 80))
        lines = len(kiln.log.events)
        kiln.log.events.clear()
    assert (open_files(), threading.active_count()) == before
    assert grown() < 30_000
    assert told > 0
    assert lines <= 60 * 8
    kiln.skip(DAY)
    assert kiln.ledger.voices() == []


def test_a_configuration_read_anew_hundreds_of_times_leaves_nothing_behind(build: Callable[..., Kiln]) -> None:
    """No descriptor, no thread, no memory."""
    kiln = build()
    path = kiln.at / "config.yaml"

    def reload(times: int) -> None:
        for number in range(times):
            path.write_text(f"settle: {{quiet: {number % 7 + 1}s}}\n" if number % 5 else "settle: {quiet: soon}\n")
            kiln.service.reload(path)
            kiln.service.tick(kiln.now)
            kiln.service.tick(kiln.now)
        kiln.log.events.clear()

    kiln.run(10)
    reload(30)
    before = open_files(), threading.active_count()
    with traced() as grown:
        reload(200)
    assert (open_files(), threading.active_count()) == before
    assert grown() < 30_000
    assert kiln.service.common.settings.settle == Settle(quiet=(199 % 7) + 1)
