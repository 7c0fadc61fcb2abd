"""The daemon's promises, with a fake worker and a made-up clock."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from endings import converted
from kiln import Kiln, PromptHands, SlowHands, good, voice_bytes
from voicekiln.errors import BadNumbers
from voicekiln.folders.files import open_folder
from voicekiln.folders.inbox import Snapshot
from voicekiln.folders.names import temp_name
from voicekiln.folders.sidecar import utc
from voicekiln.folders.voices import State
from voicekiln.job import Ending, Job, Lost, Recipe, Refused
from voicekiln.settings import Settle, Sweep
from voicekiln.worker.wire import Convert, Looked, Request

DAY = 86400.0


@pytest.fixture(params=[(PromptHands, 1), (SlowHands, 1), (SlowHands, 3)], ids=["prompt", "slow", "three workers"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    """Everything holds with hands that have finished at once, with such as take their time, and with any workers."""
    built: list[Kiln] = []
    hands, workers = request.param

    def make(*args: Any, **changes: Any) -> Kiln:
        built.append(Kiln(tmp_path, args[0] if args else good, hands=hands, workers=workers, **changes))
        return built[-1]

    yield make
    for kiln in built:
        kiln.close()


@pytest.fixture
def kiln(build: Callable[..., Kiln]) -> Kiln:
    return build()


def refuse(request: Request) -> Ending:
    del request
    return Refused(BadNumbers(count=3, tensor="emb_g.weight"))


# --- the whole way ---------------------------------------------------------------------------------------------------


def one_job(kiln: Kiln) -> Job:
    """Return the only job that the worker was given."""
    [request] = kiln.asked
    assert isinstance(request, Convert)
    return request.job


def test_a_dropped_voice_comes_out_with_its_sidecar(kiln: Kiln) -> None:
    """Name and sub-folder are kept, the source stays, and nothing else lies around."""
    kiln.drop("singers/Zoë 1.pth")
    kiln.run()
    assert kiln.results() == {"singers/Zoë 1.onnx", "singers/Zoë 1.json"}
    assert (kiln.inbox / "singers/Zoë 1.pth").exists()
    assert kiln.litter() == []
    assert kiln.voice("singers/Zoë 1.pth").state is State.DONE


def test_what_lies_there_at_the_start_is_treated_like_anything_new(build: Callable[..., Kiln], tmp_path: Path) -> None:
    """It has to settle too, and is converted."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/a.pth").write_bytes(voice_bytes())
    kiln = build()
    kiln.run(2.0)
    assert kiln.results() == set()
    kiln.run()
    assert kiln.results() == {"a.onnx", "a.json"}


def test_a_folder_named_like_a_recipe_selects_it(kiln: Kiln) -> None:
    """Folders are the only switches that a person on a share has."""
    kiln.drop("both/a.pth")
    kiln.drop("fp16/a.pth")
    kiln.drop("other/both/a.pth")
    kiln.run(60)
    assert kiln.results() == {
        *("both/a.onnx", "both/a.fp16.onnx", "both/a.json"),
        *("fp16/a.onnx", "fp16/a.json"),
        *("other/both/a.onnx", "other/both/a.json"),
    }
    assert kiln.read("fp16/a.json")["onnx"][0]["precision"] == "fp16"
    assert kiln.read("other/both/a.json")["onnx"][0]["precision"] == "fp32"


def test_a_growing_file_waits_until_it_is_quiet_and_whole(kiln: Kiln) -> None:
    """Half a file is never handed to the worker, however long the writer pauses."""
    whole = voice_bytes("x" * 1000)
    path = kiln.drop("a.pth", whole[:500])
    kiln.run(30)
    assert kiln.asked == []
    assert kiln.voice("a.pth").state is State.INCOMPLETE
    path.write_bytes(whole)
    kiln.run(30)
    assert kiln.results() == {"a.onnx", "a.json"}


def test_a_file_that_never_arrives_whole_is_refused_and_heals(kiln: Kiln) -> None:
    """After `incomplete_after` a person is told; the refusal goes when the rest arrives."""
    whole = voice_bytes("x" * 1000)
    path = kiln.drop("a.pth", whole[:500])
    kiln.run(400)
    assert kiln.results() == {"a.error.json"}
    assert kiln.read("a.error.json")["code"] == "damaged"
    path.write_bytes(whole)
    kiln.run(30)
    assert kiln.results() == {"a.onnx", "a.json"}


