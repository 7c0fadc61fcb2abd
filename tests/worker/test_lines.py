"""How the worker's output becomes lines within limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voicekiln.worker.lines import LineCutter, Quota


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
