"""Settling: how long a file has been left alone, by our own observations only."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicekiln.folders.settle import Settler
from voicekiln.job import FileStamp

VOICE = PurePosixPath("voice.pth")
OTHER = PurePosixPath("a/other.pth")


def state(number: int, mtime_ns: int = 0) -> FileStamp:
    """Return the stamp of the file's `number`th state; its time stamps mean nothing."""
    return FileStamp(2, 1000, mtime_ns, number)


seconds = st.sampled_from([0.0, 0.1, 1.0, 2.9, 3.0, 3.1, 60.0])


@pytest.mark.requirement(2)
@given(st.lists(st.tuples(seconds, seconds, seconds, st.booleans()), max_size=30), st.sampled_from([0.5, 3.0, 10.0]))
def test_a_file_never_settles_earlier_than_the_quiet_time_after_its_last_change(
    scans: list[tuple[float, float, float, bool]], quiet_s: float
) -> None:
    """However slow the scans are and wherever within a scan the file is looked at."""
    settler, now_s, number, changed_s = Settler(quiet_s), 0.0, 0, 0.0
    for pause_s, before_s, after_s, changes in scans:
        now_s += pause_s
        began_s = now_s
        now_s += before_s
        if changes:  # at the last moment before the look
            number, changed_s = number + 1, now_s
        look_s = now_s
        now_s += after_s
        settled = settler.observe({VOICE: state(number)}, began_s, now_s)
        assert VOICE not in settled or look_s - changed_s >= quiet_s


@given(st.lists(st.tuples(seconds, st.integers(0, 2)), max_size=20))
def test_a_scan_at_the_time_that_was_named_finds_the_file_settled(changes: list[tuple[float, int]]) -> None:
    """Nothing waits for ever: `next_due` is when to look, and earlier is too early."""
    settler, now_s, number = Settler(3.0), 0.0, 0
    for pause_s, number in [*changes, (0.0, 9)]:
        now_s += pause_s
        settler.observe({VOICE: state(number)}, now_s)
    due_s = settler.next_due()
    assert due_s is not None
    assert not settler.observe({VOICE: state(number)}, due_s - 0.01)
    assert settler.observe({VOICE: state(number)}, due_s) == {VOICE: state(number)}
    assert settler.next_due() is None


@pytest.mark.requirement(2)
def test_files_of_the_first_scan_wait_like_any_other() -> None:
    """What lies there at the start may still be growing."""
    settler = Settler(3.0)
    assert settler.observe({VOICE: state(1)}, 1_000_000.0) == {}


def test_time_stamps_say_nothing_about_age() -> None:
    """A time stamp of 1970 makes no file old and one of 2106 none young."""
    settler = Settler(3.0)
    files = {VOICE: state(1, mtime_ns=0), OTHER: state(1, mtime_ns=4_300_000_000_000_000_000)}
    assert settler.observe(files, 10.0) == {}
    assert settler.observe(files, 13.0) == files


def test_a_file_that_went_and_came_back_waits_anew() -> None:
    """Even with the same stamp: in between nobody looked."""
    settler = Settler(3.0)
    settler.observe({VOICE: state(1)}, 0.0)
    settler.observe({}, 2.0)
    assert settler.due(VOICE, 3.0) is None
    assert settler.observe({VOICE: state(1)}, 4.0) == {}
    assert settler.observe({VOICE: state(1)}, 7.0) == {VOICE: state(1)}


def test_each_file_settles_by_itself_in_the_order_of_the_scan() -> None:
    """A busy file does not hold up another one."""
    settler = Settler(3.0)
    settler.observe({OTHER: state(1), VOICE: state(1)}, 0.0)
    assert list(settler.observe({OTHER: state(1), VOICE: state(1)}, 3.0)) == [OTHER, VOICE]
    assert settler.observe({OTHER: state(2), VOICE: state(1)}, 4.0) == {VOICE: state(1)}
    assert settler.next_due() == 7.0


def test_a_longer_quiet_time_can_be_asked_for_one_file() -> None:
    """Legacy files have nothing else that speaks for them."""
    settler = Settler(3.0)
    settler.observe({VOICE: state(1)}, 0.0)
    settler.observe({VOICE: state(1)}, 59.0)
    assert settler.due(VOICE, 60.0) == 60.0
    assert not settler.quiet(VOICE, 60.0)
    settler.observe({VOICE: state(1)}, 60.0)
    assert settler.quiet(VOICE, 60.0)
    assert not settler.quiet(OTHER, 60.0)


@pytest.mark.requirement(2)
def test_a_file_that_proved_changed_waits_anew() -> None:
    """A network mount may show the scan an old stamp; the opened file knows better."""
    settler = Settler(3.0)
    settler.observe({VOICE: state(1)}, 0.0)
    assert settler.observe({VOICE: state(1)}, 3.0)
    assert settler.next_due() is None
    settler.restart(VOICE, 3.5)
    settler.restart(OTHER, 3.5)
    assert settler.next_due() == 6.5
    assert not settler.observe({VOICE: state(1)}, 6.0)
    assert settler.observe({VOICE: state(1)}, 6.5)
