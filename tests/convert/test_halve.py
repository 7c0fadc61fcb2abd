"""Half precision where it is safe, float32 from the pitch to the source's output, and files that load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxconverter_common import float16
from torch import nn

from convert import small_networks
from voicekiln.convert import halve as halve_module
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import BadGraphError, check, noise_nodes, ports
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.convert.kept import assert_source_in_float32, source_path
from voicekiln.convert.verify import open_session, verify
from voicekiln.job import OPSETS, Port

SOURCE = small_networks.SOURCE


def weights(model: onnx.ModelProto) -> dict[str, int]:
    """Return the types of the weights in a model by name."""
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def agreement_db(model: onnx.ModelProto, numbers: small_networks.Numbers, path: Path) -> float:
    """Return how well the model with these numbers agrees with the network."""
    path.write_bytes(small_networks.whole(model, numbers).SerializeToString())
    voice = small_networks.asked(small_networks.voice(), numbers, model)
    return verify(path, voice, "fp16", [CPU], (40, 97))[0].snr_db


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of every value in a model."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input, *typed.output)}


@pytest.mark.parametrize("opset", OPSETS)
def test_a_half_file_loads_and_sounds_right(tmp_path: Path, opset: int) -> None:
    """In every opset the file that is written runs and agrees with the network."""
    half = halve(small_networks.graph(opset=opset), SOURCE)
    assert agreement_db(half, small_networks.numbers(), tmp_path / "fp16.onnx") >= 55


def test_inputs_and_outputs_stay_float32() -> None:
    """Clients feed a half file as they feed any other."""
    voice = small_networks.voice()
    half = halve(small_networks.graph(), SOURCE)
    assert ports(half.graph.input) == voice.inputs
    assert ports(half.graph.output) == voice.outputs


def test_the_original_stays_as_it_is() -> None:
    """The float32 model is still to be had afterwards."""
    model = small_networks.graph()
    before = model.SerializeToString(deterministic=True)
    halve(model, SOURCE)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_are_half_but_for_the_sources() -> None:
    """Everything outside the source takes half the room."""
    for name, kind in weights(halve(small_networks.graph(), SOURCE)).items():
        assert kind == (TensorProto.FLOAT if name.startswith(SOURCE) else TensorProto.FLOAT16), name


@pytest.mark.parametrize("make", [halve, store_as_half])
def test_weights_stay_declared_as_they_were(make: Callable[..., onnx.ModelProto]) -> None:
    """Names, order and shapes are the float32 graph's, and there is still no number in them."""
    whole, half = small_networks.graph(), make(small_networks.graph(), SOURCE)
    declared = [[(t.name, tuple(t.dims)) for t in model.graph.initializer] for model in (whole, half)]
    assert declared[0] == declared[1]
    assert not any(tensor.HasField("raw_data") or tensor.float_data for tensor in half.graph.initializer)


@pytest.mark.parametrize("value", [1e-9, -1e-9, 3e-8, 6e-8, 0.1, 1e6, -1e6])
def test_constants_round_to_the_nearest_half_number(value: float) -> None:
    """Tiny ones become zero and are not pushed away from it; too large ones become the largest half number."""
    model = small_networks.graph()
    constant = onnx.helper.make_node(
        "Constant", [], ["louder"], "louder", value=numpy_helper.from_array(np.array(value, np.float32))
    )
    last = next(node for node in model.graph.node if node.output[0] == "audio")
    last.output[0] = "before"
    model.graph.node.extend([constant, onnx.helper.make_node("Mul", ["before", "louder"], ["audio"], "mul")])
    half = halve(model, SOURCE)
    [found] = [node.attribute[0].t for node in half.graph.node if node.name == "louder"]
    wanted = np.clip(np.float32(value), -65504, 65504).astype(np.float16)
    assert numpy_helper.to_array(found).dtype == np.float16
    assert numpy_helper.to_array(found) == wanted


