"""A step that is repeated becomes one ONNX Loop, whose weights lie outside and whose precision is its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from onnxconverter_common import float16
from torch import nn

from convert import small_networks
from convert.small_networks import FEATURES
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import BadGraphError, check, export, merge_equal_nodes, with_numbers
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.convert.kept import HANDED_ON, assert_rest_in_float32
from voicekiln.convert.loop import alone, bodies, everywhere, roll
from voicekiln.convert.verify import open_session, verify
from voicekiln.errors import NotFaithful
from voicekiln.families.base import Exportable
from voicekiln.job import Port
from voicekiln.nets.loop import repeat
from voicekiln.nets.noise import Noise

WIDTH = 8
LOOK = "looker"
WHEN = "looker.when"

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class When(nn.Module):
    """What a step knows of its number."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(1, WIDTH)

    def forward(self, moment: torch.Tensor) -> torch.Tensor:
        """Return (1, WIDTH) for a number as (1,)."""
        mixed: torch.Tensor = self.mix(torch.sin(moment)[:, None])
        return mixed


class Looker(nn.Module):
    """What a step looks with."""

    def __init__(self) -> None:
        super().__init__()
        self.when = When()
        self.look = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        """Return (1, frames, WIDTH) like `x`."""
        seen: torch.Tensor = torch.tanh(self.look(x) + self.when(moment))
        return seen


