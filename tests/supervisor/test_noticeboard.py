"""The status page is true, is written seldom and whole, writes over nothing of anybody's, and holds up nobody."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kiln import HeldHands, Kiln, SlowHands, good, voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon
from tiny_voices import write_tiny
from voicekiln.errors import Damaged
from voicekiln.folders import boards as files_of_boards
from voicekiln.folders import outbox
from voicekiln.folders.census import Census, shares
from voicekiln.folders.owner import MARKER
from voicekiln.folders.voices import Found, State, ending_json
from voicekiln.job import PICTURE, STAGES, Converted, Ending, Recipe, Refused, Stage
from voicekiln.page import render
from voicekiln.page.board import JSON_BEGINNING, PAGE_BEGINNING
from voicekiln.page.facts import as_json
from voicekiln.page.picture import drawing
from voicekiln.settings import Publish, Status, Sweep
from voicekiln.steps import Step
from voicekiln.supervisor import noticeboard
from voicekiln.supervisor.delivery import PAGE_IN_THE_WAY
from voicekiln.supervisor.survey import LARGEST, MARKED, Survey, done_part
from voicekiln.supervisor.sweeping import WANT_SWEEP
from voicekiln.words import of
from voicekiln.worker.wire import Convert, Looked, Request

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    kilns: list[Kiln] = []

    def make(*args: Any, **changes: Any) -> Kiln:
        kilns.append(Kiln(tmp_path, *args, **changes))
        return kilns[-1]

    yield make
    for kiln in kilns:
        kiln.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every board that is written, in turn."""
    found: list[Path] = []
    real = files_of_boards.put_up

    def put_up(board: files_of_boards.BoardFile, *words: Any) -> int:
        size = real(board, *words)
        found.append(board.root / board.path)
        return size

    monkeypatch.setattr(noticeboard, "put_up", put_up)
    return found


def told(kiln: Kiln) -> dict[str, Any]:
    return kiln.read("status.json")


def refusing(request: Request) -> Ending | Looked:
    """Refuse what is bad, convert the rest."""
    assert isinstance(request, Convert)
    return Refused(Damaged(what="a test")) if b"bad" in request.job.source.read_bytes() else good(request)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_shows_what_is_done_refused_and_waits(build: Callable[..., Kiln]) -> None:
    """Each voice once, in the list that it belongs to, and the sums are those of the lists."""
    kiln = build(refusing)
    kiln.drop("done.pth")
    kiln.drop("both/sub.pth")
    kiln.drop("wrong.pth", voice_bytes("bad"))
    kiln.drop("half.pth", voice_bytes()[:-30])
    kiln.run(80)
    page = told(kiln)
    assert [voice["file"] for voice in page["in_work"]] == []
    assert {voice["file"] for voice in page["done"]} == {"done.pth", "both/sub.pth"}
    assert [(voice["file"], voice["code"]) for voice in page["refused"]] == [("wrong.pth", "damaged")]
    [waiting] = page["waiting"]
    assert (waiting["file"], waiting["state"]) == ("half.pth", "incomplete")
    assert waiting["reason"]
    assert waiting["next_try"]
    totals = page["totals"]
    assert (totals["done"], totals["refused"], totals["waiting"], totals["in_work"]) == (2, 1, 1, 0)
    assert totals["bytes_in"] == sum(voice["bytes"] for voice in page["done"])
    assert totals["bytes_out"] == sum((kiln.outbox / name).stat().st_size for name in kiln.results())
    assert totals["mean_seconds"] == 1.6
    assert totals["free_bytes"] > 0
    assert page["device"] == "a test"
    assert page["left_out"] == 0
    assert (kiln.outbox / "status.html").read_text().startswith(PAGE_BEGINNING)


def test_files_lie_where_it_says(build: Callable[..., Kiln]) -> None:
    """Links lead to what is there, each file with its own precision."""
    kiln = build(refusing)
    kiln.drop("both/sub.pth")
    kiln.drop("wrong.pth", voice_bytes("bad"))
    kiln.run(60)
    page = told(kiln)
    [done], [refused] = page["done"], page["refused"]
    assert {file["precision"]: file["path"] for file in done["files"]} == {
        "fp32": "both/sub.onnx",
        "fp16": "both/sub.fp16.onnx",
    }
    for file in (*done["files"], done["sidecar"], refused["error_file"]):
        assert (kiln.outbox / file["path"]).is_file()


def test_a_voice_with_a_worker_is_shown_with_its_stage(build: Callable[..., Kiln]) -> None:
    """Since when it is at it, and for the which time."""
    kiln = build(lambda _: None)
    kiln.drop("long.pth")
    kiln.run(60)
    [voice] = told(kiln)["in_work"]
    assert (voice["file"], voice["stage"], voice["attempt"]) == ("long.pth", "load", 1)
    assert voice["done"] == 0
    assert voice["since"] < told(kiln)["written"]


def test_a_voice_in_the_queue_of_a_cluster_is_not_shown_as_begun(build: Callable[..., Kiln]) -> None:
    """From when to when it stood there is told, too, and the log of systemd does not say that it is converted."""
    kiln = build(lambda _: None)
    kiln.keepers[0].waits = True
    kiln.drop("long.pth")
    kiln.run(60)
    [sent] = told(kiln)["in_work"]
    assert (sent["stage"], sent["done"]) == ("sent", 0)
    assert kiln.service.status() == "0 waiting, 0 done, 0 refused, waiting for a place in the cluster: 1"
    assert "waiting for a place in the cluster" in (kiln.outbox / "status.html").read_text()
    kiln.keepers[0].waits, kiln.keepers[0]._held = False, True  # taken on, and no stage entered
    kiln.run(60)
    [begun] = told(kiln)["in_work"]
    assert begun["stage"] == "starting"
    assert begun["since"] > sent["since"]
    assert kiln.service.status().endswith("converting long.pth: starting")


