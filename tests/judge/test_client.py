"""Foreign ONNX files are opened as data: what is no file of a voice is told apart, and nothing beside it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foreign_exports import RVC, W_OKADA, export, voice
from voicekiln.families.rvc_feed import glide
from voicekiln.job import Port
from voicekiln.judge.client import RunError, open_client
from voicekiln.judge.comparison import Pair
from voicekiln.judge.face import FACES, PITCHED_ONLY, UnfitError, recognise
from voicekiln.judge.label import contradictions, sample_rate
from voicekiln.judge.original import say_to

F0 = Port("pitchf", "float32", (1, "frames"))


def ports(*names: str) -> list[Port]:
    """Return inputs of these names as RVC's exporter declares them."""
    known = {
        "phone": Port("phone", "float32", (1, "frames", 768)),
        "phone_lengths": Port("phone_lengths", "int64", (1,)),
        "pitch": Port("pitch", "int64", (1, "frames")),
        "pitchf": F0,
        "ds": Port("ds", "int64", (1,)),
        "rnd": Port("rnd", "float32", (1, 192, "frames")),
    }
    return [known.get(name, Port(name, "float32", (1,))) for name in names]


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\x08\x08", b"\x80\x04}q\x00."])
def test_what_is_no_onnx_file_is_told(tmp_path: Path, data: bytes) -> None:
    """In words, whatever the parser thinks of it."""
    with pytest.raises(UnfitError, match="no ONNX file"):
        open_client(written(tmp_path, data))


def ended(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Return a right file with nodes at its end that make `audio` of `sound`."""
    model = export(voice())
    [last] = [node for node in model.graph.node if "audio" in node.output]
    last.output[0] = "sound"
    model.graph.node.extend(nodes)
    return model


def elsewhere() -> onnx.TensorProto:
    """Return numbers that lie in another file."""
    tensor = TensorProto(name="elsewhere", dims=[16], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def in_a_weight() -> onnx.ModelProto:
    model = export(voice())
    model.graph.initializer.append(elsewhere())
    return model


def in_a_node() -> onnx.ModelProto:
    return ended(
        helper.make_node("Constant", [], ["hidden"], value=elsewhere()),
        helper.make_node("Add", ["sound", "hidden"], ["audio"]),
    )


def in_a_branch() -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Identity", ["elsewhere"], ["out"])], "body", [], [], [elsewhere()])
    return ended(helper.make_node("If", ["yes"], ["audio"], then_branch=body, else_branch=body))


def in_a_function() -> onnx.ModelProto:
    model = ended(helper.make_node("Hide", ["sound"], ["audio"], domain="own"))
    constant = helper.make_node("Constant", [], ["y"], value=elsewhere())
    model.functions.append(helper.make_function("own", "Hide", ["x"], ["y"], [constant], [helper.make_opsetid("", 17)]))
    return model


@pytest.mark.parametrize("model", [in_a_weight, in_a_node, in_a_branch, in_a_function])
def test_numbers_in_another_file_are_not_read(tmp_path: Path, model: Callable[[], onnx.ModelProto]) -> None:
    """A name in the file cannot make the worker read anything, wherever it stands."""
    with pytest.raises(UnfitError, match="in another file"):
        open_client(written(tmp_path, model().SerializeToString()))


def test_numbers_of_no_type_are_told(tmp_path: Path) -> None:
    """A weight with a type that ONNX does not have."""
    model = export(voice())
    model.graph.initializer.append(TensorProto(name="odd", dims=[100], data_type=999))
    with pytest.raises(UnfitError, match="damaged"):
        open_client(written(tmp_path, model.SerializeToString()))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("SequenceConstruct", ["sound", "phone"], ["audio"]), "no tensor"),
        (helper.make_node("Cast", ["sound"], ["audio"], to=TensorProto.BFLOAT16), "bfloat16"),
        (helper.make_node("Cast", ["sound"], ["audio"], to=TensorProto.STRING), "no sound"),
        (helper.make_node("Unheard", ["sound"], ["audio"]), "Unheard"),
    ],
)
def test_what_comes_out_and_is_no_sound_is_told(tmp_path: Path, node: onnx.NodeProto, words: str) -> None:
    """A list of pieces that do not fit together, numbers that NumPy does not know, text; a node that nobody knows."""
    model = ended(node)
    model.graph.output[0].ClearField("type")
    with pytest.raises(RunError, match=words):
        open_client(written(tmp_path, model.SerializeToString())).run(say_to(voice(), glide(30)))


def test_why_it_stops_is_told_without_where_in_the_source(tmp_path: Path) -> None:
    """ONNX Runtime's own sentence, which stands behind half a page of C++."""
    model = export(voice())
    del model.opset_import[:]
    with pytest.raises(RunError, match=r"^ONNX Runtime stops: Missing opset in the model"):
        open_client(written(tmp_path, model.SerializeToString())).run(say_to(voice(), glide(30)))


def test_unknown_inputs_are_listed_beside_the_known_faces() -> None:
    """So that a person sees what the file is, and what would do."""
    with pytest.raises(UnfitError, match=r"phone float32\[1, frames, 768\], mel float32\[1\]") as caught:
        recognise(ports("phone", "mel"))
    assert "w-okada: feats, p_len, pitch, pitchf, sid" in caught.value.choices
    assert len(caught.value.choices) == len(FACES) + len(PITCHED_ONLY)
    assert max(len(str(caught.value)), *map(len, caught.value.choices)) < 600


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (ports(*RVC, "energy"), "energy"),
        ([Port("phone", "float8_e4m3fn", (1, "?", 768)), *ports(*RVC[1:])], r"type or rank: phone float8"),
        ([Port("phone", "float32", (1,) * 30_000), *ports(*RVC[1:])], r"phone float32\[1, 1, 1, 1, 1, 1, \.\.\.\]\.$"),
        ([*ports(*RVC[:4]), Port("ds", "float32", (1, 5)), *ports("rnd")], "of another type or rank: ds float32"),
        ([], "none"),
    ],
)
def test_near_misses_are_told(inputs: list[Port], words: str) -> None:
    """An input too many, types that no client feeds, a speaker mix where a speaker should be."""
    with pytest.raises(UnfitError, match=words):
        recognise(inputs)


