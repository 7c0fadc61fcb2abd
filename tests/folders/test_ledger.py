"""The ledger: a restart at any moment finds every file where it was."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endings import converted
from voicekiln import steps
from voicekiln.errors import Damaged, LedgerError
from voicekiln.folders.ledger import LONGEST_GAP_S, Ledger
from voicekiln.folders.rows import text_of
from voicekiln.folders.tables import LAYOUT, STEPS
from voicekiln.folders.voices import Class, Found, Kind, Published, State, Voice, ending_json
from voicekiln.job import NOT_READ, Conversion, Converted, FileStamp, Job, Recipe, Refused
from voicekiln.steps import Step

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


Row = dict[str, object]
CONVERTED = Converted(Conversion((), {"family": "rvc"}, {}, (), {}, {}, {}))
DAMAGED_Y = Refused(Damaged(what="y"))


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
    ledger.published(voice.id, [], [], at=200.0)
    assert ledger.by_id(voice.id) is None  # nothing is left to know


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


# --- what each change does, and nothing else -------------------------------------------------------------------------

FILE = Published(PurePosixPath("sub/voice.onnx"), "onnx", "bb", 7, STAMP)
OTHER_RECIPE = Recipe("other", ("fp16",))
REFUSED = Refused(Damaged(what="x"))
SPENT: Row = {
    "reason": "because",
    "next_try": 5.0,
    "job": "job",
    "key": "key",
    "attempts": 3,
    "deaths": 2,
    "sha256": "aa",
    "ending": ending_json(REFUSED),
    "finished": 7.0,
    "rested": 8.0,
    "taken": json.dumps(asdict(RECIPE)),
}
"""A voice that has been through everything: each column that a change does not touch shows."""
AFRESH: Row = {"reason": "", "next_try": None, "job": None}


def spent(ledger: Ledger, name: str, state: State, **columns: object) -> int:
    voice = ledger.sight(PurePosixPath(name), "default", STAMP, at=100.0)
    ledger._set(voice.id, **{**SPENT, "state": state, **columns})
    return voice.id


@contextmanager
def at_each_step(look: Callable[[Step], None]) -> Iterator[None]:
    steps.on_passed, before = look, steps.on_passed
    try:
        yield
    finally:
        steps.on_passed = before


def rows(ledger: Ledger) -> dict[int, Row]:
    return {row["id"]: dict(row) for row in ledger._ask("SELECT * FROM voices")}


Change = Callable[[Ledger, int], object]


@pytest.mark.parametrize(
    ("state", "change", "expected"),
    [
        (State.INCOMPLETE, lambda led, v: led.wait(v, State.SETTLING, "why", 9.0), {"reason": "why", "next_try": 9.0}),
        (State.INCOMPLETE, lambda led, v: led.wait(v, State.SETTLING, "why"), {"reason": "why", "next_try": None}),
        (State.SETTLING, lambda led, v: led.due_again([v]), {"next_try": None}),
        (
            State.SETTLING,
            lambda led, v: led.spooled(v, NEWER, "cc", OTHER_RECIPE, "key", "j2"),
            {"state": "queued", **AFRESH, "job": "j2", "stamp": text_of(NEWER), "sha256": "cc", "taken": OTHER_RECIPE},
        ),
        (
            State.SETTLING,
            lambda led, v: led.spooled(v, NEWER, "cc", OTHER_RECIPE, "k2", "j2"),
            {
                "state": "queued",
                **AFRESH,
                "job": "j2",
                "stamp": text_of(NEWER),
                "sha256": "cc",
                "taken": OTHER_RECIPE,
                "key": "k2",
                "attempts": 0,
                "deaths": 0,
                "ending": None,
            },
        ),
        (
            State.QUEUED,
            lambda led, v: led.start(row(led, v)),
            {"state": "converting", **AFRESH, "job": "job", "attempts": 4},
        ),
        (
            State.QUEUED,
            lambda led, v: led.inherit(row(led, v), DAMAGED_Y),
            {"state": "refusing", **AFRESH, "job": "job", "ending": ending_json(DAMAGED_Y)},
        ),
        (
            State.QUEUED,
            lambda led, v: led.inherit(row(led, v), DAMAGED_Y, of_content=False),
            {"state": "refusing", **AFRESH, "job": "job", "ending": ending_json(DAMAGED_Y), "key": None},
        ),
        (
            State.CONVERTING,
            lambda led, v: led.died(v),
            {"state": "queued", "reason": "the converter itself was stopped in the middle", "attempts": 2, "deaths": 3},
        ),
        (
            State.CONVERTING,
            lambda led, v: led.lost(v, "why", 9.0, counts=True),
            {"state": "queued", "reason": "why", "next_try": 9.0},
        ),
        (
            State.CONVERTING,
            lambda led, v: led.lost(v, "why", None, counts=False),
            {"state": "queued", "reason": "why", "next_try": None, "attempts": 2},
        ),
        (
            State.CONVERTING,
            lambda led, v: led.ended(v, CONVERTED),
            {"state": "converted", **AFRESH, "job": "job", "ending": ending_json(CONVERTED)},
        ),
        (
            State.REFUSING,
            lambda led, v: led.published(v, [FILE], [], at=200.0),
            {"state": "refused", **AFRESH, "finished": 200.0, "rested": 500.0},
        ),
        (State.REFUSING, lambda led, v: led.also_published(v, [FILE]), {}),
        (
            State.SETTLING,
            lambda led, v: led.unchanged(v, NEWER, at=200.0),
            {"state": "refused", **AFRESH, "finished": 200.0, "rested": 500.0, "stamp": text_of(NEWER)},
        ),
        (State.QUEUED, lambda led, v: led.start_over(v), {"state": "settling", **AFRESH, "key": None, "ending": None}),
        (State.QUEUED, lambda led, v: led.vanished(v), {"source": "gone"}),
        (State.QUEUED, lambda led, v: led.swept_source(v), {"source": "swept"}),
        (State.QUEUED, lambda led, v: led.swept_files(v, [FILE]), {}),
        (State.QUEUED, lambda led, v: led.claim_base(v, PurePosixPath("b"), ["b.onnx"]), {"base": b"b"}),
        (State.QUEUED, lambda led, _: led.set_fact("x", "y"), {}),
        (
            State.QUEUED,
            lambda led, v: led.retry(v),
            {"state": "settling", **AFRESH, "key": None, "ending": None, "attempts": 0, "deaths": 0},
        ),
        (
            State.DONE,
            lambda led, _: led.sight(PurePosixPath("b.pth"), "other", NEWER, at=300.0),
            {"state": "settling", **AFRESH, "recipe": "other", "stamp": text_of(NEWER)},
        ),
        (State.QUEUED, lambda led, v: led.forget(v), None),
    ],
)
def test_a_change_is_one_of_the_voice_it_is_about_and_of_what_it_says(
    ledger: Ledger, state: State, change: Change, expected: Row | None
) -> None:
    """Every other column and every other voice stays as it is, and all of it is one flush of the disk."""
    ledger.clock = 500.0
    names = ("a.pth", "b.pth", "c.pth")
    _, voice, _ = (spent(ledger, name, state, job=f"job{name}" if name != "b.pth" else "job") for name in names)
    before, seen = rows(ledger), list[Step]()
    with at_each_step(seen.append):
        change(ledger, voice)
    after = rows(ledger)
    changed = None if voice not in after else {**after[voice]}
    if expected is None:
        assert changed is None
    else:
        wanted = {k: json.dumps(asdict(v)) if isinstance(v, Recipe) else v for k, v in expected.items()}
        if state is State.INCOMPLETE:
            wanted["state"] = "settling"
        assert changed == {**before[voice], **wanted}
    assert all(after[other] == before[other] for other in before if other != voice)
    assert seen == [Step.COMMITTED]


@pytest.mark.parametrize("attempts", [0, 1])
def test_attempts_are_never_less_than_none(ledger: Ledger, attempts: int) -> None:
    """However often one is given back."""
    voice = spent(ledger, "a.pth", State.CONVERTING, attempts=attempts, deaths=0)
    assert [ledger.died(voice), ledger.died(voice)] == [1, 2]
    assert row(ledger, voice).attempts == 0
    ledger.lost(voice, "why", None, counts=False)
    assert row(ledger, voice).attempts == 0


def test_all_that_was_put_off_is_due_after_a_restart(ledger: Ledger) -> None:
    """The loop that had the times in mind is gone."""
    voices = [spent(ledger, name, State.QUEUED) for name in ("a.pth", "b.pth")]
    seen: list[Step] = []
    with at_each_step(seen.append):
        ledger.nothing_planned()
    assert seen == [Step.COMMITTED]
    assert [row(ledger, voice).next_try for voice in voices] == [None, None]


def test_what_has_to_wait_is_not_first_until_it_is_due(ledger: Ledger) -> None:
    """And voices of other states are not, ever."""
    later, now = spent(ledger, "a.pth", State.QUEUED), spent(ledger, "b.pth", State.QUEUED, next_try=None)
    spent(ledger, "c.pth", State.SETTLING, next_try=None)
    assert ledger.first(lambda voice: voice.id != now, State.QUEUED) is None
    ledger.due_again([later])
    first = ledger.first(lambda _: True, State.QUEUED, State.CONVERTED)
    assert first is not None
    assert first.id == later


def test_the_turn_counts_across_states(ledger: Ledger) -> None:
    """Not which of the states is asked for first, nor which voice was seen first by number."""
    for name, at, state in (("a", 3.0, State.QUEUED), ("b", 1.0, State.SETTLING), ("c", 4.0, State.QUEUED)):
        ledger.wait(ledger.sight(PurePosixPath(name), "default", STAMP, at=at).id, state, "")
    passed: list[str] = []
    while voice := ledger.first(lambda v: str(v.relpath) not in passed, State.QUEUED, State.SETTLING):
        passed.append(str(voice.relpath))
    assert passed == ["b", "a", "c"]


def test_the_longest_known_come_first(ledger: Ledger) -> None:
    """Whatever their states, and by number among those that came together."""
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 1.0)):
        ledger.sight(PurePosixPath(name), "default", STAMP, at=at)
    assert [str(voice.relpath) for voice in ledger.voices()] == ["a", "b", "c"]
    assert {path for path, _ in ledger.known()} == {PurePosixPath(name) for name in "abc"}


def test_the_ending_of_a_twin_is_one(ledger: Ledger) -> None:
    """A voice at rest without one, as after another version's refusal, is nobody's twin; nor is a voice its own."""
    one = spent(ledger, "a.pth", State.REFUSED)
    assert ledger.twin(row(ledger, one)) is None
    other = spent(ledger, "b.pth", State.REFUSED, ending=None)
    assert ledger.twin(row(ledger, one)) is None
    twin = ledger.twin(row(ledger, other))
    assert twin is not None
    assert twin.id == one


def test_copies_wait_for_work_on_the_same_content(ledger: Ledger) -> None:
    """For a conversion and a publication, and not for one that is stuck."""
    spent(ledger, "a.pth", State.CONVERTING, key="one", reason="")
    spent(ledger, "b.pth", State.REFUSING, key="two", reason="")
    spent(ledger, "c.pth", State.CONVERTED, key="stuck")
    spent(ledger, "d.pth", State.REFUSING, key=None, reason="")
    spent(ledger, "e.pth", State.QUEUED, key="waits", reason="")
    assert ledger.keys_in_work() == {"one", "two"}


def test_copies_of_voices_in_work_are_kept(ledger: Ledger) -> None:
    """By their job; a voice at rest has none."""
    spent(ledger, "a.pth", State.QUEUED, job="one")
    spent(ledger, "b.pth", State.DONE, job=None)
    assert ledger.jobs() == {"one"}


def test_an_ending_goes_only_to_a_voice_that_waits_for_it(ledger: Ledger) -> None:
    """Not to one that was started or forgotten, nor to one that has other content by now."""
    voice = spent(ledger, "a.pth", State.QUEUED)
    assert ledger.inherit(row(ledger, voice), DAMAGED_Y) is True
    assert ledger.inherit(row(ledger, voice), DAMAGED_Y) is False
    older = row(ledger, voice)
    ledger._set(voice, state=State.CONVERTING)
    assert ledger.inherit(older, DAMAGED_Y) is False
    for key in ("another", "newer"):  # one that sorts before and one that sorts after would both do
        ledger._set(voice, state=State.QUEUED, key=key)
        assert ledger.inherit(older, DAMAGED_Y) is False
    ledger.forget(voice)
    assert ledger.inherit(older, DAMAGED_Y) is False


def test_a_start_is_of_this_voice_and_this_copy(ledger: Ledger) -> None:
    """A copy that was taken meanwhile is another job."""
    voice = spent(ledger, "a.pth", State.QUEUED)
    older = row(ledger, voice)
    ledger._set(voice, job="newer")
    assert ledger.start(older) is None
    assert row(ledger, voice).state is State.QUEUED


def test_retry_needs_a_source(ledger: Ledger) -> None:
    """What was removed from the inbox cannot be read again."""
    voice = spent(ledger, "a.pth", State.DONE, source="gone")
    assert ledger.retry(voice) is False
    assert ledger.retry(99) is False
    assert ledger.forget(99) is False


def test_a_source_that_was_swept_is_not_said_to_have_vanished(ledger: Ledger) -> None:
    """It is gone because we removed it."""
    voice = spent(ledger, "a.pth", State.QUEUED)
    ledger.swept_source(voice)
    ledger.vanished(voice)
    assert row(ledger, voice).source == "swept"


@pytest.mark.parametrize("state", list(State))
def test_a_row_goes_when_there_is_nothing_left_to_know(ledger: Ledger, state: State) -> None:
    """Neither source, nor work, nor files of ours."""
    voice = spent(ledger, "a.pth", state)
    ledger.swept_source(voice)
    at_work = {State.QUEUED, State.CONVERTING, State.CONVERTED, State.REFUSING}
    assert (ledger.by_id(voice) is not None) == (state in at_work)
    ledger.start_over(voice)
    assert ledger.by_id(voice) is None


def test_a_voice_whose_source_is_there_stays_without_files(ledger: Ledger) -> None:
    """Its results were swept, the source would be converted again if the row went."""
    voice = spent(ledger, "a.pth", State.REFUSED)
    ledger.also_published(voice, [FILE])
    ledger.swept_files(voice, [FILE])
    assert row(ledger, voice).state is State.REFUSED


# --- files and ages --------------------------------------------------------------------------------------------------


def published(ledger: Ledger, name: str, at: float, *kinds: Kind, state: State = State.DONE) -> int:
    """Note a voice that was published when the ledger's clock showed `at`."""
    ledger.clock, voice = at, spent(ledger, name, state, rested=at, finished=-at)
    files = [Published(PurePosixPath(f"{name}.{kind}"), kind, "bb", 70 - int(at)) for kind in kinds]
    ledger.also_published(voice, files)
    return voice


