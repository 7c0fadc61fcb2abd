"""The judge of foreign files: a right export in each face passes, each known fault is named, with evidence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import foreign_exports as foreign
from foreign_exports import FORKED, OBS, RVC, VIETNAMESE, W_OKADA, LonelySine, OldSine, changed, export, voice
from tiny_voices import write_tiny
from voicekiln.convert.cache import Cache
from voicekiln.convert.pipeline import Pipeline
from voicekiln.errors import Refusal
from voicekiln.job import Recipe
from voicekiln.judge.verdict import judge
from voicekiln.worker.wire import Looked, decode_answer, encode

Fault = Callable[[Any], object]
"""Changes a network."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a voice with f0 and one without."""
    folder = tmp_path_factory.mktemp("judge")
    write_tiny(folder / "f0.pth")
    write_tiny(folder / "plain.pth", f0=False)
    return folder


def judged(folder: Path, model: onnx.ModelProto, against: str = "f0.pth", *, long: bool = False) -> dict[str, Any]:
    """Return the judgement, as it comes out of the wire."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    found = judge(path, folder / against, lambda *_: None, long=long)
    answer = decode_answer(encode(Looked("j", found, ())))
    assert isinstance(answer, Looked)
    return answer.model


def codes(found: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in found["findings"]]


def without_pitch(names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in ("pitch", "pitchf", "nsff0")]


RIGHT = {
    "RVC-WebUI": (RVC, 3),
    "RVC-WebUI, noise inside": (RVC[:-1], 3),
    "w-okada": (W_OKADA, 1),
    "w-okada as forked by deiteris and tg-develop": (FORKED, 1),
    "Vietnamese-RVC": (VIETNAMESE, 3),
    "obs-rvc": (OBS, 1),
}


@pytest.mark.parametrize("face", RIGHT)
def test_a_right_export_passes_in_each_face(folder: Path, face: str) -> None:
    """With its noise on, at two lengths, with the first and the last speaker where one can be told."""
    names, rank = RIGHT[face]
    found = judged(folder, export(voice(), names, rank=rank))
    assert found["faithful"]
    assert found["file"]["face"] == face
    assert found["findings"] == []
    assert [(run["frames"], run["faithful"]) for run in found["runs"]] == [(40, True), (97, True)]
    assert [run["speaker"] for run in found["runs"]] == ([0, 0] if face == "obs-rvc" else [0, 1])
    assert all(run["snr_db"] > 115 and run["max_abs"] < 1e-4 for run in found["runs"])
    assert found["summary"].startswith("Faithful: 1")


@pytest.mark.parametrize("face", [face for face in RIGHT if face != "obs-rvc"])
def test_a_right_export_without_f0_passes(folder: Path, face: str) -> None:
    """The same faces, less the pitch."""
    names, rank = RIGHT[face]
    found = judged(folder, export(voice(f0=False), without_pitch(names), rank=rank), "plain.pth")
    assert found["faithful"]
    assert found["file"]["face"] == f"{face}, no f0"


@pytest.mark.parametrize("interface", ["rvc", "w-okada"])
def test_our_own_files_pass(folder: Path, interface: Any, tmp_path: Path) -> None:
    """Both precisions; the half one is measured by the mark for such."""
    staging = tmp_path / "staging"
    staging.mkdir()
    recipe = Recipe("both", ("fp32", "fp16"), interfaces=(interface,))
    made = Pipeline(Cache(tmp_path / "templates")).convert(
        folder / "f0.pth", "5f" * 32, recipe, staging, lambda *_: None
    )
    for file in made.files:
        found = judge(staging / file.name, folder / "f0.pth", lambda *_: None, long=False)
        assert found["faithful"]
        assert found["metadata"] == []
        assert (found["precision"], found["wanted_db"]) == (
            (file.precision, 100.0 if file.precision == "fp32" else 55.0)
        )


def test_half_inputs_are_fed_as_such(folder: Path) -> None:
    """What rounding the inputs costs is not the file's fault: the voice hears the same rounded numbers."""

    def half(network: Any) -> None:
        network.half()
        network.dec.m_source.float()
        network.dec.m_source.register_forward_hook(lambda _m, _i, sound: sound.half())

    found = judged(folder, export(voice(), half=True, network=changed(voice(), half)))
    assert found["faithful"]
    assert found["precision"] == "fp16"
    assert any("phone float16" in port for port in found["file"]["inputs"])


