"""From a PyTorch network to an ONNX graph without numbers, that says exactly what the network does.

The TorchScript exporter traces a short input; the interface (names, order, types, the dynamic axis) is dictated by
the `Exportable` and compared afterwards. The weights are left out and declared by name, shape and type alone: one
graph serves all voices of an architecture (`fill` puts the numbers in). That nothing else in the graph depends on
them is proven: it is traced twice, with other numbers, and has to come out the same. Equal networks give equal
bytes, so the noise in the graph has fixed seeds.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.jit._trace import TracerWarning

from voicekiln import __version__
from voicekiln.convert.loop import MarksError, everywhere, marked, roll
from voicekiln.families.base import Exportable
from voicekiln.job import Port

TRACED_FRAMES: Final = 24
"""Length of the traced input: just longer than the window of relative attention, as a longer one takes minutes."""

MAX_CONSTANT: Final = 64
"""Numbers in a constant of the graph that may be any. A longer one has to count something, the samples of a frame, say,
in equal steps; else it would have been computed from weights."""


class BadGraphError(Exception):
    """The exporter made something else than was asked for: a fault of voicekiln, not of the file."""


def export(exportable: Exportable, opset: int) -> onnx.ModelProto:
    """Return the float32 graph of the network, its weights declared but without numbers.

    Raises:
        BadGraphError: if the graph is not what the network's description says, or depends on the weights' numbers.
    """
    model, other = (_traced(exportable, opset, seed) for seed in (1, 2))
    if model.SerializeToString(deterministic=True) != other.SerializeToString(deterministic=True):
        raise BadGraphError("the graph depends on the numbers of the weights")
    return model


def with_numbers(exportable: Exportable) -> torch.nn.Module:
    """Return a copy of the network on the CPU, in float32, whose weights and buffers have yet to be set."""
    module: torch.nn.Module = copy.deepcopy(exportable.module).to_empty(device="cpu")
    return module


def check(model: onnx.ModelProto) -> None:
    """Check a graph without numbers by ONNX's own rules, types and shapes included.

    Raises:
        BadGraphError: if it breaks them.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    del whole.graph.initializer[:]
    try:
        onnx.checker.check_model(whole, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadGraphError(str(error)[:300]) from error


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


def _traced(exportable: Exportable, opset: int, seed: int) -> onnx.ModelProto:
    """Trace the network with random numbers and return the graph without them, checked."""
    module = with_numbers(exportable)
    if hidden := dict(module.named_buffers()).keys() - module.state_dict().keys():
        raise BadGraphError(f"the network keeps numbers that no checkpoint sets: {sorted(hidden)[:3]}")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.uniform_(-0.1, 0.1, generator=rng)
    model = onnx.load_from_string(_trace(exportable, module, opset))
    _declare_weights(model.graph, module, exportable)
    try:
        merge_equal_nodes(model.graph, exportable.in_float32, exportable.in_half)
        roll(model)
    except MarksError as error:
        raise BadGraphError(str(error)) from error
    _sign(model)
    _seed(model.graph)
    _check_interface(model.graph, exportable)
    _check_constants(model.graph)
    _check_noise(model.graph, exportable)
    check(model)
    return model


def _trace(exportable: Exportable, module: torch.nn.Module, opset: int) -> bytes:
    """Run the exporter on a short input and return the bytes that it makes; the weights are inputs of the graph."""
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
            module,
            arguments,
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes open files, its stub does not say so
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            export_params=False,
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


def _declare_weights(graph: onnx.GraphProto, module: torch.nn.Module, exportable: Exportable) -> None:
    """Turn the weights from inputs into initializers without numbers, in the order of the network.

    Raises:
        BadGraphError: if they are not exactly the weights of the network.
    """
    weights = module.state_dict()
    found = {value.name: value for value in graph.input[len(exportable.inputs) :]}
    if graph.initializer or found.keys() != weights.keys() or weights.keys() != exportable.weights.keys():
        strange = sorted(found.keys() ^ weights.keys() | weights.keys() ^ exportable.weights.keys())
        raise BadGraphError(f"the graph's initializers are not the weights of the network: {strange[:3]}")
    del graph.input[len(exportable.inputs) :]
    for name, weight in weights.items():
        declared = ports([found[name]])[0]
        if (declared.dtype, declared.axes) != ("float32", tuple(weight.shape)):
            raise BadGraphError(f"initializer {name} is {declared}, the weight has the shape {tuple(weight.shape)}")
        graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=weight.shape)


def merge_equal_nodes(graph: onnx.GraphProto, in_float32: str | None, in_half: str | None = None) -> None:
    """Let each value be computed once: of nodes that do the same with the same inputs, the first stays.

    ONNX Runtime takes the longer to open a file the more nodes and constants there are. What lies inside of the
    submodule `in_float32`, or of `in_half`, is not shared with the rest, so that it can have another precision; nor is
    what lies inside of a step that is repeated.
    """
    inside = [scope(module) for module in (in_float32, in_half) if module]
    step = marked(graph)
    outputs = {value.name for value in graph.output}
    first: dict[tuple[object, ...], onnx.NodeProto] = {}
    renamed: dict[str, str] = {}
    kept = []
    for at, node in enumerate(graph.node):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        apart = at in step, *map(node.name.startswith, inside)
        same = first.setdefault((node.op_type, *node.input, *attributes, len(node.output), apart), node)
        if same is node or node.op_type.startswith("Random") or outputs.intersection(node.output):
            kept.append(node)
        else:
            renamed |= zip(node.output, same.output, strict=True)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def scope(module: str) -> str:
    """Return what the names of a submodule's nodes begin with."""
    return "/" + module.replace(".", "/") + "/"


def _sign(model: onnx.ModelProto) -> None:
    """Say who made the file."""
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
    """Compare names, order, types and axes."""
    for found, wanted in ((ports(graph.input), exportable.inputs), (ports(graph.output), exportable.outputs)):
        if found != tuple(wanted):
            raise BadGraphError(f"the graph has {found}, wanted are {wanted}")
    sample = exportable.sample(TRACED_FRAMES, np.random.default_rng(0))
    lengths = {
        (axis, sample[port.name].shape[at])
        for port in exportable.inputs
        for at, axis in enumerate(port.axes)
        if isinstance(axis, str)
    }
    if not lengths or any(len({pair[at] for pair in lengths}) < len(lengths) for at in (0, 1)):
        raise BadGraphError(f"one dynamic axis has one name and one length, there are {sorted(lengths)}")


def _check_constants(graph: onnx.GraphProto) -> None:
    """Nothing in the graph is long but the weights and what counts."""
    for node in everywhere(graph):
        for attribute in node.attribute:
            numbers = numpy_helper.to_array(attribute.t).ravel() if attribute.HasField("t") else np.zeros(0)
            if numbers.size > MAX_CONSTANT and np.ptp(np.diff(numbers)) > 0:
                raise BadGraphError(f"constant in {node.name} of shape {tuple(attribute.t.dims)}")


def _check_noise(graph: onnx.GraphProto, exportable: Exportable) -> None:
    """There is one normal noise per `Noise` module, in their order, and no other randomness."""
    scopes = [node.name.strip("/").split("/")[:-1] for node in noise_nodes(graph)]
    wanted = [path.split(".") for path in exportable.noises]
    drawn = [node.op_type for node in everywhere(graph) if node.op_type.startswith("Random")]
    if scopes != wanted or drawn != ["RandomNormalLike" for _ in wanted]:  # one in a repeated step has no scope here
        raise BadGraphError(f"noise is drawn in {scopes}, wanted is {wanted}")
