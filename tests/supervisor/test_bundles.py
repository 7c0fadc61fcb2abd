"""`bundle.json` comes, follows and goes with what is published of one voice's parts, and never costs anybody a file."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest

from bundle_parts import FILES, SPEECH_FILES, answer, content
from folders.test_bundle import SCHEMA
from kiln import Kiln, SlowHands, voice_bytes
from test_crashes import Plug
from voicekiln.errors import Damaged
from voicekiln.folders import boards, outbox
from voicekiln.folders.bundle import BEGINNING, NAME
from voicekiln.folders.bundle_parts import ROLES
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.tables import STEPS
from voicekiln.folders.voices import State
from voicekiln.job import Ending, Refused
from voicekiln.loop import LEDGER
from voicekiln.settings import Sweep
from voicekiln.supervisor import bundles
from voicekiln.worker.wire import Convert, Looked, Request

DAY = 86400.0
HERE = "anna/bundle.json"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    kilns: list[Kiln] = []

    def make(*args: Any, **changes: Any) -> Kiln:
        kilns.append(Kiln(tmp_path, *(args or (answer,)), **changes))
        return kilns[-1]

    yield make
    for kiln in kilns:
        kiln.close()


def drop(kiln: Kiln, *names: str, folder: str = "anna") -> None:
    """Put these of a voice's files into a folder, all of them if none is named."""
    for name in names or FILES:
        kiln.drop(f"{folder}/{name}", content(FILES[name], ascii(folder)))


def told(kiln: Kiln, folder: str = "anna") -> dict[str, Any]:
    """Return what the bundle says; it fits its schema, and each file that it names lies there."""
    body = kiln.read(f"{folder}/bundle.json")
    jsonschema.validate(body, SCHEMA)
    for role in ROLES:
        if (part := body[role]) is not None:
            for file in (part["sidecar"], *part["files"], *part.get("data", [])):
                assert (kiln.outbox / folder / file["name"]).is_file()
    return body


def names(body: dict[str, Any]) -> list[str]:
    """Return the sidecars of its parts."""
    parts = [body[role] for role in ROLES]
    return [part["sidecar"]["name"] for part in parts if part is not None]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def forget(kiln: Kiln, name: str) -> None:
    """Take a source away and all knowledge of it; its results stay, as somebody's."""
    (kiln.inbox / name).unlink()
    assert kiln.ledger.forget(kiln.voice(name).id)


def unbundled(kiln: Kiln) -> list[PurePosixPath]:
    return list(kiln.ledger.unbundled(lambda _: True, 99))


# --- it comes and goes -----------------------------------------------------------------------------------------------


def test_a_folder_with_all_parts_gets_a_bundle(build: Callable[..., Kiln]) -> None:
    """One file that names all of them, and says the chain; all files are as they are without it."""
    kiln = build()
    drop(kiln)
    kiln.run(60)
    body = told(kiln)
    assert names(body) == [
        "G_1000.json",
        "model_50000.json",
        "kmeans_10000.json",
        "feature_and_index.json",
        "vocoder.json",
    ]
    assert [step["step"] for step in body["chain"]] == ["kmeans", "voice", "mel", "diffusion", "vocoder"]
    assert body["made_by"]["ledger"] == kiln.ledger.instance
    assert kiln.read("anna/G_1000.json")["schema"] == 2
    assert (unbundled(kiln), kiln.litter()) == ([], [])


def test_a_voice_that_reads_and_its_speaker_encoder_get_a_bundle(build: Callable[..., Kiln]) -> None:
    """The same for YourTTS; without the encoder it goes."""
    kiln = build()
    for name, kind in SPEECH_FILES.items():
        kiln.drop(f"anna/{name}", content(kind))
    kiln.run(60)
    body = told(kiln)
    assert names(body) == ["model_file.json", "model_se.json"]
    assert [step["step"] for step in body["chain"]] == ["speaker_encoder", "encoder", "decoder"]
    (kiln.outbox / "anna/model_se.json").unlink()
    kiln.drop("anna/model_file.pth", content("speech", "newer"))
    kiln.run(60)
    assert not (kiln.outbox / HERE).exists()