def test_other_names_in_the_right_places_are_taken_for_rvc(folder: Path) -> None:
    """That face's client feeds by position."""
    found = judged(folder, export(voice(), called=list("abcdef")))
    assert found["faithful"]
    assert found["file"]["face"] == "RVC-WebUI, by position"


def turned(words: str) -> nn.Module:
    """Return the network with the phase computed in one of the wrong ways."""
    turns = voice().wrong_turns()[words]
    return changed(voice(), lambda net: setattr(net.dec.m_source.l_sin_gen, "_turns", turns))


@pytest.mark.parametrize("words", list(voice().wrong_turns()))
def test_a_sine_without_phase_accumulation_is_named(folder: Path, words: str) -> None:
    """With the very way in which it is wrong, proven by the network made wrong alike, and what its graph lacks."""
    found = judged(folder, export(voice(), network=turned(words)))
    assert not found["faithful"]
    assert codes(found) == ["no-phase-accumulation"]
    assert words in found["findings"][0]["says"]
    assert "no running sum (CumSum, Loop, Scan)" in found["findings"][0]["evidence"]
    assert "no phase accumulation" in found["summary"]


def source(kind: type[nn.Module], **facts: Any) -> nn.Module:
    """Return the network with another sine."""
    return foreign.with_source(voice(), kind(voice().settings.sample_rate, voice().hop, **facts))


def test_a_source_that_sums_and_draws_nothing_is_named_for_both(folder: Path) -> None:
    """As one exporter does it."""
    found = judged(folder, export(voice(), network=source(LonelySine)))
    assert codes(found) == ["no-phase-accumulation", "no-source-noise"]


def test_a_phase_that_is_lost_in_gaps_is_named(folder: Path) -> None:
    """RVC's first form of the source: right in PyTorch, wrong in ONNX Runtime wherever f0 is zero, and drifting."""
    found = judged(folder, export(voice(), network=source(OldSine)))
    assert codes(found) == ["phase-lost-in-gaps", "phase-drifts"]
    assert "before the gap" in found["findings"][0]["evidence"]


def test_a_phase_in_half_precision_is_named(folder: Path) -> None:
    """By the types in the graph, once it is known that only the sine is wrong."""
    found = judged(folder, export(voice(), network=source(OldSine, half=True)))
    assert codes(found)[0] == "half-phase"
    assert "CumSum and Sin work on float16" in found["findings"][0]["evidence"]


def other_rate(net: Any) -> None:
    net.dec.m_source.l_sin_gen.sample_rate = 48_000


def deaf(net: Any) -> None:
    real = net.dec.m_source.forward
    net.dec.m_source.forward = lambda f0: real(f0 * 0 + 100 * (f0 > 0))


def odd(net: Any) -> None:
    real = net.dec.m_source.l_sin_gen._turns
    net.dec.m_source.l_sin_gen._turns = lambda hz: real(hz) * 1.01


def other_speakers(net: Any) -> None:
    net.emb_g.weight.copy_(net.emb_g.weight.flip(0))


def one_speaker(net: Any) -> None:
    real = net.emb_g.forward
    net.emb_g.forward = lambda ids: real(ids * 0)


def one_weight(net: Any) -> None:
    net.flow.flows[0].pre.weight[1] *= 1.5


def not_finite(net: Any) -> None:
    net.dec.conv_pre.bias[3] = float("nan")


