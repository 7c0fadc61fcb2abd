"""What a sidecar tells of several parts and of bare numbers, and that it can be read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import jsonschema
import pytest

import voicekiln
from endings import converted
from voicekiln import words
from voicekiln.errors import Contradiction
from voicekiln.folders import sidecar
from voicekiln.folders.outbox import Piece
from voicekiln.job import Conversion, DataFile, Job, OnnxFile, Part, Precision, Recipe, staged, staged_files

SCHEMA = json.loads((Path(voicekiln.__file__).parent / "folders/sidecar.schema.json").read_text())
BASE = PurePosixPath("anna/G_1000")
MODEL = {"family": "so-vits-svc", "version": "4.1", "sample_rate": 44100, "f0": True, "speakers": 2} | {
    "parameters": 52_000_000,
    "weights": "float",
}


def conversion(tmp_path: Path, parts: tuple[Part, ...], precisions: tuple[Precision, ...] = ("fp32",)) -> Conversion:
    """Return a conversion with these parts and one array, as a worker would tell of it."""
    job = Job("j", tmp_path / "source", tmp_path, "5f" * 32, Recipe("default"))
    made = converted(job).conversion
    made = replace(made, seconds={"load": 0.1, "template": 1.5, "fill": 0.2}, device=made.device | {"providers": []})
    [plain] = made.files
    files = [_file(plain, part, precision) for part in parts for precision in precisions]
    array = DataFile("KMeans", "ab" * 32, 128, "float32", (2, 3))
    return replace(made, files=tuple(files), data=(array,), model=MODEL)


def _file(plain: OnnxFile, part: Part, precision: Precision) -> OnnxFile:
    client = {"Type": "SoVits", "Rate": 44100} if part == "moevs" else {}
    same = "so-vits-svc" if part == "moevs" else part
    sha256 = f"{len(same):02x}{len(precision):02x}" * 16
    return replace(
        plain, name=staged(same, precision), interface=part, precision=precision, client=client, sha256=sha256
    )


def pieces(made: Conversion, recipe: Recipe) -> list[Piece]:
    """Return what is laid into the outbox."""
    origin = sidecar.Origin(PurePosixPath("anna/G_1000.pth"), "5f" * 32, 55, 1e9, "ledger")
    return sidecar.result(origin, made, recipe, BASE, staged_files(made, Path("staging")), 1e9)


@pytest.mark.parametrize("moevs", [False, True])
def test_extra_parts_never_take_the_plain_name(tmp_path: Path, moevs: bool) -> None:  # noqa: FBT001 - parametrised
    """The main part has it, or nobody if the voice is only for a client with a folder of its own."""
    main: Part = "moevs" if moevs else "so-vits-svc"
    made = conversion(tmp_path, (main, "autof0"), ("fp32", "fp16"))
    found = [str(piece.path) for piece in pieces(made, Recipe("both", ("fp32", "fp16")))]
    extra = ["anna/G_1000.autof0.onnx", "anna/G_1000.autof0.fp16.onnx", "anna/G_1000.KMeans.npy", "anna/G_1000.json"]
    own = "anna/G_1000.moevs/G_1000"
    theirs = [f"{own}/G_1000_SoVits.onnx", f"{own}.json"]
    theirs += [f"{own}-fp16/G_1000-fp16_SoVits.onnx", f"{own}-fp16.json"]
    assert found == (theirs if moevs else ["anna/G_1000.onnx", "anna/G_1000.fp16.onnx"]) + extra


def test_what_lay_beside_the_source_is_told_and_read_back(tmp_path: Path) -> None:
    """With its hashes, in a refusal as well; what is not written so is believed by nobody."""
    beside = {"config.json": "ab" * 32, "G_1000.yaml": None}
    origin = sidecar.Origin(PurePosixPath("anna/G_1000.pth"), "5f" * 32, 55, 1e9, "ledger", beside)
    made, recipe = conversion(tmp_path, ("so-vits-svc",)), Recipe("default")
    text = sidecar.result(origin, made, recipe, BASE, staged_files(made, Path("staging")), 1e9)[-1].text
    body = json.loads(text)
    jsonschema.validate(body, SCHEMA)
    told = sidecar.read(text)
    assert told is not None
    assert told.beside == beside == body["source"]["beside"]
    refused = sidecar.refusal(origin, Contradiction(what="it is odd"), BASE, 1e9, words.of("en"))
    schema = json.loads(Path(sidecar.__file__).with_name("refusal.schema.json").read_text())
    jsonschema.validate(json.loads(refused.text), schema)
    for forged in ({"config.json": "../x"}, {"config.json": 3}, ["config.json"], "x", {"a\nb": None}):
        changed = body | {"source": body["source"] | {"beside": forged}}
        assert sidecar.read(json.dumps(changed).encode()) is None


def test_what_is_told_is_read_back_and_as_the_schema_says(tmp_path: Path) -> None:
    """Parts, numbers and the recipe's mix, so that another daemon can adopt the folder."""
    recipe = Recipe("mix", interfaces=("rvc", "moevs"), speaker_mix=True)
    made = conversion(tmp_path, ("so-vits-svc", "moevs", "autof0"))
    text = pieces(made, recipe)[-1].text
    jsonschema.validate(json.loads(text), SCHEMA)
    told = sidecar.read(text)
    assert told is not None
    assert told.recipe == recipe
    assert told.conversion.data == made.data
    assert [file.interface for file in told.conversion.files] == ["so-vits-svc", "moevs", "autof0"]
    kinds = {file.path.name: file.kind for file in told.files}
    assert kinds["G_1000.KMeans.npy"] == "data"
    assert kinds["G_1000_SoVits.onnx"] == "onnx"


@pytest.mark.parametrize("change", [{"data": "secrets"}, {"shape": [-1]}, {"bytes": "many"}, {"sha256": "../x"}])
def test_a_forged_array_is_not_believed(tmp_path: Path, change: dict[str, object]) -> None:
    """Whoever may write to the outbox may write a sidecar."""
    body = json.loads(pieces(conversion(tmp_path, ("so-vits-svc",)), Recipe("default"))[-1].text)
    assert sidecar.read(json.dumps(body).encode()) is not None
    body["data"][0] |= change
    assert sidecar.read(json.dumps(body).encode()) is None


def test_a_mix_is_another_recipe() -> None:
    """Its files differ."""
    assert Recipe("a").fingerprint != Recipe("a", speaker_mix=True).fingerprint
