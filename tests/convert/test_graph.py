"""The exported graph has exactly the network's interface, weights and noise, and none of the weights' numbers."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_node
from torch import nn

from convert import small_networks
from voicekiln.convert import graph as graph_module
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import BadGraphError, check, export, merge_equal_nodes, noise_nodes, ports, with_numbers
from voicekiln.convert.verify import open_session
from voicekiln.families.weights import AsIs
from voicekiln.job import OPSETS, Port


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Return a node's attributes by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


class Odd(small_networks.Voice):
    """A small voice with one thing done differently."""

    def twist(self, audio: torch.Tensor) -> torch.Tensor:
        """Change the audio."""
        return audio

    def forward(self, phone: torch.Tensor, phone_lengths: torch.Tensor, pitchf: torch.Tensor) -> torch.Tensor:
        """Return audio, (batch, 1, samples)."""
        return self.twist(super().forward(phone, phone_lengths, pitchf))


def test_the_interface_is_the_networks_own() -> None:
    """Names, order, types and axes are as described, with one name for the dynamic axis."""
    voice = small_networks.voice()
    graph = small_networks.graph().graph
    assert ports(graph.input) == voice.inputs
    assert ports(graph.output) == voice.outputs


@pytest.mark.parametrize("opset", OPSETS)
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    """Each opset that a recipe may name is what the file declares."""
    assert [(o.domain, o.version) for o in small_networks.graph(opset=opset).opset_import] == [("", opset)]


def test_weights_are_declared_in_the_networks_order_without_numbers() -> None:
    """Every weight has its own name and shape, nothing else of size is there, and no voice's number is."""
    wanted = small_networks.voice().module.state_dict()
    found = small_networks.graph().graph.initializer
    assert [(t.name, tuple(t.dims)) for t in found] == [(name, tuple(t.shape)) for name, t in wanted.items()]
    for tensor in found:
        assert tensor.data_type == TensorProto.FLOAT
        assert {descriptor.name for descriptor, _ in tensor.ListFields()} == {"name", "dims", "data_type"}


class Twins(Odd):
    """Has two layers of equal shape that read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Conv1d(1, 1, 3, padding=1) for _ in range(2))

    def twist(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the sum of what both make of it."""
        both: torch.Tensor = self.left(audio) + self.right(audio)
        return both


def test_weights_are_never_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even two that are read alike: both stay, and should they be traced with equal numbers, it is noticed."""
    wanted = Twins().state_dict().keys()
    graph = export(small_networks.voice(Twins()), 17).graph
    assert {tensor.name for tensor in graph.initializer} == wanted
    assert wanted <= {name for node in graph.node for name in node.input}
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_, **__: tensor.zero_())
    with pytest.raises(BadGraphError, match="are not the weights of the network"):  # the exporter's own thrift
        export(small_networks.voice(Twins()), 17)


def test_equal_networks_give_equal_bytes() -> None:
    """Nothing of time, place or order gets into the file."""
    first, second = (export(small_networks.voice(), 17).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_nothing_tells_of_this_machine() -> None:
    """No path of a source file and no user is in the graph."""
    data = small_networks.graph().SerializeToString()
    assert b".py" not in data
    assert b"pytorch" not in data
    assert b"/site-packages" not in data


def test_each_noise_has_a_seed_of_its_own() -> None:
    """The noise can be drawn again, and two sources do not draw the same numbers."""
    nodes = noise_nodes(small_networks.graph(small_networks.two_noises()).graph)
    assert [attributes(node)["seed"] for node in nodes] == [1.0, 2.0]
    assert [attributes(node)["dtype"] for node in nodes] == [onnx.TensorProto.FLOAT] * 2


def test_randomness_outside_the_noise_modules_is_refused() -> None:
    """A draw that no verifier can replay is a fault of the network."""

    class Draws(Odd):
        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio + torch.randn_like(audio)

    with pytest.raises(BadGraphError, match="noise is drawn in"):
        export(small_networks.voice(Draws()), 17)


def test_uniform_noise_is_refused() -> None:
    """The source's random phase is dead weight and has to stay out."""

    class Draws(Odd):
        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio + 0 * torch.rand_like(audio)

    with pytest.raises(BadGraphError, match="noise is drawn in"):
        export(small_networks.voice(Draws()), 17)


def test_a_noise_that_vanished_is_refused() -> None:
    """A network that announces a noise must have it in its graph."""
    voice = small_networks.two_noises()
    with pytest.raises(BadGraphError, match="noise is drawn in"):
        export(replace(voice, noises=("first", "second", "third")), 17)
    with pytest.raises(BadGraphError, match="noise is drawn in"):
        export(replace(voice, noises=("second", "first")), 17)


def test_what_was_computed_from_weights_is_refused() -> None:
    """A table that is no weight of the network would not follow another voice's weights."""

    class Computes(Odd):
        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio + torch.from_numpy(np.ones(1025, np.float32)).sum()

    with pytest.raises(BadGraphError, match=r"constant|initializer"):
        export(small_networks.voice(Computes()), 17)