def test_an_empty_file_is_waited_for_and_then_refused(kiln: Kiln) -> None:
    """Finder's placeholder is no voice yet; one that stays empty is told of."""
    kiln.drop("a.pth", b"")
    kiln.run(30)
    assert kiln.results() == set()
    kiln.run(400)
    assert kiln.read("a.error.json")["code"] == "empty"


def test_a_file_without_proof_waits_longer(kiln: Kiln) -> None:
    """What is no ZIP has only time to show that it is whole."""
    kiln.drop("a.pth", b"\x80\x02legacy pickle.")
    kiln.run(50)
    assert kiln.asked == []
    kiln.run(30)
    assert len(kiln.asked) == 1


def test_a_refusal_is_words_in_the_outbox_and_goes_when_a_good_file_comes(build: Callable[..., Kiln]) -> None:
    """`voice.error.json` has code, message and hint; a good file under the same name takes it away."""
    kiln = build(refuse)
    path = kiln.drop("a.pth")
    kiln.run()
    body = kiln.read("a.error.json")
    assert (body["code"], body["source"]["name"]) == ("bad-numbers", "a.pth")
    assert "emb_g.weight" in body["message"]
    assert body["hint"]
    kiln.answer = good
    path.write_bytes(voice_bytes("better"))
    kiln.run()
    assert kiln.results() == {"a.onnx", "a.json"}


def test_a_newer_file_under_the_same_name_replaces_the_result(kiln: Kiln) -> None:
    """The sidecar tells which source it was made from."""
    path = kiln.drop("both/a.pth")
    kiln.run()
    first = kiln.read("both/a.json")
    path.write_bytes(voice_bytes("newer"))
    kiln.run()
    second = kiln.read("both/a.json")
    assert first["source"]["sha256"] != second["source"]["sha256"]
    assert kiln.results() == {"both/a.onnx", "both/a.fp16.onnx", "both/a.json"}


def test_a_bad_newer_file_leaves_the_older_result(kiln: Kiln) -> None:
    """A refusal takes nothing away that was good."""
    path = kiln.drop("a.pth")
    kiln.run()
    kiln.answer = refuse
    path.write_bytes(voice_bytes("bad"))
    kiln.run()
    assert kiln.results() == {"a.onnx", "a.json", "a.error.json"}


# --- nothing twice ---------------------------------------------------------------------------------------------------


def test_a_restart_converts_nothing_twice(kiln: Kiln) -> None:
    """What is done stays done."""
    kiln.drop("a.pth")
    kiln.run()
    kiln.crash()
    kiln.run(120)
    assert kiln.asked == []


@pytest.mark.requirement(11)
def test_a_touch_converts_nothing(kiln: Kiln) -> None:
    """Other time stamps on the same bytes are no new voice."""
    path = kiln.drop("a.pth")
    kiln.run()
    os.utime(path, (1, 1))
    path.chmod(0o600)
    kiln.run(60)
    assert len(kiln.asked) == 1
    assert kiln.voice("a.pth").state is State.DONE


@pytest.mark.requirement(11)
def test_touches_without_end_are_one_conversion(build: Callable[..., Kiln]) -> None:
    """A sync tool that cannot leave the dates alone, ten times a second, while the voice is in work and afterwards."""
    answers: list[Ending] = []
    kiln = build(lambda _: answers[0] if answers else None)
    path = kiln.drop("a.pth")
    kiln.run(20)
    for number in range(400):
        os.utime(path, (number, number))
        kiln.run(0.1)
        if number == 200:
            answers.append(converted(one_job(kiln)))
    kiln.run(60)
    assert len(kiln.asked) == 1
    assert kiln.voice("a.pth").state is State.DONE


@pytest.mark.requirement(11)
def test_the_same_content_under_another_name_is_published_without_a_conversion(kiln: Kiln) -> None:
    """A copy gets its own ONNX and sidecar, the worker is not asked."""
    shutil.copy(kiln.drop("a.pth"), kiln.inbox / "b.pth")
    kiln.run(60)
    assert kiln.results() == {"a.onnx", "a.json", "b.onnx", "b.json"}
    assert len(kiln.asked) == 1
    assert kiln.read("b.json")["source"]["name"] == "b.pth"


