"""The usual way to an ONNX file, as a measure for ours: a voice's own network, numbers and all, through the exporter.

Nothing is shared between voices here and nothing is streamed: one trace, one model with all its weights inside.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from voicekiln.convert.graph import _seed, _sign, merge_equal_nodes, with_numbers
from voicekiln.convert.loop import roll
from voicekiln.convert.reference import load
from voicekiln.families.base import Exportable

TRACED = 24
"""Frames: longer than the window of any attention."""


def network(exportable: Exportable, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return a network of the voice's own, its numbers in it."""
    own = with_numbers(exportable)
    load(own, exportable, tensors)
    return own


def plain(exportable: Exportable, own: torch.nn.Module, opset: int = 17) -> onnx.ModelProto:
    """Return what the exporter makes of the voice's network. A length turned into a number is an error."""
    sample = exportable.sample(TRACED, np.random.default_rng(0))
    ports = (*exportable.inputs, *exportable.outputs)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the exporter's own, about itself
        warnings.filterwarnings("error", category=TracerWarning)
        torch.onnx.export(
            own,
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


def rolled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which a step between marks is a loop, so that it can be run."""
    copy = _copy(model)
    roll(copy)
    return copy


def seeded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose noises draw what a published file's draw."""
    copy = _copy(model)
    _seed(copy.graph)
    return copy


def tidied(model: onnx.ModelProto, exportable: Exportable, facts: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy with what else is done to a graph: equal nodes merged, weights in the network's order, signed."""
    copy = seeded(model)
    merge_equal_nodes(copy.graph, exportable.in_float32, exportable.in_half)
    roll(copy)
    weights = {tensor.name: tensor.SerializeToString() for tensor in copy.graph.initializer}
    assert weights.keys() == exportable.module.state_dict().keys()
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(onnx.TensorProto.FromString(weights[name]) for name in exportable.module.state_dict())
    _sign(copy)
    for key, value in sorted(facts.items()):
        copy.metadata_props.add(key=key, value=value)
    return copy


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
