"""Companions in the loop: a voice is taken again when one comes, changes or goes, and only if that can matter."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from kiln import Kiln, good, voice_bytes
from voicekiln import steps
from voicekiln.errors import Contradiction
from voicekiln.folders import names
from voicekiln.folders.spool import Spooled, take
from voicekiln.folders.tables import LAYOUT
from voicekiln.folders.voices import State
from voicekiln.job import Converted, Ending, FileStamp, Refused
from voicekiln.settings import Sweep
from voicekiln.steps import Step
from voicekiln.supervisor import intake
from voicekiln.worker.wire import Convert, Looked, Request

DAY = 86400.0


def told(request: Request) -> dict[str, str | None]:
    """Return what the worker is given to read beside the voice."""
    assert isinstance(request, Convert)
    return {name: None if path is None else path.read_text() for name, path in request.job.beside.items()}


def looking(request: Request) -> Ending | Looked:
    """Answer as a family that looks for companions, and cannot do without one for a voice that is called needy."""
    assert isinstance(request, Convert)
    beside, done = told(request), good(request)
    if b"needy" in request.job.source.read_bytes() and not beside:
        return Refused(Contradiction(what="it needs its config.json"))
    assert isinstance(done, Converted)
    notes = tuple(f"{name}: {text}" for name, text in beside.items())
    model = done.conversion.model | {"family": "so-vits-svc", "companions": [*beside]}
    return Converted(replace(done.conversion, model=model, notes=notes))


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    """Return what makes a kiln, whose ledger is closed after the test."""
    made: list[Kiln] = []

    def build(**words: object) -> Kiln:
        made.append(Kiln(tmp_path, **({"answer": looking} | words)))  # type: ignore[arg-type]  # whatever a test says
        return made[-1]

    yield build
    for kiln in made:
        kiln.close()


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the voices that are read from the share, as they are."""
    read: list[str] = []

    def noted(root: Path, relpath: PurePosixPath, *words: Any, **more: Any) -> Spooled:
        read.append(str(relpath))
        return take(root, relpath, *words, **more)

    monkeypatch.setattr(intake, "take", noted)
    return read


def notes(kiln: Kiln, name: str = "zoe.json") -> list[str]:
    found: list[str] = kiln.read(name)["notes"]
    return found


# --- a family that looks ---------------------------------------------------------------------------------------------


def test_a_voice_is_converted_with_what_lies_beside_it(build: Callable[..., Kiln]) -> None:
    """The worker has copies of it, the sidecar tells of it, and nothing of it is left behind."""
    kiln = build()
    kiln.drop("sub/zoe.pth")
    for name, text in (("config.json", "{}"), ("zoe.yaml", "a: 1"), ("other.json", "no")):
        kiln.drop(f"sub/{name}", text.encode())
    kiln.run(30)
    sidecar = kiln.read("sub/zoe.json")
    assert sidecar["notes"] == ["config.json: {}", "zoe.yaml: a: 1"]
    assert sorted(sidecar["source"]["beside"]) == ["config.json", "zoe.yaml"]
    assert kiln.results() == {"sub/zoe.onnx", "sub/zoe.json"}
    assert kiln.litter() == []
    assert (kiln.inbox / "sub/config.json").exists()


def test_a_companion_alone_says_nothing(build: Callable[..., Kiln]) -> None:
    """No refusal, no row, no line."""
    kiln = build()
    kiln.drop("config.json", b"{}")
    kiln.run(60)
    assert (kiln.results(), kiln.ledger.voices(), kiln.log.of("file.seen")) == (set(), [], [])


def test_a_late_companion_completes_a_voice(build: Callable[..., Kiln]) -> None:
    """The result is made anew, after the quiet time; each later change as well, and that it goes."""
    kiln = build()
    kiln.drop("zoe.pth")
    kiln.run(30)
    assert notes(kiln) == []
    assert "beside" not in kiln.read("zoe.json")["source"]
    kiln.drop("config.json", b"one")
    kiln.run(6)
    assert kiln.voice("zoe.pth").state is State.SETTLING
    kiln.run(30)
    assert notes(kiln) == ["config.json: one"]
    kiln.drop("config.json", b"two")
    kiln.run(30)
    assert notes(kiln) == ["config.json: two"]
    kiln.drop("zoe.json", b"own")
    kiln.run(30)
    assert notes(kiln) == ["config.json: two", "zoe.json: own"]
    for name in ("config.json", "zoe.json"):
        (kiln.inbox / name).unlink()
    kiln.run(30)
    assert notes(kiln) == []
    assert len(kiln.asked) == 5
    assert kiln.litter() == []