def test_files_are_known_until_they_are_replaced_or_swept(ledger: Ledger) -> None:
    """By their paths; a file that was published anew under the same name stays."""
    voice = spent(ledger, "a.pth", State.REFUSING)
    ledger.clock = 500.0
    paths = [PurePosixPath(name) for name in ("a\udcff.onnx", "b.onnx", "c.onnx")]
    olds = [Published(path, "onnx", "aa", 1, STAMP) for path in paths]
    ledger.also_published(voice, olds)
    assert ledger.files(voice) == [(500.0, old) for old in olds]
    ledger.clock = 400.0
    newer = Published(paths[1], "onnx", "bb", 9)
    ledger.published(voice, [newer], [paths[0]], at=9.0)
    assert ledger.files(voice) == [(400.0, newer), (500.0, olds[2])]
    ledger.swept_files(voice, [olds[1], olds[2]])
    assert ledger.files(voice) == [(400.0, newer)]


def test_files_come_in_the_order_of_publication_and_then_of_names(ledger: Ledger) -> None:
    """Whatever their sizes are."""
    voice = spent(ledger, "a.pth", State.REFUSING)
    for at, name, size in ((1.0, "z", 5), (2.0, "b", 2), (2.0, "a", 3)):
        ledger.clock = at
        ledger.also_published(voice, [Published(PurePosixPath(name), "onnx", "aa", size)])
    assert [str(file.path) for _, file in ledger.files(voice)] == ["z", "a", "b"]