def test_a_result_that_cannot_be_published_waits_and_says_why(build: Callable[..., Kiln]) -> None:
    """With the words that the ledger has."""
    kiln = build()
    (kiln.outbox / "a.onnx").write_bytes(b"a person's")
    kiln.drop("a.pth")
    kiln.run(60)
    [voice] = told(kiln)["waiting"]
    assert voice["state"] == "converted"
    assert "a.onnx" in voice["reason"]
    assert told(kiln)["in_work"] == []


def test_a_voice_between_its_worker_and_its_publication_is_in_work(build: Callable[..., Kiln]) -> None:
    """What is about to be published is neither waiting nor lost."""
    kiln = build(hands=SlowHands)
    kiln.drop("a.pth")
    for _ in range(2000):
        kiln.service.tick(kiln.now)
        kiln.mono, kiln.wall = kiln.mono + 0.02, kiln.wall + 0.02
        if kiln.ledger.counts().get(State.CONVERTED):
            break
    with Census(kiln.ledger.path) as census:
        board = Survey(census, kiln.service.moment(), Sweep()).board((1, 2), None, stopped=False)
    assert [(voice.file, voice.stage) for voice in board.in_work] == [("a.pth", "publishing")]
    assert board.in_work[0].since <= kiln.wall
    assert (board.totals.in_work, board.totals.waiting) == (1, 0)


def sleep(kiln: Kiln, seconds: float) -> None:
    """Let hours pass, in which the daemon sweeps when it wants to."""
    end = kiln.mono + seconds
    while kiln.mono < end:
        hop = max(0.0, min(end, kiln.service.sweeper.due()) - kiln.mono - 1)
        kiln.mono, kiln.wall = kiln.mono + hop, kiln.wall + hop
        kiln.run(1)


@pytest.mark.parametrize("results", [2 * HOUR, DAY, 7 * DAY])
def test_it_is_swept_from_the_time_on_that_the_page_says(build: Callable[..., Kiln], results: float) -> None:
    """Until then it is there, after the next sweep it is gone; a sweep out of turn changes nothing of it."""
    kiln = build(sweep=Sweep(sources=None, results=results, refusals=None, every=5 * HOUR, max_share=1.0))
    kiln.drop("a.pth")
    kiln.run(60)

    def swept_at() -> float | None:
        with Census(kiln.ledger.path) as census:
            board = Survey(census, kiln.service.moment(), kiln.settings.sweep).board((1, 2), None, stopped=False)
        return board.done[0].swept_at

    told_at = swept_at()
    assert told_at is not None
    [(published, _), *_] = kiln.ledger.files(kiln.voice("a.pth").id)
    assert 0 <= published + results - told_at < 60
    sleep(kiln, HOUR / 2)
    kiln.ledger.set_fact(WANT_SWEEP, "")
    kiln.run(60)
    assert swept_at() == told_at
    sleep(kiln, told_at - kiln.wall - 1)
    assert (kiln.outbox / "a.onnx").exists()
    sleep(kiln, 5 * HOUR + 120)
    assert not (kiln.outbox / "a.onnx").exists()
    kiln.run(60)
    assert told(kiln)["done"][0]["files"] == []
    assert told(kiln)["done"][0]["swept_at"] is None


def test_a_copy_claims_no_work_of_its_own(build: Callable[..., Kiln]) -> None:
    """What was published from an equal file's result took no time; the other one's stands beside the other one."""
    kiln = build()
    content = kiln.drop("a.pth").read_bytes()
    kiln.run(60)
    kiln.drop("b.pth", content)
    kiln.run(60)
    assert {voice["file"]: voice["seconds"] for voice in told(kiln)["done"]} == {"a.pth": 1.6, "b.pth": None}
    assert (kiln.outbox / "status.html").read_text().count("had been converted before") == 1


def test_a_mark_in_the_names_is_explained(build: Callable[..., Kiln]) -> None:
    """Beside the voice that bears one, and not beside the one that had the name first, or a mark of its own."""
    kiln = build()
    kiln.drop("zoe.pth")
    kiln.drop("anna~454567.pth")
    kiln.run(60)
    kiln.drop("Zoe.pth")
    kiln.run(60)
    assert {voice["file"]: MARKED in voice["notes"] for voice in told(kiln)["done"]} == {
        "zoe.pth": False,
        "anna~454567.pth": False,
        "Zoe.pth": True,
    }


def test_never_swept_is_never(build: Callable[..., Kiln]) -> None:
    """A life without an end has no date."""
    kiln = build(refusing, sweep=Sweep(sources=None, results=None, refusals=None))
    kiln.drop("a.pth")
    kiln.drop("b.pth", voice_bytes("bad"))
    kiln.run(60)
    assert told(kiln)["done"][0]["swept_at"] is None
    assert told(kiln)["refused"][0]["swept_at"] is None


