"""Hostile files before a real worker process: it answers each, one after another, and is none the worse for it.

What it cannot explain it would call trouble and go, and the file would be tried again in vain; so one process has to
last through all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.hostile_files import far_reaching, hostile_files
from convert.small_checkpoints import saved, written
from convert.test_hostile_voices import Spoilt, fuzz, tables, voices
from stub_worker import Bench, convert, ending, has, one_room
from tiny_voices import tiny
from voicekiln.job import Converted, Recipe, Refused
from voicekiln.worker.keeper import Ended, Left

pytestmark = pytest.mark.requirement(20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with all that the worker may use."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def bench(place: Path) -> Iterator[Bench]:
    """Return a bench with the real worker; its process is gone after the tests."""
    bench = Bench(None, one_room(place), start_s=120, stage_s=60, memory_bytes=3 * 10**9)
    yield bench
    bench.worker.close(5.0)


def answer(bench: Bench, place: Path, data: bytes) -> Converted | Refused:
    """Give the file with these bytes to the worker; it has to stay and to answer."""
    request = convert(place, recipe=Recipe("r", verify="quick"))
    request = replace(request, job=replace(request.job, source=written(place / "voice.pth", data)))
    bench.worker.begin(request, time.monotonic())
    events = bench.until(has(Ended), 120)
    got = ending(events)
    assert isinstance(got, Converted | Refused), got
    assert not [event for event in events if isinstance(event, Left)]
    for path in request.job.staging.iterdir():
        path.unlink()
    assert {path.name for path in place.iterdir()} <= {"voice.pth", "templates", request.job.staging.name}
    return got


def test_every_hostile_pickle_and_archive_is_refused_by_one_worker(bench: Bench, place: Path) -> None:
    """All that is in the tables, now in the one form and now in the other, and a sound voice at the end."""
    for name, data in hostile_files():
        assert isinstance(answer(bench, place, data), Refused), name
    assert isinstance(answer(bench, place, saved(tiny())), Converted)


def test_a_convolution_that_would_fill_any_memory_is_refused(bench: Bench, place: Path) -> None:
    """Dilations leave no trace in the weights: a small file can ask for a reach of billions of samples."""
    got = answer(bench, place, far_reaching())
    assert isinstance(got, Refused)
    assert got.refusal.code == "contradiction"


@fuzz(8)
@given(spoilt=st.one_of(voices(), voices(), tables()))
def test_spoilt_voices_are_converted_or_refused_by_one_worker(bench: Bench, place: Path, spoilt: Spoilt) -> None:
    """As in `test_hostile_voices`, with the process that the daemon starts."""
    answer(bench, place, spoilt.data)