@pytest.mark.requirement(6)
@pytest.mark.parametrize(("of", "kind"), [("results", "sidecar"), ("refusals", "refusal"), ("sources", "sidecar")])
def test_what_is_old_is_given_piece_by_piece_from_the_oldest_on(ledger: Ledger, of: Class, kind: Kind) -> None:
    """Up to the age asked for, from behind what was given, no more than asked for; `due` counts the same."""
    for number, at in enumerate((30.0, 10.0, 20.0, 20.0, 40.0)):
        published(ledger, f"{number}", at, kind)
    beginning = (float("-inf"), 0)
    first, second = ledger.aged(of, 30.0, beginning, 2)
    assert [(item.voice, item.at, item.of) for item in (first, second)] == [(2, 10.0, of), (3, 20.0, of)]
    assert [item.voice for item in ledger.aged(of, 30.0, second.place, 9)] == [4, 1]
    assert [ledger.due(of, 30.0, place) for place in (beginning, first.place, second.place)] == [4, 3, 2]
    assert [ledger.due(of, until, beginning) for until in (9.0, 10.0, 29.0, 30.0, 50.0)] == [0, 1, 3, 4, 5]
    assert ledger.size() == 5 + 5


def test_sources_go_only_after_their_conversion_and_with_what_was_read(ledger: Ledger) -> None:
    """A refused or unknown one stays, and so does one that was swept already."""
    good = published(ledger, "a.pth", 10.0, "sidecar", "onnx")
    published(ledger, "refused.pth", 10.0, "refusal", state=State.REFUSED)
    published(ledger, "in work.pth", 10.0, "sidecar", state=State.QUEUED)
    ledger._set(published(ledger, "no hash.pth", 10.0, "sidecar"), sha256=None)
    ledger.swept_source(published(ledger, "swept.pth", 10.0, "sidecar"))
    [item] = ledger.aged("sources", 10.0, (0.0, 0), 9)
    assert item.voice == good
    assert item.files == (Published(PurePosixPath("a.pth"), "source", "aa", STAMP.size, STAMP),)
    assert ledger.due("sources", 10.0, (0.0, 0)) == 2  # without a look at the hash, which all but the oldest rows have
    assert ledger.size() == 6 + 2