class Unseen(Odd):
    """Decides something in Python from its weights, and silences the tracer's warning about it."""

    def twist(self, audio: torch.Tensor) -> torch.Tensor:
        """Leave the weights to `unseen`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.unseen(audio, self.dec.conv_pre.weight)

    def unseen(self, audio: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Change the audio."""
        raise NotImplementedError


class Item(Unseen):
    """Multiplies by a number that was read from its weights."""

    def unseen(self, audio: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return audio * weight.sum().item()


class Listed(Unseen):
    """Adds a tensor that was made from a list of its weights."""

    def unseen(self, audio: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return audio + torch.tensor(weight[0, 0].tolist()).sum()


class Arrayed(Unseen):
    """Adds a tensor that NumPy computed from its weights."""

    def unseen(self, audio: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return audio + torch.from_numpy(weight.detach().numpy().sum(axis=(0, 1))).sum()


class Chosen(Unseen):
    """Takes the number of its weights' largest row for a shift."""

    def unseen(self, audio: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return audio.roll(int(weight.abs().flatten().argmax()) + 1, -1)


@pytest.mark.parametrize("module", [Item, Listed, Arrayed, Chosen])
def test_a_number_that_follows_the_weights_is_refused(module: type[Unseen]) -> None:
    """However small it is and whoever was silenced: another voice would get the first one's number."""
    with pytest.raises(BadGraphError, match="depends on the numbers of the weights"):
        export(small_networks.voice(module()), 17)


def test_a_warning_about_a_number_from_the_weights_counts() -> None:
    """Without the silencing the tracer tells of it itself."""

    class Plain(Odd):
        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio * self.dec.conv_pre.weight.sum().item()

    with pytest.raises(BadGraphError, match="tracing"):
        export(small_networks.voice(Plain()), 17)


def test_weights_under_a_stranger_name_are_refused() -> None:
    """A layer that the network does not own shows as a name that is none of its weights."""

    class Hidden(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Conv1d(1, 1, 2001, padding=1000).requires_grad_(requires_grad=False)]

        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            twisted: torch.Tensor = self.hidden[0](audio)
            return twisted

    with pytest.raises(BadGraphError, match=r"constant|initializer"):
        export(small_networks.voice(Hidden()), 17)


def test_a_weight_that_the_rules_do_not_name_is_refused() -> None:
    """And a rule for no weight: each of them would leave something unset."""
    voice = small_networks.voice()
    missing = {name: rule for name, rule in voice.weights.items() if name != "dec.conv_post.bias"}
    for wrong in (missing, {**voice.weights, "more": AsIs("more")}):
        with pytest.raises(BadGraphError, match="not the weights of the network"):
            export(replace(voice, weights=wrong), 17)


def test_a_weight_that_nothing_reads_is_refused() -> None:
    """A layer without use is no layer of the network; the exporter leaves it out."""

    class Idle(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 2)

    with pytest.raises(BadGraphError, match=r"not the weights of the network: \['idle"):
        export(small_networks.voice(Idle()), 17)


def test_a_table_that_is_not_saved_is_refused() -> None:
    """A buffer outside of the checkpoint has no numbers in a network that was built without any."""

    class Tabled(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3), persistent=False)

        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio + self.get_buffer("table").sum()

    with pytest.raises(BadGraphError):
        export(small_networks.voice(Tabled()), 17)


def test_a_length_that_becomes_a_number_is_refused() -> None:
    """A Python decision on a length would freeze it in the graph; the tracer's warning about it counts."""

    class Freezes(Odd):
        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            return audio if audio.abs().max() > 0 else -audio

    with pytest.raises(BadGraphError, match="tracing"):
        export(small_networks.voice(Freezes()), 17)


@pytest.mark.parametrize(
    "outputs",
    [
        (Port("audio", "float32", (1, 1, "frames")), Port("more", "float32", (1,))),
        (Port("audio", "float32", (1, 2, "samples")),),
        (Port("audio", "float16", (1, 1, "samples")),),
    ],
)
def test_another_output_than_described_is_refused(outputs: tuple[Port, ...]) -> None:
    """The description is compared with what came out."""
    with pytest.raises((BadGraphError, RuntimeError)):
        export(small_networks.voice(outputs=outputs), 17)


def test_two_names_for_the_length_are_refused() -> None:
    """One dynamic axis has one name on every input."""
    inputs = list(small_networks.voice().inputs)
    inputs[2] = Port("pitchf", "float32", (1, "pitches"))
    with pytest.raises(BadGraphError, match="one dynamic axis"):
        export(small_networks.voice(inputs=tuple(inputs)), 17)


def test_the_graph_is_complete_in_itself() -> None:
    """With numbers in it, it is sound by ONNX's own rules, types and shapes included."""
    full = small_networks.whole(small_networks.graph(), small_networks.numbers())
    onnx.checker.check_model(full, full_check=True)


def test_a_graph_that_breaks_onnxs_rules_is_refused() -> None:
    """The check sees types and shapes although the weights are no more than declared."""
    check(small_networks.graph())
    for name, dims in (("emb_phone.bias", [9]), ("dec.conv_post.weight", [2, 8, 7])):
        model = small_networks.graph()
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        tensor.dims[:] = dims
        with pytest.raises(BadGraphError):
            check(model)
    model = small_networks.graph()
    del model.graph.initializer[0]
    with pytest.raises(BadGraphError):
        check(model)


def test_the_network_without_numbers_is_left_without() -> None:
    """Families share it between voices: what is traced is a copy."""
    voice = small_networks.voice()
    export(voice, 17)
    with_numbers(voice)
    assert {tensor.device.type for tensor in voice.module.state_dict().values()} == {"meta"}


# Each value is computed once.


def merged(*nodes: onnx.NodeProto, outputs: str = "z", in_float32: str | None = None) -> list[str]:
    """Return the names of the nodes that stay, in their order."""
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in outputs]
    graph = onnx.helper.make_graph(list(nodes), "g", [], ends)
    merge_equal_nodes(graph, in_float32)
    made = {name for node in graph.node for name in node.output}
    assert {name for node in graph.node for name in node.input if len(name) > 1} <= made
    return [node.name for node in graph.node]


def test_equal_nodes_become_one_with_all_that_follows_from_them() -> None:
    """Once two are one, their readers may be equal too."""
    nodes = [
        make_node("Sin", ["x"], ["aa"], "a"),
        make_node("Sin", ["x"], ["bb"], "b"),
        make_node("Neg", ["aa"], ["cc"], "c"),
        make_node("Neg", ["bb"], ["dd"], "d"),
        make_node("Add", ["cc", "dd"], ["z"], "e"),
    ]
    assert merged(*nodes) == ["a", "c", "e"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_node("Sin", ["x"], ["aa"], "a"), make_node("Cos", ["x"], ["bb"], "b")),
        (make_node("Sin", ["x"], ["aa"], "a"), make_node("Sin", ["y"], ["bb"], "b")),
        (make_node("Sub", ["x", "y"], ["aa"], "a"), make_node("Sub", ["y", "x"], ["bb"], "b")),
        (make_node("Cast", ["x"], ["aa"], "a", to=1), make_node("Cast", ["x"], ["bb"], "b", to=7)),
        (make_node("Constant", [], ["aa"], "a", value_int=1), make_node("Constant", [], ["bb"], "b", value_int=2)),
        (make_node("Constant", [], ["aa"], "a", value_int=1), make_node("Constant", [], ["bb"], "b", value_float=1.0)),
        (make_node("Split", ["x"], ["aa"], "a"), make_node("Split", ["x"], ["bb", "b2"], "b")),
        (make_node("RandomNormalLike", ["x"], ["aa"], "a"), make_node("RandomNormalLike", ["x"], ["bb"], "b")),
        (make_node("RandomNormal", [], ["aa"], "a"), make_node("RandomNormal", [], ["bb"], "b")),
    ],
)
def test_nodes_that_differ_or_draw_stay_apart(first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    """Another operator, input, order, attribute or number of outputs; and no two draws are one."""
    assert merged(first, second, make_node("Add", ["aa", "bb"], ["z"], "c")) == ["a", "b", "c"]


def test_nothing_is_shared_across_the_border_of_the_float32_part() -> None:
    """What the source computes in float32 must not be what the half-precision rest computes, nor the other way."""
    nodes = [
        make_node("Sin", ["x"], ["aa"], "/dec/a"),
        make_node("Sin", ["x"], ["bb"], "/dec/m_source/b"),
        make_node("Sin", ["x"], ["cc"], "/dec/m_source/c"),
        make_node("Sum", ["aa", "bb", "cc"], ["z"], "/dec/d"),
    ]
    assert merged(*nodes, in_float32=small_networks.SOURCE) == ["/dec/a", "/dec/m_source/b", "/dec/d"]
    nodes[0].name = "/dec/m_source_of_another_name/a"
    assert len(merged(*nodes, in_float32=small_networks.SOURCE)) == 3


def test_outputs_of_the_graph_keep_their_names() -> None:
    """Two outputs may be equal; both are there."""
    nodes = [make_node("Sin", ["x"], ["y"], "a"), make_node("Sin", ["x"], ["z"], "b")]
    assert merged(*nodes, outputs="yz") == ["a", "b"]


def test_a_merged_graph_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are fewer nodes, and not one sample differs."""
    few = small_networks.graph()
    monkeypatch.setattr(graph_module, "merge_equal_nodes", lambda *_: None)
    many = small_networks.graph(small_networks.voice())
    assert len(few.graph.node) < len(many.graph.node)
    feed = small_networks.sample(40, np.random.default_rng(3))
    first, second = (
        open_session(small_networks.whole(model, small_networks.numbers()).SerializeToString(), CPU).run(None, feed)[0]
        for model in (few, many)
    )
    assert first.any()
    assert np.array_equal(first, second)