class Repeating(nn.Module):
    """Looks at features again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, FEATURES)
        self.looker = Looker()

    def step(
        self, pace: torch.Tensor, number: torch.Tensor, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the next state."""
        seen = self.looker(x, number * pace)
        lean = 0.1 * x[..., 0] - 0.1 * x[..., 3]
        return x + 0.5 * seen - 0.25 * last + lean[..., None], seen

    def forward(self, phone: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Return (1, frames, FEATURES) like `phone`; `times` is (1,)."""
        x = torch.tanh(self.before(phone))
        pace = torch.cos(phone[..., 0].mean()).reshape(1)  # the exporter has one 0 for this and for the step's
        x, _ = repeat(times.reshape(()), partial(self.step, pace), x, torch.zeros_like(x))
        looked: torch.Tensor = self.after(x + x[..., 3].mean()).reshape(phone.shape)  # and one 3
        return looked


def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Draw features and a number of steps."""
    return {"phone": rng.standard_normal((1, frames, FEATURES), dtype=np.float32), "times": np.array([frames % 4 + 2])}


def repeating(module: type[Repeating] = Repeating, **changed: Any) -> Exportable:
    """Return the network ready for export."""
    described = small_networks.voice(
        module(),
        inputs=(Port("phone", "float32", (1, "frames", FEATURES)), Port("times", "int64", (1,))),
        outputs=(Port("out", "float32", (1, "frames", FEATURES)),),
        sample=sample,
        in_float32=WHEN,
        in_half=LOOK,
        noises=(),
    )
    return replace(described, **changed)


def numbers(exportable: Exportable) -> small_networks.Numbers:
    """Draw weights for the network."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=rng) / math.sqrt(tensor.shape[-1])
        for name, tensor in exportable.module.state_dict().items()
    }


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the types of the weights in a model by name."""
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the body of the one loop."""
    [(_, found)] = bodies(model.graph)
    return found


@pytest.mark.parametrize("opset", [17, 20])
def test_a_loop_repeats_as_often_as_it_is_told(opset: int) -> None:
    """One file for every number of steps, at lengths that were not traced."""
    exportable = repeating()
    weights = numbers(exportable)
    session = open_session(small_networks.whole(export(exportable, opset), weights).SerializeToString(), CPU)
    network = with_numbers(exportable)
    network.load_state_dict(weights)
    for times in (1, 2, 3, 17):
        fed = sample(30 + times, np.random.default_rng(times)) | {"times": np.array([times])}
        [got] = session.run(None, fed)
        wanted = network(*map(torch.from_numpy, fed.values())).detach().numpy()
        np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_the_graph_has_one_loop_and_no_marks() -> None:
    """Weights are initializers of the whole and of nothing else; what the exporter was shown has gone."""
    exportable = repeating()
    model = export(exportable, 17)
    assert [each.domain for each in model.opset_import] == [""]
    assert not any(node.domain for node in everywhere(model.graph))
    assert [tensor.name for tensor in model.graph.initializer] == list(exportable.module.state_dict())
    assert not body(model).initializer
    read = {name for node in body(model).node for name in node.input}
    inside = {name for name in exportable.module.state_dict() if name.startswith(LOOK)}
    assert inside == read & exportable.module.state_dict().keys()


def test_constants_do_not_cross_the_border() -> None:
    """Each side computes with its own, whichever the exporter has met first; values of other kinds may enter."""
    model = export(repeating(), 17)
    sides = list(model.graph.node), list(body(model).node)
    for mine, others in (sides, sides[::-1]):
        constants = {node.output[0] for node in others if node.op_type == "Constant"}
        assert not constants & {name for node in mine for name in node.input}


def test_equal_nodes_on_two_sides_stay_two() -> None:
    """What is computed in a step is not there outside of it, and not in the same precision."""
    marks = {"domain": "voicekiln"}
    nodes = [
        onnx.helper.make_node("Sin", ["x"], ["a"], "before"),
        onnx.helper.make_node("Enter", ["n", "a"], ["i", "s"], "enter", **marks),
        onnx.helper.make_node("Sin", ["x"], ["b"], "within"),
        onnx.helper.make_node("Add", ["b", "s"], ["c"], "add"),
        onnx.helper.make_node("Leave", ["c"], ["d"], "leave", **marks),
        onnx.helper.make_node("Sin", ["x"], ["e"], "after"),
        onnx.helper.make_node("Sum", ["a", "d", "e"], ["z"], "sum"),
    ]
    end = onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(nodes, "g", [], [end])
    merge_equal_nodes(graph, None)
    assert [node.name for node in graph.node] == ["before", "enter", "within", "add", "leave", "sum"]


def test_a_graph_without_marks_is_left_as_it_is() -> None:
    """To the byte."""
    model = small_networks.graph()
    before = model.SerializeToString(deterministic=True)
    roll(model)
    assert model.SerializeToString(deterministic=True) == before


class Leaks(Repeating):
    """Uses outside what a step has made, by another way than its state."""

    def step(
        self, pace: torch.Tensor, number: torch.Tensor, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Keep a value."""
        self.kept = torch.cos(x + last)
        return super().step(pace, number, x, last)

    def forward(self, phone: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Add it."""
        out = super().forward(phone, times)
        return out + self.kept.mean()


class Twice(Repeating):
    """Has two loops."""

    def forward(self, phone: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Return the network of itself."""
        return super().forward(super().forward(phone, times), times)


class Idle(Repeating):
    """Hands its state on as it came."""

    def step(
        self, pace: torch.Tensor, number: torch.Tensor, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Leave half of the state alone."""
        return super().step(pace, number, x, last)[0], last


@pytest.mark.parametrize(
    ("module", "said"), [(Leaks, "leaves its step"), (Twice, "the marks of a step are"), (Idle, "has not made")]
)
def test_what_is_no_single_step_is_refused(module: type[Repeating], said: str) -> None:
    """A network that a loop could not stand for."""
    with pytest.raises(BadGraphError, match=said):
        export(repeating(module), 17)


class Draws(Repeating):
    """Draws noise in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()

    def step(
        self, pace: torch.Tensor, number: torch.Tensor, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Add noise."""
        drawn: torch.Tensor = self.noise(x)
        return super().step(pace, number, x + drawn, last)


@pytest.mark.parametrize("noises", [(), ("noise",)])
def test_noise_in_a_step_is_refused(noises: tuple[str, ...]) -> None:
    """No verifier could draw it again: it is drawn as often as the step is taken."""
    with pytest.raises(BadGraphError, match="noise is drawn in"):
        export(repeating(Draws, noises=noises), 17)


class Tabled(Repeating):
    """Has a table in its step."""

    def step(
        self, pace: torch.Tensor, number: torch.Tensor, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Add what was computed beforehand."""
        table = torch.sqrt(torch.arange(800.0)).reshape(-1, WIDTH)
        return super().step(pace, number, x + torch.index_select(table, 0, number.reshape(1)), last)


def test_a_table_in_a_step_is_refused() -> None:
    """As everywhere in the graph: it would not follow another voice's weights."""
    with pytest.raises(BadGraphError, match="constant in"):
        export(repeating(Tabled), 17)


# Half precision.


def agreement_db(model: onnx.ModelProto, exportable: Exportable, path: Path) -> float:
    """Return how well a half file agrees with the network."""
    weights = numbers(exportable)
    path.write_bytes(small_networks.whole(model, weights).SerializeToString())
    return verify(path, small_networks.asked(exportable, weights, model), "fp16", [CPU], (40, 97))[0].snr_db


@pytest.mark.parametrize("make", [halve, store_as_half])
def test_what_is_half_is_the_named_part_of_the_step(tmp_path: Path, make: Callable[..., onnx.ModelProto]) -> None:
    """Its weights take half the room, but for those that lead to the part in float32; all around stays as it was."""
    exportable = repeating()
    model = export(exportable, 17)
    half = make(model, WHEN, LOOK)
    assert {name for name, kind in types(half).items() if kind == TensorProto.FLOAT16} == {
        "looker.look.weight",
        "looker.look.bias",
    }
    assert body(half).input == body(model).input
    assert body(half).output == body(model).output
    assert 55 < agreement_db(half, exportable, tmp_path / "fp16.onnx") < 110


def test_half_a_step_computes_in_half_and_hands_on_float32() -> None:
    """What is looked at is half; the state from step to step is not, nor what a step knows of its number."""
    half = halve(export(repeating(), 17), WHEN, LOOK)
    model = alone(half, body(half))
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.output)}
    made = {node.name: known[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}
    assert made["/looker/Tanh"] == TensorProto.FLOAT16
    assert made["/looker/when/mix/Gemm"] == TensorProto.FLOAT
    outside = {name: kind for name, kind in made.items() if not name.startswith(("/looker/", HANDED_ON))}
    assert [name for name, kind in outside.items() if kind == TensorProto.FLOAT16] == []


def state_in_half(model: onnx.ModelProto) -> None:
    """Let the state pass through half precision on its way into the next step's sum."""
    at, node = next((at, node) for at, node in enumerate(model.graph.node) if node.name == "/Mul_1")
    down = onnx.helper.make_node("Cast", [node.input[0]], ["down"], "down", to=TensorProto.FLOAT16)
    up = onnx.helper.make_node("Cast", ["down"], ["up"], "up", to=TensorProto.FLOAT)
    node.input[0] = "up"
    for each in (up, down):
        model.graph.node.insert(at, each)


def sum_in_half(model: onnx.ModelProto) -> None:
    """Let the next state be a sum of half numbers."""
    at, node = next((at, node) for at, node in enumerate(model.graph.node) if node.name == "/Add")
    for number, name in enumerate([*node.input]):
        node.input[number] = f"half{number}"
        down = onnx.helper.make_node("Cast", [name], [f"half{number}"], f"down{number}", to=TensorProto.FLOAT16)
        model.graph.node.insert(at, down)
    made, node.output[0] = node.output[0], "half"
    model.graph.node.insert(at + 3, onnx.helper.make_node("Cast", ["half"], [made], "up", to=TensorProto.FLOAT))


@pytest.mark.parametrize("flaw", [state_in_half, sum_in_half])
def test_half_precision_outside_of_the_named_part_is_caught(flaw: Callable[[onnx.ModelProto], None]) -> None:
    """Errors of the state would add up from step to step, and the verification takes few."""
    half = halve(export(repeating(), 17), WHEN, LOOK)
    model = alone(half, body(half))
    assert_rest_in_float32(model, LOOK)
    flaw(model)
    check(model)
    with pytest.raises(BadGraphError, match="outside of looker"):
        assert_rest_in_float32(model, LOOK)


def test_a_converter_that_halves_too_much_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving ends with the proof: a release that ignores what it should leave alone gets no file out."""
    real = float16.convert_float_to_float16

    def careless(model: onnx.ModelProto, **options: Any) -> Any:
        kept = [name for name in options["node_block_list"] if name.startswith("/looker/")]
        return real(model, **options | {"node_block_list": kept})

    monkeypatch.setattr(float16, "convert_float_to_float16", careless)
    with pytest.raises(BadGraphError):
        halve(export(repeating(), 17), WHEN, LOOK)


@pytest.mark.parametrize("make", [halve, store_as_half])
def test_nothing_is_half_where_nothing_may_be(make: Callable[..., onnx.ModelProto]) -> None:
    """An empty name stands for no part of the network: the file is the float32 one."""
    for model in (export(repeating(), 17), small_networks.graph()):
        assert make(model, None, "").SerializeToString(deterministic=True) == model.SerializeToString(
            deterministic=True
        )


def test_outside_of_the_named_part_a_flat_graph_stays_float32(tmp_path: Path) -> None:
    """Without a loop, too; an output that such a node makes stays float32 without a detour."""
    exportable = small_networks.voice(in_half="dec.conv_pre")
    model = export(exportable, 17)
    half = halve(model, small_networks.SOURCE, "dec.conv_pre")
    assert {name for name, kind in types(half).items() if kind == TensorProto.FLOAT16} == {
        "dec.conv_pre.weight",
        "dec.conv_pre.bias",
    }
    assert half.graph.output == model.graph.output
    weights = small_networks.numbers()
    path = tmp_path / "fp16.onnx"
    path.write_bytes(small_networks.whole(half, weights).SerializeToString())
    assert verify(path, small_networks.asked(exportable, weights, half), "fp16", [CPU], (40, 97))[0].snr_db > 55


def test_another_number_in_the_step_is_not_published(tmp_path: Path) -> None:
    """The verification runs the body, not only what lies around it."""
    exportable = repeating()
    model, weights = export(exportable, 17), numbers(exportable)
    asked = small_networks.asked(exportable, weights, model)
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small_networks.whole(model, weights).SerializeToString())
    assert verify(path, asked, "fp32", [CPU], (40, 97))[0].snr_db > 100
    wrong = {name: tensor.clone() for name, tensor in weights.items()}
    wrong["looker.look.weight"][0, 0] += 0.01
    path.write_bytes(small_networks.whole(model, wrong).SerializeToString())
    with pytest.raises(NotFaithful):
        verify(path, asked, "fp32", [CPU], (40, 97))
