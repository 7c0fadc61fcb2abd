"""Work on a folder that may hang, without any folder: who waits, for how long, and what is done all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from cluster_running import until
from voicekiln.cluster import hand as hands
from voicekiln.cluster.hand import Hand, SharedFolderError
from voicekiln.errors import ShareAwayError


@pytest.fixture
def hand() -> Hand:
    """Return a hand for a folder that nobody has."""
    return Hand(Path("/mnt/kiln"))


def test_what_it_is_given_is_done_in_order(hand: Hand) -> None:
    """What nobody waits for as well; and the answer is the function's."""
    done: list[str] = []

    async def work() -> int:
        for name in "abc":
            hand.later(done.append, name)
        return await hand.do(len, done)

    assert asyncio.run(work()) == 3
    assert done == [*"abc"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"the folder /mnt/kiln fails \(No space left on device\)"),
        (ShareAwayError("it is away"), r"the folder /mnt/kiln fails \(it is away\)"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "the folder /mnt/kiln does not answer"),
    ],
)
def test_what_a_disk_says_is_told_with_the_folder(hand: Hand, error: Exception, words: str) -> None:
    """Whoever reads it has to know which of the folders it is."""

    def fail() -> None:
        raise error

    with pytest.raises(SharedFolderError, match=words):
        asyncio.run(hand.do(fail))


def test_a_defect_is_told_as_it_is(hand: Hand) -> None:
    """It is not the folder's."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(hand.do(lambda: 1 // 0))


def test_a_server_that_hangs_is_not_waited_for(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks next is told at once, what was to be done next is not begun, and what nobody waits for is done late."""
    monkeypatch.setattr(hands, "STUCK_S", 0.2)
    answers, done = threading.Event(), list[str]()

    async def work() -> None:
        tasks = [hand.do(answers.wait), hand.do(done.append, "too late")]
        for told in (*await asyncio.gather(*tasks, return_exceptions=True), await told_by(hand.do(done.append, "no"))):
            assert "does not answer" in str(told)
        assert len(hand._todo) == 1
        hand.later(done.append, "tidied")

    asyncio.run(work())
    assert done == []
    answers.set()
    until(lambda: done == ["tidied"])
    assert asyncio.run(hand.do(lambda: 7)) == 7


async def told_by(asked: Awaitable[object]) -> object:
    (told,) = await asyncio.gather(asked, return_exceptions=True)
    return told


def test_what_is_in_vain_harms_nobody(hand: Hand) -> None:
    """What was to be tidied up may be gone already, and the next thing is done."""

    def fail() -> None:
        raise FileNotFoundError(errno.ENOENT, "gone")

    async def work() -> int:
        hand.later(fail)
        return await hand.do(lambda: 7)

    assert asyncio.run(work()) == 7
