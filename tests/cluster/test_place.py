"""A place in a Dask worker, without Dask: what a run takes, gives and leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster_running import until
from endings import converted
from stub_worker import VOICE, convert
from voicekiln.cluster.letters import SOURCE, Terms, decode_event, encode_event
from voicekiln.cluster.parcels import ParcelError
from voicekiln.cluster.place import SILENCE_S, Place, Run
from voicekiln.errors import Empty
from voicekiln.job import Converted, Lost, Refused
from voicekiln.worker.keeper import Abandoned, At, Ended, Event, Left, Said, Started
from voicekiln.worker.wire import Looked, Ready, WireError

SHA256 = hashlib.sha256(VOICE).hexdigest()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a run that has just begun."""
    run = Run("r1", convert(tmp_path, "good1"), tmp_path / "place", lambda: None)
    yield run
    run.clear()


def test_a_run_without_a_word_is_silent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute; each word begins it anew."""
    now = run._heard_at
    monkeypatch.setattr("time.monotonic", lambda: now + SILENCE_S + 1)
    assert run.silent
    run.heard()
    assert not run.silent


def test_only_what_was_named_is_given(run: Run) -> None:
    """Nothing before the end, then the files of the conversion, whatever else lies there."""
    (run.staging / "rvc.fp32.onnx").write_bytes(b"not finished")
    with pytest.raises(ParcelError):
        run.give("rvc.fp32.onnx")
    (run.staging / "rvc.fp32.onnx").unlink()
    ending = converted(run.request(1).job)  # type: ignore[union-attr]  # a conversion
    run.happened(Ended("good1", ending))
    (run.staging / "other").write_bytes(b"x")
    for name in ("other", "../../sources/r1/0", "/etc/passwd", ""):
        with pytest.raises(ParcelError):
            run.give(name)
    assert run.give("rvc.fp32.onnx")[0] == 0


def test_nothing_is_left(run: Run, tmp_path: Path) -> None:
    """Neither of a source that came in half, nor of results."""
    run.take(SOURCE, 0, VOICE[:3], None)
    (run.staging / "a").write_bytes(b"x")
    run.clear()
    assert [path for path in (tmp_path / "place").rglob("*") if path.is_file()] == []


def test_a_source_lies_there_when_its_hash_came(run: Run) -> None:
    """And is read only by the one who is asked."""
    run.take(SOURCE, 0, VOICE[:3], None)
    run.take(SOURCE, 3, VOICE[3:], SHA256)
    job = run.request(3).job  # type: ignore[union-attr]  # as above
    assert job.source.read_bytes() == VOICE
    assert job.source.stat().st_mode & 0o077 == 0


def test_nothing_is_begun_for_a_run_that_is_over(run: Run, tmp_path: Path) -> None:
    """It was given up just when its daemon was heard again; the place is free for the next one."""
    place = Place(tmp_path / "place", tmp_path / "templates", Terms("cpu", {"start": 10.0}, 10.0, 10**9))
    place.run = run
    run.over.set()
    place.begin(run, threads=1)
    until(lambda: not place._orders)
    assert not place.busy
    assert run.events() == []


EVENTS: list[Callable[[Path], Event]] = [
    lambda _: Started(7),
    lambda _: Ready({"kind": "cpu"}, {"torch": "0"}),
    lambda _: At("j1", "load", 2, 3),
    lambda _: Said("words"),
    lambda at: Ended("good1", converted(convert(at, "good1").job)),
    lambda _: Ended("j1", Lost("gone", counts=False)),
    lambda _: Ended("j1", Looked("j1", {"family": "rvc"}, ("note",))),
    lambda _: Left(7, "gone", wanted=True),
    lambda _: Abandoned(7),
]


@pytest.mark.parametrize("make", EVENTS)
def test_an_event_arrives_as_it_left(make: Callable[[Path], Event], tmp_path: Path) -> None:
    """All that the supervisor has to hear."""
    event = make(tmp_path)
    assert decode_event(encode_event(event)) == event


def test_a_refusal_arrives_with_its_words() -> None:
    """It is made anew from its code, as on one machine."""
    event = decode_event(encode_event(Ended("j1", Refused(Empty()))))
    assert isinstance(event, Ended)
    assert isinstance(event.ending, Refused)
    assert str(event.ending.refusal) == str(Empty())


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"is": "started"}', b'{"is": "left", "pid": 1}', b'{"is": "troubled", "id": "j"}']
)
def test_what_is_no_event_is_said_so(line: bytes) -> None:
    """A Dask worker of another version is found out here."""
    with pytest.raises(WireError):
        decode_event(line)


def test_a_conversion_names_its_files(run: Run) -> None:
    """The ending as it crosses is a conversion whose files can be fetched by their names."""
    ending = converted(run.request(1).job)  # type: ignore[union-attr]  # as above
    event = decode_event(encode_event(Ended("good1", ending)))
    assert isinstance(event, Ended)
    assert isinstance(event.ending, Converted)
    run.happened(event)
    assert all(run.give(file.name)[1] for file in event.ending.conversion.files)