def test_hashes_are_those_of_the_sidecars_that_lie_there(build: Callable[..., Kiln]) -> None:
    """By them a reader knows whether the bundle speaks of what he has; a replaced part has a new one."""
    kiln = build()
    drop(kiln)
    kiln.run(60)
    first = told(kiln)["kmeans"]["sidecar"]["sha256"]
    kiln.drop("anna/kmeans_10000.pth", content("kmeans", "newer"))
    kiln.run(60)
    second = told(kiln)["kmeans"]["sidecar"]["sha256"]
    assert first != second == sha256(kiln.outbox / "anna/kmeans_10000.json")


@pytest.mark.parametrize(
    "some",
    [
        ("G_1000.pth",),
        ("kmeans_10000.pth",),
        ("model_50000.pth", "vocoder.pth", "kmeans_10000.pth"),
    ],
)
def test_a_voice_alone_and_parts_alone_get_none(build: Callable[..., Kiln], some: tuple[str, ...]) -> None:
    """There is nothing to plug together."""
    kiln = build()
    drop(kiln, *some)
    kiln.run(60)
    assert kiln.voice(f"anna/{some[0]}").state is State.DONE
    assert HERE not in kiln.results()


def test_of_two_voices_nobody_knows_whose_the_parts_are(build: Callable[..., Kiln]) -> None:
    """The bundle goes when a second voice comes, and comes again when that is gone."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=None))
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    assert HERE in kiln.results()
    kiln.drop("anna/G_2000.pth", content("voice", "another"))
    kiln.run(60)
    assert HERE not in kiln.results()
    forget(kiln, "anna/G_2000.pth")
    kiln.run(60)
    assert names(told(kiln)) == ["G_1000.json", "kmeans_10000.json"]


def test_voices_of_other_families_do_not_count(build: Callable[..., Kiln]) -> None:
    """An RVC voice beside it changes nothing, and has no bundle with the others."""
    kiln = build()
    drop(kiln, "kmeans_10000.pth")
    kiln.drop("anna/rvc.pth", voice_bytes("an RVC voice"))
    kiln.run(60)
    assert HERE not in kiln.results()
    drop(kiln, "G_1000.pth")
    kiln.run(60)
    assert names(told(kiln)) == ["G_1000.json", "kmeans_10000.json"]


def test_each_folder_is_for_itself(build: Callable[..., Kiln]) -> None:
    """Neither the folder above nor one below belongs to it; the inbox itself is a folder, too."""
    kiln = build()
    drop(kiln, "G_1000.pth", folder=".")
    drop(kiln, "kmeans_10000.pth", folder="anna/below")
    drop(kiln, "kmeans_10000.pth", "vocoder.pth", folder="anna")
    kiln.run(60)
    assert not any(name.endswith(NAME) for name in kiln.results())
    drop(kiln, "kmeans_10000.pth", folder=".")
    drop(kiln, "G_1000.pth", folder="anna/below")
    kiln.run(60)
    assert {name for name in kiln.results() if name.endswith(NAME)} == {"bundle.json", "anna/below/bundle.json"}
    assert names(told(kiln, "anna/below")) == ["G_1000.json", "kmeans_10000.json"]


def test_the_highest_number_is_taken(build: Callable[..., Kiln]) -> None:
    """Of several checkpoints of one training, as people number them; the others are named."""
    kiln = build()
    drop(kiln, "G_1000.pth")
    for number in (9, 100000, 50000, 8):
        kiln.drop(f"anna/model_{number}.pth", content("diffusion", str(number)))
    kiln.run(60)
    body = told(kiln)
    assert body["diffusion"]["sidecar"]["name"] == "model_100000.json"
    assert body["diffusion"]["others"] == ["model_50000.json", "model_9.json", "model_8.json"]


def test_it_goes_with_the_results_that_are_swept(build: Callable[..., Kiln]) -> None:
    """The folder holds nothing of ours any more in the end."""
    kiln = build(sweep=Sweep(sources=None, results=7 * DAY, refusals=None, max_share=1.0))
    drop(kiln)
    kiln.run(60)
    assert HERE in kiln.results()
    kiln.skip(8 * DAY)
    assert kiln.results() == set()
    assert unbundled(kiln) == []


def test_a_source_that_is_gone_leaves_the_bundle_of_what_lies_there(build: Callable[..., Kiln]) -> None:
    """Results outlive their sources, and the bundle speaks of results."""
    kiln = build(sweep=Sweep(sources=7 * DAY, results=None, refusals=None, max_share=1.0))
    drop(kiln)
    kiln.run(60)
    kiln.skip(8 * DAY)
    assert not (kiln.inbox / "anna/G_1000.pth").exists()
    assert len(names(told(kiln))) == 5


def test_what_somebody_took_away_is_forgotten_with_its_source(build: Callable[..., Kiln]) -> None:
    """The whole folder was collected; it is not made again for a bundle of nothing."""
    kiln = build(sweep=Sweep(sources=None, results=None, refusals=None, every=60.0))
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    shutil.rmtree(kiln.outbox / "anna")
    (kiln.inbox / "anna/kmeans_10000.pth").unlink()
    kiln.run(300)
    assert kiln.ledger.voice(PurePosixPath("anna/kmeans_10000.pth")) is None
    assert not (kiln.outbox / "anna").exists()
    assert unbundled(kiln) == []


def test_a_sidecar_that_somebody_replaced_is_no_part(build: Callable[..., Kiln]) -> None:
    """What lies under its name is not what was published."""
    kiln = build()
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    (kiln.outbox / "anna/kmeans_10000.json").write_text("{}")
    drop(kiln, "vocoder.pth")
    kiln.run(60)
    assert names(told(kiln)) == ["G_1000.json", "vocoder.json"]


def test_a_newer_file_that_is_refused_leaves_the_older_part(build: Callable[..., Kiln]) -> None:
    """As it leaves the older result; so does one that is still being judged when another part comes."""

    def refusing(request: Request) -> Ending | Looked | None:
        assert isinstance(request, Convert)
        source = request.job.source.read_bytes()
        if b"bad" in source:
            return Refused(Damaged(what="a test"))
        return None if b"slow" in source else answer(request)

    kiln = build(refusing)
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    before = told(kiln)
    kiln.drop("anna/kmeans_10000.pth", voice_bytes("bad"))
    kiln.run(60)
    assert (kiln.outbox / "anna/kmeans_10000.error.json").exists()
    drop(kiln, "vocoder.pth")
    kiln.run(60)
    kiln.drop("anna/G_1000.pth", voice_bytes("slow"))
    kiln.run(60)
    forget(kiln, "anna/vocoder.pth")
    kiln.run(60)
    assert kiln.voice("anna/G_1000.pth").state is State.CONVERTING
    assert told(kiln) == before


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle.pth", "Bundle.pth", "BUNDLE.PTH", "bundle .pth"])
def test_a_voice_of_that_name_gets_a_mark(build: Callable[..., Kiln], name: str) -> None:
    """Whatever the case, on a share where that is one name; its results come out, and so does the bundle."""
    kiln = build()
    drop(kiln, "G_1000.pth")
    kiln.drop(f"anna/{name}", content("kmeans"))
    kiln.run(60)
    [kmeans] = [found for found in names(told(kiln)) if found != "G_1000.json"]
    assert "~" in kmeans
    assert kiln.voice(f"anna/{name}").state is State.DONE
    assert (kiln.outbox / HERE).read_text().startswith(BEGINNING)


@pytest.mark.parametrize("folder", ["初音 未来", "caf\udce9", "100% # ?", "{x}", "a" * 200, "bundle.json"])
def test_a_folder_of_any_name_gets_its_bundle(build: Callable[..., Kiln], folder: str) -> None:
    """Also one whose name is no text."""
    kiln = build()
    drop(kiln, "G_1000.pth", "kmeans_10000.pth", folder=folder)
    kiln.run(60)
    assert names(told(kiln, folder)) == ["G_1000.json", "kmeans_10000.json"]


def test_a_folder_of_that_name_keeps_only_the_bundle_away(build: Callable[..., Kiln]) -> None:
    """Voices in it come out; the folder around it has no bundle, and the log says why."""
    kiln = build()
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.drop("anna/bundle.json/a.pth")
    kiln.run(60)
    assert "anna/bundle.json/a.json" in kiln.results()
    assert [facts["file"] for facts in kiln.log.of("bundle.failed")] == [HERE]


@pytest.mark.parametrize("kind", ["file", "link", "folder", "pipe", "beginning"])
def test_what_is_not_ours_stays_and_is_said_once(build: Callable[..., Kiln], kind: str) -> None:
    """Somebody's own bundle; ours comes when the way is free, however late, and nothing else waits for it."""
    kiln = build()
    kiln.drop("anna/rvc.pth", voice_bytes("an RVC voice"))
    kiln.run(30)
    path, other = kiln.outbox / HERE, kiln.at / "other"
    other.write_text(BEGINNING)
    match kind:
        case "file":
            path.write_text('{"mine": true}')
        case "link":
            path.symlink_to(other)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "beginning":
            path.write_text(BEGINNING[:-1])
    before = path.lstat().st_ino, path.lstat().st_mtime_ns
    drop(kiln)
    drop(kiln, folder="ben")
    kiln.run(1500)
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == before
    assert other.read_text() == BEGINNING
    assert [facts["file"] for facts in kiln.log.of("bundle.failed")] == [HERE]
    assert len(names(told(kiln, "ben"))) == 5
    (path.rmdir if kind == "folder" else path.unlink)()
    kiln.run(700)
    assert len(names(told(kiln))) == 5
    assert (unbundled(kiln), kiln.litter()) == ([], [])