def test_the_sums_are_what_adding_up_would_say(build: Callable[..., Kiln]) -> None:
    """After voices were replaced, refused, swept, taken away and forgotten, by the daemon and by commands."""
    kiln = build(refusing, sweep=Sweep(sources=HOUR, results=2 * HOUR, refusals=None, every=HOUR / 2, max_share=1.0))
    for name in ("a", "b", "c", "d"):
        kiln.drop(f"{name}.pth", voice_bytes(name * 10))
    kiln.run(40)
    kiln.drop("a.pth", voice_bytes("another, which is longer"))
    kiln.drop("b.pth", voice_bytes("bad now"))
    (kiln.inbox / "c.pth").unlink()
    kiln.run(40)
    kiln.ledger.forget(kiln.voice("d.pth").id)
    for hours in (0.0, 1.5, 2.0):
        kiln.skip(hours * HOUR)
        voices = kiln.ledger.voices(State.DONE)
        with Census(kiln.ledger.path) as census:
            sums = census.sums()
        assert sums.bytes_in == sum(voice.stamp.size for voice in voices)
        assert sums.bytes_out == sum(f.bytes for v in kiln.ledger.voices() for _, f in kiln.ledger.files(v.id))
        assert sums.mean_seconds == (1.6 if voices else None)


def test_the_sums_follow_what_is_adopted(build: Callable[..., Kiln]) -> None:
    """A result of other content that another daemon made: its source is not measured before it was looked at."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(60)
    voice = kiln.voice("a.pth")
    files = tuple(replace(file, sha256="f" * 64, bytes=file.bytes + 7) for _, file in kiln.ledger.files(voice.id))
    assert isinstance(voice.ending, Converted)
    assert voice.base is not None
    found = Found(voice.relpath, voice.base, files, "e" * 64, Recipe("default"), voice.ending)
    assert kiln.ledger.adopt(found, None, [], kiln.wall)
    with Census(kiln.ledger.path) as census:
        sums = census.sums()
    assert sums.bytes_in == kiln.voice("a.pth").stamp.size == 0
    assert sums.bytes_out == sum(file.bytes for file in files)
    assert sums.mean_seconds == 1.6


@pytest.mark.parametrize(
    ("most", "wanted", "given"),
    [
        (10, (1, 2, 3), [1, 2, 3]),
        (9, (100, 100, 100), [3, 3, 3]),
        (10, (1, 100, 100), [1, 4, 5]),
        (10, (100, 0, 2), [8, 0, 2]),
        (0, (5, 5, 5), [0, 0, 0]),
        (2, (9, 9, 9), [0, 1, 1]),
    ],
)
def test_the_room_is_shared_fairly(most: int, wanted: tuple[int, ...], given: list[int]) -> None:
    """Each kind gets an equal part, and leaves the others what it does not need."""
    assert shares(most, wanted) == given
    assert sum(given) == min(most, sum(wanted))


def test_what_there_is_no_room_for_is_counted(build: Callable[..., Kiln]) -> None:
    """The newest are listed, and the sums are over all."""
    kiln = build(refusing)
    for number in range(8):
        kiln.drop(f"done {number}.pth")
        kiln.drop(f"bad {number}.pth", voice_bytes(f"bad {number}"))
        kiln.run(10)
    kiln.run(60)
    with Census(kiln.ledger.path) as census:
        board = Survey(census, kiln.service.moment(), Sweep()).board((1, 2), None, stopped=False, most=6)
    assert [voice.file for voice in board.done] == [f"done {n}.pth" for n in (7, 6, 5)]
    assert [voice.file for voice in board.refused] == [f"bad {n}.pth" for n in (7, 6, 5)]
    assert board.left_out == 10
    assert (board.totals.done, board.totals.refused) == (8, 8)


def test_progress_never_goes_back() -> None:
    """With several files the stages come several times, and one of them may be made once more."""
    recipe = Recipe("r", precisions=("fp32", "fp16"))
    stages: list[Stage] = ["load", *STAGES[1:], *STAGES[1:], *STAGES[1:]]
    parts = [done_part(stages[:count], recipe) for count in range(len(stages) + 1)]
    assert parts == sorted(parts)
    assert parts[0] == parts[1] == 0
    assert parts[-1] < 1


# --- when it is written ----------------------------------------------------------------------------------------------


def test_nothing_is_written_while_nothing_changes_but_once_an_hour(
    build: Callable[..., Kiln], written: list[Path]
) -> None:
    """Scans go on all the time, and disks may sleep; what it promises is kept."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(120)
    count = len(written)
    promised = told(kiln)["promised"]
    kiln.run(50 * 60)
    assert len(written) == count
    kiln.run(10 * 60)
    assert len(written) == count + 2
    assert told(kiln)["written"] <= promised < told(kiln)["promised"]


def test_a_change_that_is_not_shown_writes_nothing(build: Callable[..., Kiln], written: list[Path]) -> None:
    """Neither do the scans since the last one, nor the room on the disk."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(120)
    count, seen = len(written), kiln.service.noticeboard._seen
    kiln.ledger._set(kiln.voice("a.pth").id, deaths=7)
    kiln.run(60)
    assert kiln.service.noticeboard._seen != seen
    assert len(written) == count


def test_it_is_not_written_more_often_than_every_ten_seconds(build: Callable[..., Kiln], written: list[Path]) -> None:
    """However much happens."""
    kiln = build()
    for number in range(60):
        kiln.drop(f"{number}.pth")
        kiln.run(1)
    assert 8 <= len(written) <= 2 * 8


def test_a_large_page_is_written_less_often(
    build: Callable[..., Kiln], written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes, up to some minutes, and still as it promises."""
    monkeypatch.setattr(noticeboard, "BYTES_A_SECOND", 10)
    kiln = build()
    for number in range(60):
        kiln.drop(f"{number}.pth")
        kiln.run(10)
        assert told(kiln)["promised"] > told(kiln)["written"] if number > 2 else True
    assert 2 * 2 <= len(written) <= 2 * 4


