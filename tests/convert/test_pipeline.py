"""A checkpoint goes in, verified files and all that is to be said of them come out; or a refusal."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from numpy.typing import NDArray

from convert.small_checkpoints import saved, written
from tiny_voices import tiny, write_tiny, write_training
from voicekiln import __version__
from voicekiln.convert import pipeline, verify
from voicekiln.convert.graph import stamp
from voicekiln.convert.pipeline import convert, inspect
from voicekiln.errors import Contradiction, NotFaithful, Refusal, UnknownModel
from voicekiln.job import OPSETS, STAGES, Conversion, Precision, Recipe, Stage
from voicekiln.worker.wire import Finished, decode_answer, encode

BOTH = Recipe("both", ("fp32", "fp16"))
SHA = "5f" * 32


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """Return an empty folder."""
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


def converted(tmp_path: Path, staging: Path, recipe: Recipe = BOTH, entered: list[Stage] | None = None) -> Conversion:
    """Convert a tiny voice with a clock that ticks once a second."""
    seconds = itertools.count()
    stages: list[Stage] = [] if entered is None else entered
    source = write_tiny(tmp_path / "voice.pth")
    return convert(source, SHA, recipe, staging, stages.append, lambda: float(next(seconds)))


@pytest.mark.parametrize("precisions", [("fp32",), ("fp16",), ("fp32", "fp16"), ("fp16", "fp32")])
def test_the_files_asked_for_and_no_others_are_left(
    tmp_path: Path, staging: Path, precisions: tuple[Precision, ...]
) -> None:
    """Names, hashes and sizes are those of what lies on disk."""
    made = converted(tmp_path, staging, Recipe("r", precisions))
    assert (
        {file.name for file in made.files} == {f"{p}.onnx" for p in precisions} == {p.name for p in staging.iterdir()}
    )
    for file in made.files:
        data = (staging / file.name).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert file.fidelity[0].snr_db >= file.fidelity[0].wanted_db


def test_the_stages_are_announced_and_timed(tmp_path: Path, staging: Path) -> None:
    """Each stage in its order; one that is entered twice adds up."""
    entered: list[Stage] = []
    made = converted(tmp_path, staging, BOTH, entered)
    assert entered == ["load", "build", "export", "verify", "halve", "verify"]
    assert set(entered) == set(STAGES)
    assert made.seconds == {"load": 1, "build": 1, "export": 1, "halve": 1, "verify": 2}


def test_nothing_is_halved_without_need(tmp_path: Path, staging: Path) -> None:
    """A float32 recipe has no such stage."""
    entered: list[Stage] = []
    converted(tmp_path, staging, Recipe("r"), entered)
    assert "halve" not in entered


def test_what_is_said_crosses_the_wire(tmp_path: Path, staging: Path) -> None:
    """The supervisor reads the conversion back as it was."""
    made = converted(tmp_path, staging)
    answer = decode_answer(encode(Finished("job", made)))
    assert isinstance(answer, Finished)
    assert answer.conversion == made


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_that_a_recipe_may_name_works(tmp_path: Path, staging: Path, opset: int) -> None:
    """Both precisions are made and verified, and the file declares the opset."""
    made = converted(tmp_path, staging, Recipe("r", ("fp32", "fp16"), opset))
    for file in made.files:
        [declared] = onnx.load(staging / file.name).opset_import
        assert declared.version == file.opset == opset


def test_the_file_says_what_it_is(tmp_path: Path, staging: Path) -> None:
    """A client finds the rate and the like in the ONNX file itself, and where it came from."""
    converted(tmp_path, staging)
    for precision in ("fp32", "fp16"):
        model = onnx.load(staging / f"{precision}.onnx")
        facts = {prop.key: prop.value for prop in model.metadata_props}
        assert facts["precision"] == precision
        assert facts["source_sha256"] == SHA
        assert facts["voicekiln_version"] == __version__
        assert facts["sample_rate"] == "40000"
        assert model.producer_name == "voicekiln"


def test_equal_sources_give_equal_files(tmp_path: Path, staging: Path) -> None:
    """The same voice and recipe give the same bytes, so that a hash says something."""
    again = tmp_path / "again"
    again.mkdir()
    first, second = converted(tmp_path, staging), converted(tmp_path, again)
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]


def test_the_interface_is_told(tmp_path: Path, staging: Path) -> None:
    """The six inputs that clients know, in their order."""
    [file] = converted(tmp_path, staging, Recipe("r")).files
    assert [port.name for port in file.inputs] == ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]
    assert [port.name for port in file.outputs] == ["audio"]


@pytest.mark.parametrize("f0", [True, False])
@pytest.mark.parametrize(("version", "rate"), [("v1", 32_000), ("v1", 48_000), ("v2", 24_000), ("v2", 48_000)])
def test_voices_of_every_build_are_converted(
    tmp_path: Path, staging: Path, version: str, rate: int, *, f0: bool
) -> None:
    """Versions, rates, with and without f0; in both precisions."""
    source = write_tiny(tmp_path / "voice.pth", version=version, sr=rate, f0=f0)
    made = convert(source, SHA, BOTH, staging, lambda _: None)
    assert made.model["sample_rate"] == rate
    assert ("pitchf" in {port.name for port in made.files[0].inputs}) is f0


@pytest.mark.parametrize("legacy", [False, True])
def test_older_and_float_files_are_converted(tmp_path: Path, staging: Path, *, legacy: bool) -> None:
    """The stream of pickles that old tools wrote, and weights that were never halved."""
    voice = tiny()
    voice["weight"] = {name: tensor.float() for name, tensor in voice["weight"].items()}
    source = written(tmp_path / "voice.pth", saved(voice, legacy=legacy))
    assert convert(source, SHA, Recipe("r"), staging, lambda _: None).model["weights"] == "float"


def test_a_training_checkpoint_is_converted_with_a_note(tmp_path: Path, staging: Path) -> None:
    """The most common mistake becomes a voice."""
    made = convert(write_training(tmp_path / "G_200.pth"), SHA, Recipe("r"), staging, lambda _: None)
    assert any("training checkpoint" in note for note in made.notes)


def test_inspect_shows_the_model_without_converting(tmp_path: Path) -> None:
    """What `inspect` and the sidecar show is the same."""
    model, notes = inspect(write_tiny(tmp_path / "voice.pth"))
    assert (model["family"], model["version"], model["sample_rate"]) == ("rvc", "v2", 40_000)
    assert isinstance(notes, tuple)


def test_what_no_family_knows_is_refused(tmp_path: Path, staging: Path) -> None:
    """A sound checkpoint of something else."""
    source = written(tmp_path / "other.pth", saved({"state_dict": {"fc.weight": torch.ones(3, 3)}}))
    for act in (lambda: inspect(source), lambda: convert(source, SHA, BOTH, staging, lambda _: None)):
        with pytest.raises(UnknownModel):
            act()


def test_a_missing_tensor_is_a_contradiction(tmp_path: Path, staging: Path) -> None:
    """Nothing is filled with random numbers."""
    voice = tiny()
    voice["weight"].pop("dec.conv_post.weight")
    with pytest.raises(Contradiction):
        convert(written(tmp_path / "v.pth", saved(voice)), SHA, BOTH, staging, lambda _: None)


@pytest.mark.parametrize("name", ["dec.conv_post.weight", "flow.flows.0.enc.cond_layer.bias", "emb_g.weight"])
def test_a_file_that_is_not_the_network_is_not_finished(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is verified are the bytes on disk: a weight that changes while they are written is found."""

    def careless(model: onnx.ModelProto, facts: dict[str, str]) -> None:
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        tensor.raw_data = bytes(len(tensor.raw_data))
        stamp(model, facts)

    monkeypatch.setattr(pipeline, "stamp", careless)
    with pytest.raises(NotFaithful):
        converted(tmp_path, staging, Recipe("r"))