def test_equal_graphs_give_equal_halves() -> None:
    """Halving depends on nothing but the graph."""
    first, second = (halve(small_networks.graph(), SOURCE).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_noise_is_drawn_in_float32() -> None:
    """There is no half random generator on the CPU, and the noise is to be the same in both precisions."""
    model = small_networks.graph(small_networks.two_noises())
    half = halve(model, None)
    outputs = [node.output[0] for node in noise_nodes(half.graph)]
    assert [types(half)[name] for name in outputs] == [TensorProto.FLOAT] * 2


def test_stored_halves_take_the_room_of_halves_and_compute_in_float32(tmp_path: Path) -> None:
    """Where half arithmetic is too coarse, the size is still halved and only the weights are rounded."""
    model = small_networks.graph()
    stored = store_as_half(model, SOURCE)
    assert TensorProto.FLOAT16 not in set(types(stored).values())
    assert weights(stored) == weights(halve(model, SOURCE))
    assert agreement_db(stored, small_networks.numbers(), tmp_path / "fp16.onnx") > 55


def test_stored_halves_are_exact_where_the_weights_were_half(tmp_path: Path) -> None:
    """A file whose weights are half already loses nothing."""
    numbers = {name: tensor.half() for name, tensor in small_networks.numbers().items()}
    assert agreement_db(store_as_half(small_networks.graph(), SOURCE), numbers, tmp_path / "fp16.onnx") > 100


class Choosing(nn.Module):
    """Says which row of a table f0 belongs to, and filters what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(1024, 4)
        self.filter = nn.Parameter(torch.full((1, 1, 3), 1 / 3))

    def forward(self, pitchf: torch.Tensor) -> torch.Tensor:
        """Return (4, 1, frames)."""
        row = torch.round(torch.log(1 + pitchf) * 140).long()
        return torch.conv1d(self.rows(row).permute(2, 0, 1), self.filter, padding=1)


@pytest.fixture
def choosing() -> tuple[onnx.ModelProto, Choosing]:
    """Return that network's graph in float32, and the network."""
    torch.manual_seed(0)
    pitch, out = Port("pitchf", "float32", (1, "frames")), Port("out", "float32", (4, 1, "frames"))
    network = Choosing().requires_grad_(requires_grad=False)

    def sample(frames: int, _: np.random.Generator) -> dict[str, Any]:
        return {"pitchf": np.geomspace(50, 1100, frames, dtype=np.float32)[None]}

    described = small_networks.voice(
        Choosing(), inputs=(pitch,), outputs=(out,), sample=sample, in_float32=None, noises=()
    )
    return small_networks.graph(described), network


def test_a_number_that_chooses_is_computed_in_float32(
    choosing: tuple[onnx.ModelProto, Choosing], tmp_path: Path
) -> None:
    """Half precision has too few digits to tell one row of a table from the next; every frame gets its own."""
    graph, network = choosing
    path = tmp_path / "fp16.onnx"
    path.write_bytes(small_networks.whole(halve(graph, None), network.state_dict()).SerializeToString())
    f0 = np.geomspace(50, 1100, 500, dtype=np.float32)[None]
    [got] = open_session(path, CPU).run(None, {"pitchf": f0})
    np.testing.assert_allclose(got, network(torch.from_numpy(f0)).numpy(), atol=5e-3)


@pytest.mark.parametrize("make", [halve, store_as_half])
def test_a_filter_of_all_channels_keeps_its_digits(
    choosing: tuple[onnx.ModelProto, Choosing], make: Callable[..., onnx.ModelProto]
) -> None:
    """Its few numbers are soon stored, and what is off in them is off in every channel in the same sense."""
    graph, _ = choosing
    assert weights(make(graph, None)) == {"rows.weight": TensorProto.FLOAT16, "filter": TensorProto.FLOAT}


# What onnxconverter-common leaves wrong, and what is done about it.


def test_the_converter_alone_still_makes_a_broken_file() -> None:
    """The day on which this fails, the mending can be thrown away."""
    model = small_networks.whole(small_networks.graph(), small_networks.numbers())
    kept = source_path(model.graph, SOURCE)
    broken = float16.convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[], node_block_list=sorted(kept), min_positive_val=0
    )
    with pytest.raises(Exception, match="Type Error"):
        open_session(broken.SerializeToString(), CPU)


def test_a_cast_that_kept_its_old_target_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask's cast leads to half precision afterwards; without the mending it does not check."""
    half = halve(small_networks.graph(), SOURCE)
    casts = [node for node in half.graph.node if node.name == "/Cast_1"]
    assert [onnx.helper.get_attribute_value(node.attribute[0]) for node in casts] == [TensorProto.FLOAT16]
    monkeypatch.setattr(halve_module, "_mend", lambda *_: None)
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError, BadGraphError)):
        halve(small_networks.graph(), SOURCE)


def test_no_value_takes_a_detour_through_half() -> None:
    """A float32 value that is cast to half and back would lose what the source needs."""
    half = halve(small_networks.graph(), SOURCE)
    known = types(half)
    makers = {node.output[0]: node for node in half.graph.node}
    for node in half.graph.node:
        before = makers.get(node.input[0]) if node.input else None
        if node.op_type == "Cast" and before is not None and before.op_type == "Cast":
            assert (known[before.input[0]], known[node.output[0]]) != (TensorProto.FLOAT, TensorProto.FLOAT)