def test_a_result_goes_sidecar_first_and_without_an_older_refusal(ledger: Ledger) -> None:
    """Both may lie there for a while; each has its own time to live. Nothing of a voice in work goes."""
    both = published(ledger, "a", 10.0, "onnx", "refusal", "sidecar")
    published(ledger, "b", 10.0, "sidecar", "refusal", state=State.QUEUED)
    refused = published(ledger, "c", 10.0, "refusal", state=State.REFUSED)
    [result] = ledger.aged("results", 10.0, (0.0, 0), 9)
    assert (result.voice, [file.kind for file in result.files]) == (both, ["sidecar", "onnx"])
    refusals = ledger.aged("refusals", 10.0, (0.0, 0), 9)
    assert [(item.voice, [file.kind for file in item.files]) for item in refusals] == [
        *((both, ["refusal"]), (refused, ["refusal"]))
    ]


def test_onnx_files_go_in_the_order_of_their_names(ledger: Ledger) -> None:
    """Behind the sidecar, whatever its name is."""
    voice = spent(ledger, "a.pth", State.DONE)
    for at, (name, kind) in enumerate([("a.json", "sidecar"), ("z.onnx", "onnx"), ("b.onnx", "onnx")]):
        ledger.clock = float(at) if kind == "onnx" else 0.0
        ledger.also_published(voice, [Published(PurePosixPath(name), kind, "bb", 7)])  # type: ignore[arg-type]
    [item] = ledger.aged("results", 10.0, (-1.0, 0), 9)
    assert [str(file.path) for file in item.files] == ["a.json", "b.onnx", "z.onnx"]