def test_another_recipe_is_another_conversion(kiln: Kiln) -> None:
    """The same content asked for in another precision is converted."""
    content = voice_bytes()
    kiln.drop("a.pth", content)
    kiln.drop("fp16/a.pth", content)
    kiln.run(60)
    assert len(kiln.asked) == 2


def test_a_copy_of_a_swept_result_is_converted_again(kiln: Kiln) -> None:
    """Where no published bytes are left to copy, the worker makes them anew."""
    first = kiln.drop("a.pth")
    kiln.run()
    for name in ("a.onnx", "a.json"):
        (kiln.outbox / name).unlink()
    shutil.copy(first, kiln.inbox / "b.pth")
    kiln.run(60)
    assert {"b.onnx", "b.json"} <= kiln.results()
    assert len(kiln.asked) == 2


def test_a_voice_put_back_after_its_result_was_taken_comes_out_again(kiln: Kiln) -> None:
    """Somebody who deletes everything and drops the file once more wants it once more."""
    path = kiln.drop("a.pth")
    kiln.run()
    content = path.read_bytes()
    path.unlink()
    (kiln.outbox / "a.onnx").unlink()
    (kiln.outbox / "a.json").unlink()
    kiln.run()
    path.write_bytes(content)
    kiln.run()
    assert kiln.results() == {"a.onnx", "a.json"}


# --- names -----------------------------------------------------------------------------------------------------------


def test_two_sources_never_share_a_result(kiln: Kiln) -> None:
    """Names that differ only by case, or that mean each other's endings, come out side by side."""
    for name in ("Zoe.pth", "zoe.pth", "a.pth", "a.fp16.pth", "A.PTH"):
        kiln.drop(name)
    kiln.run(120)
    sources = [kiln.read(name)["source"]["name"] for name in kiln.results() if name.endswith(".json")]
    assert sorted(sources) == sorted(["Zoe.pth", "zoe.pth", "a.pth", "a.fp16.pth", "A.PTH"])
    assert len({name.casefold() for name in kiln.results()}) == len(kiln.results())


@pytest.mark.parametrize(
    "name",
    ["x" * 251 + ".pth", "é" * 125 + ".pth", "a\nb\t\x1b[31m.pth", b"no\xfftext.pth".decode(errors="surrogateescape")],
)
def test_odd_names_are_served_like_any_other(kiln: Kiln, name: str) -> None:
    """Long names, control characters, bytes that are no text: a result and a readable sidecar."""
    kiln.drop(name, voice_bytes())
    kiln.run()
    endings = sorted(result.rpartition(".")[2] for result in kiln.results())
    assert endings == ["json", "onnx"]
    sidecar = next(path for path in kiln.outbox.iterdir() if path.suffix == ".json")
    assert kiln.read(sidecar.name)["source"]["name"].isprintable()


@pytest.mark.requirement(10)
def test_a_conflict_copy_is_told_of_and_not_converted(kiln: Kiln) -> None:
    """Two devices disagree; a person has to say which is meant."""
    kiln.drop("a.sync-conflict-20260101-101010-ABCDEFG.pth")
    kiln.run()
    assert kiln.read("a.sync-conflict-20260101-101010-ABCDEFG.error.json")["code"] == "conflict-copy"
    assert kiln.asked == []


def test_a_link_is_told_of_and_not_followed(kiln: Kiln, tmp_path: Path) -> None:
    """What a link leads to is none of our business."""
    (tmp_path / "secret.pth").write_bytes(voice_bytes())
    (kiln.inbox / "a.pth").symlink_to(tmp_path / "secret.pth")
    os.mkfifo(kiln.inbox / "b.pth")
    kiln.run()
    assert kiln.read("a.error.json")["code"] == kiln.read("b.error.json")["code"] == "not-a-file"
    assert kiln.asked == []