def test_a_detour_is_bridged_whoever_made_it() -> None:
    """Two readers behind one pair of casts: the converter's own clean-up misses such."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["x"], ["h"], "down", to=TensorProto.FLOAT16),
        node("Cast", ["h"], ["f"], "up", to=TensorProto.FLOAT),
        node("Sin", ["f"], ["a"], "one"),
        node("Cos", ["f"], ["b"], "two"),
        node("Add", ["a", "b"], ["y"], "sum"),
        node("Neg", ["h"], ["unread"], "dead"),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    halve_module._mend(graph, set())
    assert [(n.name, list(n.input)) for n in graph.node] == [("one", ["x"]), ("two", ["x"]), ("sum", ["a", "b"])]


# The proof that the phase is float32.


def half_input(model: onnx.ModelProto) -> None:
    """Let f0 come in through half precision."""
    node = next(n for n in model.graph.node if "pitchf" in n.input)
    down = onnx.helper.make_node("Cast", ["pitchf"], ["down"], "down", to=TensorProto.FLOAT16)
    up = onnx.helper.make_node("Cast", ["down"], ["up"], "up", to=TensorProto.FLOAT)
    node.input[list(node.input).index("pitchf")] = "up"
    for each in (up, down):
        model.graph.node.insert(0, each)


def half_middle(model: onnx.ModelProto) -> None:
    """Let the phase pass through half precision before the sine."""
    at, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Sin")
    down = onnx.helper.make_node("Cast", [node.input[0]], ["down"], "/dec/m_source/down", to=TensorProto.FLOAT16)
    up = onnx.helper.make_node("Cast", ["down"], ["up"], "/dec/m_source/up", to=TensorProto.FLOAT)
    node.input[0] = "up"
    for each in (up, down):
        model.graph.node.insert(at, each)


def half_weight(model: onnx.ModelProto) -> None:
    """Keep the source's own weight in half precision."""
    tensor = next(t for t in model.graph.initializer if t.name == "dec.m_source.l_linear.weight")
    tensor.data_type = TensorProto.FLOAT16
    node = next(n for n in model.graph.node if tensor.name in n.input)
    up = onnx.helper.make_node("Cast", [tensor.name], ["up"], "/dec/m_source/up", to=TensorProto.FLOAT)
    node.input[list(node.input).index(tensor.name)] = "up"
    model.graph.node.insert(0, up)


def half_end(model: onnx.ModelProto) -> None:
    """Let the last step of the source, its tanh, be in half precision."""
    at, node = next((i, n) for i, n in enumerate(model.graph.node) if n.name == "/dec/m_source/Tanh")
    down = onnx.helper.make_node("Cast", [node.input[0]], ["down"], "/dec/m_source/down", to=TensorProto.FLOAT16)
    node.input[0] = "down"
    up = onnx.helper.make_node("Cast", ["half"], [node.output[0]], "/dec/m_source/up", to=TensorProto.FLOAT)
    node.output[0] = "half"
    model.graph.node.insert(at + 1, up)
    model.graph.node.insert(at, down)


@pytest.mark.parametrize("flaw", [half_input, half_middle, half_weight, half_end])
def test_half_precision_on_the_way_to_the_source_is_caught(flaw: Callable[[onnx.ModelProto], None]) -> None:
    """ONNX Runtime on a CPU would play all of these nearly as well; on a GPU the phase is gone."""
    model = halve(small_networks.graph(), SOURCE)
    assert_source_in_float32(model, SOURCE)
    flaw(model)
    check(model)
    with pytest.raises(BadGraphError, match="is not float32"):
        assert_source_in_float32(model, SOURCE)


def test_a_converter_that_halves_the_source_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving ends with the proof: a release that ignores what it should leave alone gets no file out."""
    real = float16.convert_float_to_float16

    def careless(model: onnx.ModelProto, **options: Any) -> Any:
        return real(model, **options | {"node_block_list": [node.name for node in noise_nodes(model.graph)]})

    monkeypatch.setattr(float16, "convert_float_to_float16", careless)
    model = small_networks.graph()
    casts = {node.name for node in model.graph.node if node.op_type == "Cast"}
    real_mend = halve_module._mend
    monkeypatch.setattr(halve_module, "_mend", lambda graph, _: real_mend(graph, casts))
    with pytest.raises(BadGraphError, match="is not float32"):
        halve(model, SOURCE)


def test_a_source_that_is_not_there_is_caught() -> None:
    """A misspelt path must not pass for a proof."""
    model = small_networks.graph()
    with pytest.raises(BadGraphError, match="no node"):
        assert_source_in_float32(model, "dec.source")
    with pytest.raises(BadGraphError, match="no float32 input"):
        assert_source_in_float32(without_pitch(), SOURCE)


def without_pitch() -> onnx.ModelProto:
    """Return a graph whose source hears of no f0."""
    node = onnx.helper.make_node("Constant", [], ["y"], "/dec/m_source/Constant", value_float=1.0)
    end = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [end]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_the_way_to_the_source_is_all_of_it_and_no_more() -> None:
    """What leads to the source is kept in float32, the decoder is not."""
    path = source_path(small_networks.graph().graph, SOURCE)
    assert "/dec/m_source/Tanh" in path
    assert not [name for name in path if "conv" in name or "/dec/up" in name]