def test_voices_without_a_source_are_told_by_number_with_their_files(ledger: Ledger) -> None:
    """Vanished or swept, and at rest; piece by piece."""
    voices = [published(ledger, name, 10.0, "sidecar") for name in "abcd"]
    for voice in voices[:2]:
        ledger.vanished(voice)
    ledger.swept_source(voices[2])
    working = published(ledger, "work", 10.0, "sidecar", state=State.QUEUED)
    ledger.vanished(working)
    told = ledger.left(0, 2)
    assert [(left.voice, [str(file.path) for file in left.files]) for left in told] == [
        *((voices[0], ["a.sidecar"]), (voices[1], ["b.sidecar"]))
    ]
    assert [left.voice for left in ledger.left(voices[1], 9)] == [voices[2]]


# --- taken over from an outbox ---------------------------------------------------------------------------------------


def found(*, sha256: str = "aa", name: str = "a.pth", content: str = "bb") -> Found:
    base = PurePosixPath(name).with_suffix("")
    kinds: tuple[Kind, ...] = ("sidecar", "onnx")
    files = tuple(Published(PurePosixPath(f"{base}.{kind}"), kind, content, 7) for kind in kinds)
    return Found(PurePosixPath(name), base, files, sha256, OTHER_RECIPE, CONVERTED)


def refusal(name: str = "a.pth") -> Found:
    file = Published(PurePosixPath("a.error.json"), "refusal", "bb", 7)
    return Found(PurePosixPath(name), PurePosixPath("a"), (file,), None, None, None)


ADOPTED: Row = {
    "state": "done",
    **AFRESH,
    "finished": 200.0,
    "rested": 500.0,
    "key": "k2",
    "taken": OTHER_RECIPE,
    "ending": "converted",
    "attempts": 0,
    "deaths": 0,
    "base": b"a",
}


@pytest.mark.parametrize("sha256", ["aa", "a", "ab"])
def test_a_result_from_an_outbox_becomes_the_voices_own(ledger: Ledger, sha256: str) -> None:
    """With all that a conversion would have left; a source of other content is looked at anew."""
    ledger.clock = 300.0
    voice, other = spent(ledger, "a.pth", State.REFUSED), spent(ledger, "b.pth", State.REFUSED)
    ledger.also_published(voice, [Published(PurePosixPath("a.older"), "onnx", "bb", 7)])
    ledger.clock, before = 500.0, rows(ledger)
    told = found(sha256=sha256)
    assert ledger.adopt(told, "k2", ["a.onnx"], at=200.0) is True
    stamp = text_of(STAMP if sha256 == "aa" else NOT_READ)
    wanted = {**ADOPTED, "sha256": sha256, "stamp": stamp, "ending": ending_json(CONVERTED)}
    wanted["taken"] = json.dumps(asdict(OTHER_RECIPE))
    assert rows(ledger) == {voice: {**before[voice], **wanted}, other: before[other]}
    assert ledger.files(voice) == [(500.0, file) for file in sorted(told.files, key=lambda file: file.path)]


def test_a_result_of_an_unknown_source_makes_a_row(ledger: Ledger) -> None:
    """Which a source that appears later is compared with."""
    assert ledger.adopt(found(), "k2", ["a.onnx"], at=200.0)
    [voice] = ledger.voices()
    assert (voice.recipe, voice.stamp, voice.state, voice.first_seen) == ("other", NOT_READ, State.DONE, 200.0)
    assert (voice.finished, voice.sha256, voice.key, voice.taken) == (200.0, "aa", "k2", OTHER_RECIPE)
    assert voice.ending == CONVERTED


