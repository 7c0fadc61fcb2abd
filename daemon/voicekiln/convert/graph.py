"""From a PyTorch network to an ONNX graph that says exactly what the network does, and nothing about this machine.

The TorchScript exporter traces a short input; the interface (names, order, types, the dynamic axis) is dictated by
the `Exportable` and compared afterwards. Weights stay as they are in the network, under its names: with weight norm
folded beforehand and constant folding off there is nothing that the exporter could compute from them. Equal inputs
give equal bytes, so the noise in the graph has fixed seeds.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.jit._trace import TracerWarning

from voicekiln import __version__
from voicekiln.families.base import Exportable
from voicekiln.job import Port

TRACED_FRAMES: Final = 24
"""Length of the traced input: just longer than the window of relative attention, as a longer one takes minutes."""

MAX_CONSTANT: Final = 1024
"""Numbers in a constant of the graph. The longest honest one counts the samples of a frame, 512 at most so far; a
longer one would have been computed from weights."""


class BadGraphError(Exception):
    """The exporter made something else than was asked for: a fault of voicekiln, not of the file."""


def export(exportable: Exportable, opset: int) -> onnx.ModelProto:
    """Return the float32 graph of the network with its weights in it, checked against the network's interface.

    Raises:
        BadGraphError: if the graph is not what the network's description says.
    """
    model = onnx.load_from_string(_trace(exportable, opset))
    _tidy(model)
    _seed(model.graph)
    _check_interface(model.graph, exportable)
    _check_weights(model.graph, exportable.module)
    _check_noise(model.graph, exportable)
    onnx.checker.check_model(model, full_check=True)
    return model


def stamp(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Write `facts` into the model's metadata, in place of what is there."""
    del model.metadata_props[:]
    for key, value in sorted(facts.items()):
        model.metadata_props.add(key=key, value=value)


def ports(values: Iterable[onnx.ValueInfoProto]) -> tuple[Port, ...]:
    """Return inputs or outputs of a graph as ports; an axis without size or name is called `?`."""
    return tuple(
        Port(value.name, _dtype(value.type.tensor_type.elem_type), tuple(map(_axis, value.type.tensor_type.shape.dim)))
        for value in values
    )


def _dtype(elem_type: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _axis(dim: onnx.TensorShapeProto.Dimension) -> str | int:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"


def _trace(exportable: Exportable, opset: int) -> bytes:
    """Run the exporter on a short input and return the bytes that it makes."""
    sample = exportable.sample(TRACED_FRAMES, np.random.default_rng(0))
    arguments = tuple(torch.from_numpy(sample[port.name]) for port in exportable.inputs)
    named = {port.name: port for port in (*exportable.inputs, *exportable.outputs)}
    axes = {
        name: {at: label for at, label in enumerate(port.axes) if isinstance(label, str)}
        for name, port in named.items()
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        torch.onnx.export(
            exportable.module,
            arguments,
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes open files, its stub does not say so
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,  # else weights that happen to be equal become one; see _tidy
            input_names=[port.name for port in exportable.inputs],
            output_names=[port.name for port in exportable.outputs],
            dynamic_axes={name: labels for name, labels in axes.items() if labels},
        )
    _heed(caught)
    return buffer.getvalue()


def _heed(caught: Iterable[warnings.WarningMessage]) -> None:
    """Treat a length that was turned into a number as an error: it would be frozen in the graph.

    The exporter also announces its own end, in favour of one that cannot export these networks; that is left out.
    """
    for warning in caught:
        if issubclass(warning.category, TracerWarning):
            raise BadGraphError(f"tracing: {str(warning.message)[:300]}")
        if not issubclass(warning.category, DeprecationWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _tidy(model: onnx.ModelProto) -> None:
    """Say who made the file, and take the weights from among the inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    model.producer_name = "voicekiln"
    model.producer_version = __version__
    model.graph.name = "voice"


def _seed(graph: onnx.GraphProto) -> None:
    """Give every source of noise a seed of its own, so that its numbers can be drawn again in the verification."""
    for seed, node in enumerate(noise_nodes(graph), start=1):
        kept = [attribute for attribute in node.attribute if attribute.name not in ("seed", "dtype")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("dtype", onnx.TensorProto.FLOAT))
        node.attribute.append(onnx.helper.make_attribute("seed", float(seed)))


def noise_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that draw random numbers, in the graph's order, which is the order in which they run."""
    return [node for node in graph.node if node.op_type.startswith("Random")]


def _check_interface(graph: onnx.GraphProto, exportable: Exportable) -> None:
    """Compare names, order, types and axes; one name for the one dynamic axis of the inputs."""
    for found, wanted in ((ports(graph.input), exportable.inputs), (ports(graph.output), exportable.outputs)):
        if found != tuple(wanted):
            raise BadGraphError(f"the graph has {found}, wanted are {wanted}")
    if len(dynamic := {axis for port in exportable.inputs for axis in port.axes if isinstance(axis, str)}) != 1:
        raise BadGraphError(f"one dynamic axis is wanted, there are {sorted(dynamic)}")


def _check_weights(graph: onnx.GraphProto, module: torch.nn.Module) -> None:
    """Every initializer bears the name and the very bits of a weight; nothing else in the graph is long."""
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    for tensor in graph.initializer:
        weight = weights.get(tensor.name)
        if weight is None or numpy_helper.to_array(tensor).tobytes() != weight.detach().numpy().tobytes():
            raise BadGraphError(f"initializer {tensor.name} is no weight of the network")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and np.prod(attribute.t.dims) > MAX_CONSTANT:
                raise BadGraphError(f"constant in {node.name} of shape {tuple(attribute.t.dims)}")


def _check_noise(graph: onnx.GraphProto, exportable: Exportable) -> None:
    """There is one normal noise per `Noise` module, in their order, and no other randomness."""
    scopes = [node.name.strip("/").split("/")[:-1] for node in noise_nodes(graph)]
    wanted = [path.split(".") for path in exportable.noises]
    if scopes != wanted or any(node.op_type != "RandomNormalLike" for node in noise_nodes(graph)):
        raise BadGraphError(f"noise is drawn in {scopes}, wanted is {wanted}")
