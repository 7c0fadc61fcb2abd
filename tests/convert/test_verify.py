"""A file that is not the network is not published; each way to differ is planted and found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from convert import small_networks
from voicekiln.convert import verify as verify_module
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import TRACED_FRAMES, BadGraphError, noise_nodes
from voicekiln.convert.halve import halve
from voicekiln.convert.verify import BEST_DB, Original, difference, open_session, verify
from voicekiln.errors import NotFaithful
from voicekiln.families.base import Exportable
from voicekiln.families.sample import V2_40K
from voicekiln.job import VERIFY, Verify
from voicekiln.nets.noise import Noise

PROVIDERS = [CPU]


LENGTHS = verify_module.LENGTHS["full"]


@dataclass(frozen=True, slots=True)
class Made:
    """A voice and its file's model, numbers included."""

    voice: Original
    model: onnx.ModelProto


def made(
    exportable: Exportable | None = None,
    numbers: small_networks.Numbers | None = None,
    graph: onnx.ModelProto | None = None,
) -> Made:
    """Return a voice with its model; the small voice by default."""
    exportable, numbers = exportable or small_networks.voice(), numbers or small_networks.numbers()
    graph = graph or small_networks.graph()
    return Made(small_networks.asked(exportable, numbers, graph), small_networks.whole(graph, numbers))


def two_noises() -> Made:
    """Return a voice that draws twice."""
    exportable = small_networks.two_noises()
    return made(exportable, graph=small_networks.graph(exportable))


def written(tmp_path: Path, model: onnx.ModelProto) -> Path:
    """Write the model and return its path."""
    path = tmp_path / "fp32.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def asking(voice: Original, **changed: Any) -> Original:
    """Return the voice with another description."""
    return replace(voice, exportable=replace(voice.exportable, **changed))


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """Return one of the model's weights."""
    found: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    """Return the first node of a kind."""
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type == op_type)
    return found


def test_a_faithful_file_passes_with_its_figures(tmp_path: Path) -> None:
    """The figures name provider, lengths and the worst of them."""
    one = made()
    [fidelity] = verify(written(tmp_path, one.model), one.voice, "fp32", PROVIDERS, LENGTHS)
    assert (fidelity.provider, fidelity.frames, fidelity.wanted_db) == (CPU, LENGTHS, 100.0)
    assert 100 <= fidelity.snr_db <= BEST_DB
    assert 0 <= fidelity.max_abs < 1e-4


@pytest.mark.parametrize("how", ["full", "quick"])
def test_two_lengths_that_were_never_traced_are_run(how: Verify) -> None:
    """Both longer than the window of any attention, without a common factor that a frozen size could hide behind."""
    first, second = verify_module.LENGTHS[how]
    assert TRACED_FRAMES not in (first, second)
    assert min(first, second) > 2 * V2_40K.window + 1
    assert math.gcd(first, second) == 1


def test_nothing_is_run_where_nothing_is_asked() -> None:
    """`off` names no length."""
    assert verify_module.LENGTHS["off"] == ()
    assert verify_module.LENGTHS.keys() == set(VERIFY)


def test_noise_is_compared_and_not_left_out(tmp_path: Path) -> None:
    """Two draws, the second multiplied by the first, agree at every length: shapes, order and seeds are right."""
    two = two_noises()
    assert verify(written(tmp_path, two.model), two.voice, "fp32", PROVIDERS, (30, 41, 41, 25))[0].snr_db > 130


def test_the_noise_is_the_files_own(tmp_path: Path) -> None:
    """With another seed in the file the same check fails: it would not notice noise that is replayed from nowhere."""
    two = two_noises()
    noises = noise_nodes(two.model.graph)
    seeds = [a for n in noises for a in n.attribute if a.name == "seed"]
    seeds[0].f, seeds[1].f = 3.0, 4.0
    voice = replace(two.voice, noises=noises)
    path = written(tmp_path, two.model)
    real = verify_module._noise_source
    verify(path, voice, "fp32", PROVIDERS, LENGTHS)  # the file's own seeds are read, whatever they are

    def another(node: onnx.NodeProto, provider: str) -> verify_module.Draw:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        next(a for a in changed.attribute if a.name == "seed").f += 1
        return real(changed, provider)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_module, "_noise_source", another)
        with pytest.raises(NotFaithful):
            verify(path, voice, "fp32", PROVIDERS, LENGTHS)


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    """Afterwards its noise is random again, also when the file was refused."""
    one = made()
    noise = one.voice.network.get_submodule(one.voice.exportable.noises[0])
    assert isinstance(noise, Noise)
    path = written(tmp_path, one.model)
    verify(path, one.voice, "fp32", PROVIDERS, LENGTHS)
    with pytest.raises(NotFaithful):
        verify(path, asking(one.voice, wanted_db={"fp32": 190.0}), "fp32", PROVIDERS, LENGTHS)
    assert noise.replay is None
    assert not noise._forward_pre_hooks


