"""The ledger: a restart at any moment finds every file where it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endings import converted
from voicekiln.errors import Damaged, LedgerError
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.voices import Published, State, Voice
from voicekiln.job import FileStamp, Job, Recipe, Refused

STAMP = FileStamp(2, 3, 4, 5)
NEWER = FileStamp(2, 3, 4, 6)
RECIPE = Recipe("default")
NAME = PurePosixPath("sub/voice.pth")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def row(ledger: Ledger, voice: int) -> Voice:
    found = ledger.by_id(voice)
    assert found is not None
    return found


def seen(ledger: Ledger, name: PurePosixPath = NAME, stamp: FileStamp = STAMP) -> Voice:
    return ledger.sight(name, "default", stamp, at=100.0)


def queued(ledger: Ledger, name: PurePosixPath = NAME, key: str = "key") -> Voice:
    voice = seen(ledger, name)
    ledger.spooled(voice.id, STAMP, "aa", RECIPE, key, f"job{voice.id}")
    return row(ledger, voice.id)


def done(ledger: Ledger, tmp_path: Path, name: PurePosixPath = NAME) -> Voice:
    voice = queued(ledger, name)
    ledger.start(row(ledger, voice.id))
    ledger.ended(voice.id, converted(Job("j", tmp_path, tmp_path, "aa", RECIPE)))
    file = Published(name.with_suffix(".onnx"), "onnx", "bb", 7)
    ledger.published(voice.id, [file], [], at=200.0)
    return row(ledger, voice.id)


def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    """All columns of a voice read back equal from another connection."""
    with Ledger(tmp_path / "l") as first:
        before = done(first, tmp_path)
        instance = first.instance
    with Ledger(tmp_path / "l") as second:
        assert second.voice(NAME) == before
        assert second.instance == instance
        assert before.state is State.DONE


def test_a_ledger_of_another_layout_is_refused(tmp_path: Path) -> None:
    """A newer voicekiln's ledger is never written by an older one."""
    with Ledger(tmp_path / "l"):
        pass
    other = sqlite3.connect(tmp_path / "l")
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(LedgerError, match="another version"):
        Ledger(tmp_path / "l")


def test_names_of_any_bytes_are_kept(ledger: Ledger) -> None:
    """A name that is no UTF-8 comes back as it was, and can have its output names reserved."""
    name = PurePosixPath("b\udcff/\udce9.pth")
    voice = seen(ledger, name)
    assert ledger.voice(name) == voice
    assert ledger.claim_base(voice.id, name.with_suffix(""), ["b\udcff/\udce9.onnx"])
    assert row(ledger, voice.id).base == name.with_suffix("")


def test_an_attempt_is_counted_before_it_begins_and_survives(tmp_path: Path) -> None:
    """A daemon that dies in the middle of a job finds the attempt counted."""
    with Ledger(tmp_path / "l") as first:
        started = first.start(queued(first))
        assert started is not None
        assert started.attempts == 1
    with Ledger(tmp_path / "l") as second:
        voice = second.voice(NAME)
        assert voice is not None
        assert (voice.state, voice.attempts) == (State.CONVERTING, 1)


def test_a_loss_that_does_not_count_gives_the_attempt_back(ledger: Ledger) -> None:
    """Only losses that may be the file's doing use up attempts."""
    voice = queued(ledger)
    ledger.start(row(ledger, voice.id))
    ledger.lost(voice.id, "disk full", 300.0, counts=False)
    assert row(ledger, voice.id).attempts == 0
    ledger.start(row(ledger, voice.id))
    ledger.lost(voice.id, "crashed", 300.0, counts=True)
    assert row(ledger, voice.id).attempts == 1


def test_new_content_begins_with_no_attempts_and_no_ending(ledger: Ledger, tmp_path: Path) -> None:
    """A replaced file is judged anew; what was said of the older one does not stick to it."""
    voice = done(ledger, tmp_path)
    again = seen(ledger, stamp=NEWER)
    assert (again.state, again.ending) == (State.SETTLING, voice.ending)
    ledger.spooled(voice.id, NEWER, "cc", RECIPE, "other key", "job")
    fresh = row(ledger, voice.id)
    assert (fresh.attempts, fresh.ending, fresh.stamp) == (0, None, NEWER)


def test_a_twin_is_a_voice_at_rest_with_the_same_key(ledger: Ledger, tmp_path: Path) -> None:
    """The same content and recipe under another name finds the ending, other content does not."""
    first = done(ledger, tmp_path)
    same = queued(ledger, PurePosixPath("copy.pth"))
    other = queued(ledger, PurePosixPath("other.pth"), key="other")
    assert ledger.twin(same) == first
    assert ledger.twin(other) is None


def test_an_ending_that_is_not_the_contents_has_no_twin(ledger: Ledger) -> None:
    """That the worker was lost on one copy says nothing about another."""
    voice = queued(ledger)
    ledger.ended(voice.id, Refused(Damaged(what="x")), of_content=False)
    ledger.published(voice.id, [], [], at=200.0)
    assert ledger.twin(queued(ledger, PurePosixPath("copy.pth"))) is None


