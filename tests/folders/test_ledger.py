"""The ledger: a restart at any moment finds every file where it was."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endings import converted
from voicekiln.errors import Damaged, LedgerError
from voicekiln.folders.ledger import LONGEST_GAP_S, Ledger
from voicekiln.folders.tables import LAYOUT, STEPS
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
    at_work = queued(ledger, PurePosixPath("work.pth"))
    for voice in (gone, at_work):
        ledger.vanished(voice.id)
    assert {known.id for _, known in ledger.known()} == {there.id, at_work.id}
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


def test_the_clock_is_written_down_now_and_then(ledger: Ledger) -> None:
    """Not at every tick: each is a flush of the disk."""
    before = ledger._db.total_changes
    for mono in range(3000):
        ledger.pass_time(float(mono), 1e9 + mono)
    assert 5 <= ledger._db.total_changes - before <= 12