def test_a_late_companion_heals_a_refusal(build: Callable[..., Kiln]) -> None:
    """The answer goes, the result comes; attempts count anew."""
    kiln = build()
    kiln.drop("zoe.pth", voice_bytes("needy"))
    kiln.run(30)
    assert kiln.results() == {"zoe.error.json"}
    kiln.drop("config.json", b"{}")
    kiln.run(30)
    assert kiln.results() == {"zoe.onnx", "zoe.json"}
    assert kiln.voice("zoe.pth").attempts == 1


@pytest.mark.parametrize("name", ["speakers.pth", "Speaker_Ids.PTH", "zoe.language_ids.json", "config_se.json"])
def test_tables_are_companions_like_others(build: Callable[..., Kiln], name: str) -> None:
    """Also where they have the ending of a voice: alone they say nothing, later they heal, and they stay."""
    kiln = build(sweep=Sweep(sources=7 * DAY, results=None, refusals=None, max_share=1.0))
    kiln.drop(name, b"early")
    kiln.run(60)
    assert (kiln.results(), kiln.ledger.voices()) == (set(), [])
    (kiln.inbox / name).unlink()
    kiln.drop("zoe.pth", voice_bytes("needy"))
    kiln.run(30)
    assert kiln.results() == {"zoe.error.json"}
    kiln.drop(name, b"late")
    kiln.run(30)
    assert kiln.results() == {"zoe.onnx", "zoe.json"}
    assert notes(kiln) == [f"{name}: late"]
    kiln.skip(8 * DAY)
    assert [path.name for path in kiln.inbox.iterdir()] == [name]


