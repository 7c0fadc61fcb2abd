"""A checkpoint goes in, verified files and all that is to be said of them come out; or a refusal."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from numpy.typing import NDArray

from convert.small_checkpoints import saved, written
from tiny_voices import settings, tiny, write_tiny, write_training
from voicekiln import __version__, families
from voicekiln.convert import bench, device, template, verify
from voicekiln.convert import pipeline as pipeline_module
from voicekiln.convert.bench import UNVERIFIED
from voicekiln.convert.cache import Cache
from voicekiln.convert.fill import Filled, fill
from voicekiln.convert.graph import BadGraphError
from voicekiln.convert.pipeline import Pipeline, inspect
from voicekiln.convert.template import Kind, Template
from voicekiln.errors import BadNumbers, Contradiction, NotFaithful, Refusal, UnknownModel
from voicekiln.families import sample
from voicekiln.families.base import Exportable, Outline
from voicekiln.families.rvc import Rvc
from voicekiln.job import OPSETS, STAGES, Conversion, Precision, Recipe, Stage, Verify
from voicekiln.worker.wire import Finished, decode_answer, encode

BOTH = Recipe("both", ("fp32", "fp16"))
SHA = "5f" * 32


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """Return an empty folder."""
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which templates are kept, one for all tests that do not ask for their own."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def pipeline(templates: Path) -> Pipeline:
    """Return a pipeline with a clock that ticks once a second."""
    seconds = itertools.count()
    return Pipeline(Cache(templates), lambda: float(next(seconds)))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the titles of the networks that were exported, as it happens."""
    titles: list[str] = []
    real = template.float32

    def counted(exportable: Exportable, kind: Kind) -> Template:
        titles.append(exportable.title)
        return real(exportable, kind)

    monkeypatch.setattr(template, "float32", counted)
    return titles


def run(pipeline: Pipeline, source: Path, staging: Path, recipe: Recipe = BOTH) -> tuple[Conversion, list[Stage]]:
    """Convert a file; return what was made, and the stages as they were entered."""
    entered: list[Stage] = []
    return pipeline.convert(source, SHA, recipe, staging, entered.append), entered


@pytest.mark.parametrize("precisions", [("fp32",), ("fp16",), ("fp32", "fp16"), ("fp16", "fp32")])
def test_the_files_asked_for_and_no_others_are_left(
    pipeline: Pipeline, tmp_path: Path, staging: Path, precisions: tuple[Precision, ...]
) -> None:
    """Names, hashes and sizes are those of what lies on disk."""
    made, _ = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, Recipe("r", precisions))
    wanted = {f"rvc.{p}.onnx" for p in precisions}
    assert {file.name for file in made.files} == wanted == {p.name for p in staging.iterdir()}
    for file in made.files:
        data = (staging / file.name).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert file.fidelity[0].snr_db >= file.fidelity[0].wanted_db


def test_the_stages_are_announced_and_timed(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """Each stage in its order, file by file; one that is entered again adds up."""
    made, entered = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging)
    assert entered == ["load", "template", "fill", "verify", "template", "fill", "verify"]
    assert set(entered) == set(STAGES)
    assert made.seconds == {"load": 1, "template": 2, "fill": 2, "verify": 2}
    assert list(made.seconds) == list(STAGES)


def test_no_voice_is_touched_before_its_template_is_there(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the tools leaves no file behind."""

    def fail(*_: object) -> None:
        raise BadGraphError("the tools are broken")

    monkeypatch.setattr(template, "float32", fail)
    entered: list[Stage] = []
    with pytest.raises(BadGraphError):
        Pipeline(Cache(tmp_path / "templates")).convert(
            write_tiny(tmp_path / "voice.pth"), SHA, BOTH, staging, entered.append
        )
    assert entered == ["load", "template"]
    assert not list(staging.iterdir())


def test_nothing_is_halved_without_need(tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float32 recipe asks for no half-precision template."""
    monkeypatch.setattr(template, "half", None)
    pipeline = Pipeline(Cache(tmp_path / "templates"))
    run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, Recipe("r"))
    assert len(list((tmp_path / "templates").iterdir())) == 1


