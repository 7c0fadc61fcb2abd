"""What every family promises; a family's test inherits it and says which checkpoints are its own."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from outlines import named, outline
from reference_voices import ac_snr_db
from voicekiln.errors import Contradiction
from voicekiln.families.base import Claim, Exportable, Family, NotMine, Outline

TRACED = 24
"""Frames, as in the converter: longer than the window of any attention."""
UNSEEN = (1, 5, 40, 131)
"""Frames that were not traced."""
SHOWN = {"family", "sample_rate", "hop", "speakers", "parameters", "weights", "checkpoint"}
"""What `inspect` shows of every family."""


class FamilyContract:
    """Inherit, set `family`, and return checkpoint objects from `mine`: at least two of equal settings, first."""

    family: Family

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return checkpoints as the training tool saves them; the first two differ in their weights alone."""
        raise NotImplementedError

    def others(self) -> Sequence[Outline]:
        """Return outlines of models that are none of its own."""
        return [named("layer.weight"), named("encoder.weight", "decoder.weight", key=None), named()]

    def test_claims_its_own(self) -> None:
        """Every checkpoint of its own is claimed, with all that `inspect` shows, in JSON values."""
        for checkpoint in self.mine():
            claim = self.claim(checkpoint)
            assert claim.family == self.family.name
            assert claim.model.keys() >= SHOWN
            assert json.loads(json.dumps(claim.model, allow_nan=False)) == claim.model

    def test_declines_others_with_a_reason(self) -> None:
        """A model of another kind is declined in words, not refused."""
        for other in self.others():
            answer = self.family.recognise(other)
            assert isinstance(answer, NotMine)
            assert answer.reason

    def test_says_the_same_twice(self) -> None:
        """Looking has no memory."""
        checkpoint = self.mine()[0]
        assert self.claim(checkpoint) == self.claim(checkpoint)

    def test_builds_a_network_at_rest(self) -> None:
        """In eval mode, float32, on the CPU, without gradients."""
        for checkpoint in self.mine():
            module = self.build(checkpoint).module
            assert not module.training
            for parameter in module.parameters():
                assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")
                assert not parameter.requires_grad

    def test_refuses_tensors_that_were_not_claimed(self) -> None:
        """Building is strict: a tensor missing, superfluous or of another shape is a contradiction."""
        checkpoint = self.mine()[0]
        claim, tensors = self.claim(checkpoint), self.tensors(checkpoint)
        name = next(iter(tensors))
        changed = (
            {key: tensor for key, tensor in tensors.items() if key != name},
            tensors | {"stowaway.weight": torch.zeros(3)},
            tensors | {name: torch.zeros(*tensors[name].shape, 2)},
        )
        for wrong in changed:
            with pytest.raises(Contradiction):
                self.family.build(claim, wrong)

    @pytest.mark.parametrize("frames", [1, TRACED, 100])
    def test_samples_fit_the_inputs(self, frames: int) -> None:
        """Samples have the names, types and sizes that the inputs declare, at any length."""
        exportable = self.build(self.mine()[0])
        sample = exportable.sample(frames, np.random.default_rng(1))
        assert list(sample) == [port.name for port in exportable.inputs]
        for port in exportable.inputs:
            assert sample[port.name].dtype == port.dtype
            assert sample[port.name].shape == tuple(frames if isinstance(a, str) else a for a in port.axes)

    def test_agrees_with_itself_at_unseen_lengths(self) -> None:
        """The graph, traced at one length, gives the network's own audio at others."""
        for checkpoint in self.mine():
            exportable = self.build(checkpoint)
            graph = export(exportable)
            for frames in UNSEEN:
                assert agreement_db(exportable, graph, frames) > 90

    def test_exports_its_weights_under_their_own_names(self) -> None:
        """Every initializer is a weight of the network, and every weight is one; nothing was computed from them."""
        for checkpoint in self.mine():
            exportable = self.build(checkpoint)
            assert {i.name for i in export(exportable).graph.initializer} == set(exportable.module.state_dict())

    def test_shares_one_graph_between_equal_settings(self) -> None:
        """A second voice's weights in the first one's graph are the second one's own export."""
        first, second = (export(self.build(checkpoint)).graph for checkpoint in self.mine()[:2])
        assert any(a.raw_data != b.raw_data for a, b in zip(first.initializer, second.initializer, strict=True))
        for graph in (first, second):
            for tensor in graph.initializer:
                tensor.ClearField("raw_data")
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)

    def test_draws_noise_only_where_it_says(self) -> None:
        """One `RandomNormalLike` for each of `noises`, in their scopes and order, and no other randomness."""
        for checkpoint in self.mine():
            exportable = self.build(checkpoint)
            drawn = [node for node in export(exportable).graph.node if node.op_type.startswith("Random")]
            assert all(node.op_type == "RandomNormalLike" for node in drawn)
            assert [node.name.split("/")[1:-1] for node in drawn] == [p.split(".") for p in exportable.noises]

    def claim(self, checkpoint: dict[str, Any]) -> Claim:
        """Return the family's claim."""
        answer = self.family.recognise(outline(checkpoint))
        assert isinstance(answer, Claim), answer
        return answer

    @staticmethod
    def tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the checkpoint's tensors."""
        key = outline(checkpoint).tensor_key
        return dict(checkpoint if key is None else checkpoint[key])

    def build(self, checkpoint: dict[str, Any]) -> Exportable:
        """Return the checkpoint's network."""
        return self.family.build(self.claim(checkpoint), self.tensors(checkpoint))


