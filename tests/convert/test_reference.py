"""A network that is kept from voice to voice is each time wholly the new voice's own."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tiny_voices
from convert import small_networks
from outlines import outline, tensors
from voicekiln.convert.graph import with_numbers
from voicekiln.convert.reference import KEPT, References, load
from voicekiln.errors import BadNumbers
from voicekiln.families import choose
from voicekiln.families.base import Exportable
from voicekiln.families.weights import Folded


def tiny(**overrides: object) -> tuple[Exportable, dict[str, torch.Tensor]]:
    """Return the network of a tiny voice and the voice's tensors."""
    checkpoint = tiny_voices.tiny(**overrides)  # type: ignore[arg-type]  # what the voice is built from
    seen = outline(checkpoint)
    family, claim = choose(seen)
    return family.build(claim, seen), tensors(checkpoint)


def fresh(exportable: Exportable, numbers: small_networks.Numbers) -> nn.Module:
    """Return a network that was never another voice's."""
    network = with_numbers(exportable)
    load(network, exportable, numbers)
    return network


def bits(network: nn.Module) -> dict[str, bytes]:
    """Return every number in a network, its buffers' too."""
    found = dict(network.named_parameters()) | dict(network.named_buffers())
    return {name: tensor.detach().numpy().tobytes() for name, tensor in found.items()}


@pytest.mark.parametrize("f0", [True, False])
def test_nothing_of_the_first_voice_is_left(*, f0: bool) -> None:
    """The same network, every number of it replaced; not even a NaN stays."""
    first, second = tiny(seed=1, f0=f0), tiny(seed=2, f0=f0)
    references = References()
    network = references.load(*first)
    assert bits(network) == bits(fresh(*first))
    for tensor in network.state_dict().values():
        tensor.fill_(math.nan)
    assert references.load(*second) is network
    assert bits(network) == bits(fresh(*second))
    assert bits(network).keys() == first[0].module.state_dict().keys()


def test_it_sounds_as_a_network_of_its_own() -> None:
    """Not one sample differs from a network that was built for this voice alone."""
    first, second = tiny(seed=1, f0=False), tiny(seed=2, f0=False)
    references = References()
    references.load(*first)
    feed = second[0].sample(40, np.random.default_rng(1))
    arguments = [torch.from_numpy(feed[port.name]) for port in second[0].inputs]
    with torch.inference_mode():
        got, wanted = (network(*arguments) for network in (references.load(*second), fresh(*second)))
    assert torch.equal(got, wanted)


class Counting(small_networks.Voice):
    """Has numbers that are no parameters but are saved all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(3))


def test_buffers_are_the_new_voices_too() -> None:
    """Whatever a checkpoint holds is loaded."""
    exportable = small_networks.voice(Counting())
    references = References()
    for value in (1.0, 2.0):
        network = references.load(exportable, {**small_networks.numbers(), "table": torch.full((3,), value)})
        assert network.get_buffer("table").tolist() == [value] * 3


def test_a_network_is_in_float32_at_rest_and_the_shared_one_stays_empty() -> None:
    """In eval mode, on the CPU, without gradients, whatever the file's precision is."""
    exportable, numbers = tiny()
    network = References().load(exportable, numbers)
    assert {tensor.dtype for tensor in numbers.values()} == {torch.float16}
    assert not network.training
    for parameter in network.parameters():
        assert (parameter.dtype, parameter.device.type, parameter.requires_grad) == (torch.float32, "cpu", False)
    assert {parameter.device.type for parameter in exportable.module.parameters()} == {"meta"}


def test_the_files_own_numbers_are_not_touched() -> None:
    """Loading the next voice does not write into the first one's tensors."""
    exportable = small_networks.voice()
    first, second = (small_networks.numbers(seed) for seed in (1, 2))
    before = {name: tensor.clone() for name, tensor in first.items()}
    references = References()
    references.load(exportable, first)
    references.load(exportable, second)
    assert all(torch.equal(first[name], before[name]) for name in before)


def test_a_few_networks_are_kept_and_no_more() -> None:
    """The latest stay; one that was used again is among them. Those that go are freed."""
    numbers = small_networks.numbers()
    voices = [small_networks.voice(graph_key=f"network {at}") for at in range(KEPT + 1)]
    references = References()
    kept = [weakref.ref(references.load(voice, numbers)) for voice in voices[:KEPT]]
    assert references.load(voices[0], numbers) is kept[0]()
    references.load(voices[KEPT], numbers)
    assert [network() is not None for network in kept] == [True] + [False] + [True] * (KEPT - 2)
    assert references.load(voices[0], numbers) is kept[0]()


def test_networks_of_other_architectures_are_not_mixed_up() -> None:
    """Each is looked for under what it was built from."""
    references = References()
    for voice in (tiny(seed=1), tiny(seed=1, sr=48_000), tiny(seed=2), tiny(seed=2, sr=48_000)):
        assert bits(references.load(*voice)) == bits(fresh(*voice))


def test_a_voice_that_cannot_be_loaded_leaves_no_trace() -> None:
    """Half of it is in the network by then, which is not used again as it is."""
    good, bad = tiny(seed=1), tiny(seed=2)
    bad[1]["dec.ups.1.weight_v"][0] = 0
    references = References()
    references.load(*good)
    with pytest.raises(BadNumbers, match=r"dec\.ups\.1"):
        references.load(*bad)
    assert bits(references.load(*good)) == bits(fresh(*good))


def test_a_weight_of_another_size_is_an_error() -> None:
    """Nothing is repeated to fill a gap."""
    numbers = dict(small_networks.numbers())
    numbers["emb_phone.bias"] = torch.ones(1)
    with pytest.raises(RuntimeError):
        References().load(small_networks.voice(), numbers)


def test_a_missing_tensor_is_an_error() -> None:
    """It is not left as the last voice had it."""
    exportable, numbers = tiny()
    rule = exportable.weights["dec.ups.0.weight"]
    assert isinstance(rule, Folded)
    references = References()
    references.load(exportable, numbers)
    for name in (rule.g, rule.v, "dec.conv_post.weight"):
        with pytest.raises(KeyError):
            references.load(exportable, {key: tensor for key, tensor in numbers.items() if key != name})
    missing = {name: rule for name, rule in exportable.weights.items() if name != "dec.conv_post.weight"}
    with pytest.raises(KeyError):
        references.load(replace(exportable, weights=missing), numbers)