def test_a_second_voice_is_not_exported(tmp_path: Path, exports: list[str]) -> None:
    """Nor a third in another process, nor for another precision: the exporter is asked once for an architecture."""
    first, second, third = (write_tiny(tmp_path / f"{seed}.pth", seed=seed) for seed in range(3))
    pipeline = Pipeline(Cache(tmp_path / "templates"))
    made = [run(pipeline, source, folder(tmp_path, source.stem))[0] for source in (first, second, first)]
    made.append(run(Pipeline(Cache(tmp_path / "templates")), third, folder(tmp_path, "third"))[0])
    assert exports == ["RVC v2, 40000 Hz, f0"]
    hashes = [made_.files[0].sha256 for made_ in made]
    assert hashes[0] == hashes[2]
    assert len(set(hashes)) == 3
    run(pipeline, write_tiny(tmp_path / "other.pth", sr=48_000), folder(tmp_path, "other"))
    assert exports[1:] == ["RVC v2, 48000 Hz, f0"]


def folder(tmp_path: Path, name: str) -> Path:
    """Return an empty folder."""
    made = tmp_path / f"staging of {name}"
    made.mkdir(exist_ok=True)
    return made


def test_a_folder_for_templates_that_fails_costs_nothing_but_time(
    tmp_path: Path, staging: Path, exports: list[str]
) -> None:
    """The voice is converted all the same, to the same bytes."""
    source = write_tiny(tmp_path / "voice.pth")
    (tmp_path / "file").write_bytes(b"in the way")
    made = [
        run(Pipeline(Cache(at)), source, staging)[0].files for at in (tmp_path / "templates", tmp_path / "file" / "t")
    ]
    assert made[0] == made[1]
    assert len(exports) == 2


@pytest.mark.parametrize("verify_", ["full", "quick"])
def test_the_lengths_that_were_run_are_told(pipeline: Pipeline, tmp_path: Path, staging: Path, verify_: Verify) -> None:
    """They are the recipe's, for every file and provider; there is nothing to remark."""
    recipe = Recipe("r", ("fp32", "fp16"), verify=verify_)
    made, entered = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, recipe)
    assert {fidelity.frames for file in made.files for fidelity in file.fidelity} == {verify.LENGTHS[verify_]}
    assert [fidelity.provider for fidelity in made.files[0].fidelity] == list(device.providers())
    assert entered.count("verify") == 2
    assert made.notes == ()