def test_a_foreign_file_in_the_way_is_kept_and_told_of(kiln: Kiln) -> None:
    """The result waits, the person reads why, and it is published when the way is free."""
    (kiln.outbox / "a.onnx").write_bytes(b"precious")
    kiln.drop("a.pth")
    kiln.run(60)
    assert (kiln.outbox / "a.onnx").read_bytes() == b"precious"
    assert kiln.read("a.error.json")["code"] == "name-taken"
    (kiln.outbox / "a.onnx").unlink()
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}
    assert len(kiln.asked) == 1


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(7)
def test_a_file_that_kills_the_worker_is_given_up_and_others_flow(build: Callable[..., Kiln]) -> None:
    """Three attempts, then a clear refusal; the next file is converted meanwhile."""

    def answer(request: Request) -> Ending | Looked:
        assert isinstance(request, Convert)
        return Lost("the worker was killed (SIGKILL)") if b"bad" in request.job.source.read_bytes() else good(request)

    kiln = build(answer)
    kiln.drop("bad.pth")
    kiln.drop("fine.pth")
    kiln.run(20)
    assert "fine.onnx" in kiln.results()
    kiln.run(200)
    body = kiln.read("bad.error.json")
    assert body["code"] == "worker-lost"
    assert "3 times" in body["message"]
    assert len(kiln.asked) == 4
    kiln.answer = good
    kiln.drop("bad.pth", voice_bytes("replaced"))
    kiln.run(30)
    assert {"bad.onnx", "bad.json"} <= kiln.results()


@pytest.mark.requirement(7)
def test_a_file_that_takes_the_daemon_itself_down_cannot_loop(build: Callable[..., Kiln]) -> None:
    """Each time it is tried later, and after ten times it is refused; three cut-off starts refuse nobody."""

    class DownError(BaseException):
        pass

    def answer(request: Request) -> Ending:
        del request
        raise DownError

    kiln = build(answer)
    kiln.drop("a.pth")
    for _ in range(10):
        with pytest.raises(DownError):
            kiln.run(1300)
        kiln.crash()
    kiln.run(60)
    body = kiln.read("a.error.json")
    assert body["code"] == "worker-lost"
    assert "10 times" in body["message"]


def test_a_full_disk_at_the_last_attempt_is_not_the_files_fault(build: Callable[..., Kiln]) -> None:
    """Only the losses that count are counted, also when the others come after them."""
    losses = [Lost("crashed"), Lost("crashed"), Lost("disk full", counts=False), Lost("disk full", counts=False)]
    kiln = build(lambda request: losses.pop(0) if losses else good(request))
    kiln.drop("a.pth")
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}


def test_a_result_that_is_never_what_was_verified_is_given_up(build: Callable[..., Kiln]) -> None:
    """Files that change in staging are converted again, later each time, and not for ever."""

    def forged(request: Request) -> Ending | Looked:
        ending = good(request)
        assert isinstance(request, Convert)
        (request.job.staging / "rvc.fp32.onnx").write_bytes(b"something else")
        return ending

    kiln = build(forged)
    kiln.drop("a.pth")
    kiln.run(300)
    assert len(kiln.asked) == kiln.settings.worker.attempts
    assert kiln.read("a.error.json")["code"] == "worker-lost"


@pytest.mark.requirement(9)
def test_trouble_from_outside_is_tried_again_for_ever(build: Callable[..., Kiln]) -> None:
    """A full disk uses up no attempts; when there is room, the voice comes out by itself."""
    kiln = build(lambda _: Lost("the disk is full", counts=False))
    kiln.drop("a.pth")
    kiln.run(3600)
    assert kiln.results() == set()
    assert kiln.voice("a.pth").reason == "the disk is full"
    assert 5 < len(kiln.asked) < 30
    kiln.answer = good
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}