def test_what_an_older_version_said_of_a_table_goes(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took it for a voice and refused it; the answer is swept as that on a voice that is gone, the table stays."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=7 * DAY, max_share=1.0))
    with monkeypatch.context() as older:
        older.setattr(names, "_TABLE", re.compile("none"))
        kiln.answer = lambda _: Refused(Contradiction(what="it has no tensors"))
        kiln.drop("sub/speakers.pth")
        kiln.run(30)
    assert kiln.results() == {"sub/speakers.error.json"}
    with kiln.ledger.together():
        kiln.ledger._db.execute(f"PRAGMA user_version = {LAYOUT - 1}")
    kiln.answer = looking
    kiln.crash()
    kiln.run(30)
    assert kiln.results() == {"sub/speakers.error.json"}
    kiln.skip(8 * DAY)
    kiln.run(60)
    assert (kiln.results(), kiln.ledger.voices(), kiln.asked) == (set(), [], [])
    assert (kiln.inbox / "sub/speakers.pth").exists()


def test_a_touched_companion_is_the_same(build: Callable[..., Kiln], copies: list[str]) -> None:
    """Its times are a reason to look, its content none to convert."""
    kiln = build()
    kiln.drop("zoe.pth")
    path = kiln.drop("config.json", b"{}")
    kiln.run(30)
    os.utime(path, (1, 1))
    kiln.run(30)
    assert (len(copies), len(kiln.asked)) == (2, 1)
    assert len(kiln.log.of("file.unchanged")) == 1
    kiln.run(60)
    assert len(copies) == 2


def test_one_that_changes_all_the_time_keeps_the_voice_waiting(build: Callable[..., Kiln]) -> None:
    """As a voice does that is still being written."""
    kiln = build()
    kiln.drop("zoe.pth")
    for number in range(10):
        kiln.drop("config.json", b"%d" % number)
        kiln.run(2)
    assert kiln.asked == []
    kiln.run(30)
    assert notes(kiln) == ["config.json: 9"]


def test_one_that_changes_during_the_copy_is_taken_anew(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker never gets what is half one thing and half another."""
    kiln = build()
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b"one")

    def disturbed(*words: Any, **more: Any) -> Spooled:
        monkeypatch.setattr(intake, "take", take)
        kiln.drop("config.json", b"two")
        return take(*words, **more)

    monkeypatch.setattr(intake, "take", disturbed)
    kiln.run(60)
    assert [told(request) for request in kiln.asked[1:]] == []
    assert notes(kiln) == ["config.json: two"]
    assert kiln.log.of("copy.failed") == []


def test_one_that_comes_while_the_voice_is_with_a_worker_is_for_afterwards(build: Callable[..., Kiln]) -> None:
    """The work goes on, and is done once more."""
    kiln = build()

    def answer(request: Request) -> Ending | Looked:
        if len(kiln.asked) == 1:
            kiln.drop("config.json", b"{}")
        return looking(request)

    kiln.answer = answer
    kiln.drop("zoe.pth")
    kiln.run(60)
    assert notes(kiln) == ["config.json: {}"]
    assert len(kiln.asked) == 2


def test_a_voice_that_waits_in_the_spool_gets_it_in_time(build: Callable[..., Kiln]) -> None:
    """The older copy goes."""
    kiln = build(answer=lambda _: None)
    kiln.drop("busy.pth")
    kiln.run(10)
    kiln.drop("zoe.pth")
    kiln.run(10)
    assert kiln.voice("zoe.pth").state is State.QUEUED
    kiln.drop("zoe.yml", b"{}")
    kiln.run(10)
    kiln.answer = looking
    kiln.run(30)
    assert notes(kiln) == ["zoe.yml: {}"]
    assert kiln.litter() == []


def test_of_two_voices_each_has_its_own(build: Callable[..., Kiln]) -> None:
    """Of equal content, too, and of equal stems: a result that was made with another's config is not copied."""
    kiln = build()
    for name in ("a.pth", "b.pth", "b.pt"):
        kiln.drop(name, voice_bytes("same"))
    kiln.drop("a.json", b"of a")
    kiln.drop("b.json", b"of b")
    kiln.run(60)
    made = {str(voice.relpath): str(voice.base) for voice in kiln.ledger.voices()}
    assert {name: notes(kiln, f"{base}.json") for name, base in made.items()} == {
        "a.pth": ["a.json: of a"],
        "b.pth": ["b.json: of b"],
        "b.pt": ["b.json: of b"],
    }
    assert len(set(made.values())) == 3
    assert len(kiln.asked) == 2


def test_a_copy_of_a_voice_that_lay_alone_has_its_own(build: Callable[..., Kiln]) -> None:
    """What was made without a companion is not the result of a copy that has one."""
    kiln = build()
    kiln.drop("a.pth", voice_bytes("same"))
    kiln.run(30)
    kiln.drop("b.json", b"of b")
    kiln.drop("b.pth", voice_bytes("same"))
    kiln.run(30)
    assert notes(kiln, "b.json") == ["b.json: of b"]
    kiln.drop("c.pth", voice_bytes("same"))
    kiln.run(30)
    assert notes(kiln, "c.json") == []
    assert len(kiln.asked) == 2


def test_what_cannot_be_read_is_given_as_that(build: Callable[..., Kiln]) -> None:
    """The family shall know that it is there."""
    kiln = build()
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b" " * ((1 << 20) + 1))
    kiln.run(30)
    assert notes(kiln) == ["config.json: None"]
    assert kiln.read("zoe.json")["source"]["beside"] == {"config.json": None}


# --- a family that does not ------------------------------------------------------------------------------------------


def test_voices_that_need_none_are_not_even_read_again(build: Callable[..., Kiln], copies: list[str]) -> None:
    """A config.json that comes, changes and goes in a folder of RVC voices costs a note in the ledger each time."""
    kiln = build(answer=good)
    for number in range(150):  # more than are told one by one
        kiln.drop(f"{number}.pth")
    kiln.run(200)
    assert len(copies) == 150
    for text in (b"one", b"two"):
        kiln.drop("config.json", text)
        kiln.run(30)
    (kiln.inbox / "config.json").unlink()
    kiln.run(30)
    assert len(copies) == len(kiln.asked) == 150
    assert {voice.state for voice in kiln.ledger.voices()} == {State.DONE}


def test_a_voice_that_changes_with_its_companion_is_read_and_known(
    build: Callable[..., Kiln], copies: list[str]
) -> None:
    """Whether it was touched, or a sync tool has laid both down anew: the content is the same."""
    kiln = build(answer=good)
    path = kiln.drop("zoe.pth")
    kiln.drop("config.json", b"one")
    kiln.run(30)
    os.utime(path, (1, 1))
    kiln.drop("config.json", b"two")
    kiln.run(30)
    assert (len(copies), len(kiln.asked)) == (2, 1)
    (kiln.inbox / "config.json").unlink()
    os.utime(path, (2, 2))
    kiln.run(30)
    assert (len(copies), len(kiln.asked)) == (3, 1)
    assert len(kiln.log.of("file.unchanged")) == 2


def test_its_refusal_is_judged_anew(build: Callable[..., Kiln]) -> None:
    """Nobody knows what would have helped."""
    kiln = build(answer=lambda _: Refused(Contradiction(what="it is odd")))
    kiln.drop("zoe.pth")
    kiln.run(30)
    kiln.drop("config.json", b"{}")
    kiln.run(30)
    assert len(kiln.asked) == 2
    assert kiln.results() == {"zoe.error.json"}


def test_equal_content_is_converted_once_whatever_lies_beside_it(build: Callable[..., Kiln]) -> None:
    """A copy in another folder gets the same result, where nobody looked at the companions."""
    kiln = build(answer=good)
    kiln.drop("a/zoe.pth", voice_bytes("same"))
    kiln.drop("a/config.json", b"one")
    kiln.drop("b/zoe.pth", voice_bytes("same"))
    kiln.drop("b/config.json", b"two")
    kiln.drop("c/zoe.pth", voice_bytes("same"))
    kiln.run(60)
    assert kiln.results() == {f"{folder}/zoe.{end}" for folder in "abc" for end in ("onnx", "json")}
    assert len(kiln.asked) == 1


def test_equal_content_does_not_begin_twice_at_once(build: Callable[..., Kiln]) -> None:
    """When two workers become free in one moment, the second copy waits for the first one's end."""
    held = [True]
    kiln = build(answer=lambda request: None if held[0] else good(request), workers=2)
    for name in ("busy.pth", "busy too.pth"):
        kiln.drop(name)
    kiln.run(20)
    for folder in "ab":
        kiln.drop(f"{folder}/zoe.pth", voice_bytes("same"))
        kiln.drop(f"{folder}/config.json", folder.encode())
    kiln.run(20)
    assert len(kiln.ledger.voices(State.QUEUED)) == 2
    held[0] = False
    kiln.run(30)
    assert len(kiln.asked) == 3
    assert {voice.state for voice in kiln.ledger.voices()} == {State.DONE}


# --- over time -------------------------------------------------------------------------------------------------------


def test_the_sweeper_takes_the_voice_and_leaves_what_lies_beside_it(build: Callable[..., Kiln]) -> None:
    """It may belong to others; and when it changes later, nothing comes back."""
    kiln = build(sweep=Sweep(sources=7 * DAY, results=None, refusals=None, max_share=1.0))
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b"one")
    kiln.run(30)
    [item] = kiln.ledger.aged("sources", float("inf"), (float("-inf"), 0), 9)
    assert item.files[0].stamp == FileStamp.of((kiln.inbox / "zoe.pth").stat())  # or each would be read to be known
    kiln.skip(8 * DAY)
    assert {path.name for path in kiln.inbox.iterdir()} == {"config.json"}
    kiln.drop("config.json", b"two")
    kiln.run(60)
    assert kiln.results() == {"zoe.onnx", "zoe.json"}
    assert notes(kiln) == ["config.json: one"]
    assert len(kiln.asked) == 1


