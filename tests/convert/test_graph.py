"""The exported graph has exactly the network's interface, weights and noise, and the same bytes each time."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from convert import small_networks
from voicekiln.convert.graph import BadGraphError, export, noise_nodes, ports, stamp
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
    graph = export(voice, 17).graph
    assert ports(graph.input) == voice.inputs
    assert ports(graph.output) == voice.outputs


@pytest.mark.parametrize("opset", OPSETS)
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    """Each opset that a recipe may name is what the file declares."""
    assert [(o.domain, o.version) for o in export(small_networks.voice(), opset).opset_import] == [("", opset)]


def test_weights_keep_their_names_and_bits() -> None:
    """Every weight of the network is in the graph under its own name, and nothing else of size is."""
    voice = small_networks.voice()
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in export(voice, 17).graph.initializer}
    wanted = voice.module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name].numpy()) for name in wanted)


def test_weights_that_happen_to_be_equal_stay_apart() -> None:
    """The graph is the same for all voices of one build, whatever their numbers are."""
    voice = small_networks.voice()
    with torch.no_grad():
        for parameter in voice.module.parameters():
            parameter.zero_()
    assert {t.name for t in export(voice, 17).graph.initializer} == voice.module.state_dict().keys()


def test_equal_networks_give_equal_bytes() -> None:
    """Nothing of time, place or order gets into the file."""
    first, second = (export(small_networks.voice(), 17).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_nothing_tells_of_this_machine() -> None:
    """No path of a source file and no user is in the graph."""
    data = export(small_networks.voice(), 17).SerializeToString()
    assert b".py" not in data
    assert b"pytorch" not in data
    assert b"/site-packages" not in data


def test_each_noise_has_a_seed_of_its_own() -> None:
    """The noise can be drawn again, and two sources do not draw the same numbers."""
    nodes = noise_nodes(export(small_networks.two_noises(), 17).graph)
    assert [attributes(node)["seed"] for node in nodes] == [1.0, 2.0]
    assert [attributes(node)["dtype"] for node in nodes] == [onnx.TensorProto.FLOAT] * 2


def test_facts_replace_what_was_there() -> None:
    """Metadata is written sorted, so that equal facts give equal bytes."""
    model = export(small_networks.voice(), 17)
    stamp(model, {"old": "1"})
    stamp(model, {"b": "2", "a": "1"})
    assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "2")]


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


def test_weights_under_a_stranger_name_are_refused() -> None:
    """Weight norm that was not folded shows as a missing name."""

    class Hidden(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Conv1d(1, 1, 2001, padding=1000).requires_grad_(requires_grad=False)]

        def twist(self, audio: torch.Tensor) -> torch.Tensor:
            twisted: torch.Tensor = self.hidden[0](audio)
            return twisted

    with pytest.raises(BadGraphError, match=r"constant|initializer"):
        export(small_networks.voice(Hidden()), 17)


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
    """The bytes load without anything beside them."""
    data = export(small_networks.voice(), 17).SerializeToString()
    onnx.checker.check_model(onnx.load(io.BytesIO(data)), full_check=True)
