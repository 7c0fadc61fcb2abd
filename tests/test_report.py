"""What the commands say: lengths of time as the configuration writes them, values as people read them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from voicekiln import report
from voicekiln.folders.sidecar import local
from voicekiln.settings import span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (5.0, "5s"),
        (90.0, "90s"),
        (300.0, "5m"),
        (7 * 86400.0, "7d"),
        (21600.0, "6h"),
        (700_000.0, "8.1d"),
    ],
)
def test_lengths_of_time_read_as_they_are_written(seconds: float | None, text: str) -> None:
    """The unit is the largest that fits."""
    assert span(seconds) == text


def test_a_next_try_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time on the wall here, as on the page, and which that is."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert local(0.0) == "1970-01-01 01:00 CET"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_values_are_words() -> None:
    """No True, None or braces on the terminal."""
    lines = list(
        report.model(Path("a.pth"), {"f0": True, "epoch": None, "rates": [10, 2], "extra": {"info": "x"}}, ["n"])
    )
    assert lines[1:] == ["  f0     yes", "  epoch  unknown", "  rates  10, 2", "  extra  info x", "  note: n"]