def test_after_an_update_nothing_is_converted_again(build: Callable[..., Kiln], copies: list[str]) -> None:
    """An older ledger knows nothing of companions; its voices of RVC stay as they are."""
    kiln = build(answer=good)
    kiln.drop("zoe.pth")
    kiln.run(30)
    with kiln.ledger.together():
        kiln.ledger._db.execute("UPDATE voices SET beside = NULL")
    kiln.drop("config.json", b"{}")
    assert json.loads(kiln.ledger._ask("SELECT stamp FROM voices")[0][0])[4:] == []
    kiln.crash()
    kiln.run(30)
    assert (len(copies), kiln.asked) == (1, [])


@pytest.mark.parametrize("change", ["none", "other", "gone"])
def test_a_lost_ledger_is_filled_with_the_companions(build: Callable[..., Kiln], change: str) -> None:
    """What was made with them is known by them: it is made again if they have changed, and not if they have not."""
    kiln = build()
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b"one")
    kiln.run(30)
    kiln.close()
    for path in kiln.settings.state.iterdir():
        if path.is_file():
            path.unlink()
    if change == "other":
        kiln.drop("config.json", b"two")
    elif change == "gone":
        (kiln.inbox / "config.json").unlink()
    kiln.start()
    kiln.run(200)
    assert len(kiln.asked) == (0 if change == "none" else 1)
    assert notes(kiln) == {"none": ["config.json: one"], "other": ["config.json: two"], "gone": []}[change]
    assert kiln.voice("zoe.pth").state is State.DONE