def test_somebodys_file_is_not_removed_either(build: Callable[..., Kiln]) -> None:
    """When the parts go, only a bundle of ours goes with them."""
    kiln = build(sweep=Sweep(sources=None, results=7 * DAY, refusals=None, max_share=1.0))
    drop(kiln)
    kiln.run(60)
    (kiln.outbox / HERE).write_text('{"mine": true}')
    kiln.skip(8 * DAY)
    assert kiln.results() == {HERE}
    assert (kiln.outbox / HERE).read_text() == '{"mine": true}'


# --- shares and crashes ----------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_older_bundle_and_is_made_good(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half of one is ever seen; it is said once, and tried again."""
    kiln = build()
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    drop(kiln, "G_1000.pth", "kmeans_10000.pth", folder="ben")
    kiln.run(60)
    before = (kiln.outbox / HERE).read_bytes()
    real = outbox.write_whole

    def full(folder: int, temp: str, *words: Any) -> Any:
        if NAME in temp:
            (Path(f"/proc/self/fd/{folder}") / temp).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, temp, *words)

    monkeypatch.setattr(boards, "write_whole", full)
    drop(kiln, "vocoder.pth")
    drop(kiln, "vocoder.pth", folder="ben")
    kiln.run(60)
    assert kiln.voice("anna/vocoder.pth").state is State.DONE
    assert (kiln.outbox / HERE).read_bytes() == before
    assert [facts["reason"] for facts in kiln.log.of("bundle.failed")] == ["No space left on device"]
    assert kiln.litter() == []
    monkeypatch.setattr(boards, "write_whole", real)
    kiln.run(120)
    assert len(names(told(kiln))) == len(names(told(kiln, "ben"))) == 3