@pytest.mark.requirement(9)
def test_a_full_outbox_is_waited_out(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished file waits in staging, the reason is shown, nothing is converted again."""
    real = os.fsync

    def full(file: int) -> None:
        if "outbox" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    kiln.drop("a.pth")
    kiln.run(60)
    assert kiln.results() == set()
    assert "No space" in kiln.voice("a.pth").reason
    monkeypatch.undo()
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}
    assert len(kiln.asked) == 1


@pytest.mark.requirement(4)
def test_an_absent_inbox_is_not_an_empty_one(kiln: Kiln) -> None:
    """While the share is away nothing is forgotten and nothing swept; when it is back, work goes on."""
    kiln.drop("a.pth")
    kiln.run()
    kiln.inbox.rename(kiln.at / "away")
    kiln.skip(30 * DAY)
    assert kiln.voice("a.pth").source == "there"
    assert kiln.results() == {"a.onnx", "a.json"}
    assert "inbox away" in kiln.service.status()
    (kiln.at / "away").rename(kiln.inbox)
    kiln.drop("b.pth")
    kiln.run(60)
    assert "b.onnx" in kiln.results()


@pytest.mark.requirement(4)
def test_a_folder_beneath_a_mount_point_is_not_the_share(build: Callable[..., Kiln]) -> None:
    """When another file system shows through, nothing has vanished, nothing is swept and nothing is written."""
    kiln = build(sweep=Sweep(max_share=1.0))
    kiln.drop("a.pth")
    kiln.run()
    points = kiln.service.common.homes.mount_points
    at_home = dict(points)
    points.update({str(kiln.inbox): str(kiln.inbox), str(kiln.outbox): str(kiln.outbox)})
    (kiln.inbox / "a.pth").rename(kiln.at / "a.pth")
    kiln.drop("b.pth")
    kiln.skip(8 * DAY)
    assert [voice.source for voice in kiln.ledger.voices()] == ["there"]
    assert kiln.results() == {"a.onnx", "a.json"}
    assert "not mounted" in kiln.service.status()
    points[str(kiln.inbox)] = at_home[str(kiln.inbox)]
    kiln.run(60)
    assert len(kiln.asked) == 2
    assert "b.onnx" not in kiln.results()
    points.update(at_home)
    kiln.run(700)
    assert "b.onnx" in kiln.results()


def test_a_folder_that_cannot_be_read_has_not_lost_its_files(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scan could not see is not taken for vanished."""
    kiln.drop("sub/a.pth")
    kiln.run()
    blind = Snapshot(unreadable={PurePosixPath("sub"): "Permission denied"})
    monkeypatch.setattr("voicekiln.supervisor.intake.scan", lambda *_, **__: blind)
    kiln.run(120)
    assert kiln.voice("sub/a.pth").source == "there"


def test_an_absent_outbox_is_waited_for(kiln: Kiln) -> None:
    """Nothing is written beneath a mount point whose share is away."""
    kiln.outbox.rename(kiln.at / "away")
    kiln.drop("a.pth")
    kiln.run(60)
    assert not kiln.outbox.exists()
    (kiln.at / "away").rename(kiln.outbox)
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}
    assert len(kiln.asked) == 1


def test_a_file_replaced_while_it_is_converted_is_converted_again(build: Callable[..., Kiln]) -> None:
    """The older content's result may come out in between; in the end it is the newer one's."""
    kiln = build()
    path = kiln.drop("a.pth")

    def answer(request: Request) -> Ending | Looked:
        path.write_bytes(voice_bytes("newer"))
        kiln.answer = good
        return good(request)

    kiln.answer = answer
    kiln.run(60)
    assert len(kiln.asked) == 2
    assert kiln.read("a.json")["source"]["sha256"] == kiln.voice("a.pth").sha256


@pytest.mark.requirement(16)
def test_a_full_inbox_does_not_fill_the_disk(build: Callable[..., Kiln]) -> None:
    """Only a few copies wait in the spool however many files there are."""
    kiln = build(lambda _: Lost("not now", counts=False))
    for number in range(30):
        kiln.drop(f"{number}.pth")
    kiln.run(60)
    assert len(list((kiln.settings.state / "spool").iterdir())) <= 2 * kiln.workers + 11


def test_an_outbox_that_is_stuck_stops_the_conversions(kiln: Kiln) -> None:
    """Finished voices do not pile up on the local disk; when the outbox is back, all come out."""
    kiln.outbox.rename(kiln.at / "away")
    for number in range(12):
        kiln.drop(f"{number}.pth")
    kiln.run(120)
    assert len(list((kiln.settings.state / "staging").iterdir())) <= kiln.workers + 3
    assert len(list((kiln.settings.state / "spool").iterdir())) <= kiln.workers + 3
    (kiln.at / "away").rename(kiln.outbox)
    kiln.run(900)
    assert len(kiln.results()) == 24


def test_folders_without_rights_stop_nobody_else(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices for a folder of the outbox that may not be written wait by themselves."""
    real = open_folder

    def guarded(root: Path, relative: PurePosixPath, *rest: Any) -> Any:
        if relative.parts[:1] == ("closed",) and root == kiln.outbox:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(root, relative, *rest)

    monkeypatch.setattr("voicekiln.folders.outbox.open_folder", guarded)
    for number in range(6):
        kiln.drop(f"closed/{number}.pth")
    kiln.run(60)
    kiln.drop("other.pth")
    kiln.run(30)
    assert "other.onnx" in kiln.results()


def test_a_full_disk_before_a_job_begins_is_waited_out(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the staging folder: the voice waits, the daemon goes on."""
    real = Path.mkdir

    def full(self: Path, *rest: Any, **options: Any) -> None:
        if self.parent.name == "staging":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *rest, **options)

    kiln.drop("a.pth")
    monkeypatch.setattr(Path, "mkdir", full)
    kiln.run(30)
    assert kiln.results() == set()
    monkeypatch.undo()
    kiln.run(700)
    assert kiln.results() == {"a.onnx", "a.json"}


