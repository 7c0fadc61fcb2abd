"""What stays float32 in a half-precision graph, and the proof on the graph that it does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from voicekiln.convert.graph import BadGraphError, noise_nodes, scope

HANDED_ON: Final = "/outputs/"
"""What the names of nodes begin with that hand a value on, as an output of the graph, and are where that was made."""


def kept_nodes(graph: GraphProto, in_float32: str | None, in_half: str | None) -> set[str]:
    """Return the names of the nodes that stay float32, those of a graph without loops."""
    kept = source_path(graph, in_float32) | {node.name for node in noise_nodes(graph)} | _filtering(graph)
    if in_half is None:
        return kept
    return kept | {node.name for node in graph.node if not node.name.startswith(scope(in_half))}


def _filtering(graph: GraphProto) -> set[str]:
    """Return the names of the nodes that filter all channels alike, each by itself: their weight is (1, 1, taps).

    Such a filter stands in an anti-aliased activation. Its few numbers are soon stored, but rounded to half they change
    the level, a little and in the same sense in each of a hundred activations: 9 dB of a voice's 62.
    """
    filters = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2 and set(tensor.dims[:2]) == {1}}  # noqa: PLR2004
    return {node.name for node in graph.node if filters.intersection(node.input)}


def source_path(graph: GraphProto, module: str | None) -> set[str]:
    """Return the names of the nodes of a submodule and of all that lead to them.

    Raises:
        BadGraphError: if the graph has no node of that submodule.
    """
    if module is None:
        return set()
    # A cast within the scope counts only if it leads to something there: the last one leads out.
    todo = [node for node in graph.node if node.name.startswith(scope(module)) and node.op_type != "Cast"]
    if not todo:
        raise BadGraphError(f"no node of {module} in the graph")
    return upstream(graph, todo)


def upstream(graph: GraphProto, nodes: Iterable[NodeProto]) -> set[str]:
    """Return the names of some nodes of a graph and of all that lead to them."""
    makers = {name: node for node in graph.node for name in node.output}
    todo = list(nodes)
    path = set()
    while todo:
        node = todo.pop()
        if node.name not in path:
            path.add(node.name)
            todo += [makers[name] for name in node.input if name in makers]
    return path


def assert_source_in_float32(model: ModelProto, module: str) -> None:
    """Prove on the graph that no half-precision tensor lies between the inputs and the submodule's output.

    Raises:
        BadGraphError: if there is one, or a tensor of unknown type, or if no float32 input leads there.
    """
    path = source_path(model.graph, module)
    if coarse := _coarse(model, path):
        raise BadGraphError(f"{min(coarse)}, on the way to the output of {module}, is not float32")
    read = {name for node in model.graph.node if node.name in path for name in node.input}
    if not any(v.name in read and v.type.tensor_type.elem_type == TensorProto.FLOAT for v in model.graph.input):
        raise BadGraphError(f"no float32 input leads to {module}")


def assert_rest_in_float32(model: ModelProto, in_half: str) -> None:
    """Prove that half-precision tensors stay within a submodule: what is outside takes none, hands on and makes none.

    A cast may stand at its border, on the way in or out.

    Raises:
        BadGraphError: if there is one elsewhere, or a tensor of unknown type.
    """
    coarse = _coarse(model, {node.name for node in model.graph.node})
    within = {node.name for node in model.graph.node if node.name.startswith((scope(in_half), HANDED_ON))}
    makers = {name: node.name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in within:
            continue
        for name in coarse & {*node.input}:
            if node.op_type != "Cast" or makers.get(name) not in within:
                raise BadGraphError(f"{node.name}, outside of {in_half}, reads {name}, which is not float32")
        for name in coarse & {*node.output}:
            if node.op_type != "Cast" or not within.issuperset(n.name for n in model.graph.node if name in n.input):
                raise BadGraphError(f"{node.name}, outside of {in_half}, makes {name}, which is not float32")


def _coarse(model: ModelProto, nodes: set[str]) -> set[str]:
    """Return the values that the nodes of these names read or make and that are half precision or of unknown type."""
    typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*typed.value_info, *typed.input, *typed.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in typed.initializer}
    touched = {name for node in typed.node if node.name in nodes for name in (*node.input, *node.output) if name}
    coarse = (None, TensorProto.UNDEFINED, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return {name for name in touched if types.get(name) in coarse}