def test_the_order_of_inputs_does_not_matter_where_names_are_known() -> None:
    """Only a file with strange names is fed by position."""
    assert recognise(ports(*reversed(RVC))).title == "RVC-WebUI"
    assert set(recognise(ports(*RVC)).roles) == {"features", "lengths", "pitch", "f0", "speaker", "noise"}


@pytest.mark.parametrize("names", [RVC, W_OKADA])
def test_a_silent_copy_is_silent(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The file itself draws anew at each run; the copy gives the same twice, and what the voice says without noise."""
    client = open_client(written(tmp_path, export(voice(), names).SerializeToString()))
    said = say_to(voice(), glide(30))
    assert not np.array_equal(client.run(said).audio, client.run(said).audio)
    silent = client.silent()
    assert np.array_equal(silent.run(said).audio, silent.run(said).audio)
    assert Pair(client, voice()).quietly(said).snr_db > 110


def test_noise_in_a_branch_is_noticed(tmp_path: Path) -> None:
    """What is drawn where nobody can listen is stilled before anything is compared."""
    model = export(voice())
    [last] = [node for node in model.graph.node if "audio" in node.output]
    last.output[0] = "sound"
    drawn = helper.make_node("RandomNormalLike", ["sound"], ["drawn"])
    bodies = {
        name: helper.make_graph(
            [drawn, helper.make_node("Add", ["sound", "drawn"], [f"{name}/out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}/out", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.append(helper.make_node("If", ["yes"], ["audio"], **bodies))
    client = open_client(written(tmp_path, model.SerializeToString()))
    assert client.hidden_noise
    pair = Pair(client, voice())
    said = say_to(voice(), glide(30))
    assert not pair.is_replayable(said, client.run(said))
    assert pair.quietly(said, noise=True).snr_db > 110


MODEL = {
    "sample_rate": 40_000,
    "hop": 400,
    "f0": True,
    "feature_width": 768,
    "feature_layer": 12,
    "final_projection": False,
    "speakers": 2,
    "family": "rvc",
    "version": "v2",
}


@pytest.mark.parametrize(
    ("metadata", "wrong"),
    [
        ({}, []),
        ({"sample_rate": "40000", "f0": "1", "version": "v2", "author": "48000"}, []),
        ({"sr": '"40k"', "f0": "1", "config": "[1025" + ", 1" * 16 + ", 40000]"}, []),
        ({"sr": '"48k"'}, ["sr 48k"]),
        ({"config": "[1025" + ", 1" * 16 + ", 32000]"}, ["sr 32000"]),
        ({"model_info": '{"sr": 40000, "f0": false, "version": "v1"}'}, ["f0 False", "version v1"]),
        ({"metadata": '{"embOutputLayer": 9, "useFinalProj": true}'}, ["embOutputLayer 9", "useFinalProj True"]),
        ({"metadata": "{not json", "model_info": "[" * 5000, "config": "7"}, []),
    ],
)
def test_what_a_file_says_of_itself_is_compared(metadata: dict[str, str], wrong: list[str]) -> None:
    """In each tool's own words; nonsense says nothing."""
    said = contradictions(metadata, MODEL, "RVC-WebUI")
    assert len(said) == len(wrong)
    for words in wrong:
        assert any(words in sentence for sentence in said)


@pytest.mark.parametrize(
    ("metadata", "rate"),
    [
        ({}, None),
        ({"sample_rate": "40000"}, 40_000),
        ({"metadata": '{"samplingRate": 48000}'}, 48_000),
        ({"config": "[1025" + ", 1" * 16 + ", 32000]"}, 32_000),
        ({"sr": "40k"}, 40_000),
        ({"sample_rate": "-5"}, None),
        ({"sample_rate": "99999999999"}, None),
        ({"sample_rate": "fast"}, None),
    ],
)
def test_the_rate_is_found_where_tools_write_it(metadata: dict[str, str], rate: int | None) -> None:
    """A rate that there cannot be is none."""
    assert sample_rate(metadata) == rate


def test_an_input_of_an_odd_type_is_told(tmp_path: Path) -> None:
    """A sequence is no input of a voice."""
    model = export(voice())
    model.graph.input[0].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    with pytest.raises(UnfitError, match=r"type that no voice has|another type or rank"):
        open_client(written(tmp_path, model.SerializeToString()))