def test_what_was_not_compared_is_told_as_such(
    pipeline: Pipeline, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs, no network is loaded, and a note says that nobody has listened; the bytes are the same."""
    source = write_tiny(tmp_path / "voice.pth")
    full, _ = run(pipeline, source, staging)
    monkeypatch.setattr(bench, "verify", None)
    monkeypatch.setattr(pipeline._references, "load", None)
    made, entered = run(pipeline, source, staging, replace(BOTH, verify="off"))
    assert entered == ["load", "template", "fill", "template", "fill"]
    assert "verify" not in made.seconds
    assert [file.fidelity for file in made.files] == [(), ()]
    assert made.notes == (UNVERIFIED,)
    assert [file.sha256 for file in made.files] == [file.sha256 for file in full.files]


def test_rows_of_zeros_are_refused_though_nobody_listens(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """A number that is none is found while it is written."""
    voice = tiny()
    voice["weight"]["dec.ups.0.weight_v"][1] = 0
    source = written(tmp_path / "v.pth", saved(voice))
    with pytest.raises(BadNumbers, match=r"dec\.ups\.0"):
        run(pipeline, source, staging, Recipe("r", verify="off"))


def test_what_is_said_crosses_the_wire(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """The supervisor reads the conversion back as it was."""
    made, _ = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging)
    answer = decode_answer(encode(Finished("job", made)))
    assert isinstance(answer, Finished)
    assert answer.conversion == made


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_that_a_recipe_may_name_works(
    pipeline: Pipeline, tmp_path: Path, staging: Path, opset: int
) -> None:
    """Both precisions are made and verified, and the file declares the opset."""
    made, _ = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, replace(BOTH, opset=opset))
    for file in made.files:
        [declared] = onnx.load(staging / file.name).opset_import
        assert declared.version == file.opset == opset


def test_the_file_says_what_it_is(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """A client finds the rate and the like in the ONNX file itself, and where it came from."""
    run(pipeline, write_tiny(tmp_path / "voice.pth"), staging)
    for precision, arithmetic in (("fp32", "float32"), ("fp16", "half")):
        model = onnx.load(staging / f"rvc.{precision}.onnx")
        facts = {prop.key: prop.value for prop in model.metadata_props}
        assert (facts["precision"], facts["arithmetic"]) == (precision, arithmetic)
        assert facts["source_sha256"] == SHA
        assert facts["voicekiln_version"] == __version__
        assert facts["sample_rate"] == "40000"
        assert model.producer_name == "voicekiln"


def test_equal_sources_give_equal_files(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """The same voice and recipe give the same bytes, so that a hash says something."""
    source, pipelines = write_tiny(tmp_path / "voice.pth"), (pipeline, Pipeline(Cache(tmp_path / "templates")))
    first, second = (run(one, source, staging)[0] for one in pipelines)
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]


def test_the_interface_is_told(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """The six inputs that clients know, in their order."""
    [file] = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, Recipe("r"))[0].files
    assert [port.name for port in file.inputs] == ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]
    assert [port.name for port in file.outputs] == ["audio"]


@pytest.mark.parametrize("f0", [True, False])
@pytest.mark.parametrize(("version", "rate"), [("v1", 32_000), ("v1", 48_000), ("v2", 24_000), ("v2", 48_000)])
def test_voices_of_every_build_are_converted(  # noqa: PLR0913 - what makes a build, and the fixtures
    pipeline: Pipeline, tmp_path: Path, staging: Path, version: str, rate: int, *, f0: bool
) -> None:
    """Versions, rates, with and without f0; in both precisions."""
    source = write_tiny(tmp_path / "voice.pth", version=version, sr=rate, f0=f0)
    made, _ = run(pipeline, source, staging)
    assert made.model["sample_rate"] == rate
    assert ("pitchf" in {port.name for port in made.files[0].inputs}) is f0


@pytest.mark.parametrize("legacy", [False, True])
def test_older_and_float_files_are_converted(
    pipeline: Pipeline, tmp_path: Path, staging: Path, *, legacy: bool
) -> None:
    """The stream of pickles that old tools wrote, and weights that were never halved."""
    voice = tiny()
    voice["weight"] = {name: tensor.float() for name, tensor in voice["weight"].items()}
    source = written(tmp_path / "voice.pth", saved(voice, legacy=legacy))
    assert run(pipeline, source, staging, Recipe("r"))[0].model["weights"] == "float"


def test_a_training_checkpoint_is_converted_with_a_note(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """The most common mistake becomes a voice."""
    made, _ = run(pipeline, write_training(tmp_path / "G_200.pth"), staging, Recipe("r"))
    assert any("training checkpoint" in note for note in made.notes)


def test_inspect_shows_the_model_without_converting(tmp_path: Path) -> None:
    """What `inspect` and the sidecar show is the same."""
    model, notes = inspect(write_tiny(tmp_path / "voice.pth"))
    assert (model["family"], model["version"], model["sample_rate"]) == ("rvc", "v2", 40_000)
    assert isinstance(notes, tuple)


def test_what_no_family_knows_is_refused(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """A sound checkpoint of something else."""
    source = written(tmp_path / "other.pth", saved({"state_dict": {"fc.weight": torch.ones(3, 3)}}))
    for act in (lambda: inspect(source), lambda: run(pipeline, source, staging)):
        with pytest.raises(UnknownModel):
            act()


def test_a_missing_tensor_is_a_contradiction(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """Nothing is filled with random numbers."""
    voice = tiny()
    voice["weight"].pop("dec.conv_post.weight")
    with pytest.raises(Contradiction):
        run(pipeline, written(tmp_path / "v.pth", saved(voice)), staging)


@pytest.mark.parametrize("name", ["dec.conv_post.weight", "flow.flows.0.enc.cond_layer.bias", "emb_g.weight"])
def test_a_file_that_is_not_the_network_is_not_finished(
    pipeline: Pipeline, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is verified are the bytes on disk: a weight that changes while they are written is found."""

    def careless(model: onnx.ModelProto, weight: Callable[[str], torch.Tensor], facts: Any, path: Path) -> Filled:
        return fill(model, lambda asked: weight(asked) * (asked != name), facts, path)

    monkeypatch.setattr(bench, "fill", careless)
    with pytest.raises(NotFaithful):
        run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, Recipe("r"))


