"""One network, several faces: each opens in the client that it is for, and they cost one conversion of the weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import voicekiln
from endings import FACES
from live_client import Inferencer, Microphone, Slot, open_session, slot_of
from tiny_voices import write_tiny
from voicekiln.convert import bench, pipeline, template
from voicekiln.convert.cache import Cache
from voicekiln.convert.checkpoint import Checkpoint, open_checkpoint
from voicekiln.convert.fill import fill
from voicekiln.convert.pipeline import Pipeline
from voicekiln.convert.verify import verify
from voicekiln.errors import NoSuchFace, NotFaithful
from voicekiln.families import weights
from voicekiln.families.rvc_feed import coarse, glide
from voicekiln.families.weights import Rule
from voicekiln.folders import sidecar
from voicekiln.folders.outbox import Delivery, Rights, publish
from voicekiln.job import Conversion, Interface, Precision, Recipe, Verify
from voicekiln.worker.wire import Finished, decode_answer, encode

SCHEMA = json.loads((Path(voicekiln.__file__).parent / "folders/sidecar.schema.json").read_text())
ALL = Recipe("all", ("fp32", "fp16"), interfaces=FACES)
VOICES = [(version, f0) for version in ("v1", "v2") for f0 in (True, False)]
FRAMES = 230


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of templates that all tests here share."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="module")
def made(
    templates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, bool], tuple[Path, Conversion]]:
    """Return for each kind of voice where its files lie, and what was said of them."""
    found = {}
    for version, f0 in VOICES:
        folder = tmp_path_factory.mktemp("made")
        found[version, f0] = folder / "staging", convert(templates, folder, version=version, f0=f0)
    return found


Made = Mapping[tuple[str, bool], tuple[Path, Conversion]]


def convert(templates: Path, folder: Path, recipe: Recipe = ALL, **voice: Any) -> Conversion:
    """Convert a tiny voice into `folder/staging`."""
    (folder / "staging").mkdir()
    source = write_tiny(folder / "voice.pth", **voice)
    return Pipeline(Cache(templates)).convert(source, "5f" * 32, recipe, folder / "staging", lambda *_: None)


def said(f0: bool, width: int) -> tuple[Any, Any, Any]:  # noqa: FBT001 - named where it is called
    """Return features, coarse pitch and f0 of something that is said; no pitch where there is none."""
    features = np.random.default_rng(7).standard_normal((1, FRAMES, width), dtype=np.float32)
    hz = glide(FRAMES)[None]
    return (features, coarse(hz), hz) if f0 else (features, None, None)


@pytest.mark.parametrize(("version", "f0"), VOICES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_live_client_knows_the_voice_and_speaks_with_it(
    made: Made,
    version: str,
    f0: bool,  # noqa: FBT001 - parametrised
    precision: Precision,
) -> None:
    """Its slot has the voice's own facts, and chunk by chunk the right number of sound samples comes out."""
    path = made[version, f0][0] / f"w-okada.{precision}.onnx"
    two = version == "v2"
    slot = slot_of(path)
    assert slot == Slot(
        model_type="onnxRVC" if f0 else "onnxRVCNono",
        sampling_rate=40_000,
        f0=f0,
        emb_channels=768 if two else 256,
        emb_output_layer=12 if two else 9,
        use_final_proj=not two,
        embedder="hubert_base",
        version="2.1",
        deprecated=False,
    )
    client = Microphone(Inferencer(path, slot), hop=400)
    audio = client.speak(*said(f0, slot.emb_channels), chunk=60)
    assert audio.shape == (FRAMES * 400,)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()
    assert float(np.abs(audio).max()) <= 1
    assert float(audio.std()) > 1e-4


@pytest.mark.parametrize(("version", "f0"), VOICES)
def test_what_the_live_client_reads_is_all_that_its_own_exporter_writes(made: Made, version: str, f0: bool) -> None:  # noqa: FBT001 - parametrised
    """Key by key, beside our own."""
    facts = metadata(made[version, f0][0] / "w-okada.fp32.onnx")
    two = version == "v2"
    assert json.loads(facts["metadata"]) == {
        "application": "VC_CLIENT",
        "version": "2.1",
        "modelType": ("pyTorchRVCv2" if two else "pyTorchRVC") + ("" if f0 else "Nono"),
        "samplingRate": 40_000,
        "f0": f0,
        "embChannels": 768 if two else 256,
        "embedder": "hubert_base",
        "embOutputLayer": 12 if two else 9,
        "useFinalProj": not two,
    }
    assert (facts["family"], facts["source_sha256"]) == ("rvc", "5f" * 32)
    assert "rnd_scale" not in facts