def wrong_weight(model: onnx.ModelProto) -> None:
    """Change one number by one per cent."""
    tensor = weight(model, "dec.conv_pre.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 2, 1] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def other_weights(model: onnx.ModelProto) -> None:
    """Take all weights from another voice."""
    other = small_networks.whole(model, small_networks.numbers(seed=1))
    for mine, theirs in zip(model.graph.initializer, other.graph.initializer, strict=True):
        mine.CopyFrom(theirs)


def nan_weight(model: onnx.ModelProto) -> None:
    """Make one number NaN."""
    tensor = weight(model, "dec.up.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def infinite_weight(model: onnx.ModelProto) -> None:
    """Make the output infinite."""
    node(model, "Tanh").op_type = "Exp"
    last = next(n for n in model.graph.node if n.output[0] == "audio")
    last.op_type = "Reciprocal"
    tensor = weight(model, "dec.conv_post.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, tensor.name))


def wrong_noise_scale(model: onnx.ModelProto) -> None:
    """Make the noise a tenth louder."""
    node(model, "RandomNormalLike").attribute.append(onnx.helper.make_attribute("scale", 1.1))


def no_noise(model: onnx.ModelProto) -> None:
    """Silence the noise, nearly: at a scale of exactly zero ONNX Runtime's CPU provider aborts the process."""
    node(model, "RandomNormalLike").attribute.append(onnx.helper.make_attribute("scale", 1e-20))


def swapped_sign(model: onnx.ModelProto) -> None:
    """Turn the audio upside down: as loud, as spread, all wrong."""
    last = next(n for n in model.graph.node if n.output[0] == "audio")
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["audio"], "neg"))


def silent(model: onnx.ModelProto) -> None:
    """Make no sound at all."""
    tensor = weight(model, "dec.conv_post.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, tensor.name))


def offset(model: onnx.ModelProto) -> None:
    """Add a constant: it is no signal in the reference, but it is an error in the file."""
    tensor = weight(model, "dec.conv_post.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-3), tensor.name))


def one_length(model: onnx.ModelProto) -> None:
    """Fix the graph at the traced length."""
    shape = next(n for n in model.graph.node if n.op_type == "Shape" and n.input[0] == "phone")
    fixed = numpy_helper.from_array(np.array([1, TRACED_FRAMES, small_networks.FEATURES]))
    shape.CopyFrom(onnx.helper.make_node("Constant", [], list(shape.output), shape.name, value=fixed))


def cut_off(model: onnx.ModelProto) -> None:
    """Give fewer samples than the network does."""
    last = next(n for n in model.graph.node if n.output[0] == "audio")
    last.output[0] = "before"
    for name, value in (("from", [0]), ("to", [-1]), ("axis", [2])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["before", "from", "to", "axis"], ["audio"], "cut"))


FLAWS = [
    wrong_weight, other_weights, nan_weight, infinite_weight, wrong_noise_scale, no_noise, swapped_sign, silent, offset,
    one_length, cut_off,
]  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_file_that_differs_is_refused(tmp_path: Path, flaw: Callable[[onnx.ModelProto], None]) -> None:
    """Each flaw is planted in a file that passed before, and found."""
    one = made()
    verify(written(tmp_path, one.model), one.voice, "fp32", PROVIDERS, LENGTHS)
    flaw(one.model)
    with pytest.raises(NotFaithful) as caught:
        verify(written(tmp_path, one.model), one.voice, "fp32", PROVIDERS, LENGTHS)
    assert caught.value.found["precision"] == "fp32"
    assert caught.value.found["frames"] in {0, *LENGTHS}


def test_a_network_that_gives_nan_is_refused(tmp_path: Path) -> None:
    """NaN on both sides is no agreement."""
    path = written(tmp_path, made().model)
    numbers = dict(small_networks.numbers())
    numbers["dec.conv_post.bias"] = torch.tensor([math.nan])
    broken = made(numbers=numbers)
    with pytest.raises(NotFaithful):
        verify(path, broken.voice, "fp32", PROVIDERS, LENGTHS)
    with pytest.raises(NotFaithful):
        verify(written(tmp_path, broken.model), broken.voice, "fp32", PROVIDERS, LENGTHS)


def test_silence_is_no_proof(tmp_path: Path) -> None:
    """A voice that says nothing agrees with everything that says nothing, so it does not pass."""
    numbers = dict(small_networks.numbers())
    numbers["dec.conv_post.weight"] = torch.zeros_like(numbers["dec.conv_post.weight"])
    mute = made(numbers=numbers)
    with pytest.raises(NotFaithful) as caught:
        verify(written(tmp_path, mute.model), mute.voice, "fp32", PROVIDERS, LENGTHS)
    assert caught.value.found["snr_db"] == "no"


def test_the_worst_length_counts(tmp_path: Path) -> None:
    """A file that is right at one length only is refused for the other."""
    one = made()
    voice, deaf = one.voice, one.model
    node(deaf, "Unsqueeze").input[0] = "at_most"  # of the lengths: what lies beyond the traced length is masked
    deaf.graph.initializer.append(numpy_helper.from_array(np.array([TRACED_FRAMES]), "traced"))
    deaf.graph.node.insert(0, onnx.helper.make_node("Min", ["phone_lengths", "traced"], ["at_most"], "min"))
    path = written(tmp_path, deaf)
    assert verify(path, voice, "fp32", PROVIDERS, (TRACED_FRAMES,))
    with pytest.raises(NotFaithful) as caught:
        verify(path, voice, "fp32", PROVIDERS, (TRACED_FRAMES, 40))
    assert caught.value.found["frames"] == 40


def test_half_precision_has_its_own_measure(tmp_path: Path) -> None:
    """A half file passes as half and not as float32."""
    half = made(graph=halve(small_networks.graph(), small_networks.SOURCE))
    path = written(tmp_path, half.model)
    assert verify(path, half.voice, "fp16", PROVIDERS, LENGTHS)[0].wanted_db == 55
    with pytest.raises(NotFaithful):
        verify(path, half.voice, "fp32", PROVIDERS, LENGTHS)


def test_a_file_that_does_not_load_is_refused(tmp_path: Path) -> None:
    """What ONNX Runtime says about it is for the log; the person hears that it was not published."""
    one = made()
    node(one.model, "Sin").op_type = "Sinus"
    with pytest.raises(NotFaithful) as caught:
        verify(written(tmp_path, one.model), one.voice, "fp32", PROVIDERS, LENGTHS)
    assert caught.value.found["frames"] == 0


@pytest.mark.parametrize("change", ["name", "order", "axis", "dtype"])
def test_another_interface_is_caught(tmp_path: Path, change: str) -> None:
    """The session's own view of names, order, types and axes is compared."""
    one = made()
    first, second, third = one.voice.exportable.inputs
    graph = one.model.graph
    wanted = (first, second, third)
    match change:
        case "name":
            graph.node.insert(0, onnx.helper.make_node("Identity", ["feats"], [first.name]))
            graph.input[0].name = "feats"
        case "order":
            graph.input.append(graph.input.pop(1))
        case "axis":
            wanted = (first, second, replace(third, axes=(1, "pitches")))
        case "dtype":
            wanted = (first, replace(second, dtype="int32"), third)
    with pytest.raises(NotFaithful) as caught:
        verify(written(tmp_path, one.model), asking(one.voice, inputs=wanted), "fp32", PROVIDERS, LENGTHS)
    assert "wanted are" in str(caught.value.__cause__)


def test_too_little_memory_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graphics card that other programs fill is tried again later; a refusal would be final."""
    one = made()
    path = written(tmp_path, one.model)

    def full(*_: object) -> None:
        raise verify_module.ORT_ERRORS[1]("BFCArena: Available memory of 0 is smaller; failed to allocate memory")

    monkeypatch.setattr(verify_module, "open_session", full)
    with pytest.raises(MemoryError):
        verify(path, one.voice, "fp32", PROVIDERS, LENGTHS)


def test_a_provider_that_is_not_there_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would quietly use the CPU instead."""
    one = made()
    path = written(tmp_path, one.model)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["Other"])
    with pytest.raises(BadGraphError, match="does not use"):
        verify(path, one.voice, "fp32", PROVIDERS, LENGTHS)


def test_a_session_repeats_its_noise_from_the_start(tmp_path: Path) -> None:
    """What the replay rests on: a session draws on and on, and a new one draws the same from the beginning."""
    path = written(tmp_path, two_noises().model)
    feed = {"phone": np.zeros((1, 30, small_networks.FEATURES), np.float32)}
    session, again = open_session(path, CPU), open_session(path, CPU)
    first, second = (session.run(None, feed)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    assert np.array_equal(again.run(None, feed)[0], first)
    assert np.array_equal(again.run(None, feed)[0], second)


def shortened(voice: Original, *calls: int) -> list[np.ndarray]:
    """Let the network see one frame too few at its calls of these numbers; return the list of what it is then fed.

    It draws less noise there, too, so that afterwards both sides' noise is not the same any more.
    """
    fed: list[np.ndarray] = []

    def cut(_module: object, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        fed.append(arguments[0].numpy())
        return (arguments[0][:, :-1], *arguments[1:]) if len(fed) in calls else arguments

    voice.network.register_forward_pre_hook(cut)
    return fed


@pytest.mark.parametrize("call", [1, 2])
def test_a_length_that_rounds_apart_once_is_compared_once_more(tmp_path: Path, call: int) -> None:
    """From the start, with both sides' noise from the beginning again, and on other inputs, which do not round so."""
    two = two_noises()
    fed = shortened(two.voice, call)
    path = written(tmp_path, two.model)
    [fidelity] = verify(path, asking(two.voice, rounds=True), "fp32", PROVIDERS, LENGTHS)
    assert (fidelity.frames, len(fed)) == (LENGTHS, call + len(LENGTHS))
    assert fidelity.snr_db > 130
    assert not np.array_equal(fed[0], fed[call])


@pytest.mark.parametrize(("rounds", "calls"), [(True, (1, 2)), (True, (2, 3)), (False, (1,))])
def test_a_length_that_rounds_apart_twice_is_another_network(
    tmp_path: Path, *, rounds: bool, calls: tuple[int, ...]
) -> None:
    """It is refused, and so is a network that rounds nothing the first time."""
    two = two_noises()
    shortened(two.voice, *calls)
    with pytest.raises(NotFaithful) as caught:
        verify(written(tmp_path, two.model), asking(two.voice, rounds=rounds), "fp32", PROVIDERS, LENGTHS)
    assert caught.value.found["snr_db"] == "no"


def test_what_is_as_long_and_differs_has_no_second_trial(tmp_path: Path) -> None:
    """Only a length can be an accident."""
    one = made()
    wrong_weight(one.model)
    fed = shortened(one.voice)
    with pytest.raises(NotFaithful):
        verify(written(tmp_path, one.model), asking(one.voice, rounds=True), "fp32", PROVIDERS, LENGTHS)
    assert len(fed) == len(LENGTHS)


WAVE = np.sin(np.arange(1000, dtype=np.float32) / 7)


def with_one(value: float) -> np.ndarray:
    """Return the wave with one sample replaced."""
    wave = WAVE.copy()
    wave[500] = value
    return wave


@pytest.mark.parametrize(
    ("reference", "got", "snr_db"),
    [
        (WAVE, WAVE, BEST_DB),
        (WAVE, WAVE * np.float32(1.1), 20.0),
        (WAVE + 5, (WAVE + 5) + np.float32(0.1) * WAVE, 20.0),
        (WAVE, WAVE * 0, 0.0),
        (WAVE, -WAVE, -6.02),
        (WAVE * 0, WAVE * 0, -math.inf),
        (WAVE * 0 + 3, WAVE, -math.inf),
        (WAVE, with_one(math.nan), math.nan),
        (WAVE, with_one(math.inf), -math.inf),
        (with_one(math.nan), WAVE, math.nan),
        (with_one(math.inf), with_one(math.inf), math.nan),
        (with_one(math.inf), WAVE, math.nan),
    ],
)
def test_the_measure_is_the_power_of_the_sound_over_that_of_the_error(
    reference: np.ndarray, got: np.ndarray, snr_db: float
) -> None:
    """The mean of the reference is no sound; silence, NaN and infinity never look good."""
    assert difference(reference, got).snr_db == pytest.approx(snr_db, abs=0.02, nan_ok=True)