def export(exportable: Exportable, opset: int = 17) -> onnx.ModelProto:
    """Return the network's graph, traced at `TRACED` frames. A length turned into a number is an error."""
    sample = exportable.sample(TRACED, np.random.default_rng(0))
    ports = (*exportable.inputs, *exportable.outputs)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the exporter's own, about itself
        warnings.filterwarnings("error", category=TracerWarning)
        torch.onnx.export(
            exportable.module,
            tuple(torch.from_numpy(sample[port.name]) for port in exportable.inputs),
            file,  # type: ignore[arg-type]  # the stub does not know that files will do
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            input_names=[port.name for port in exportable.inputs],
            output_names=[port.name for port in exportable.outputs],
            dynamic_axes={p.name: {i: a for i, a in enumerate(p.axes) if isinstance(a, str)} for p in ports},
        )
    return onnx.load_from_string(file.getvalue())


def agreement_db(exportable: Exportable, graph: onnx.ModelProto, frames: int) -> float:
    """Return how well network and graph agree on a sample, their noises silenced."""
    sample = exportable.sample(frames, np.random.default_rng(frames))
    want = run(exportable, sample)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(silenced(graph), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, sample)
    assert got.shape == want.shape
    return ac_snr_db(want, got)


def run(exportable: Exportable, inputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the network's audio with its noises silenced."""
    arguments = [torch.from_numpy(inputs[port.name]) for port in exportable.inputs]
    noises: list[Any] = [exportable.module.get_submodule(path) for path in exportable.noises]
    hooks = [noise.register_forward_pre_hook(_silence) for noise in noises]
    with torch.no_grad():
        audio: np.ndarray[Any, Any] = exportable.module(*arguments).numpy()
    for noise, hook in zip(noises, hooks, strict=True):
        hook.remove()
        noise.replay = None
    return audio


def _silence(noise: Any, arguments: tuple[torch.Tensor, ...]) -> None:
    noise.replay = torch.zeros_like(arguments[0])


def silenced(model: onnx.ModelProto) -> bytes:
    """Return the model with zeros where it draws noise."""
    quiet = onnx.ModelProto()
    quiet.CopyFrom(model)
    for node in quiet.graph.node:
        if node.op_type.startswith("Random"):
            node.op_type = "Sub"  # something minus itself, of the same shape
            node.input.append(node.input[0])
            del node.attribute[:]
    return bytes(quiet.SerializeToString())
