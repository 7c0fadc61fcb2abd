"""What every family promises; a family's test inherits it and says which checkpoints are its own."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from outlines import named, outline, tensors
from plain_export import TRACED, network, plain, rolled
from reference_voices import Arrays, ac_snr_db
from voicekiln.errors import Contradiction
from voicekiln.families.base import PLAIN, Claim, Exportable, Family, NotMine, Outline, TensorInfo
from voicekiln.families.weights import AsIs, Computed, Folded, Joined, Rule, Schedule
from voicekiln.job import Part, Recipe

UNSEEN = (1, 5, 40, 131)
"""Frames that were not traced."""
BUILDING = """
import pickle, sys
family, outlines, part, recipe = pickle.load(sys.stdin.buffer)
for outline in outlines:
    family.build(family.recognise(outline), outline, part, recipe)
sys.exit("torch._dynamo" in sys.modules and "torch's compiler was loaded")
"""
"""Builds networks in a process that has done nothing else."""
SHOWN = {"family", "sample_rate", "hop", "speakers", "parameters", "weights", "checkpoint"}
"""What `inspect` shows of every family."""


@dataclass(frozen=True, slots=True)
class Built:
    """A voice ready to be exported."""

    exportable: Exportable
    network: nn.Module
    """With the voice's numbers."""


class FamilyContract:
    """Inherit, set `family`, and return checkpoint objects from `mine`: at least two of equal settings, first.

    Set `part` and `recipe` as well for a network that is not the main one of the plain recipe.
    """

    family: Family
    part: Part | None = None
    recipe: Recipe = PLAIN
    axis: str = "frames"
    """Whose length is asked for when inputs are drawn."""

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return checkpoints as the training tool saves them; the first two differ in their weights alone."""
        raise NotImplementedError

    def common(self) -> Sequence[Outline]:
        """Return outlines of real files of the kinds that most people have."""
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
        """In eval mode, without gradients, and without numbers: nothing of any voice is in it."""
        for checkpoint in self.mine():
            module = self.build(checkpoint).exportable.module
            assert not module.training
            for tensor in (*module.parameters(), *module.buffers()):
                assert (tensor.dtype, tensor.device.type) == (torch.float32, "meta")
                assert not tensor.requires_grad

    def test_builds_without_torchs_compiler(self) -> None:
        """It takes a second to load and makes folders, which a worker in its cage may not; nothing here needs it."""
        work = pickle.dumps((self.family, [outline(checkpoint) for checkpoint in self.mine()], self.part, self.recipe))
        done = subprocess.run(
            [sys.executable, "-c", BUILDING], input=work, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def test_every_number_of_the_network_has_a_rule(self) -> None:
        """The rules are for exactly what the network saves, there is nothing else in it, and they use the whole file.

        What only training needs, and is left out, is named by no rule.
        """
        for checkpoint in self.mine():
            exportable = self.build(checkpoint).exportable
            module = exportable.module
            assert exportable.weights.keys() == module.state_dict().keys()
            assert len(exportable.weights) == len([*module.parameters(), *module.buffers()])
            used = [name for rule in exportable.weights.values() for name in names(rule)]
            assert len(set(used)) == len(used)
            assert set(used) <= tensors(checkpoint).keys()

    def test_equal_networks_have_equal_keys(self) -> None:
        """Voices that differ in their numbers alone share a graph, others do not."""
        keys = [self.build(checkpoint).exportable.graph_key for checkpoint in self.mine()]
        assert keys[0] == keys[1]
        assert len(set(keys)) == len(keys) - 1

    def test_the_usual_networks_are_its_own_and_real(self) -> None:
        """Each is claimed without a remark and built; together they are all that real files of the usual kinds need."""
        usual = [self.exportable(outlined) for outlined in self.family.usual()]
        keys = [exportable.graph_key for exportable in usual]
        assert len(set(keys)) == len(keys)
        assert {self.exportable(real).graph_key for real in self.common()} <= set(keys)
        assert all(exportable.weights.keys() == exportable.module.state_dict().keys() for exportable in usual)

    def exportable(self, outlined: Outline) -> Exportable:
        """Return the network of a file of which nothing has to be explained."""
        claim = self.family.recognise(outlined)
        assert isinstance(claim, Claim), claim
        assert claim.notes == ()
        return self.family.build(claim, outlined, self.part, self.recipe)

    def test_refuses_tensors_that_were_not_claimed(self) -> None:
        """Building is strict: a tensor missing, superfluous or of another shape is a contradiction."""
        checkpoint = self.mine()[0]
        claim, seen = self.claim(checkpoint), outline(checkpoint)
        found = dict(seen.tensors)
        for name, info in found.items():
            bent = TensorInfo((*info.shape, 2), info.dtype)
            self.assert_refused(claim, seen, {key: other for key, other in found.items() if key != name})
            self.assert_refused(claim, seen, found | {name: bent})
        self.assert_refused(claim, seen, found | {"stowaway.weight": TensorInfo((3,), "float32")})

    def assert_refused(self, claim: Claim, seen: Outline, wrong: Mapping[str, TensorInfo]) -> None:
        """Build from a file with other tensors than it had when it was claimed."""
        with pytest.raises(Contradiction):
            self.family.build(claim, replace(seen, tensors=wrong), self.part, self.recipe)

    @pytest.mark.parametrize("frames", [1, TRACED, 100])
    def test_samples_fit_the_inputs(self, frames: int) -> None:
        """Samples have the names, types and sizes that the inputs declare, at any length; each axis has one."""
        exportable = self.build(self.mine()[0]).exportable
        sample = exportable.sample(frames, np.random.default_rng(1))
        assert list(sample) == [port.name for port in exportable.inputs]
        pairs = {port.name: [*zip(sample[port.name].shape, port.axes, strict=True)] for port in exportable.inputs}
        for port in exportable.inputs:
            assert sample[port.name].dtype == port.dtype
            fixed = [(size, axis) for size, axis in pairs[port.name] if isinstance(axis, int)]
            assert all(size == axis for size, axis in fixed)
        lengths = {(axis, size) for each in pairs.values() for size, axis in each if isinstance(axis, str)}
        assert (self.axis, frames) in lengths
        assert len({axis for axis, _ in lengths}) == len(lengths)

    def test_agrees_with_itself_at_unseen_lengths(self) -> None:
        """The graph, traced at one length, gives the network's own audio at others."""
        for built, graph in self.exported():
            for frames in UNSEEN:
                assert agreement_db(built, graph, frames) > 90

    def test_exports_its_weights_under_their_own_names(self) -> None:
        """Every initializer is a weight of the network, and every weight is one; nothing was computed from them."""
        for built, model in self.exported():
            assert {i.name for i in model.graph.initializer} == set(built.exportable.module.state_dict())

    def test_shares_one_graph_between_equal_settings(self) -> None:
        """A second voice's weights in the first one's graph are the second one's own export."""
        first, second = (copy.deepcopy(model.graph) for _, model in self.exported()[:2])
        assert any(a.raw_data != b.raw_data for a, b in zip(first.initializer, second.initializer, strict=True))
        for graph in (first, second):
            for tensor in graph.initializer:
                tensor.ClearField("raw_data")
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)

    def test_draws_noise_only_where_it_says(self) -> None:
        """One `RandomNormalLike` for each of `noises`, in their scopes and order, and no other randomness."""
        for built, model in self.exported():
            drawn = [node for node in model.graph.node if node.op_type.startswith("Random")]
            assert all(node.op_type == "RandomNormalLike" for node in drawn)
            assert [node.name.split("/")[1:-1] for node in drawn] == [p.split(".") for p in built.exportable.noises]

    def claim(self, checkpoint: dict[str, Any]) -> Claim:
        """Return the family's claim."""
        answer = self.family.recognise(outline(checkpoint))
        assert isinstance(answer, Claim), answer
        return answer

    @classmethod
    @cache
    def exported(cls) -> tuple[tuple[Built, onnx.ModelProto], ...]:
        """Return each of `mine` with its own graph, numbers and all; exported once for all tests."""
        voices = [cls().build(checkpoint) for checkpoint in cls().mine()]
        return tuple((built, rolled(plain(built.exportable, built.network))) for built in voices)

    def build(self, checkpoint: dict[str, Any]) -> Built:
        """Return the checkpoint's network."""
        exportable = self.family.build(self.claim(checkpoint), outline(checkpoint), self.part, self.recipe)
        return Built(exportable, network(exportable, tensors(checkpoint)))


