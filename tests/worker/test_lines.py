"""How the worker's output becomes lines within limits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicekiln.worker.lines import MAX_WAITING, LineCutter, Listener, Mad, Quota


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_lines_do_not_depend_on_how_the_stream_was_cut(chunks: list[bytes], limit: int) -> None:
    """Whatever the pieces in which a stream arrives, the lines are the same, each at most as long as allowed."""
    cutter = LineCutter(limit)
    lines = [line for chunk in chunks for line in cutter.feed(chunk)] + [cutter.flush()]
    whole = b"".join(chunks).split(b"\n")
    assert lines == [line[:limit] for line in whole]
    assert cutter.too_long == any(len(line) > limit for line in whole)


def test_an_endless_line_takes_no_more_room_than_its_limit() -> None:
    """Memory is bounded before the line ends, not after."""
    cutter = LineCutter(100)
    for _ in range(1000):
        assert list(cutter.feed(b"x" * 1000)) == []
    assert len(cutter.flush()) == 100


@pytest.fixture
def pipes() -> Iterator[tuple[Listener, IO[bytes], IO[bytes], threading.Event]]:
    """Return a listener, the ends on which a worker would write, and what the listener wakes."""
    woken = threading.Event()
    answers, murmur = os.pipe(), os.pipe()
    listener = Listener(open(answers[0], "rb", 0), open(murmur[0], "rb", 0), woken.set)  # noqa: PTH123, SIM115 - pipes
    with open(answers[1], "wb", 0) as out, open(murmur[1], "wb", 0) as err:  # noqa: PTH123 - as above
        yield listener, out, err, woken
    if not listener.ended:
        listener.close()


Pipes = tuple[Listener, IO[bytes], IO[bytes], threading.Event]


def test_an_answer_wakes_at_once(pipes: Pipes) -> None:
    """Not only the end of all answers does."""
    listener, out, _, woken = pipes
    out.write(b"half a line")
    assert not woken.wait(0.05)
    out.write(b" and the rest\n")
    assert woken.wait(5)
    assert list(listener.heard()) == [b"half a line and the rest"]


def test_answers_that_nobody_collects_are_a_flood(pipes: Pipes) -> None:
    """The reading stops, so that a loop that is busy elsewhere does not run out of memory."""
    listener, out, _, woken = pipes
    for _ in range(MAX_WAITING):
        woken.clear()
        out.write(b"x\n")
        assert woken.wait(5)
    assert not listener.answers_ended
    out.write(b"x\n")
    by = time.monotonic() + 5
    while not listener.answers_ended:
        assert time.monotonic() < by
        woken.wait(0.01)
    heard = list(listener.heard())
    assert len(heard) == MAX_WAITING + 1
    assert isinstance(heard[-1], Mad)


def test_closing_does_not_wait_for_the_worker(pipes: Pipes) -> None:
    """A thread that would hold the descriptors for as long as a grandchild does is not left behind."""
    listener, out, _, _ = pipes
    listener.close()
    assert listener.ended
    with pytest.raises(BrokenPipeError):
        out.write(b"x\n")


def test_of_a_flood_the_first_and_the_last_lines_are_told() -> None:
    """And how many are missing between them."""
    quota = Quota(first=2, last=3)
    told = quota.admit(str(n) for n in range(10))
    told += quota.renew()
    assert told == ["0", "1", "… 5 more lines …", "7", "8", "9"]


def test_a_quota_is_renewed_for_the_next_job() -> None:
    """Nothing of the last job is left in it."""
    quota = Quota(first=2, last=3)
    quota.admit(iter("abcdefghij"))
    quota.renew()
    assert quota.admit(iter("kl")) == ["k", "l"]
    assert quota.renew() == []
