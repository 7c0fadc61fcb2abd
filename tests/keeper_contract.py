"""What every keeper of a worker promises, whatever it keeps."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from stub_worker import convert, ending, has, until
from voicekiln.job import STAGES, Converted, Lost, Refused
from voicekiln.worker.keeper import At, Ended, Event, Keeper, Left, Started
from voicekiln.worker.wire import Inspect, Looked, Ready, Request

PATIENCE_S = 60.0
"""A worker that has said nothing for so long has failed; its start takes a while where much else goes on."""


class KeeperContract(ABC):
    """The promises; a subclass makes the keeper."""

    @pytest.fixture
    def woken(self) -> threading.Event:
        """Return what the keeper wakes."""
        return threading.Event()

    @pytest.fixture
    def keeper(self, tmp_path: Path, woken: threading.Event) -> Iterator[Keeper]:
        """Return the keeper; its process is gone after the test."""
        keeper = self.make(tmp_path, woken)
        yield keeper
        keeper.close(1.0)

    @abstractmethod
    def make(self, tmp_path: Path, woken: threading.Event, idle_s: float = 30.0) -> Keeper:
        """Return a keeper whose worker does what a request's id begins with."""

    @staticmethod
    def run(keeper: Keeper, woken: threading.Event, request: Request) -> list[Event]:
        """Return the events of a request up to its end."""
        keeper.begin(request, time.monotonic())
        return until(keeper, woken, has(Ended), PATIENCE_S)

    def test_a_good_file_is_converted(self, keeper: Keeper, woken: threading.Event, tmp_path: Path) -> None:
        """The process is announced before it is ready, stages come before the end."""
        events = self.run(keeper, woken, convert(tmp_path, "good1"))
        assert [type(event) for event in events[:3]] == [Started, Ready, At]
        assert all(event.stage in STAGES for event in events if isinstance(event, At))
        assert isinstance(ending(events), Converted)
        assert isinstance(events[-1], Ended)
        assert not keeper.waits

    def test_each_request_ends_once_and_under_its_own_id(
        self, keeper: Keeper, woken: threading.Event, tmp_path: Path
    ) -> None:
        """Whatever happens to it, and in whatever order."""
        names = ["good1", "bad1", "lost1", "good2", "lost2", "bad2"]
        events = [event for name in names for event in self.run(keeper, woken, convert(tmp_path, name))]
        ended = [event for event in events if isinstance(event, Ended)]
        kinds = {"good": Converted, "bad": Refused, "lost": Lost}
        assert [event.id for event in ended] == names
        assert [type(event.ending) for event in ended] == [kinds[name[:-1]] for name in names]

    def test_a_look_ends_with_what_was_seen(self, keeper: Keeper, woken: threading.Event, tmp_path: Path) -> None:
        """It is no conversion."""
        events = self.run(keeper, woken, Inspect("look1", tmp_path / "voice.pth"))
        assert ending(events) == Looked("look1", {"family": "rvc"}, ())

    def test_busy_is_from_begin_to_end(self, keeper: Keeper, woken: threading.Event, tmp_path: Path) -> None:
        """And no second request is taken meanwhile."""
        assert not keeper.busy
        keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
        assert keeper.busy
        with pytest.raises(RuntimeError, match="busy"):
            keeper.begin(convert(tmp_path, "good1"), time.monotonic())
        until(keeper, woken, has(At), PATIENCE_S)
        assert keeper.busy
        assert not keeper.waits
        keeper.stop(time.monotonic())
        until(keeper, woken, has(Ended), PATIENCE_S)
        assert not keeper.busy

    def test_the_facts_are_there_while_a_process_is(
        self, keeper: Keeper, woken: threading.Event, tmp_path: Path
    ) -> None:
        """From its readiness to its end; a lost worker is replaced by the next request."""
        assert keeper.ready is None
        self.run(keeper, woken, convert(tmp_path, "good1"))
        assert keeper.ready is not None
        self.run(keeper, woken, convert(tmp_path, "lost1"))
        assert keeper.ready is None
        again = self.run(keeper, woken, convert(tmp_path, "good2"))
        assert has(Started)(again)

    def test_nothing_is_due_while_there_is_no_process(self, keeper: Keeper) -> None:
        """A daemon without work sleeps."""
        assert keeper.poll(time.monotonic()) == []
        assert keeper.next_due(time.monotonic()) == float("inf")

    def test_it_is_due_at_once_when_something_was_begun(self, keeper: Keeper, tmp_path: Path) -> None:
        """Nobody has to guess when to poll."""
        now = time.monotonic()
        keeper.begin(convert(tmp_path, "good1"), now)
        assert keeper.next_due(now) <= now

    def test_a_stopped_job_counts_as_no_attempt(self, keeper: Keeper, woken: threading.Event, tmp_path: Path) -> None:
        """And the process goes."""
        keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
        events = until(keeper, woken, has(At), PATIENCE_S)
        keeper.stop(time.monotonic())
        events += until(keeper, woken, has(Left), PATIENCE_S)
        assert ending(events) == Lost("the converter was stopped", counts=False)
        assert all(event.wanted for event in events if isinstance(event, Left))

    def test_closing_ends_all(self, keeper: Keeper, woken: threading.Event, tmp_path: Path) -> None:
        """The ending of a request under way is among what it returns; doing it twice is no harm."""
        keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
        events = until(keeper, woken, has(At), PATIENCE_S) + keeper.close(2.0)
        assert ending(events) == Lost("the converter was stopped", counts=False)
        assert has(Left)(events)
        assert keeper.close(2.0) == []

    def test_an_idle_process_leaves(self, tmp_path: Path, woken: threading.Event) -> None:
        """At the time that was announced."""
        keeper = self.make(tmp_path, woken, idle_s=0.1)
        self.run(keeper, woken, convert(tmp_path, "good1"))
        assert keeper.next_due(time.monotonic()) < time.monotonic() + 0.2
        (left,) = until(keeper, woken, has(Left), PATIENCE_S)
        assert isinstance(left, Left)
        assert left.wanted