@pytest.mark.parametrize("leap", [-3 * DAY, 3 * HOUR, 3 * DAY])
def test_a_clock_that_leaps_makes_it_write_anew(build: Callable[..., Kiln], leap: float) -> None:
    """After a sleep of the machine, or when its clock was set, nobody waits for an hour to see that it lives."""
    kiln = build()
    kiln.run(60)
    kiln.wall += leap
    kiln.run(10)
    with Census(kiln.ledger.path) as census:
        board = Survey(census, kiln.service.moment(), Sweep()).board((1, 2), None, stopped=False)
    assert json.loads("".join(as_json(board, of("en"))))["written"][:15] == told(kiln)["written"][:15]


def test_the_last_one_says_that_the_daemon_has_stopped(build: Callable[..., Kiln]) -> None:
    """And a new start takes that back at once; what was published just before the end is on it as done."""
    kiln = build(hands=SlowHands)
    for number in range(5):
        kiln.drop(f"{number}.pth")
    while not kiln.service.post._under_way:
        kiln.service.tick(kiln.now)
        kiln.mono, kiln.wall = kiln.mono + 0.02, kiln.wall + 0.02
    kiln.service.stop()
    assert told(kiln)["stopped"]
    done = {name.removesuffix(".json") for name in kiln.results() if name.endswith(".json")}
    assert done
    assert {voice["file"].removesuffix(".pth") for voice in told(kiln)["done"]} == done
    kiln.crash()
    kiln.run(5)
    assert not told(kiln)["stopped"]


def test_who_stands_by_writes_nothing(build: Callable[..., Kiln], written: list[Path]) -> None:
    """While another daemon's marker is in the outbox, its page stays; a stop changes nothing either."""
    other = {"owner": "ab", "ledger": "01234567", "host": "there", "beat": 1, "released": False}
    kiln = build()
    (kiln.outbox / MARKER).write_text(json.dumps(other))
    kiln.drop("a.pth")
    kiln.run(25)
    kiln.service.stop()
    assert written == []


def test_nothing_is_written_while_the_outbox_is_away(build: Callable[..., Kiln], written: list[Path]) -> None:
    """Not into the empty folder beneath a mount point either; and it is right soon after it is back."""
    kiln = build()
    kiln.run(30)
    count = len(written)
    kiln.outbox.rename(kiln.at / "elsewhere")
    kiln.drop("a.pth")
    kiln.run(60)
    assert len(written) == count
    assert kiln.log.of("status_page.failed") == []
    (kiln.at / "elsewhere").rename(kiln.outbox)
    kiln.run(60)
    assert [voice["file"] for voice in told(kiln)["done"]] == ["a.pth"]


