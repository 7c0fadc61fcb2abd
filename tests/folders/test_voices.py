"""Turns: small voices first, and nobody waits for ever."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from voicekiln.folders.voices import BYTES_A_SECOND, State, Voice
from voicekiln.job import FileStamp

HUGE = 4_000_000_000


def voice(number: int, first_seen: float, size: int) -> Voice:
    """Return a voice that waits."""
    return Voice(
        id=number,
        relpath=PurePosixPath(f"{number}.pth"),
        recipe="default",
        taken=None,
        stamp=FileStamp(number, size, 0, 0),
        state=State.SETTLING,
        reason="",
        next_try=None,
        first_seen=first_seen,
        finished=None,
        sha256=None,
        key=None,
        job=None,
        attempts=0,
        ending=None,
        base=None,
        source="there",
    )


seen = st.integers(0, 3000).map(float)
sizes = st.sampled_from([0, 1, 20_000_000, 55_000_000, 450_000_000, HUGE]) | st.integers(0, HUGE)


@given(st.lists(st.tuples(seen, sizes), max_size=40), seen)
def test_a_huge_voice_is_overtaken_only_by_those_that_come_within_its_handicap(
    others: list[tuple[float, int]], arrived: float
) -> None:
    """However many small ones come, and for however long: 4 GB let others pass for 800 s."""
    huge = voice(0, arrived, HUGE)
    crowd = [voice(number, *facts) for number, facts in enumerate(others, start=1)]
    queue = sorted([huge, *crowd], key=lambda waiting: waiting.turn)
    overtaken_by = [other for other in queue[: queue.index(huge)] if other.first_seen > arrived]
    assert all(other.first_seen - arrived <= HUGE / BYTES_A_SECOND for other in overtaken_by)


@given(seen, sizes, sizes)
def test_of_two_that_come_together_the_smaller_goes_first(arrived: float, one: int, other: int) -> None:
    """And of two alike the one that was entered first."""
    small, large = sorted((one, other))
    assert voice(1, arrived, small).turn < voice(2, arrived, large).turn


@given(seen, seen, sizes)
def test_of_two_of_a_size_the_earlier_goes_first(one: float, other: float, size: int) -> None:
    """So a folder of usual voices comes out as it came in."""
    early, late = sorted((one, other))
    assert voice(1, early, size).turn < voice(2, late, size).turn


def test_a_small_voice_passes_a_huge_one_that_came_a_while_ago() -> None:
    """But not one that has waited its time."""
    huge, usual = voice(1, 0.0, HUGE), 55_000_000
    assert voice(2, 700.0, usual).turn < huge.turn < voice(3, 800.0, usual).turn
