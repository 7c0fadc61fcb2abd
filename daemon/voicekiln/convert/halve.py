"""From a float32 graph without numbers to a half-precision one whose phase is still float32.

onnxconverter-common does the work, on everything but the nodes that lead to the source module's output: half a
phase is no phase, and ONNX Runtime's CPU provider hides the damage, so it is ruled out on the graph itself
(`assert_source_in_float32`). What that converter (1.16) leaves wrong is mended in one place, `_mend`.

Where half arithmetic is not good enough (the caller finds out), `store_as_half` keeps the numbers in half precision
and the arithmetic in float32: the same size, nothing gained in speed, and errors of the rounded weights only.

Only types change here; the numbers are rounded when they are filled in (`fill`). The few constants of the graph
round to the nearest half number, zero included: the converter's own default would push those under 1e-7 away from it.
"""

from __future__ import annotations

import warnings
from typing import Final

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnxconverter_common import float16

from voicekiln.convert.graph import BadGraphError, check, noise_nodes, ports, scope

LARGEST_HALF: Final = 65504.0


def halve(model: ModelProto, in_float32: str | None) -> ModelProto:
    """Return a copy in half precision with the inputs and outputs that `model` has.

    Args:
        model: float32, as `graph.export` makes it; it is left as it is.
        in_float32: path of the submodule whose output is computed in float32 all the way.

    Raises:
        BadGraphError: if the result is not of consistent types or not float32 where it has to be.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = source_path(copy.graph, in_float32) | {node.name for node in noise_nodes(copy.graph)}
    kept |= _set_outputs_apart(copy.graph, kept)
    if kept >= {node.name for node in copy.graph.node}:
        return copy  # it is float32 altogether; the converter would retype its outputs all the same
    casts = {node.name for node in copy.graph.node if node.op_type == "Cast"} - kept
    with warnings.catch_warnings():
        # It warns of every number that half precision cannot hold; see above.
        warnings.filterwarnings("ignore", message="the float32 number", category=UserWarning)
        half: ModelProto = float16.convert_float_to_float16(
            copy,
            min_positive_val=0.0,
            max_finite_val=LARGEST_HALF,
            keep_io_types=True,
            op_block_list=[],
            node_block_list=sorted(kept),
        )
    _mend(half.graph, casts)
    if ports(half.graph.input) != ports(model.graph.input) or ports(half.graph.output) != ports(model.graph.output):
        raise BadGraphError("the half-precision graph has other inputs or outputs")
    check(half)
    if in_float32 is not None:
        assert_source_in_float32(half, in_float32)
    return half


def _set_outputs_apart(graph: GraphProto, kept: set[str]) -> set[str]:
    """Let no node read an output of the graph: the converter retypes the one for the caller and forgets the other.

    Returns:
        The names of the nodes that hand over what nodes among `kept` have made; they are to be kept as well.
    """
    read = {name for node in graph.node for name in node.input}
    inner = {value.name: f"{value.name}.inner" for value in graph.output if value.name in read}
    makers: dict[str, str] = {}
    for node in graph.node:
        makers |= dict.fromkeys(node.output, node.name)
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for name, source in inner.items():
        graph.node.append(onnx.helper.make_node("Identity", [source], [name], f"/outputs/{name}"))
    return {f"/outputs/{name}" for name in inner if makers.get(name, "") in kept}


def store_as_half(model: ModelProto, in_float32: str | None) -> ModelProto:
    """Return a copy that holds its weights in half precision and computes as `model` does; arguments as in `halve`.

    Each weight outside the float32 part is cast when the file is loaded, which ONNX Runtime does once.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    path = source_path(copy.graph, in_float32)
    kept = {name for node in copy.graph.node if node.name in path for name in node.input}
    stored = [t for t in copy.graph.initializer if t.data_type == TensorProto.FLOAT and t.name not in kept]
    for tensor in stored:
        tensor.data_type = TensorProto.FLOAT16
    whole = {tensor.name: f"{tensor.name}.float32" for tensor in stored}
    for node in copy.graph.node:
        node.input[:] = [whole.get(name, name) for name in node.input]
    casts = [
        onnx.helper.make_node("Cast", [name], [cast], f"/stored/{cast}", to=TensorProto.FLOAT)
        for name, cast in whole.items()
    ]
    nodes = [*casts, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    check(copy)
    if in_float32 is not None:
        assert_source_in_float32(copy, in_float32)
    return copy


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
    makers = {name: node for node in graph.node for name in node.output}
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
    typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*typed.value_info, *typed.input, *typed.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in typed.initializer}
    path = source_path(typed, module)
    touched = {name for node in typed.node if node.name in path for name in (*node.input, *node.output) if name}
    for name in sorted(touched):
        if types.get(name) in (None, TensorProto.UNDEFINED, TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise BadGraphError(f"{name}, on the way to the output of {module}, is not float32")
    if not any(value.name in touched and types[value.name] == TensorProto.FLOAT for value in typed.input):
        raise BadGraphError(f"no float32 input leads to {module}")


def _mend(graph: GraphProto, casts: set[str]) -> None:
    """Put right what onnxconverter-common leaves wrong.

    Args:
        graph: as it left it.
        casts: names of the casts that were in the graph before and are half precision's now.
    """
    for node in graph.node:
        if node.name in casts and _target(node) == TensorProto.FLOAT:
            # It retypes the output of a cast to float, but not the cast (its issues 320, 326).
            _to(node).i = TensorProto.FLOAT16
    _bridge(graph)
    _prune(graph)
    # Written for a graph that is no more; readers infer it anew.
    del graph.value_info[:]


def _bridge(graph: GraphProto) -> None:
    """Lead every value that is cast to half and back around both casts: an input on the way to the source, say."""
    halved = {node.output[0]: node.input[0] for node in graph.node if _target(node) == TensorProto.FLOAT16}
    # A value of another type than float32 that is cast to half (a mask) is no detour.
    floats = _float32_values(graph)
    around = {
        node.output[0]: halved[node.input[0]]
        for node in graph.node
        if _target(node) == TensorProto.FLOAT and halved.get(node.input[0]) in floats
    }
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name in around:
                node.input[at] = around[name]


def _float32_values(graph: GraphProto) -> set[str]:
    values = (*graph.value_info, *graph.input)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _prune(graph: GraphProto) -> None:
    """Remove the nodes whose outputs nobody reads."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)


def _target(node: NodeProto) -> int | None:
    """Return the type to which a cast leads; None for other nodes."""
    return _to(node).i if node.op_type == "Cast" else None


def _to(node: NodeProto) -> AttributeProto:
    to: AttributeProto = next(attribute for attribute in node.attribute if attribute.name == "to")
    return to