def worse_by(decibels: list[float]) -> Callable[..., verify.Difference]:
    """Return a measure that takes so many dB from half-precision results, one number for each file."""
    real, runs = verify.difference, itertools.count()

    def measure(reference: NDArray[Any], got: NDArray[Any]) -> verify.Difference:
        found = real(reference, got)
        if found.snr_db > 90:  # float32
            return found
        taken = decibels[next(runs) // len(verify.LENGTHS)]
        return verify.Difference(found.snr_db - taken, found.max_abs)

    return measure


def test_half_arithmetic_that_is_too_coarse_gives_way(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are then stored as half and computed with in float32; the person is told."""
    monkeypatch.setattr(verify, "difference", worse_by([60, 0]))
    entered: list[Stage] = []
    made = converted(tmp_path, staging, Recipe("half", ("fp16",)), entered)
    assert entered == ["load", "build", "export", "halve", "verify", "halve", "verify"]
    assert "computes in float32" in made.notes[-1]
    facts = {prop.key: prop.value for prop in onnx.load(staging / "fp16.onnx").metadata_props}
    assert (facts["precision"], facts["arithmetic"]) == ("fp16", "float32")


def test_a_half_file_that_cannot_be_saved_is_refused(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If neither way is faithful, the refusal names the precision that failed."""
    monkeypatch.setattr(verify, "difference", worse_by([60, 60]))
    with pytest.raises(NotFaithful) as caught:
        converted(tmp_path, staging)
    assert caught.value.found["precision"] == "fp16"


def test_metadata_of_a_hostile_voice_is_cleaned(tmp_path: Path, staging: Path) -> None:
    """Texts of the file reach the ONNX metadata without control characters or surrogates."""
    voice = tiny() | {"embedder_model": "spin\x1b[2J\ud800\u202e", "author": "\ud800" * 10}
    convert(written(tmp_path / "v.pth", saved(voice)), SHA, Recipe("r"), staging, lambda _: None)
    model = onnx.load(staging / "fp32.onnx")
    assert all(prop.value.isprintable() for prop in model.metadata_props)


def test_an_empty_file_is_refused_before_anything_is_written(tmp_path: Path, staging: Path) -> None:
    """A refusal at the door leaves the staging folder empty."""
    with pytest.raises(Refusal):
        convert(written(tmp_path / "v.pth", b""), SHA, BOTH, staging, lambda _: None)
    assert not list(staging.iterdir())