def names(rule: Rule) -> tuple[str, ...]:
    """Return the checkpoint's tensors that a rule reads."""
    match rule:
        case AsIs(name) | Schedule(name):
            return (name,)
        case Folded(g, v):
            return g, v
        case Computed(names=several):
            return several
        case Joined(each):
            return tuple(name for one in each for name in names(one))


def agreement_db(built: Built, graph: onnx.ModelProto, frames: int) -> float:
    """Return how well network and graph agree on a sample in their worst output, their noises silenced."""
    sample = built.exportable.sample(frames, np.random.default_rng(frames))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(silenced(graph), options, providers=["CPUExecutionProvider"])
    got = dict(zip([port.name for port in built.exportable.outputs], session.run(None, sample), strict=True))
    want = run_all(built, sample, got)
    # A single number has no AC part: its mean is all of it.
    return min(ac_snr_db(want[name], got[name]) for name in got if got[name].size > 1)


def run(built: Built, inputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the audio of a network with one output, with its noises silenced."""
    (audio,) = run_all(built, inputs, {}).values()
    return audio


def run_all(built: Built, inputs: dict[str, Any], graphs: Arrays) -> Arrays:
    """Return the network's outputs with its noises silenced.

    Args:
        built: whose network is run.
        inputs: what it is fed.
        graphs: what the graph gave; the network goes on with its predictions.
    """
    arguments = [torch.from_numpy(inputs[port.name]) for port in built.exportable.inputs]
    noises: list[Any] = [built.network.get_submodule(path) for path in built.exportable.noises]
    hooks = [noise.register_forward_pre_hook(_silence) for noise in noises]
    predicted: Arrays = {}
    for path, name in built.exportable.replays.items():

        def replay(_module: nn.Module, _inputs: object, value: torch.Tensor, name: str = name) -> torch.Tensor:
            predicted[name] = value.numpy()
            return torch.from_numpy(graphs[name])

        hooks.append(built.network.get_submodule(path).register_forward_hook(replay))
    with torch.no_grad():
        outputs = built.network(*arguments)
    for hook in hooks:
        hook.remove()
    for noise in noises:
        noise.replay = None
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    ports = built.exportable.outputs
    return {port.name: value.numpy() for port, value in zip(ports, several, strict=True)} | predicted


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