def test_two_voices_never_share_an_output_name(ledger: Ledger) -> None:
    """Any one name in common is enough to be told no, and a voice can claim its own names again."""
    a, b = seen(ledger), seen(ledger, PurePosixPath("b.pth"))
    assert ledger.claim_base(a.id, PurePosixPath("v"), ["v.onnx", "v.fp16.onnx"])
    assert not ledger.claim_base(b.id, PurePosixPath("v.fp16"), ["v.fp16.onnx", "v.fp16.fp16.onnx"])
    assert row(ledger, b.id).base is None
    assert ledger.claim_base(a.id, PurePosixPath("v"), ["v.onnx", "v.fp16.onnx"])


def test_a_vanished_source_keeps_its_row_while_results_lie_there(ledger: Ledger, tmp_path: Path) -> None:
    """What we published stays ours to sweep; when that is gone too, row and names are free again."""
    voice = done(ledger, tmp_path)
    ledger.claim_base(voice.id, PurePosixPath("v"), ["v.onnx"])
    ledger.vanished(voice.id)
    assert row(ledger, voice.id).source == "gone"
    ledger.swept_files(voice.id, [Published(NAME.with_suffix(".onnx"), "onnx", "bb", 7)])
    assert ledger.voice(NAME) is None
    assert ledger.claim_base(seen(ledger).id, PurePosixPath("v"), ["v.onnx"])


def test_a_source_that_vanishes_before_it_was_taken_leaves_nothing(ledger: Ledger) -> None:
    """A file that somebody took away again is not waited for."""
    ledger.vanished(seen(ledger).id)
    assert ledger.voices() == []


def test_a_source_that_vanishes_in_work_is_still_finished(ledger: Ledger) -> None:
    """The spooled copy is enough to go on with."""
    voice = queued(ledger)
    ledger.vanished(voice.id)
    assert row(ledger, voice.id).state is State.QUEUED


@pytest.mark.parametrize("command", ["retry", "forget"])
def test_commands_leave_alone_what_is_in_work(ledger: Ledger, command: str) -> None:
    """A voice with a worker cannot be pulled from under it."""
    voice = queued(ledger)
    ledger.start(row(ledger, voice.id))
    assert getattr(ledger, command)(voice.id) is False
    assert row(ledger, voice.id).state is State.CONVERTING


def test_retry_forgets_the_ending_and_the_attempts(ledger: Ledger, tmp_path: Path) -> None:
    """After retry a voice goes through everything again, twins or not."""
    voice = done(ledger, tmp_path)
    assert ledger.retry(voice.id)
    again = row(ledger, voice.id)
    assert (again.state, again.attempts, again.key, again.ending) == (State.SETTLING, 0, None, None)


def test_an_ending_with_an_unknown_code_is_no_ending(ledger: Ledger, tmp_path: Path) -> None:
    """A refusal written by another version of voicekiln is judged anew, not shown half."""
    voice = done(ledger, tmp_path)
    ledger._set(voice.id, ending='{"refused": {"code": "of-tomorrow", "found": {}}}')
    assert row(ledger, voice.id).ending is None


def test_a_voice_that_was_just_forgotten_is_not_started(ledger: Ledger) -> None:
    """A command may remove a queued voice in the moment in which the daemon takes it."""
    voice = queued(ledger)
    assert ledger.forget(voice.id)
    assert ledger.start(voice) is None
    ledger.unchanged(voice.id, STAMP, at=1.0)


def test_a_voice_that_was_just_taken_back_is_not_started(ledger: Ledger, tmp_path: Path) -> None:
    """`retry` between the look and the start wins; neither a job nor a twin's ending goes to the older row."""
    voice = queued(ledger)
    assert ledger.retry(voice.id)
    assert ledger.start(voice) is None
    assert ledger.inherit(voice, converted(Job("j", tmp_path, tmp_path, "aa", RECIPE))) is False
    assert row(ledger, voice.id).state is State.SETTLING


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0, 1, 4_999_999, 55_000_000, 450_000_000])), max_size=12)
)
def test_the_first_is_the_one_whose_turn_it_is(facts: list[tuple[int, int]]) -> None:
    """The database sorts as `Voice.turn` does, ties included, and leaves out what is not wanted."""
    with Ledger(Path(":memory:")) as ledger:
        for number, (at, size) in enumerate(facts):
            ledger.sight(PurePosixPath(f"{number}.pth"), "default", FileStamp(number, size, 0, 0), float(at))
        waiting = sorted(ledger.voices(State.SETTLING), key=lambda voice: voice.turn)
        for voice in waiting:
            passed = {earlier.id for earlier in waiting[: waiting.index(voice)]}
            assert ledger.first(lambda found: found.id not in passed, State.SETTLING) == voice  # noqa: B023 - called at once
        assert ledger.first(lambda _: False, State.SETTLING) is None