def test_a_refusal_from_an_outbox_is_ours_to_sweep_and_says_nothing(ledger: Ledger) -> None:
    """A known voice keeps its own state; an unknown one gets a row to which the file belongs."""
    assert ledger.adopt(refusal(), None, [], at=200.0)
    [voice] = ledger.voices()
    assert (voice.recipe, voice.stamp, voice.state, voice.ending) == ("default", NOT_READ, State.REFUSED, None)
    assert (voice.first_seen, voice.finished) == (200.0, 200.0)
    assert [file.kind for _, file in ledger.files(voice.id)] == ["refusal"]
    known = spent(ledger, "b.pth", State.DONE)
    before = rows(ledger)[known]
    assert ledger.adopt(Found(PurePosixPath("b.pth"), PurePosixPath("b"), (FILE,), None, None, None), None, [], at=9.0)
    assert rows(ledger)[known] == {**before, "base": b"b"}


@pytest.mark.parametrize("state", [State.CONVERTING, State.CONVERTED, State.REFUSING])
def test_a_voice_in_work_is_not_told_what_it_is(ledger: Ledger, state: State) -> None:
    """Its own ending comes in a moment."""
    voice = spent(ledger, "a.pth", state)
    before = rows(ledger)
    assert ledger.adopt(found(), "k2", ["a.onnx"], at=200.0) is False
    assert (rows(ledger), ledger.files(voice)) == (before, [])


def test_what_is_known_already_is_nothing_new(ledger: Ledger) -> None:
    """Every file by its hash; one that differs, in whichever way, is new."""
    ledger.adopt(found(), "k2", ["a.onnx"], at=200.0)
    before = rows(ledger)
    assert ledger.adopt(found(), "k2", ["a.onnx"], at=300.0) is False
    assert rows(ledger) == before
    for content in ("ba", "bc"):
        assert ledger.adopt(found(content=content), "k2", ["a.onnx"], at=300.0) is True
        assert {file.sha256 for _, file in ledger.files(1)} == {content}


def test_names_go_to_the_voice_that_has_them_in_the_outbox(ledger: Ledger) -> None:
    """Who had claimed one has to claim others; names that nobody disputes stay with their voices."""
    loser, third = spent(ledger, "b.pth", State.QUEUED), spent(ledger, "c.pth", State.QUEUED)
    assert ledger.claim_base(loser, PurePosixPath("b"), ["A.ONNX", "b.onnx"])
    assert ledger.claim_base(third, PurePosixPath("c"), ["c.onnx"])
    mine = spent(ledger, "a.pth", State.QUEUED)
    assert ledger.claim_base(mine, PurePosixPath("old"), ["old.onnx"])
    name = "a\udcff.onnx"
    assert ledger.adopt(found(), "k2", ["A.ONNX", name], at=200.0)
    assert [row(ledger, voice).base for voice in (loser, third, mine)] == [
        *(None, PurePosixPath("c"), PurePosixPath("a"))
    ]
    owners = {row["fold"]: row["voice"] for row in ledger._ask("SELECT fold, voice FROM names")}
    assert owners == {b"A.ONNX": mine, b"a\xff.onnx": mine, b"b.onnx": loser, b"c.onnx": third}


def test_an_output_name_is_refused_for_itself_only(ledger: Ledger) -> None:
    """Names of others that nobody asks for do not count, and a voice gives up what it had."""
    a, b = (spent(ledger, name, State.QUEUED) for name in ("a.pth", "b.pth"))
    assert ledger.claim_base(a, PurePosixPath("v"), ["v.onnx"])
    assert ledger.claim_base(b, PurePosixPath("w"), ["w.onnx"])
    assert ledger.claim_base(a, PurePosixPath("x"), ["x.onnx"])
    assert ledger.claim_base(b, PurePosixPath("v"), ["v.onnx"])


# --- a million rows --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["sight", "spooled", "start", "end", "forget"]))))
def test_the_tally_is_what_counting_would_say(moves: list[tuple[str, str]]) -> None:
    """However voices come, go and change, so that no tick has to count a million."""
    with Ledger(Path(":memory:")) as ledger:
        for name, move in moves:
            voice = seen(ledger, PurePosixPath(name)) if move == "sight" else ledger.voice(PurePosixPath(name))
            if voice is None or voice.state is State.REFUSED:
                continue
            match move:
                case "spooled":
                    ledger.spooled(voice.id, STAMP, "aa", RECIPE, "key", "job")
                case "start":
                    ledger.start(voice)
                case "end":
                    ledger.ended(voice.id, Refused(Damaged(what="x")))
                    ledger.published(voice.id, [], [], at=200.0)
                case "forget":
                    ledger.forget(voice.id)
        counted = Counter(voice.state for voice in ledger.voices())
        assert {state: count for state, count in ledger.counts().items() if count} == counted