def output(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    def apply(net: Any) -> None:
        real = net.dec.forward
        net.dec.forward = lambda *given: change(real(*given))

    return apply


def hiss(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return lambda net: setattr(net.dec.m_source.l_sin_gen.noise, "forward", change)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "another rate in the source": (other_rate, "other-rate-in-source", "48000 Hz"),
    "an f0 that is not heard": (deaf, "f0-ignored", "does not care which f0"),
    "a sine that is wrong in a new way": (odd, "sine-differs", "in a way that is not known"),
    "another speaker table": (other_speakers, "other-weights", "emb_g.weight"),
    "one speaker for all": (one_speaker, "speaker-ignored", "0 and 1 sound the same"),
    "a weight that was changed": (one_weight, "other-weights", "flow.flows.0.pre.weight"),
    "numbers that are none": (not_finite, "not-finite", "NaN"),
    "a quieter output": (output(lambda x: x * 0.8), "scaled", "multiplied by 0.8"),
    "an output with an offset": (output(lambda x: x + 0.05), "scaled", "shifted by 0.05"),
    "an output that is upside down": (output(lambda x: -x), "scaled", "multiplied by -1"),
    "an output in 16 bits": (output(lambda x: x * 32767), "scaled", "multiplied by 3.277e+04"),
    "a clipped output": (output(lambda x: x.clamp(-0.3, 0.3)), "clipped", "clipped at 0.3"),
    "a louder, clipped output": (output(lambda x: (2 * x).clamp(-1, 1)), "scaled", "by 2 and clipped at 1"),
    "no noise in the source": (hiss(torch.zeros_like), "noise-differs", "source draws no noise"),
    "noise of another kind": (hiss(torch.rand_like), "noise-differs", "not the original's"),
    "noise that cannot be stilled": (
        hiss(lambda like: torch.bernoulli(like * 0 + 0.5)),
        "noise-stays",
        "cannot be switched off",
    ),
    "an echo": (output(lambda x: x + 0.5 * torch.roll(x, 1, -1)), "unexplained", "Nothing that is known"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_and_named(folder: Path, what: str) -> None:
    """Not faithful, the fault first and told in the summary; what fits nothing is said to fit nothing."""
    fault, code, words = FAULTS[what]
    found = judged(folder, export(voice(), network=changed(voice(), fault)))
    assert not found["faithful"]
    assert codes(found)[:1] == [code]
    assert words in found["findings"][0]["says"]
    assert found["findings"][0]["says"] in found["summary"]
    assert found["findings"][0]["evidence"]


@pytest.mark.parametrize(("scale", "words"), [(1.0, "does not multiply its noise by 0.66666"), (0.0, "adds no noise")])
def test_noise_inside_of_another_strength_is_named(folder: Path, scale: float, words: str) -> None:
    """What the file draws is replayed, so that its use can be compared."""
    found = judged(folder, export(voice(), W_OKADA, rank=1, scale=scale))
    assert codes(found) == ["noise-differs"]
    assert words in found["findings"][0]["says"]


def hide(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Give a file the function `own.Draw`, of `x`, which makes `y`."""
    model.functions.append(helper.make_function("own", "Draw", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))


@pytest.mark.parametrize(
    ("kind", "facts", "words"),
    [
        ("RandomNormalLike", {"scale": 0.0}, "with a scale of 0"),
        ("RandomNormalLike", {"scale": -1.0}, "with a scale of -1"),
        ("RandomUniformLike", {"low": 2.0}, "ends before it begins"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_noise_that_ends_the_process_is_not_drawn(
    folder: Path, kind: str, facts: dict[str, Any], words: str, *, inside: bool
) -> None:
    """ONNX Runtime asserts where it should refuse: without a look beforehand the worker would be lost."""
    model = export(voice())
    [at] = [at for at, node in enumerate(model.graph.node) if node.op_type == "RandomNormalLike"]
    node = model.graph.node[at]
    drawing = helper.make_node(kind, list(node.input), list(node.output), dtype=1, name="noise", **facts)
    if inside:
        hide(model, helper.make_node(kind, ["x"], ["y"], dtype=1, **facts))
        drawing = helper.make_node("Draw", list(node.input), list(node.output), domain="own")
    node.CopyFrom(drawing)
    found = judged(folder, model)
    assert codes(found)[0] == "does-not-run"
    assert words in found["findings"][0]["evidence"]


def test_noises_of_equal_size_are_told_apart(folder: Path) -> None:
    """At 48 kHz a face that leaves out 24 of 40 frames draws as many numbers for the source as for the prior."""
    facts = {"sr": 48_000, "channels": 192}
    write_tiny(folder / "wide.pth", **facts)
    found = judged(folder, export(voice(**facts), FORKED, rank=1), "wide.pth")
    assert (found["faithful"], found["notes"]) == (True, [])


@pytest.mark.parametrize(("loudness", "faithful"), [(1.0, True), (2.5, False), (0.0, False)])
def test_hidden_noise_is_judged_by_its_strength(folder: Path, loudness: float, *, faithful: bool) -> None:
    """Nobody can listen to what is drawn in a function, but as loud as the voice's it has to be, and that is said."""
    model = export(voice())
    [at] = [at for at, node in enumerate(model.graph.node) if node.op_type == "RandomNormalLike"]
    node = model.graph.node[at]
    strength = helper.make_node("Constant", [], ["strength"], value_float=loudness)
    drawn = helper.make_node("RandomNormalLike", ["x"], ["drawn"], dtype=1)
    hide(model, strength, drawn, helper.make_node("Mul", ["drawn", "strength"], ["y"]))
    node.CopyFrom(helper.make_node("Draw", list(node.input), list(node.output), domain="own"))
    found = judged(folder, model)
    assert found["faithful"] == faithful
    assert codes(found) == ([] if faithful else ["noise-differs"])
    assert "only the strength was judged" in found["notes"][0]


def test_a_trial_that_stops_leaves_the_verdict(folder: Path) -> None:
    """A file that stops at a pitch without a gap, on which its sine is tried, is not faithful, and no more is said."""
    model = export(voice(), network=changed(voice(), odd))
    [last] = [node for node in model.graph.node if "audio" in node.output]
    last.output[0] = "sound"
    numbers = [helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0])]
    numbers += [helper.make_tensor("first", onnx.TensorProto.INT64, [], [0])]
    model.graph.initializer.extend(numbers)
    model.graph.node.extend(
        [
            helper.make_node("Equal", ["pitchf", "zero"], ["gaps"]),
            helper.make_node("NonZero", ["gaps"], ["places"]),
            helper.make_node("Gather", ["places", "first"], ["place"], axis=1),
            helper.make_node("ReduceMax", ["place"], ["one"], keepdims=0),
            helper.make_node("CastLike", ["one", "zero"], ["number"]),
            helper.make_node("Mul", ["number", "zero"], ["nothing"]),
            helper.make_node("Add", ["sound", "nothing"], ["audio"]),
        ]
    )
    found = judged(folder, model)
    assert not found["faithful"]
    assert codes(found) == ["unexplained"]
    assert "does not run on all that was tried" in found["findings"][0]["says"]


def test_weights_of_another_type_buy_no_milder_mark(folder: Path) -> None:
    """Only half precision is measured by its own."""
    model = export(voice())
    numbers = np.zeros(1_000_000)
    model.graph.initializer.append(onnx.numpy_helper.from_array(numbers, "wide"))
    found = judged(folder, model)
    assert found["file"]["weights"] == "float64"
    assert (found["precision"], found["wanted_db"]) == ("fp32", 100.0)


def test_an_opset_that_cannot_be_crosses_the_wire(folder: Path) -> None:
    """A number of 19 digits would have the worker taken for mad."""
    model = export(voice())
    model.opset_import[0].version = 2**62
    assert judged(folder, model)["file"]["opset"] == 0


@pytest.mark.parametrize("declared", [True, False])
def test_a_frozen_length_is_found(folder: Path, declared: bool) -> None:  # noqa: FBT001 - a column of the table
    """Also where the file says that any length will do; at its own length it is compared all the same."""
    model = export(voice(), fixed=True)
    own = foreign.FRAMES + 24
    if not declared:
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value in (own, own * voice().hop):
                    dim.dim_param = "frames"
    found = judged(folder, model)
    assert codes(found) == ["fixed-length"]
    assert f"only {own} frames" in found["findings"][0]["says"]
    assert [(run["frames"], run["faithful"]) for run in found["runs"]] == [(40, False), (97, False), (own, True)]
    assert not found["faithful"]


def test_a_file_that_runs_nowhere_is_told(folder: Path) -> None:
    """With ONNX Runtime's own reason, and the node where it stopped."""
    model = export(voice())
    [last] = [node for node in model.graph.node if "audio" in node.output]
    last.output[0] = "sound"
    model.graph.initializer.append(helper.make_tensor("shape", onnx.TensorProto.INT64, [1], [-7]))
    model.graph.node.append(helper.make_node("Reshape", ["sound", "shape"], ["audio"], name="wrong"))
    found = judged(folder, model)
    assert codes(found)[0] == "does-not-run"
    assert "Node (wrong) Op (Reshape)" in found["findings"][0]["evidence"]
    assert all(run["snr_db"] is None and run["trouble"] for run in found["runs"])


def test_untrained_layers_in_a_voice_without_f0_are_named(folder: Path) -> None:
    """A file that takes a pitch for a voice that has none: the layers for it are listed, and that it sings by them."""
    plain = voice(f0=False)
    network = copy.deepcopy(voice().network)
    network.load_state_dict(plain.network.state_dict(), strict=False)
    found = judged(folder, export(plain, network=network), "plain.pth")
    assert codes(found)[0] == "untrained-f0"
    assert "emb_pitch.weight" in found["findings"][0]["says"]
    assert "150 Hz and with 400 Hz" in found["findings"][0]["evidence"]


def test_another_voice_is_named(folder: Path) -> None:
    """By the share of weights that are the voice's; and by its inputs, where nothing can be compared."""
    found = judged(folder, export(voice(seed=5)))
    assert codes(found) == ["other-voice"]
    assert "0.0 % of the" in found["findings"][0]["evidence"]
    narrow = judged(folder, export(voice(version="v1")))
    assert codes(narrow) == ["other-voice"]
    assert narrow["runs"] == []
    assert not narrow["faithful"]


def test_another_sample_rate_is_named(folder: Path) -> None:
    """By the samples that a frame has."""
    found = judged(folder, export(voice(sr=32_000)))
    assert codes(found)[0] == "other-hop"
    assert "320 samples a frame; the voice has 400" in found["summary"]


def test_a_file_without_pitch_for_a_voice_with_f0_is_named(folder: Path) -> None:
    """Nothing is compared, and it is not faithful."""
    found = judged(folder, export(voice(f0=False), without_pitch(RVC)))
    assert (codes(found), found["runs"], found["faithful"]) == (["no-pitch"], [], False)


def test_the_label_is_compared_too(folder: Path) -> None:
    """A right file with wrong metadata is faithful, and what is wrong on it is said."""
    model = export(voice(), W_OKADA, rank=1)
    assert "no w-okada metadata" in judged(folder, model)["metadata"][0]
    model.metadata_props.add(key="metadata", value='{"samplingRate": 48000, "f0": true, "embChannels": 768}')
    found = judged(folder, model)
    assert found["faithful"]
    assert found["metadata"] == ["Its metadata says samplingRate 48000; the voice has 40000."]


def test_long_adds_ten_seconds(folder: Path) -> None:
    """A third run."""
    found = judged(folder, export(voice()), long=True)
    assert [run["frames"] for run in found["runs"]] == [40, 97, 1000]
    assert found["faithful"]


def test_levels_are_those_of_the_longest_run(folder: Path) -> None:
    """Of sound and error, in dB, as many as are drawn; the error lies as far below as the measure says."""
    found = judged(folder, export(voice(), network=changed(voice(), output(lambda x: x * 0.99))))
    levels = found["levels"]
    assert levels["seconds"] == 0.97
    gaps = np.array(levels["signal_db"]) - np.array(levels["error_db"])
    assert len(gaps) == 72
    assert np.all(np.abs(gaps - 40) <= 1)


def test_a_checkpoint_that_is_no_voice_is_refused(folder: Path) -> None:
    """As it is anywhere else."""
    (folder / "bad.pth").write_text("<html>404</html>")
    with pytest.raises(Refusal):
        judged(folder, export(voice()), "bad.pth")