class PulledPlugError(BaseException):
    """Stands for SIGKILL: nothing in the daemon catches it."""


def story(kiln: Kiln, restart: Callable[[Callable[[], None]], None]) -> None:
    """A voice, its companion that comes later, and another that replaces it while the copy waits."""
    kiln.drop("zoe.pth", voice_bytes("needy"))
    kiln.drop("zoe.yaml", b"one")
    restart(lambda: kiln.run(20))
    kiln.drop("config.json", b"two")
    restart(lambda: kiln.run(20))
    (kiln.inbox / "zoe.yaml").unlink()
    restart(lambda: kiln.run(20))


def test_wherever_the_daemon_is_killed_the_same_comes_out(quick_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step: the copies in the spool, the ledger and the result belong together, and nothing is left over."""
    passed: list[Step] = []
    monkeypatch.setattr(steps, "on_passed", passed.append)
    (quick_disk / "whole").mkdir()
    kiln = Kiln(quick_disk / "whole", looking)
    story(kiln, lambda act: act())
    kiln.close()
    assert {Step.COPYING, Step.COPIED, Step.SPOOLED, Step.STARTED, Step.ENDED, Step.PUBLISHED} <= set(passed)
    for at in [number for number, step in enumerate(passed) if step is not Step.COMMITTED]:
        folder = quick_disk / f"killed {at}"
        folder.mkdir()
        left = iter(range(at + 1))

        def pull(_: Step, left: Iterator[int] = left, at: int = at) -> None:
            if next(left, None) == at:
                raise PulledPlugError

        kiln = Kiln(folder, looking)
        monkeypatch.setattr(steps, "on_passed", pull)

        def live(act: Callable[[], None], kiln: Kiln = kiln) -> None:
            try:
                act()
            except PulledPlugError:
                kiln.crash()
                act()

        story(kiln, live)
        assert kiln.results() == {"zoe.onnx", "zoe.json"}, passed[at]
        assert notes(kiln) == ["config.json: two"], passed[at]
        assert kiln.litter() == [], passed[at]
        kiln.close()


def test_the_copies_go_together(build: Callable[..., Kiln]) -> None:
    """As soon as the worker is done with them, however long the outbox is stuck."""
    kiln = build(answer=lambda _: None)
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b"{}")
    kiln.run(15)
    spool = kiln.settings.state / "spool"
    (spool / "another.0.beside").touch()
    assert len(list(spool.iterdir())) == 3
    kiln.service.common.clear_copy(kiln.voice("zoe.pth").job or "")
    assert [path.name for path in spool.iterdir()] == ["another.0.beside"]


def test_a_copy_that_lost_its_companions_is_taken_again(build: Callable[..., Kiln]) -> None:
    """Somebody has tidied up in the spool: the voice is not converted as if it had lain alone."""
    kiln = build(answer=lambda _: None)
    kiln.drop("zoe.pth")
    kiln.drop("config.json", b"{}")
    kiln.run(15)
    [copy] = (kiln.settings.state / "spool").glob("*.beside")
    copy.unlink()
    kiln.answer = looking
    kiln.crash()
    kiln.run(60)
    assert notes(kiln) == ["config.json: {}"]