def metadata(path: Path) -> dict[str, str]:
    """Return a file's metadata."""
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_live_client_cannot_open_the_face_of_rvc(made: Made) -> None:
    """Which is why there is another: it lacks the inputs, in the client's own words."""
    path = made["v2", True][0] / "rvc.fp32.onnx"
    assert slot_of(path).deprecated
    client = Inferencer(path, slot_of(made["v2", True][0] / "w-okada.fp32.onnx"))
    with pytest.raises(ValueError, match=r"Required inputs \(\['phone', 'phone_lengths', 'ds', 'rnd'\]\) are missing"):
        client.infer(*said(True, 768), sid=0)  # noqa: FBT003 - with f0


def test_without_metadata_the_live_client_takes_every_voice_for_an_old_one(made: Made, tmp_path: Path) -> None:
    """256 features instead of 768: the well-known complaint."""
    model = onnx.load(made["v2", True][0] / "w-okada.fp32.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    slot = slot_of(tmp_path / "bare.onnx")
    assert (slot.deprecated, slot.emb_channels, slot.sampling_rate) == (True, 256, 48_000)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got: 256 Expected: 768"):
        Inferencer(tmp_path / "bare.onnx", slot).infer(*said(True, slot.emb_channels), sid=0)  # noqa: FBT003 - with f0


def test_the_live_face_draws_its_noise_anew_each_time(made: Made) -> None:
    """It is in the sound, it is another in each run, and a fresh session begins at the same place."""
    path = made["v2", True][0] / "w-okada.fp32.onnx"
    one, other = (Inferencer(path, slot_of(path)) for _ in range(2))
    first, second = (one.infer(*said(True, 768), sid=0) for _ in range(2))  # noqa: FBT003 - with f0
    assert not np.array_equal(first, second)
    assert np.array_equal(other.infer(*said(True, 768), sid=0), first)  # noqa: FBT003 - with f0


def test_the_noise_of_the_live_face_is_float32_and_of_the_originals_size(made: Made) -> None:
    """Two draws, the prior's scaled by 0.66666, in both precisions; and the sine is computed in float32."""
    for precision in ("fp32", "fp16"):
        graph = onnx.load(made["v2", True][0] / f"w-okada.{precision}.onnx").graph
        drawn = [node for node in graph.node if node.op_type == "RandomNormalLike"]
        facts = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in drawn]
        assert facts == [{"dtype": 1, "seed": 1.0}, {"dtype": 1, "seed": 2.0}]
        assert [node.name for node in drawn] == [
            "/noise/RandomNormalLike",
            "/dec/m_source/l_sin_gen/noise/RandomNormalLike",
        ]
        scales = [
            float(numpy_helper.to_array(a.t))
            for node in graph.node
            for a in node.attribute
            if a.HasField("t") and not a.t.dims
        ]
        assert any(abs(scale - 0.66666) < 3e-4 for scale in scales)


@pytest.mark.parametrize("flaw", ["scale", "seed", "clip", "mean"])
def test_a_live_face_that_says_something_else_is_not_published(
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flaw: str,
) -> None:
    """The prior's noise is part of what is compared: another scale, seed or mean fails, and so does a wrong bound."""
    real = fill

    def spoiled(model: onnx.ModelProto, *rest: Any) -> Any:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        spoil(broken.graph, flaw)
        return real(broken, *rest)

    monkeypatch.setattr(bench, "fill", spoiled)
    with pytest.raises(NotFaithful):
        convert(templates, tmp_path, Recipe("live", interfaces=("w-okada",)))


def spoil(graph: onnx.GraphProto, flaw: str) -> None:
    """Plant a flaw."""
    noise = next(node for node in graph.node if node.op_type == "RandomNormalLike")
    for node in graph.node:
        for attribute in node.attribute:
            if flaw == "scale" and attribute.HasField("t") and attribute.t.ByteSize() < 64:
                numbers = numpy_helper.to_array(attribute.t)
                if numbers.shape == () and abs(float(numbers) - 0.66666) < 1e-6:
                    attribute.t.CopyFrom(numpy_helper.from_array(np.array(1.0, np.float32)))
    if flaw == "seed":
        next(a for a in noise.attribute if a.name == "seed").f = 77.0
    if flaw == "mean":
        noise.attribute.append(onnx.helper.make_attribute("mean", 0.5))
    if flaw == "clip":
        clip = next(node for node in graph.node if node.op_type == "Clip")
        clip.input[2] = clip.input[1]