def worse_by(decibels: list[float]) -> Callable[..., verify.Difference]:
    """Return a measure that takes so many dB from half-precision results, one number for each file."""
    real, runs = verify.difference, itertools.count()

    def measure(reference: NDArray[Any], got: NDArray[Any]) -> verify.Difference:
        found = real(reference, got)
        if found.snr_db > 90:  # float32
            return found
        taken = decibels[next(runs) // len(verify.LENGTHS["full"])]
        return verify.Difference(found.snr_db - taken, found.max_abs)

    return measure


def test_half_arithmetic_that_is_too_coarse_gives_way(
    pipeline: Pipeline, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are then stored as half and computed with in float32; the person is told."""
    monkeypatch.setattr(verify, "difference", worse_by([60, 0]))
    made, entered = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging, Recipe("half", ("fp16",)))
    assert entered == ["load", "template", "fill", "verify", "template", "fill", "verify"]
    assert {path.name for path in staging.iterdir()} == {"rvc.fp16.onnx"}
    assert "computes in float32" in made.notes[-1]
    facts = {prop.key: prop.value for prop in onnx.load(staging / "rvc.fp16.onnx").metadata_props}
    assert (facts["precision"], facts["arithmetic"]) == ("fp16", "float32")


def test_a_half_file_that_cannot_be_saved_is_refused(
    pipeline: Pipeline, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If neither way is faithful, the refusal names the precision that failed."""
    monkeypatch.setattr(verify, "difference", worse_by([60, 60]))
    with pytest.raises(NotFaithful) as caught:
        run(pipeline, write_tiny(tmp_path / "voice.pth"), staging)
    assert caught.value.found["precision"] == "fp16"


def test_metadata_of_a_hostile_voice_is_cleaned(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """Texts of the file reach the ONNX metadata without control characters or surrogates."""
    voice = tiny() | {"embedder_model": "spin\x1b[2J\ud800\u202e", "author": "\ud800" * 10}
    run(pipeline, written(tmp_path / "v.pth", saved(voice)), staging, Recipe("r"))
    model = onnx.load(staging / "rvc.fp32.onnx")
    assert all(prop.value.isprintable() for prop in model.metadata_props)


def test_an_empty_file_is_refused_before_anything_is_written(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """A refusal at the door leaves the staging folder empty."""
    with pytest.raises(Refusal):
        run(pipeline, written(tmp_path / "v.pth", b""), staging)
    assert not list(staging.iterdir())


# What is kept between voices.


class Usual(Rvc):
    """RVC, if most people had two tiny voices."""

    def usual(self) -> tuple[Outline, ...]:
        """Return a voice with f0 and one without."""
        return tuple(sample.outline(settings(f0=f0)) for f0 in (True, False))


@pytest.fixture
def _tiny_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the families have nothing large that is usual."""
    monkeypatch.setattr(families, "FAMILIES", (Usual(),))


@pytest.mark.usefixtures("_tiny_is_usual")
def test_templates_of_the_usual_networks_are_made_beforehand(tmp_path: Path, staging: Path, exports: list[str]) -> None:
    """All that the recipes can need: half precision in both arithmetics. A voice then needs no exporter."""
    pipeline = Pipeline(Cache(tmp_path / "templates"))
    entered: list[tuple[Stage, int, int]] = []
    recipes = (BOTH, replace(BOTH, name="again", verify="off"))
    shown = pipeline.templates("build", recipes, lambda *at: entered.append(at))
    assert entered == [("template", step, 6) for step in range(1, 7)]
    found = {(one["title"], one["precision"], one["arithmetic"]) for one in shown["templates"]}
    titles = ["RVC v2, 40000 Hz, f0", "RVC v2, 40000 Hz, no f0"]
    forms = [("fp32", "float32"), ("fp16", "half"), ("fp16", "float32")]
    assert found == {(title, *form) for title in titles for form in forms}
    assert len(shown["templates"]) == 6
    assert exports == titles
    run(Pipeline(Cache(tmp_path / "templates")), write_tiny(tmp_path / "voice.pth"), staging)
    pipeline.templates("build", (BOTH,), lambda *_: None)
    assert exports == titles


@pytest.mark.usefixtures("_tiny_is_usual")
def test_only_what_a_recipe_asks_for_is_made(tmp_path: Path) -> None:
    """Its precisions and its opset; of no recipe, nothing."""
    pipeline = Pipeline(Cache(tmp_path / "templates"))
    assert pipeline.templates("build", (), lambda *_: None) == {"templates": []}
    shown = pipeline.templates("build", (Recipe("r", opset=18),), lambda *_: None)["templates"]
    assert [(one["precision"], one["opset"]) for one in shown] == [("fp32", 18)] * 2


@pytest.mark.usefixtures("_tiny_is_usual")
def test_what_is_kept_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With size and state, in JSON values: ready, outdated by another release, damaged. Nothing is made for it."""
    at = tmp_path / "templates"
    pipeline = Pipeline(Cache(at))
    assert pipeline.templates("list", (BOTH,), lambda *_: None) == {"templates": []}
    pipeline.templates("build", (Recipe("r"),), lambda *_: None)
    damaged, sound = sorted(at.iterdir())
    damaged.write_bytes(b"nonsense")
    listed = {one["file"]: one for one in pipeline.templates("list", (), lambda *_: None)["templates"]}
    assert json.loads(json.dumps(listed)) == listed
    assert listed[damaged.name] == {"file": damaged.name, "bytes": 8, "state": "damaged"}
    assert (listed[sound.name]["bytes"], listed[sound.name]["state"]) == (sound.stat().st_size, "ready")
    monkeypatch.setattr(pipeline_module, "maker", lambda: "another release")
    states = {one["file"]: one["state"] for one in pipeline.templates("list", (), lambda *_: None)["templates"]}
    assert states == {damaged.name: "damaged", sound.name: "outdated"}


@pytest.mark.usefixtures("_tiny_is_usual")
def test_what_is_kept_can_be_removed(tmp_path: Path, exports: list[str]) -> None:
    """All of it, and it is made again when it is asked for."""
    pipeline = Pipeline(Cache(tmp_path / "templates"))
    pipeline.templates("build", (Recipe("r"),), lambda *_: None)
    assert pipeline.templates("clear", (), lambda *_: None) == {"removed": 2}
    assert not list((tmp_path / "templates").iterdir())
    assert pipeline.templates("clear", (), lambda *_: None) == {"removed": 0}
    pipeline.templates("build", (Recipe("r"),), lambda *_: None)
    assert len(exports) == 4


def test_a_voice_of_a_very_high_rate_is_converted(pipeline: Pipeline, tmp_path: Path, staging: Path) -> None:
    """The graph counts the samples of a frame, and is not mistaken for one with weights in it when they are many."""
    high = {"rates": (12, 10, 4, 4), "up_kernels": (24, 20, 8, 8), "sample_rate": 192_000}
    made, _ = run(pipeline, write_tiny(tmp_path / "voice.pth", **high), staging, Recipe("r"))
    assert made.model["sample_rate"] == 192_000


def test_the_picture_is_of_the_file_whose_figure_stands_beside_it(
    pipeline: Pipeline, tmp_path: Path, staging: Path
) -> None:
    """Of several files the least faithful is shown: its difference lies as far below the wave as its figure says."""
    conversion, _ = run(pipeline, write_tiny(tmp_path / "voice.pth"), staging)
    worst_db = min(found.snr_db for file in conversion.files for found in file.fidelity)
    tracks = base64.urlsafe_b64decode(conversion.picture)
    wave, difference = (sum(10 ** ((b - 255) / 12.75) for b in tracks[at : at + 100]) for at in (400, 500))
    assert 10 * math.log10(wave / difference) == pytest.approx(worst_db, abs=8)