@pytest.mark.parametrize("moment", ["while it is made", "while it is written"])
def test_nothing_is_left_beneath_a_mount_point(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The share may go away between any two looks at it."""
    kiln = build()
    kiln.run(20)
    before = told(kiln)
    homes = kiln.service.common.homes
    where, name = (Survey, "board") if moment == "while it is made" else (files_of_boards, "write_whole")
    real = getattr(where, name)

    def unmount(*words: Any, **named: Any) -> Any:
        homes.mount_points[str(kiln.outbox)] = str(kiln.outbox)  # which is none: the mount point is gone
        return real(*words, **named)

    monkeypatch.setattr(where, name, unmount)
    kiln.drop("a.pth")
    kiln.mono, kiln.wall = kiln.mono + 10, kiln.wall + 10
    kiln.run(10)
    assert told(kiln) == before
    assert kiln.log.of("status_page.failed") == []
    assert kiln.log.of("share.lost")
    assert list(kiln.outbox.glob(".~status*")) == []


def test_an_inbox_that_is_away_is_on_it(build: Callable[..., Kiln]) -> None:
    """A person who looks at the page learns why nothing happens."""
    kiln = build()
    kiln.run(30)
    kiln.inbox.rename(kiln.at / "elsewhere")
    kiln.run(60)
    assert any("inbox away" in trouble for trouble in told(kiln)["troubles"])


# --- what it writes over, and what it leaves alone -------------------------------------------------------------------


@pytest.mark.parametrize(
    "theirs",
    [b"", b"{}", b"<!DOCTYPE html>\n<p>mine", b'{"voicekiln": "status", "mine": 1}', PAGE_BEGINNING.encode()[:-2]],
)
@pytest.mark.parametrize("name", ["status.html", "status.json"])
def test_a_file_of_somebodys_is_never_written_over(build: Callable[..., Kiln], name: str, theirs: bytes) -> None:
    """It is told once, the other file is written, and voices go on; when the way is free, it takes it."""
    kiln = build()
    (kiln.outbox / name).write_bytes(theirs)
    kiln.drop("a.pth")
    kiln.run(400)
    assert (kiln.outbox / name).read_bytes() == theirs
    assert [name in line["reason"] for line in kiln.log.of("status_page.failed")] == [True]
    assert (kiln.outbox / ({"status.html", "status.json"} - {name}).pop()).exists()
    assert kiln.ledger.counts()[State.DONE] == 1
    (kiln.outbox / name).unlink()
    kiln.run(100)
    assert (kiln.outbox / name).stat().st_size > 100
    kiln.service.stop()
    assert (kiln.outbox / name).stat().st_size > 100


@pytest.mark.parametrize("what", ["folder", "link", "pipe"])
def test_whatever_lies_there_is_left_alone(build: Callable[..., Kiln], what: str) -> None:
    """A link is not followed, and a pipe holds nobody up."""
    kiln = build()
    place, elsewhere = kiln.outbox / "status.html", kiln.at / "elsewhere.html"
    elsewhere.write_text(PAGE_BEGINNING)
    match what:
        case "folder":
            place.mkdir()
        case "link":
            place.symlink_to(elsewhere)
        case "pipe":
            os.mkfifo(place)
    kind = place.lstat().st_mode
    kiln.run(60)
    assert place.lstat().st_mode == kind
    assert elsewhere.read_text() == PAGE_BEGINNING
    assert told(kiln)["voicekiln"] == "status"


@pytest.mark.parametrize("beginning", [PAGE_BEGINNING, JSON_BEGINNING])
def test_what_another_daemon_left_is_written_over(build: Callable[..., Kiln], beginning: str) -> None:
    """A ledger that was lost, or another machine that takes over, must not leave a page of long ago behind."""
    kiln = build()
    for name in ("status.html", "status.json"):
        (kiln.outbox / name).write_text(f"{beginning} old")
    kiln.run(30)
    assert told(kiln)["written"]
    assert (kiln.outbox / "status.html").read_text().startswith(PAGE_BEGINNING)


@pytest.mark.parametrize("name", ["status.pth", "STATUS.pth", "status.onnx.pth"])
def test_a_voice_of_that_name_gets_its_mark(build: Callable[..., Kiln], name: str) -> None:
    """Its sidecar would lie where the page's JSON does, on some file systems at least."""
    kiln = build()
    kiln.drop(name)
    kiln.run(60)
    [sidecar] = [found for found in kiln.results() if found.endswith(".json")]
    assert kiln.read(sidecar)["source"]["name"] == name
    assert sidecar.casefold() != "status.json"
    assert ("~" in sidecar) == (name != "status.onnx.pth")
    assert told(kiln)["done"][0]["sidecar"]["path"] == sidecar


def test_the_name_is_free_where_it_is_not_used(build: Callable[..., Kiln]) -> None:
    """Switched off or moved, and in other folders, a voice may be called so."""
    kiln = build(status=Status(page=Path("status.html"), json=None))
    kiln.drop("status.pth")
    kiln.drop("sub/status.pth")
    kiln.run(60)
    assert {"status.json", "sub/status.json"} < kiln.results()


def test_a_sidecar_of_that_name_is_nobodys_page(build: Callable[..., Kiln]) -> None:
    """A voice had the name before the page was switched on: its sidecar stays, and the log tells of it."""
    kiln = build(status=Status(page=None, json=None))
    kiln.drop("status.pth")
    kiln.run(60)
    before = (kiln.outbox / "status.json").read_bytes()
    kiln.configure(status=Status())
    kiln.run(60)
    assert (kiln.outbox / "status.json").read_bytes() == before
    assert len(kiln.log.of("status_page.failed")) == 1


def test_names_that_a_voice_had_before_become_the_pages(build: Callable[..., Kiln]) -> None:
    """A voice that was refused before the page was switched on gets other names for what comes next."""
    kiln = build(status=Status(page=None, json=None))
    kiln.drop("status.pth", b"")
    kiln.run(700)
    assert "status.error.json" in kiln.results()
    kiln.configure(status=Status())
    kiln.drop("status.pth")
    kiln.run(120)
    [made] = told(kiln)["done"]
    assert "~" in made["sidecar"]["path"]
    assert "status.error.json" not in kiln.results()


def test_a_folder_of_that_name_waits_with_the_true_reason(build: Callable[..., Kiln]) -> None:
    """The page cannot be a folder as well; other voices go on, and a renamed folder does."""
    kiln = build()
    kiln.drop("status.html/zoe.pth")
    kiln.drop("anna.pth")
    kiln.run(60)
    facts = told(kiln)
    assert [made["file"] for made in facts["done"]] == ["anna.pth"]
    [waiting] = facts["waiting"]
    assert waiting["reason"] == PAGE_IN_THE_WAY
    (kiln.inbox / "status.html").rename(kiln.inbox / "mine")
    kiln.run(700)
    assert {"anna.json", "mine/zoe.json"} < kiln.results()


def test_switched_off_there_is_none(build: Callable[..., Kiln], written: list[Path]) -> None:
    """And nothing else of it."""
    kiln = build(status=Status(page=None, json=None))
    kiln.drop("a.pth")
    kiln.run(60)
    kiln.service.stop()
    assert written == []
    assert {path.name for path in kiln.outbox.iterdir()} == {"a.onnx", "a.json", MARKER}


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_moved_or_switched_off_goes_from_the_old_place(build: Callable[..., Kiln], restart: bool) -> None:  # noqa: FBT001 - a parameter
    """At a reload as at a restart; what somebody put there meanwhile stays."""
    kiln = build()
    kiln.run(30)
    (kiln.at / "web").mkdir()
    kiln.configure(status=Status(page=kiln.at / "web/index.html", json=Path("deep/er/facts.json")))
    if restart:
        kiln.crash()
    kiln.run(30)
    assert not (kiln.outbox / "status.html").exists()
    assert not (kiln.outbox / "status.json").exists()
    assert 'href="' in (kiln.at / "web/index.html").read_text()
    assert json.loads((kiln.outbox / "deep/er/facts.json").read_text())["voicekiln"] == "status"
    (kiln.outbox / "deep/er/facts.json").write_text("mine")
    kiln.configure(status=Status(page=None, json=None))
    kiln.run(30)
    assert not (kiln.at / "web/index.html").exists()
    assert (kiln.outbox / "deep/er/facts.json").read_text() == "mine"
    assert kiln.ledger.fact(noticeboard.BOARDS) is None


def test_links_lead_from_the_page_to_the_outbox(build: Callable[..., Kiln]) -> None:
    """From wherever it lies."""
    kiln = build(status=Status(page=None, json=Path("how/status.json")))
    kiln.drop("a b.pth")
    kiln.run(60)
    [done] = kiln.read("how/status.json")["done"]
    assert done["sidecar"] == {"path": "a b.json", "url": "../a%20b.json"}


def test_files_have_the_rights_that_are_asked_for(build: Callable[..., Kiln]) -> None:
    """As results have, and the folders made for them."""
    kiln = build(
        status=Status(page=Path("how/page.html"), json=Path("status.json")), publish=Publish(0o640, 0o750, None)
    )
    kiln.run(30)
    modes = [(kiln.outbox / name).stat().st_mode & 0o777 for name in ("how", "how/page.html", "status.json")]
    assert modes == [0o750, 0o640, 0o640]


# --- when it goes wrong ----------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_for_the_page_is_not_full_for_voices(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once, tried again later, and nothing half written is left."""
    kiln = build()
    full = True
    real = outbox.write_whole

    def write(folder: int, temp: str, *words: Any) -> Any:
        written = real(folder, temp, *words)
        if full:
            raise OSError(28, "No space left on device")
        return written

    monkeypatch.setattr(files_of_boards, "write_whole", write)
    kiln.drop("a.pth")
    kiln.run(300)
    assert kiln.ledger.counts()[State.DONE] == 1
    assert len(kiln.log.of("status_page.failed")) == 1
    assert kiln.litter() == []
    full = False
    kiln.run(200)
    assert [voice["file"] for voice in told(kiln)["done"]] == ["a.pth"]


def test_a_defect_in_the_page_stops_nothing(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in the log, the JSON is there, and the older page is as it was."""
    kiln = build()
    kiln.run(20)
    before = (kiln.outbox / "status.html").read_bytes()

    def broken(*_: object) -> Iterator[str]:
        yield PAGE_BEGINNING
        raise KeyError("a name that nobody knows")

    monkeypatch.setattr(render, "render", broken)
    kiln.drop("a.pth")
    kiln.run(200)
    assert (kiln.outbox / "status.html").read_bytes() == before
    assert len(kiln.log.of("status_page.failed")) == 1
    assert [voice["file"] for voice in told(kiln)["done"]] == ["a.pth"]
    assert kiln.litter() == []


def test_a_daemon_that_is_not_sure_any_more_stops_before_the_rename(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may have taken over while it wrote; nothing of its own is left."""
    kiln = build()
    kiln.run(20)
    before = told(kiln)
    real = outbox.write_whole

    def slow(*words: Any) -> Any:
        kiln.service.ownership._sure_until = float("-inf")
        return real(*words)

    monkeypatch.setattr(files_of_boards, "write_whole", slow)
    kiln.drop("a.pth")
    kiln.mono, kiln.wall = kiln.mono + 10, kiln.wall + 10
    kiln.run(0.1)
    kiln.service.noticeboard.last()
    assert told(kiln) == before
    assert kiln.litter() == []


class DeadHands(HeldHands):
    """Hands at a share that does not answer."""

    def stuck(self) -> str | None:
        return "writing the status page" if self.held else None


def test_a_page_elsewhere_that_hangs_holds_up_nobody(build: Callable[..., Kiln]) -> None:
    """Voices and the outbox's own file go on, it is told once, and a stop is clean; when it answers, it is right."""
    (web := Path(build().at / "web")).mkdir()
    kiln = build(aside=DeadHands, status=Status(page=web / "page.html"))
    for name in ("a", "b"):
        kiln.drop(f"{name}.pth")
        kiln.run(60)
        assert (kiln.outbox / f"{name}.onnx").exists()
    kiln.run(3600)
    assert {voice["file"] for voice in told(kiln)["done"]} == {"a.pth", "b.pth"}
    assert len(kiln.aside.held) == 1  # type: ignore[attr-defined]  # DeadHands
    assert len(kiln.log.of("status_page.failed")) == 1
    kiln.aside.let_go()  # type: ignore[attr-defined]  # as above
    kiln.run(60)
    kiln.aside.let_go()  # type: ignore[attr-defined]  # as above
    assert "b.pth" in (web / "page.html").read_text()
    kiln.drop("c.pth")
    kiln.run(60)
    kiln.aside.ends = False  # type: ignore[attr-defined]  # as above
    assert kiln.service.stop()
    assert told(kiln)["stopped"]
    before = (web / "page.html").read_text()
    kiln.aside.let_go()  # type: ignore[attr-defined]  # as above
    assert (web / "page.html").read_text() == before, "written after the outbox was given up"


def test_what_is_wrong_with_one_file_costs_the_other_nothing(
    build: Callable[..., Kiln], written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unchanged one is not written again, and the bad one is tried at growing distances, up to an hour."""
    tries: list[float] = []
    real = files_of_boards._must_be_free

    def look(folder: int, board: files_of_boards.BoardFile) -> None:
        if board.path.name == "status.json":
            tries.append(kiln.mono)
        real(folder, board)

    monkeypatch.setattr(files_of_boards, "_must_be_free", look)
    kiln = build()
    (kiln.outbox / "status.json").write_text("mine")
    kiln.run(3000)
    assert len(written) <= 2, "one before the first scan, and one after it"
    kiln.run(3 * HOUR)
    pauses = [round(after - before) for before, after in pairwise(tries)]
    assert [pause // 60 for pause in pauses][:6] == [1, 2, 4, 8, 16, 32]
    assert max(pauses) <= HOUR + 60
    assert pauses == sorted(pauses)
    kiln.drop("a.pth")
    kiln.run(60)
    assert "a.pth" in (kiln.outbox / "status.html").read_text(), "held up by the other one"
    (kiln.outbox / "status.json").unlink()
    kiln.configure(status=Status(page=Path("other.html")))
    kiln.run(20)
    assert told(kiln)["totals"]["done"] == 1, "whoever changes the configuration need not wait"


def test_a_promise_is_kept_though_the_other_file_came_later(build: Callable[..., Kiln]) -> None:
    """A file that could be written at last must not put off the hourly one of the file that was right before."""
    kiln = build()
    (kiln.outbox / "status.json").write_text("mine")
    kiln.run(1000)
    (kiln.outbox / "status.json").unlink()
    before = (kiln.outbox / "status.html").stat().st_mtime_ns
    kiln.run(1500)
    assert told(kiln)["promised"]
    assert (kiln.outbox / "status.html").stat().st_mtime_ns == before
    kiln.run(1100)
    assert (kiln.outbox / "status.html").stat().st_mtime_ns > before


@pytest.mark.parametrize("what", ["gone", "a link", "a file"])
def test_a_folder_that_is_gone_has_taken_its_page_along(build: Callable[..., Kiln], what: str) -> None:
    """There is nothing to remove any more, nothing to tell, and the ledger forgets it; a link is not followed."""
    kiln = build(status=Status(page=Path("web/page.html")))
    (outer := kiln.at / "outer").mkdir()
    kiln.configure(status=Status(page=Path("web/page.html"), json=outer / "facts.json"))
    kiln.run(30)
    for folder in (outer, kiln.outbox / "web"):
        moved = folder.rename(kiln.at / f"moved {folder.name}")
        if what == "a link" and folder != outer:
            folder.symlink_to(moved)
        if what == "a file":
            folder.touch()
    kiln.configure(status=Status(page=None, json=None))
    kiln.run(30)
    assert kiln.ledger.fact(noticeboard.BOARDS) is None
    assert kiln.log.of("status_page.failed") == []
    assert (kiln.at / "moved web/page.html").exists()


def test_a_former_file_that_could_not_be_removed_goes_later(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is remembered until then, told once, and the loop has its rest afterwards."""
    kiln = build()
    kiln.run(30)
    real, tries = files_of_boards.take_down, 0

    def take_down(board: files_of_boards.BoardFile) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(30, "Read-only file system")
        real(board)

    monkeypatch.setattr(noticeboard, "take_down", take_down)
    kiln.configure(status=Status(page=None))
    kiln.run(600)
    assert tries == 3
    assert not (kiln.outbox / "status.html").exists()
    assert json.loads(kiln.ledger.fact(noticeboard.BOARDS) or "") == ["status.json"]
    assert len(kiln.log.of("status_page.failed")) == 1


@pytest.mark.parametrize(
    ("model", "seconds"),
    [
        ({"sample_rate": 10**400}, {}),
        ({"speakers": 10**400, "family": ["x"] * 500}, {}),
        ({}, {"load": 1e308, "export": 1.7e308}),
        ({"sample_rate": True}, {"load": -1e308}),
    ],
)
def test_odd_numbers_in_an_adopted_sidecar_cost_nothing(
    build: Callable[..., Kiln], model: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Anybody may have written it: both files are there, and the JSON is JSON."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(60)
    voice = kiln.voice("a.pth")
    assert isinstance(voice.ending, Converted)
    assert voice.base is not None
    made = voice.ending.conversion
    odd = replace(made, model=made.model | model, seconds=seconds or made.seconds)
    kiln.ledger._set(voice.id, ending=ending_json(Converted(odd)))
    kiln.run(60)
    (kiln.outbox / "status.json").unlink()
    (kiln.outbox / "status.html").unlink()
    kiln.run(HOUR)
    assert (kiln.outbox / "status.html").exists()
    strict = json.loads((kiln.outbox / "status.json").read_text(), parse_constant=pytest.fail)
    [done] = strict["done"]
    assert (done["seconds"] is None) == bool(seconds)
    assert all(0 <= done[key] <= LARGEST for key in ("sample_rate", "speakers"))
    assert kiln.log.of("status_page.failed") == []


# --- the real thing --------------------------------------------------------------------------------------------------


def test_a_reader_never_sees_half_a_page(tmp_path: Path) -> None:
    """While hundreds of voices go through, every look at either file finds a whole one, and the last tells of all."""
    source = tmp_path / "voice.pth"
    wrong: list[str] = []
    looks = 0
    over = threading.Event()

    def look(outbox: Path) -> None:
        nonlocal looks
        while not over.wait(0.002):
            try:
                page, facts = (outbox / "status.html").read_text(), (outbox / "status.json").read_text()
            except FileNotFoundError:
                continue
            looks += 1
            if not (page.startswith(PAGE_BEGINNING) and page.rstrip().endswith("</html>")):
                wrong.append(page[-200:])
            try:
                json.loads(facts)
            except ValueError as error:
                wrong.append(str(error))

    often = "from voicekiln.supervisor import noticeboard as n\nn.LEAST_PAUSE_S = n.TIMES_AS_LONG = 0.05"
    with Daemon(tmp_path, prelude=f"{PRELUDE}\n{often}") as daemon:
        daemon.until_there("status.html", "status.json")
        reader = threading.Thread(target=look, args=(daemon.outbox,))
        reader.start()
        for number in range(300):
            source.write_bytes(voice_bytes(f"{number}"))
            daemon.drop(source, f"{number % 7}/voice {number}.pth")
        daemon.until(lambda: daemon.read("status.json")["totals"]["done"] == 300)
        over.set()
        reader.join()
    assert wrong == []
    assert looks > 20
    last = daemon.read("status.json")
    assert last["stopped"]
    assert (len(last["done"]), last["totals"]["waiting"], last["left_out"]) == (300, 0, 0)
    assert (daemon.outbox / "status.html").read_text().count("voice 299") >= 1


@pytest.mark.parametrize("step", [Step.TEMP_WRITTEN, Step.BOARD_RENAMED])
def test_a_daemon_that_is_killed_leaves_a_whole_page(tmp_path: Path, step: Step) -> None:
    """Between the temporary file and its name, and right after; the next one clears up and goes on."""
    deadly = f"""
import os, signal, sys
from voicekiln import steps
def kill(step):
    if step is steps.Step.{step.name} and "boards.py" in sys._getframe(2).f_code.co_filename:
        if os.path.exists({str(tmp_path / "armed")!r}):
            os.kill(os.getpid(), signal.SIGKILL)
steps.on_passed = kill
"""
    source = tmp_path / "voice.pth"
    source.write_bytes(voice_bytes())
    with Daemon(tmp_path, prelude=PRELUDE + deadly) as daemon:
        daemon.until_there("status.html", "status.json")
        (tmp_path / "armed").touch()
        daemon.drop(source, "a.pth")
        assert daemon.process.wait(60) == -signal.SIGKILL
    for name, beginning, end in (("status.html", PAGE_BEGINNING, "</html>"), ("status.json", JSON_BEGINNING, "}")):
        text = (daemon.outbox / name).read_text()
        assert text.startswith(beginning)
        assert text.rstrip().endswith(end)
    (tmp_path / "armed").unlink()
    with Daemon(tmp_path, prelude=PRELUDE) as daemon:
        daemon.until(lambda: daemon.read("status.json")["totals"]["done"] == 1)
    assert [path.name for path in daemon.outbox.rglob(".~status*")] == []


def test_a_reload_moves_it(tmp_path: Path) -> None:
    """Without a restart; a mistake changes nothing, and is said."""
    with Daemon(tmp_path, prelude=PRELUDE) as daemon:
        daemon.until_there("status.html", "status.json")
        daemon.config.write_text(CONFIG + f"status: {{page: {tmp_path / 'nowhere/status.html'}}}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: bool(daemon.events("config.refused")))
        assert "status.page" in daemon.events("config.refused")[0]["problems"][0]
        daemon.config.write_text(CONFIG + "status: {page: index.html, json: off}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_there("index.html")
        daemon.until(lambda: not (daemon.outbox / "status.json").exists())
        assert not (daemon.outbox / "status.html").exists()


def test_a_picture_goes_from_the_worker_to_the_page_and_to_the_next_daemon(tmp_path: Path) -> None:
    """With a real voice: it is in the sidecar and on the page, also for a daemon that knows the sidecar alone."""
    tiny = write_tiny(tmp_path / "tiny.pth")
    recipes = "recipes: {default: {verify: quick}, blind: {verify: off}}\n"
    with Daemon(tmp_path, CONFIG + recipes) as daemon:
        daemon.until_there("status.html", "status.json")
        daemon.drop(tiny, "a.pth")
        daemon.drop(tiny, "blind/b.pth")
        daemon.until(lambda: daemon.read("status.json")["totals"]["done"] == 2)
        [picture] = re.findall('"picture": "(.*)"', (daemon.outbox / "a.json").read_text())
        assert PICTURE.fullmatch(picture)
        assert "picture" not in daemon.read("blind/b.json")
    lines = drawing(picture)
    assert lines is not None
    assert lines.original in (daemon.outbox / "status.html").read_text()
    (tmp_path / "state").rename(tmp_path / "lost")
    (tmp_path / "state").mkdir()
    with Daemon(tmp_path, CONFIG + recipes) as daemon:
        daemon.until(
            lambda: daemon.read("status.json")["totals"]["done"] == 2 and not daemon.read("status.json")["stopped"]
        )
        page = (daemon.outbox / "status.html").read_text()
    assert lines.original in page
    assert [line["adopted"] for line in daemon.events("outbox.read")] == [0, 2]