@pytest.mark.parametrize("verify", ["full", "quick"])
def test_several_faces_cost_one_conversion_of_the_weights(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    """The checkpoint is opened once, and each weight is computed once for four files and their verification."""
    opened: list[Path] = []
    read = Counter[str]()
    real_read = weights.read

    def opening(path: Path, beside: Mapping[str, Path | None]) -> Checkpoint:
        opened.append(path)
        return open_checkpoint(path, beside)

    def reading(rule: Rule, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        read[str(rule)] += 1
        return real_read(rule, tensors)

    monkeypatch.setattr(pipeline, "open_checkpoint", opening)
    monkeypatch.setattr(weights, "read", reading)
    done = convert(templates, tmp_path, replace(ALL, verify=verify))
    assert len(done.files) == 6
    assert len(opened) == 1
    assert set(read.values()) == {1}


def test_a_face_has_the_same_bytes_alone_and_among_others(made: Made, templates: Path, tmp_path: Path) -> None:
    """Streamed from the checkpoint or written from the network: no bit differs, and MoeVoiceStudio's file is rvc's."""
    staging, done = made["v2", True]
    for interface in ("rvc", "w-okada"):
        for precision in ("fp32", "fp16"):
            folder = tmp_path / f"{interface}-{precision}"
            folder.mkdir()
            convert(templates, folder, Recipe("one", (precision,), interfaces=(interface,)))
            name = f"{interface}.{precision}.onnx"
            assert (folder / "staging" / name).read_bytes() == (staging / name).read_bytes()
    hashes = {(file.interface, file.precision): file.sha256 for file in done.files}
    assert all(hashes["moevs", precision] == hashes["rvc", precision] for precision in ("fp32", "fp16"))
    assert len(set(hashes.values())) == 4


def test_every_face_is_verified_through_its_own_inputs(made: Made) -> None:
    """Each file has its figures, and says the ports that it has."""
    for staging, done in made.values():
        for file in done.files:
            assert file.fidelity[0].snr_db >= file.fidelity[0].wanted_db
            session = open_session(staging / file.name)
            assert [port.name for port in session.get_inputs()] == [port.name for port in file.inputs]
            assert [len(port.shape) for port in session.get_outputs()] == [len(port.axes) for port in file.outputs]


def test_the_names_under_which_each_face_is_fed_are_told(made: Made) -> None:
    """All inputs of each, and no others; what the file draws itself is fed under no name."""
    for _, done in made.values():
        for file in done.files:
            fed = done.feed["names"][file.interface]
            assert {name for name in fed.values() if name} == {port.name for port in file.inputs}
            assert (fed["noise"] is None) == (file.interface == "w-okada")


def test_where_half_arithmetic_is_too_far_all_faces_get_the_other_file(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out once, and said once."""
    tried: list[str] = []

    def strict(path: Path, voice: Any, precision: Precision, *rest: Any) -> Any:
        tried.append(path.name)
        if tried.count("rvc.fp16.onnx") == 1 and precision == "fp16":
            raise NotFaithful(precision=precision, snr_db=54.9, frames=40, provider="CPU", wanted_db=55.0)
        return verify(path, voice, precision, *rest)

    monkeypatch.setattr(bench, "verify", strict)
    done = convert(templates, tmp_path, Recipe("live", ("fp16",), interfaces=("rvc", "w-okada")))
    assert tried == ["rvc.fp16.onnx", "rvc.fp16.onnx", "w-okada.fp16.onnx"]
    assert [metadata(tmp_path / "staging" / file.name)["arithmetic"] for file in done.files] == ["float32"] * 2
    assert len(done.notes) == 1


def test_a_face_that_a_voice_cannot_have_is_left_out_with_a_note(made: Made) -> None:
    """MoeVoiceStudio would take four inputs for a model of another kind."""
    for (_, f0), (_, done) in made.items():
        assert {file.interface for file in done.files} == ({"rvc", "w-okada", "moevs"} if f0 else {"rvc", "w-okada"})
        assert [note for note in done.notes if "moevs" in note] == ([] if f0 else [done.notes[0]])
        assert decode_answer(encode(Finished("j", done))) == Finished("j", done)


def test_a_face_that_a_voice_cannot_have_is_refused_if_there_is_no_other(templates: Path, tmp_path: Path) -> None:
    """With a code of its own."""
    with pytest.raises(NoSuchFace, match="no-such-face"):
        convert(templates, tmp_path, Recipe("moe", interfaces=("moevs",)), f0=False)
    assert not list((tmp_path / "staging").iterdir())


def test_templates_are_made_for_the_faces_that_the_recipes_want(tmp_path: Path) -> None:
    """Faces that share a graph share its template, and what a voice cannot have is passed over."""
    maker = Pipeline(Cache(tmp_path))
    recipes = [
        Recipe("a", interfaces=("w-okada",)),
        Recipe("b", interfaces=("rvc", "moevs")),
        Recipe("c", interfaces=("moevs",)),
    ]
    asked: list[tuple[Interface, str]] = []
    made_of = template.float32

    def counted(exportable: Any, kind: Any) -> Any:
        asked.append((kind.interface, kind.title))
        return made_of(exportable, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "float32", counted)
        patch.setattr(voicekiln.families, "FAMILIES", voicekiln.families.FAMILIES[:1])
        patch.setattr(voicekiln.families.rvc_settings, "KNOWN", voicekiln.families.rvc_settings.KNOWN[:1])
        shown = maker.templates("build", recipes, lambda *_: None)["templates"]
    assert len(asked) == len(set(asked)) == len(shown)
    assert {facts["interface"] for facts in shown} == {"rvc", "w-okada"}
    assert {facts["title"] for facts in shown if facts["interface"] == "rvc"} == {
        facts["title"] for facts in shown if facts["interface"] == "w-okada"
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_moe_voice_studio_finds_all_that_it_reads(made: Made, tmp_path: Path, version: str) -> None:
    """What lies in `voice.moevs` is copied into `Models`: a list of JSON files, and to each its folder and ONNX."""
    staging, done = made[version, True]
    publish_into(tmp_path, staging, done, "My voice: 1")
    models = tmp_path / "My voice: 1.moevs"
    listed = sorted(path for path in models.iterdir() if path.suffix == ".json")
    assert [path.name for path in listed] == ["My voice_ 1-fp16.json", "My voice_ 1.json"]
    for path in listed:
        facts = json.loads(path.read_text())
        assert facts["Folder"] == path.stem
        two = version == "v2"
        assert facts | {"Folder": 0, "Name": 0} == {
            "Folder": 0,
            "Name": 0,
            "Type": "RVC",
            "Rate": 40_000,
            "Hop": 400,
            "Hubert": "vec-768-layer-12" if two else "vec-256-layer-9",
            "HiddenSize": 768 if two else 256,
            "CharaMix": False,
            "Volume": False,
            "Characters": ["speaker 0", "speaker 1"],
        }
        session = open_session(models / facts["Folder"] / f"{facts['Folder']}_RVC.onnx")
        assert len(session.get_inputs()) == 6
        features, pitch, hz = said(True, facts["HiddenSize"])  # noqa: FBT003 - with f0
        feed = {
            "phone": features,
            "phone_lengths": np.array([FRAMES], np.int64),
            "pitch": pitch,
            "pitchf": hz,
            "ds": np.array([len(facts["Characters"]) - 1], np.int64),
            "rnd": np.zeros((1, 8, FRAMES), np.float32),
        }
        [audio] = session.run(None, feed)
        assert audio.shape == (1, 1, FRAMES * facts["Hop"])
        assert audio.dtype == np.float32


def publish_into(outbox: Path, staging: Path, done: Conversion, stem: str) -> dict[str, Any]:
    """Publish a conversion, and return its sidecar, which fits its schema."""
    origin = sidecar.Origin(PurePosixPath(f"{stem}.pth"), "5f" * 32, 1, 0.0)
    sources = {file.sha256: staging / file.name for file in done.files}
    pieces = sidecar.result(origin, done, ALL, PurePosixPath(stem), sources, 0.0)
    publish(outbox, Delivery(pieces, (), {}, "token"), Rights())
    body: dict[str, Any] = json.loads((outbox / f"{stem}.json").read_text())
    jsonschema.validate(body, SCHEMA)
    return body


def test_the_sidecar_of_all_faces_fits_its_schema(made: Made, tmp_path: Path) -> None:
    """Every file that it names lies there, and the first face has the plainest name."""
    for (version, f0), (staging, done) in made.items():
        outbox = tmp_path / f"{version}{f0}"
        outbox.mkdir()
        body = publish_into(outbox, staging, done, "v")
        names = [entry["name"] for entry in body["onnx"]]
        assert names[:4] == ["v.onnx", "v.fp16.onnx", "v.w-okada.onnx", "v.w-okada.fp16.onnx"]
        assert names[4:] == (["v.moevs/v/v_RVC.onnx", "v.moevs/v-fp16/v-fp16_RVC.onnx"] if f0 else [])
        assert all((outbox / name).is_file() for name in names)