def test_a_voice_is_deleted_without_a_walk_through_what_belongs_to_others(ledger: Ledger) -> None:
    """Whatever refers to a voice has an index that begins with it, which SQLite does not make by itself."""
    for table in ("names", "files"):
        [reference] = ledger._ask(f"PRAGMA foreign_key_list({table})")
        indices = [row["name"] for row in ledger._ask(f"PRAGMA index_list({table})")]
        firsts = {ledger._ask(f"PRAGMA index_info({index})")[0]["name"] for index in indices}
        assert reference["from"] in firsts


def test_a_scan_is_not_compared_with_what_is_over(ledger: Ledger, tmp_path: Path) -> None:
    """Voices at rest whose source is gone are passed over; what is in work is not, wherever its source is."""
    there, gone = done(ledger, tmp_path, PurePosixPath("there.pth")), done(ledger, tmp_path)
    at_work, still_there = queued(ledger, PurePosixPath("work.pth")), queued(ledger, PurePosixPath("new.pth"))
    for voice in (gone, at_work):
        ledger.vanished(voice.id)
    assert sorted(str(path) for path, _ in ledger.known()) == ["new.pth", "there.pth", "work.pth"]
    assert {known.id for _, known in ledger.known()} == {there.id, at_work.id, still_there.id}
    back = seen(ledger)
    assert (back.id, back.source, back.state) == (gone.id, "there", State.SETTLING)


def test_rows_are_given_one_by_one(ledger: Ledger) -> None:
    """All of them, the longest known first; nobody keeps a million voices in memory to print them."""
    for number in (3, 1, 2):
        ledger.sight(PurePosixPath(f"{number}.pth"), "default", STAMP, at=float(number))
    each = ledger.each()
    assert next(each).relpath.name == "1.pth"
    assert [voice.relpath.name for voice in each] == ["2.pth", "3.pth"]
    assert {path.name for _, path in ledger.paths()} == {"1.pth", "2.pth", "3.pth"}


# --- an older layout -------------------------------------------------------------------------------------------------


def layout_1(path: Path) -> None:
    """Write a ledger as the first version did, with a voice converted at 1000 s and its two files."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in STEPS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO facts VALUES ('instance', '01234567')")
        db.execute(
            "INSERT INTO voices (id, relpath, recipe, stamp, state, first_seen, finished, sha256, ending) "
            "VALUES (7, 'sub/voice.pth', 'default', ?, 'done', 900, 1000, 'aa', '{}')",
            (json.dumps(astuple(STAMP)),),
        )
        for kind in ("onnx", "sidecar"):
            db.execute("INSERT INTO files VALUES (?, 7, ?, 'bb', 7, 1000)", (b"sub/voice." + kind.encode(), kind))


def schema(ledger: Ledger) -> set[tuple[object, ...]]:
    return {tuple(row) for row in ledger._ask("SELECT type, name, tbl_name FROM sqlite_schema")}


def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path) -> None:
    """With all that it knows, under the same mark, and in the end as if it had been made today."""
    layout_1(tmp_path / "old")
    with Ledger(tmp_path / "old") as old, Ledger(tmp_path / "new") as new:
        assert schema(old) == schema(new)
        assert old._ask("PRAGMA user_version")[0][0] == LAYOUT
        assert old.instance == "01234567"
        assert old.counts() == {State.DONE: 1}
        assert [(kind.kind, kind.stamp) for _, kind in old.files(7)] == [("onnx", None), ("sidecar", None)]
        assert [item.voice for item in old.aged("results", 1000.0, (0.0, 0), 9)] == [7]
        assert [item.files[0].stamp for item in old.aged("sources", 1000.0, (0.0, 0), 9)] == [STAMP]
    with Ledger(tmp_path / "old") as again:
        assert again.counts() == {State.DONE: 1}


def older(path: Path, layout: int, **stamps: FileStamp) -> None:
    """Write a ledger of an older layout, in which these voices (by stem) were refused."""
    layout_1(path)
    refused = json.dumps({"refused": {"code": "other-family", "found": {}}})
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for stem, stamp in stamps.items():
            db.execute(
                "INSERT INTO voices (relpath, recipe, stamp, state, first_seen, sha256, key, ending) "
                "VALUES (?, 'default', ?, 'refused', 900, 'cc', 'cc.x', ?)",
                (f"{stem}.pth".encode(), json.dumps(astuple(stamp)[:4]), refused),
            )
        for statement in (statement for step in STEPS[1:layout] for statement in step):
            db.execute(statement)
        db.execute("UPDATE voices SET state = 'refused', key = 'cc.x', ending = ? WHERE state = 'settling'", (refused,))
        db.execute(f"PRAGMA user_version = {layout}")


@pytest.mark.parametrize("layout", [1, LAYOUT - 1])
def test_what_an_older_version_refused_is_judged_anew(tmp_path: Path, layout: int) -> None:
    """More families are known since; what was refused unread, as a conflict copy or a link, stays refused."""
    older(tmp_path / "old", layout, G_1=STAMP, copy=NOT_READ)
    with Ledger(tmp_path / "old") as ledger:
        assert ledger.counts() == {State.DONE: 1, State.REFUSED: 1, State.SETTLING: 1}
        [voice] = ledger.voices(State.SETTLING)
        assert (str(voice.relpath), voice.key, voice.ending) == ("G_1.pth", None, None)
        ledger.published(voice.id, [], [], 1000.0)
    with Ledger(tmp_path / "old") as ledger:
        assert len(ledger.voices(State.REFUSED)) == 2


@pytest.mark.parametrize("layout", [1, LAYOUT - 1])
@pytest.mark.parametrize("stem", ["speakers", "sub/Speaker_IDs", "a/b/language_ids"])
def test_a_table_that_an_older_version_took_for_a_voice_is_none(tmp_path: Path, layout: int, stem: str) -> None:
    """What it said of it is swept as if the source were gone: no scan sees it again."""
    older(tmp_path / "old", layout, **{stem: STAMP, "my speakers": STAMP})
    with Ledger(tmp_path / "old") as ledger:
        assert ledger.counts() == {State.DONE: 1, State.REFUSED: 1, State.SETTLING: 1}
        [table] = ledger.voices(State.REFUSED)
        assert (str(table.relpath), table.source) == (f"{stem}.pth", "gone")
        assert [left.voice for left in ledger.left(0, 9)] == [table.id]


# --- the clock -------------------------------------------------------------------------------------------------------

TEN_YEARS = 10 * 365 * 86400.0


@pytest.mark.requirement(6)
@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS, -1e9])
def test_a_wall_clock_that_jumps_makes_nothing_older(ledger: Ledger, jump: float) -> None:
    """While the daemon runs, the ledger's clock goes as the monotonic one does."""
    ledger.pass_time(50.0, 1e9)
    before = ledger.clock
    for mono, wall in ((60.0, 1e9 + jump), (1060.0, 1e9 + jump), (2060.0, 1e9)):
        ledger.pass_time(mono, wall)
        assert ledger.clock == before + mono - 50.0


