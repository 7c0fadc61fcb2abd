"""Hands: what blocks blocks nobody else, and what fails is heard of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from voicekiln.supervisor.hands import ThreadHands


class Desk:
    """Hands, with a note of what came back."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.hands = ThreadHands(self.woken.set, (OSError,), stuck_s=0.01)
        self.heard: list[object] = []

    def do(self, work: Callable[[], object]) -> None:
        self.hands.do("a test", work, self.heard.append, self.heard.append)

    def wait(self) -> None:
        assert self.woken.wait(10)
        self.woken.clear()
        self.hands.collect()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.hands.close(1)


def test_results_come_back_in_the_thread_that_collects(desk: Desk) -> None:
    """The work is done elsewhere; what it returns is told only when the loop asks."""
    desk.do(threading.current_thread)
    assert desk.woken.wait(10)
    assert desk.heard == []
    desk.wait()
    assert desk.heard != [threading.current_thread()]


def test_expected_errors_are_told_and_others_end_the_daemon(desk: Desk) -> None:
    """Trouble with a share is an answer; a defect is raised in the loop and not lost in a thread."""

    def trouble() -> None:
        raise OSError("no")

    def defect() -> None:
        raise KeyError("oh")

    desk.do(trouble)
    desk.wait()
    assert isinstance(desk.heard[0], OSError)
    desk.do(defect)
    with pytest.raises(KeyError):
        desk.wait()


def test_work_that_hangs_is_left_behind(desk: Desk) -> None:
    """A dead share holds up neither the loop nor the end, and what is being done can be said."""
    stuck = threading.Event()
    desk.do(lambda: stuck.wait(30))
    while desk.hands.stuck() is None:
        time.sleep(0.001)
    assert desk.hands.stuck() == "a test"
    desk.hands.collect()
    assert desk.hands.close(0.05) is False
    stuck.set()
    assert desk.hands.close(10) is True


def test_work_is_done_in_its_order(desk: Desk) -> None:
    """One share, one thing at a time."""
    for number in range(5):
        desk.do(lambda number=number: number)  # type: ignore[misc]  # a default is bound now, the name would be later
    while len(desk.heard) < 5:
        desk.wait()
    assert desk.heard == [0, 1, 2, 3, 4]