def test_files_in_the_way_stop_nobody_else(kiln: Kiln) -> None:
    """Half a dozen results that wait for their names do not keep other voices from being converted."""
    for number in range(6):
        (kiln.outbox / f"{number}.onnx").write_bytes(b"mine")
        kiln.drop(f"{number}.pth")
    kiln.run(60)
    kiln.drop("other.pth")
    kiln.run(30)
    assert "other.onnx" in kiln.results()


def test_a_queued_voice_that_is_replaced_leaves_no_copy(build: Callable[..., Kiln]) -> None:
    """However often a sync tool changes a file that waits, one copy of it lies in the spool."""
    kiln = build(lambda _: None)
    kiln.drop("busy.pth")
    kiln.run(10)
    for number in range(6):
        kiln.drop("a.pth", voice_bytes(f"version {number}"))
        kiln.run(10)
    assert len(list((kiln.settings.state / "spool").iterdir())) == 2


def test_sweeping_goes_on_after_the_outbox_was_away(build: Callable[..., Kiln]) -> None:
    """It needs no publication to notice that the share is back."""
    kiln = build(sweep=Sweep(max_share=1.0))
    kiln.drop("a.pth")
    kiln.run(60)
    kiln.outbox.rename(kiln.at / "away")
    kiln.skip(8 * DAY)
    (kiln.at / "away").rename(kiln.outbox)
    kiln.run(30)
    assert kiln.results() == set()


def test_a_recipe_that_changes_while_a_voice_waits_is_for_the_next_one(build: Callable[..., Kiln]) -> None:
    """What was spooled is made as it was asked for, and its sidecar says so; no twin is mistaken for another."""
    kiln = build(lambda _: None)
    content = voice_bytes()
    kiln.drop("busy.pth")
    kiln.drop("a.pth", content)
    kiln.run(15)
    kiln.service.common.settings = replace(kiln.settings, recipes={"default": Recipe("default", ("fp16",))})
    kiln.answer = good
    kiln.run(30)
    assert kiln.read("a.json")["recipe"]["precisions"] == ["fp32"]
    kiln.drop("b.pth", content)
    kiln.run(30)
    assert kiln.read("b.json")["onnx"][0]["precision"] == "fp16"


def test_marks_that_others_have_taken_are_passed_over(kiln: Kiln) -> None:
    """Names that look like ours do not stop anybody, three files of them or more."""
    mark = hashlib.sha256(b"zoe.pth\x001").hexdigest()[:6]
    for name in (f"zoe~{mark}.pth", "Zoe.pth", "zoe.pth"):
        kiln.drop(name, voice_bytes(name))
        kiln.run(15)
    assert len([name for name in kiln.results() if name.endswith(".onnx")]) == 3