@pytest.mark.requirement(6)
@pytest.mark.parametrize(("gap", "counted"), [(3600.0, 3600.0), (TEN_YEARS, LONGEST_GAP_S), (-TEN_YEARS, 0.0)])
def test_a_pause_counts_for_a_day_at_most_and_never_back(tmp_path: Path, gap: float, counted: float) -> None:
    """Whether the machine was off for years or its clock is wrong cannot be told, so it makes nothing old at once."""
    with Ledger(tmp_path / "l") as first:
        first.pass_time(50.0, 1e9)
        first.pass_time(950.0, 1e9 + 900)
        before = first.clock
    with Ledger(tmp_path / "l") as second:
        assert second.clock_at(1e9 + 900 + gap) == before + counted
        second.pass_time(7.0, 1e9 + 900 + gap)
        assert second.clock == before + counted


def test_time_that_was_not_written_down_is_made_up_for(tmp_path: Path) -> None:
    """A daemon that is killed between two notes goes on by the wall clock."""
    with Ledger(tmp_path / "l") as first:
        first.pass_time(50.0, 1e9)
        first.pass_time(60.0, 1e9 + 10)
        before = first.clock
    with Ledger(tmp_path / "l") as second:
        second.pass_time(0.0, 1e9 + 10)
        assert second.clock == before


@pytest.mark.requirement(6)
@pytest.mark.parametrize(
    ("wall", "clock"), [(1000.0 + 60, 1060.0), (1000.0 + TEN_YEARS, 1000.0 + LONGEST_GAP_S), (-TEN_YEARS, 1000.0)]
)
def test_the_clock_of_an_older_ledger_begins_at_its_last_publication(tmp_path: Path, wall: float, clock: float) -> None:
    """So that not even the first start with a wrong wall clock makes all of it old."""
    layout_1(tmp_path / "l")
    with Ledger(tmp_path / "l") as ledger:
        ledger.pass_time(0.0, wall)
        assert ledger.clock == clock


@pytest.mark.parametrize(("finished", "clock"), [(5.0, 20.0), (30.0, 30.0)])
def test_a_clock_that_is_not_written_down_begins_at_the_last_thing_that_happened(
    ledger: Ledger, finished: float, clock: float
) -> None:
    """A publication or a conversion, whichever was later."""
    for at in (20.0, 10.0):
        published(ledger, f"{at}", at, "sidecar", "onnx")
    spent(ledger, "a.pth", State.DONE, finished=finished, first_seen=99.0)
    assert ledger.clock_at(0.0) == clock


def test_the_clock_is_written_down_now_and_then(ledger: Ledger) -> None:
    """Not at every tick: each is a flush of the disk."""
    before = ledger._db.total_changes
    for mono in range(3000):
        ledger.pass_time(float(mono), 1e9 + mono)
    assert 5 <= ledger._db.total_changes - before <= 12
