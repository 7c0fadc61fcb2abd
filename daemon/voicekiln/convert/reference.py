"""The PyTorch networks that files are compared with, kept from voice to voice: only the numbers change.

A voice's faces differ in their inputs and outputs; their networks are one network's numbers, which are computed once.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import torch

from voicekiln.convert.graph import with_numbers
from voicekiln.families import weights
from voicekiln.families.base import Exportable

KEPT: Final = 2
"""Networks; one of RVC v2 takes 110 MB."""


class References:
    """A few networks with room for numbers, the latest of each architecture; for one thread at a time."""

    def __init__(self) -> None:
        self._networks: OrderedDict[tuple[str, str], torch.nn.Module] = OrderedDict()

    def load(self, exportable: Exportable, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Return the network in float32 with the voice's weights in it. It holds them until the next call.

        Raises:
            BadNumbers: if a weight cannot be computed from the file's tensors.
        """
        key = exportable.graph_key, exportable.interface
        network = self._networks.pop(key, None)
        if network is None:
            network = with_numbers(exportable)
        load(network, exportable, tensors)
        self._networks[key] = network
        while len(self._networks) > KEPT:
            self._networks.popitem(last=False)
        return network


def with_face(network: torch.nn.Module, exportable: Exportable) -> torch.nn.Module:
    """Return the network of another face of a voice, whose numbers are those in `network`: nothing is copied."""
    module: torch.nn.Module = copy.deepcopy(exportable.module)
    module.load_state_dict(network.state_dict(), assign=True)
    return module


def load(network: torch.nn.Module, exportable: Exportable, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a network a voice's weights, all of them. Raises as `References.load` does."""
    with torch.no_grad():
        for name, parameter in network.state_dict().items():
            parameter.copy_(weights.read(exportable.weights[name], tensors).reshape(parameter.shape))