@pytest.mark.parametrize("moment", ["looking", "writing"])
def test_an_outbox_that_goes_away_in_between_is_waited_for(
    build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """In the folder beneath the mount point nothing is written, nor believed to be gone; the bundle follows."""
    kiln = build(hands=SlowHands)
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    before, away, points = told(kiln), kiln.at / "away", kiln.service.common.homes.mount_points
    at_home = dict(points)
    where, name = (bundles, "open_folder") if moment == "looking" else (boards, "write_whole")
    real = getattr(where, name)

    def unmount(*words: Any) -> Any:
        if moment == "writing" and NAME not in words[1]:  # the status page
            return real(*words)
        monkeypatch.setattr(where, name, real)
        kiln.outbox.rename(away)
        kiln.outbox.mkdir()
        points[str(kiln.outbox)] = str(kiln.outbox)  # which is none: the mount point is gone
        return real(*words)

    drop(kiln, "vocoder.pth")
    monkeypatch.setattr(where, name, unmount)
    kiln.run(60)
    assert "outbox" in kiln.service.common.away
    assert list(kiln.outbox.iterdir()) == []
    kiln.outbox.rmdir()
    away.rename(kiln.outbox)
    assert told(kiln) == before
    points.update(at_home)
    kiln.run(120)
    assert names(told(kiln)) == ["G_1000.json", "kmeans_10000.json", "vocoder.json"]
    assert (unbundled(kiln), kiln.litter(), kiln.log.of("bundle.failed")) == ([], [], [])


def test_a_change_while_the_bundle_is_being_written_is_not_lost(build: Callable[..., Kiln]) -> None:
    """The hands work on what was; what has come meanwhile is written next."""
    kiln = build(hands=SlowHands)
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    before = told(kiln)
    folder = PurePosixPath("anna")
    forget(kiln, "anna/kmeans_10000.pth")
    [(_, turn)] = kiln.ledger.unbundled(lambda _: True, 9).items()
    drop(kiln, "vocoder.pth")
    kiln.run(60)
    assert names(told(kiln)) == ["G_1000.json", "vocoder.json"] != names(before)
    forget(kiln, "anna/vocoder.pth")
    kiln.ledger.bundled([turn])
    assert unbundled(kiln) == [folder]


def test_another_daemons_outbox_is_left_alone(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not sure to own it writes and removes nothing."""
    kiln = build()
    drop(kiln, "G_1000.pth", "kmeans_10000.pth")
    kiln.run(60)
    forget(kiln, "anna/kmeans_10000.pth")
    ownership = kiln.service.ownership
    monkeypatch.setattr(type(ownership), "sure", property(lambda _: False))
    kiln.run(60)
    assert HERE in kiln.results()
    monkeypatch.undo()
    kiln.run(60)
    assert HERE not in kiln.results()


def test_a_lost_ledger_finds_the_parts_again(build: Callable[..., Kiln]) -> None:
    """By the sidecars; the older daemon's bundle is written over, for it is ours."""
    kiln = build()
    drop(kiln)
    kiln.run(60)
    before = told(kiln)
    kiln.ledger.close()
    for path in kiln.settings.state.glob(f"{LEDGER}*"):
        path.unlink()
    kiln.start()
    kiln.run(120)
    after = told(kiln)
    assert kiln.asked == []
    assert after["made_by"]["ledger"] == kiln.ledger.instance != before["made_by"]["ledger"]
    assert {**after, "made_by": None} == {**before, "made_by": None}


def test_an_older_ledger_has_no_parts(tmp_path: Path) -> None:
    """It could make none; it gets the tables, and what is published from now on is known."""
    with closing(sqlite3.connect(tmp_path / "old", isolation_level=None)) as db:
        for statement in (statement for step in STEPS[:3] for statement in step):
            db.execute(statement)
        db.execute("PRAGMA user_version = 3")
        db.execute("INSERT INTO facts VALUES ('instance', '01234567')")
    with Ledger(tmp_path / "old") as ledger:
        assert ledger.unbundled(lambda _: True, 9) == {}
        assert ledger.members(PurePosixPath("anna"), "voice", 9) == []


def test_a_quiet_daemon_asks_for_little(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of parts at rest are not looked at; a change in one folder reads that folder."""
    kiln = build()
    drop(kiln)
    kiln.run(60)
    for table, column in (("parts", "folder"), ("unbundled", "turn")):
        value = f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {column} = 1"  # noqa: S608 - our own words
        assert "SEARCH" in kiln.ledger._ask(value)[0]["detail"]
    asked: list[PurePosixPath] = []
    real = kiln.ledger.members

    def members(folder: PurePosixPath, *words: Any) -> Any:
        asked.append(folder)
        return real(folder, *words)

    monkeypatch.setattr(kiln.ledger, "members", members)
    kiln.run(600)
    assert asked == []
    kiln.drop("ben/rvc.pth", voice_bytes("an RVC voice"))
    kiln.run(60)
    assert asked == []
    drop(kiln, "vocoder.pth", folder="ben")
    kiln.run(60)
    assert set(asked) == {PurePosixPath("ben")}


def tell(at: Path, plug: Plug) -> tuple[Any, ...]:
    """Tell a story of parts that come, change and go; return what a person finds at its end."""
    kilns: list[Kiln] = []
    sweep = Sweep(sources=None, results=7 * DAY, refusals=None, max_share=1.0)
    plug.live(lambda: kilns.append(Kiln(at, answer, sweep=sweep)))
    [kiln] = kilns
    drop(kiln, "G_1000.pth", "kmeans_10000.pth", "vocoder.pth")
    drop(kiln, "G_1000.pth", "kmeans_10000.pth", folder="ben")
    plug.live(lambda: kiln.run(30), kiln.crash)
    first = names(told(kiln))
    kiln.drop("ben/G_2000.pth", content("voice", "a second"))
    kiln.drop("anna/kmeans_10000.pth", content("kmeans", "newer"))
    plug.live(lambda: kiln.run(30), kiln.crash)
    newest = told(kiln)["kmeans"]["sidecar"]["sha256"] == sha256(kiln.outbox / "anna/kmeans_10000.json")
    second = names(told(kiln)), newest, "ben/bundle.json" in kiln.results()
    plug.live(lambda: kiln.skip(8 * DAY), kiln.crash)
    plug.live(lambda: kiln.run(30), kiln.crash)
    end = kiln.results(), unbundled(kiln), kiln.litter()
    kiln.close()
    return first, second, end


class Watched(Plug):
    """Finds at each step what bundles are made of: known parts, folders that wait, bundles that lie there."""

    def _find(self, at: Path) -> object:
        with closing(sqlite3.connect(at / "state" / LEDGER)) as ledger:
            rows = [ledger.execute(f"SELECT * FROM {table}").fetchall() for table in ("parts", "unbundled")]  # noqa: S608 - our own words
        return rows, {(str(path), path.stat().st_ino) for path in at.glob(f"outbox/*/{NAME}")}


def test_a_crash_at_any_moment_is_made_good(quick_disk: Path) -> None:
    """Right before and right after each change to them: bundles that are true, and none that should not be there."""
    (quick_disk / "undisturbed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        plug = Watched(patch, None, quick_disk / "undisturbed")
        end = tell(quick_disk / "undisturbed", plug)
    parts = ["G_1000.json", "kmeans_10000.json", "vocoder.json"]
    assert end == (parts, (parts, True, False), (set(), [], []))
    changes = [n for n, (before, after) in enumerate(pairwise(plug.found)) if before != after]
    moments = sorted({moment for n in changes for moment in (n, n + 1)})
    assert len(changes) >= 20
    for moment in moments:
        (quick_disk / str(moment)).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            again = Plug(patch, moment)
            assert tell(quick_disk / str(moment), again) == end, f"after a crash at moment {moment}"
            assert again.passed[moment] is plug.passed[moment]
        shutil.rmtree(quick_disk / str(moment))
