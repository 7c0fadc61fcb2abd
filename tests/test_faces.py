"""Recipes with several faces in the daemon: where the files lie, and how they come and go together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import voicekiln
from endings import FACES as ASKED
from kiln import Kiln, PromptHands, SlowHands, good, voice_bytes
from live_client import Inferencer, slot_of
from running import CONFIG, Daemon
from tiny_voices import write_tiny
from voicekiln.folders.voices import State
from voicekiln.job import PRECISIONS, Recipe
from voicekiln.loop import LEDGER


@pytest.fixture(params=[PromptHands, SlowHands])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    """Return what makes a kiln; it is closed afterwards."""
    built: list[Kiln] = []

    def make(*args: Any, **changes: Any) -> Kiln:
        built.append(Kiln(tmp_path, args[0] if args else good, hands=request.param, **changes))
        return built[-1]

    yield make
    for kiln in built:
        kiln.close()


LIVE = {"default": Recipe("default"), "live": Recipe("live", ("fp32", "fp16"), interfaces=ASKED)}
FACES = {
    *("live/a.onnx", "live/a.fp16.onnx", "live/a.w-okada.onnx", "live/a.w-okada.fp16.onnx", "live/a.json"),
    *("live/a.moevs/a.json", "live/a.moevs/a/a_RVC.onnx"),
    *("live/a.moevs/a-fp16.json", "live/a.moevs/a-fp16/a-fp16_RVC.onnx"),
}


def test_a_recipe_of_several_faces_makes_all_of_them_and_the_sweeper_removes_them(build: Callable[..., Kiln]) -> None:
    """With the folders that they lie in, and no others."""
    kiln = build(recipes=LIVE)
    kiln.drop("live/a.pth")
    kiln.run()
    assert kiln.results() == FACES
    assert len(kiln.asked) == 1
    assert kiln.log.of("job.finished")[0]["snr_db"].keys() == {f"{i} {p}" for i in ASKED for p in PRECISIONS}
    for _ in range(40):  # a share of what is there goes at once
        kiln.skip(8 * 86400)
    assert kiln.results() == set()
    assert [path.name for path in kiln.outbox.iterdir() if path.is_dir()] == ["live"]
    assert list((kiln.outbox / "live").iterdir()) == []


def test_a_copy_of_a_voice_with_several_faces_has_them_all_without_another_conversion(
    build: Callable[..., Kiln],
) -> None:
    """Its files are taken from among the twin's, and the client's bears its own name."""
    kiln = build(recipes=LIVE)
    kiln.drop("live/a.pth", voice_bytes("twice"))
    kiln.run()
    kiln.drop("live/b.pth", voice_bytes("twice"))
    kiln.run()
    assert kiln.results() == FACES | {re.sub(r"\ba(?=[./-]|_RVC)", "b", name) for name in FACES}
    assert len(kiln.asked) == 1
    assert kiln.read("live/b.moevs/b.json")["Folder"] == "b"


def test_a_recipe_with_fewer_faces_takes_the_others_away(build: Callable[..., Kiln]) -> None:
    """The stale files and their folders go with the newer result."""
    kiln = build(recipes=LIVE)
    path = kiln.drop("live/a.pth")
    kiln.run()
    kiln.configure(recipes=LIVE | {"live": Recipe("live", interfaces=("w-okada",))})
    path.write_bytes(voice_bytes("newer"))
    kiln.run()
    assert kiln.results() == {"live/a.onnx", "live/a.json"}
    assert not (kiln.outbox / "live/a.moevs").exists()
    assert [file["interface"] for file in kiln.read("live/a.json")["onnx"]] == ["w-okada"]


def test_voices_in_a_folder_that_is_called_like_that_of_a_face_lose_nothing(build: Callable[..., Kiln]) -> None:
    """Neither overwrites the other, whoever comes first."""
    kiln = build(recipes=LIVE)
    for stem, order in (("a", 1), ("b", -1)):
        for name in (f"live/{stem}.pth", f"live/{stem}.moevs/{stem}.pth", f"live/{stem}.w-okada.pth")[::order]:
            kiln.drop(name)
            kiln.run()
    told = [body for name in kiln.results() if name.endswith(".json") and "onnx" in (body := kiln.read(name))]
    assert len({body["source"]["path"] for body in told}) == len(told) == 6
    for body in told:
        where = (kiln.outbox / body["source"]["path"]).parent
        for file in body["onnx"]:
            for lying in (file, file.get("client_file", file)):
                assert hashlib.sha256((where / lying["name"]).read_bytes()).hexdigest() == lying["sha256"]


def test_a_fresh_ledger_takes_all_faces_over(build: Callable[..., Kiln]) -> None:
    """Nothing is converted again, and all of it is swept in the end, folders too."""
    kiln = build(recipes=LIVE)
    kiln.drop("live/a.pth")
    kiln.run()
    before = {name: (kiln.outbox / name).read_bytes() for name in kiln.results()}
    kiln.ledger.close()
    for path in kiln.settings.state.glob(f"{LEDGER}*"):
        path.unlink()
    kiln.start()
    kiln.run(90)
    assert {name: (kiln.outbox / name).read_bytes() for name in kiln.results()} == before
    assert kiln.asked == []
    assert kiln.voice("live/a.pth").state is State.DONE
    assert {str(file.path) for _, file in kiln.ledger.files(kiln.voice("live/a.pth").id)} == FACES
    for _ in range(40):
        kiln.skip(8 * 86400)
    assert kiln.results() == set()
    assert not (kiln.outbox / "live/a.moevs").exists()


def test_a_voice_that_waited_under_the_last_version_is_made_by_its_recipe(build: Callable[..., Kiln]) -> None:
    """Its row names one interface, as rows did then; the update changes nothing about it."""
    kiln = build(lambda _: None, recipes={"default": Recipe("default", ("fp16",))})
    kiln.drop("a.pth")
    kiln.run()
    older = {"name": "default", "precisions": ["fp16"], "opset": 17, "interface": "rvc", "verify": "full"}
    with kiln.ledger.together():
        kiln.ledger._db.execute("UPDATE voices SET taken = ?", (json.dumps(older),))
    kiln.configure(recipes={"default": Recipe("default")})
    kiln.answer = good
    kiln.crash()
    kiln.run(90)
    assert kiln.results() == {"a.onnx", "a.json"}
    assert kiln.read("a.json")["recipe"]["precisions"] == ["fp16"]
    assert kiln.read("a.json")["recipe"]["interfaces"] == ["rvc"]


SCHEMA = json.loads((Path(voicekiln.__file__).parent / "folders/sidecar.schema.json").read_text())
SOON = """
from voicekiln.folders import owner
from voicekiln.supervisor import ownership
ownership.BEAT_S, owner.STALE_S = 0.2, 1.2
"""
RECIPES = "recipes: {live: {precision: both, interface: 'rvc, w-okada, moevs', verify: quick}}\n"


def test_real_voices_come_out_with_all_faces_are_known_again_and_are_swept(tmp_path: Path) -> None:
    """Real processes: with f0 and without; then with another ledger, and at last with short lives."""
    (tmp_path / "inbox/live").mkdir(parents=True)
    with Daemon(tmp_path, CONFIG + RECIPES, SOON) as daemon:
        for name, f0 in (("a", True), ("plain", False)):
            write_tiny(tmp_path / "part", f0=f0).rename(daemon.inbox / f"live/{name}.pth")
        daemon.until_there("live/a.json", "live/plain.json")
        daemon.until(lambda: len(daemon.events("job.finished")) == 2)
        before = {path: path.read_bytes() for path in (daemon.outbox / "live").rglob("*.*") if path.is_file()}
        plain = {"live/plain.onnx", "live/plain.fp16.onnx", "live/plain.w-okada.onnx", "live/plain.w-okada.fp16.onnx"}
        assert {str(path.relative_to(daemon.outbox)) for path in before} == FACES | plain | {"live/plain.json"}
        for name in ("a", "plain"):
            body = daemon.read(f"live/{name}.json")
            jsonschema.validate(body, SCHEMA)
            assert body["recipe"]["interfaces"] == ["rvc", "w-okada", "moevs"]
            for file in body["onnx"]:
                path = daemon.outbox / "live" / file["name"]
                assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
                assert file["fidelity"][0]["snr_db"] >= file["fidelity"][0]["wanted_db"]
            path = daemon.outbox / f"live/{name}.w-okada.fp16.onnx"
            assert slot_of(path).f0 is (name == "a")
            assert Inferencer(path, slot_of(path)).session.get_outputs()[0].shape == ["samples"]
        assert any("moevs" in note for note in daemon.read("live/plain.json")["notes"])
        assert not any("moevs" in note for note in daemon.read("live/a.json")["notes"])
    for path in (tmp_path / "state").glob(f"{LEDGER}*"):
        path.unlink()
    with Daemon(tmp_path, CONFIG + RECIPES, SOON) as daemon:
        daemon.until(lambda: len(daemon.events("file.unchanged")) == 2)
        assert all(path.read_bytes() == content for path, content in before.items())
        assert len(daemon.events("job.started")) == 2
    short = CONFIG.replace("results: never", "results: 1s, every: 1s, max_share: 100%")
    with Daemon(tmp_path, short + RECIPES, SOON) as daemon:
        daemon.until(lambda: list((daemon.outbox / "live").iterdir()) == [])