def test_a_file_that_may_not_be_read_is_told_of(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute a person reads what to do; with the right to read it, it is taken."""

    def refuse_to_open(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = kiln.drop("a.pth")
    monkeypatch.setattr("voicekiln.folders.spool.open_plain", refuse_to_open)
    kiln.run(30)
    assert kiln.results() == set()
    kiln.run(200)
    assert kiln.read("a.error.json")["code"] == "unreadable"
    monkeypatch.undo()
    path.chmod(0o640)
    kiln.run(60)
    assert kiln.results() == {"a.onnx", "a.json"}


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_temporary_files_of_a_killed_daemon_are_cleared(kiln: Kiln) -> None:
    """Those with this ledger's mark go at the next start, wherever they lie; another daemon's stay."""
    (kiln.outbox / "deep").mkdir()
    ours = kiln.outbox / "deep" / temp_name("a.onnx", f"{kiln.ledger.instance}7")
    theirs = kiln.outbox / temp_name("a.onnx", "0123456787")
    for path in (ours, theirs):
        path.touch()
    kiln.crash()
    kiln.run(5)
    assert not ours.exists()
    assert theirs.exists()


@pytest.mark.requirement(18)
def test_a_clean_stop_costs_no_attempt(build: Callable[..., Kiln]) -> None:
    """SIGTERM in the middle of a job puts it back into the queue."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.answer = lambda _: None
    kiln.run(30)
    assert kiln.voice("a.pth").state is State.CONVERTING
    assert kiln.service.stop()
    assert (kiln.voice("a.pth").state, kiln.voice("a.pth").attempts) == (State.QUEUED, 0)
    kiln.answer = good
    kiln.crash()
    kiln.run(30)
    assert kiln.results() == {"a.onnx", "a.json"}


# --- sweeping --------------------------------------------------------------------------------------------------------


def test_files_are_swept_when_their_time_has_come(build: Callable[..., Kiln]) -> None:
    """After a week and a bit, sources and results are gone and the ledger with them."""
    kiln = build(sweep=Sweep(max_share=1.0))
    kiln.drop("a.pth")
    kiln.run()
    kiln.skip(6.9 * DAY)
    assert kiln.results() == {"a.onnx", "a.json"}
    kiln.skip(0.5 * DAY)
    assert kiln.results() == set()
    assert not (kiln.inbox / "a.pth").exists()
    assert kiln.ledger.voices() == []


def test_a_source_swept_is_not_missed_and_a_new_one_is_new(build: Callable[..., Kiln]) -> None:
    """The same file dropped again after its sweep is converted again."""
    kiln = build(sweep=Sweep(max_share=1.0))
    kiln.drop("a.pth")
    kiln.run()
    kiln.skip(9 * DAY)
    assert not (kiln.inbox / "a.pth").exists()
    kiln.drop("a.pth")
    kiln.run(60)
    assert kiln.results() == {"a.onnx", "a.json"}


def test_a_command_can_ask_for_a_sweep(build: Callable[..., Kiln]) -> None:
    """`voicekiln sweep` beside a running daemon leaves the work to it."""
    kiln = build(sweep=Sweep(every=30 * DAY, max_share=1.0))
    kiln.drop("a.pth")
    kiln.run(60)
    kiln.skip(8 * DAY)
    assert kiln.results() != set()
    kiln.ledger.set_fact("sweep wanted", "yes")
    kiln.run(30)
    assert kiln.results() == set()
    assert kiln.ledger.fact("sweep wanted") is None


# --- settings, status ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(18)
def test_a_bad_configuration_is_refused_and_the_old_one_kept(kiln: Kiln) -> None:
    """SIGHUP with a slip in the file changes nothing and says what is wrong; a good one is taken."""
    path = kiln.at / "config.yaml"
    path.write_text("settle: {quiet: soon}\n")
    kiln.service.reload(path)
    kiln.run(1)
    assert kiln.service.common.settings is kiln.settings
    assert "settle.quiet" in str(kiln.log.of("config.refused"))
    path.write_text("state: elsewhere\n")
    kiln.service.reload(path)
    kiln.run(1)
    assert "needs a restart" in str(kiln.log.of("config.refused"))
    path.write_text("settle: {quiet: 9s}\n")
    kiln.service.reload(path)
    kiln.run(1)
    assert kiln.service.common.settings.settle == Settle(quiet=9.0)


def test_one_line_tells_it_all(kiln: Kiln) -> None:
    """The canonical line has outcome, family, bytes, seconds, fidelity and attempt."""
    kiln.drop("a.pth")
    kiln.run()
    [line] = kiln.log.of("job.finished")
    assert line["outcome"] == "converted"
    assert line["snr_db"] == {"rvc fp32": 123.4}
    assert line["attempt"] == 1
    assert set(line) >= {"file", "family", "variant", "bytes", "seconds", "recipe"}


def test_the_sidecar_has_our_times(kiln: Kiln) -> None:
    """Times are UTC and come from our own clock."""
    kiln.drop("a.pth")
    kiln.run()
    times = kiln.read("a.json")["times"]
    assert utc(kiln.voice("a.pth").first_seen) == times["first_seen"] < times["published"]


def test_a_recipe_that_has_gone_from_the_configuration_does_no_harm(build: Callable[..., Kiln]) -> None:
    """A voice seen under a recipe that a reload removed is converted by the default one."""
    kiln = build(recipes={"default": Recipe("default"), "odd": Recipe("odd", ("fp16",))})
    kiln.drop("odd/a.pth")
    kiln.run(1)
    kiln.service.common.settings = replace(kiln.settings, recipes={"default": Recipe("default")})
    kiln.run(60)
    assert kiln.read("odd/a.json")["recipe"]["name"] == "default"
