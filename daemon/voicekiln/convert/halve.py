"""From a float32 graph without numbers to a half-precision one whose phase is still float32.

onnxconverter-common does the work, on everything but the nodes that lead to the source module's output: half a
phase is no phase, and ONNX Runtime's CPU provider hides the damage, so it is ruled out on the graph itself (`kept`).
What that converter (1.16) leaves wrong is mended in one place, `_mend`. It knows no loops: the body of one is
converted as a graph of its own, and what lies around it stays float32.

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

from voicekiln.convert.graph import BadGraphError, check, ports, scope
from voicekiln.convert.kept import HANDED_ON, assert_rest_in_float32, assert_source_in_float32, kept_nodes, upstream
from voicekiln.convert.loop import NAME, alone, bodies, everywhere

LARGEST_HALF: Final = 65504.0


def halve(model: ModelProto, in_float32: str | None, in_half: str | None = None) -> ModelProto:
    """Return a copy in half precision with the inputs and outputs that `model` has.

    Args:
        model: float32, as `graph.export` makes it; it is left as it is.
        in_float32: path of the submodule whose output is computed in float32 all the way.
        in_half: path of the only submodule that is not float32, if not all is; empty if none is.

    Raises:
        BadGraphError: if the result is not of consistent types or not float32 where it has to be.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if in_half == "" or _is_all(copy.graph, in_float32):
        return copy
    if any(bodies(copy.graph)):
        return _halve_bodies(copy, in_float32, in_half)
    kept = kept_nodes(copy.graph, in_float32, in_half)
    kept |= _set_outputs_apart(copy.graph, kept) | _index_path(copy)
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
    _restore_outputs(half.graph, model.graph)
    _mend(half.graph, casts)
    if ports(half.graph.input) != ports(model.graph.input) or ports(half.graph.output) != ports(model.graph.output):
        raise BadGraphError("the half-precision graph has other inputs or outputs")
    check(half)
    if in_float32 is not None:
        assert_source_in_float32(half, in_float32)
    if in_half is not None:
        assert_rest_in_float32(half, in_half)
    return half


def _is_all(graph: GraphProto, module: str | None) -> bool:
    """Say whether a submodule is all that there is, but for constants and what makes a loop a loop."""
    working = [node.name for node in everywhere(graph) if node.op_type != "Constant"]
    return module is not None and all(name.startswith((scope(module), NAME)) for name in working)


def _halve_bodies(model: ModelProto, in_float32: str | None, in_half: str | None) -> ModelProto:
    """Halve the bodies of a model's loops, and the weights that they read; nothing else, in place."""
    for _, body in bodies(model.graph):
        half = halve(alone(model, body), in_float32, in_half)
        del body.node[:]
        body.node.extend(half.graph.node)
        types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
        for tensor in model.graph.initializer:
            tensor.data_type = types.pop(tensor.name, tensor.data_type)
        if types:
            raise BadGraphError(f"half precision has made a weight of its own: {min(types)}")
    check(model)
    return model


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
        graph.node.append(onnx.helper.make_node("Identity", [source], [name], f"{HANDED_ON}{name}"))
    return {f"{HANDED_ON}{name}" for name in inner if makers.get(name, "") in kept}


def _index_path(model: ModelProto) -> set[str]:
    """Return the names of the nodes that lead to a whole number made of a float32 one: the row of an embedding, say.

    Half precision has too few digits to say which one it is.
    """
    typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    floats = _float32_values(typed)
    return upstream(
        typed, (node for node in typed.node if _target(node) == TensorProto.INT64 and node.input[0] in floats)
    )


def store_as_half(model: ModelProto, in_float32: str | None, in_half: str | None = None) -> ModelProto:
    """Return a copy that holds its weights in half precision and computes as `model` does; arguments as in `halve`.

    Each weight outside the float32 part is cast when the file is loaded, which ONNX Runtime does once.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if in_half == "" or _is_all(copy.graph, in_float32):
        return copy
    steps = [body for _, body in bodies(copy.graph)]
    within = [(node, kept_nodes(graph, in_float32, in_half)) for graph in steps or [copy.graph] for node in graph.node]
    kept = {name for node, stays in within if node.name in stays for name in node.input}
    if steps:
        kept |= {name for node in copy.graph.node for name in node.input}
    stored = [t for t in copy.graph.initializer if t.data_type == TensorProto.FLOAT and t.name not in kept]
    for tensor in stored:
        tensor.data_type = TensorProto.FLOAT16
    whole = {tensor.name: f"{tensor.name}.float32" for tensor in stored}
    for node in everywhere(copy.graph):
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
        for part in [alone(copy, body) for _, body in bodies(copy.graph)] or [copy]:
            assert_source_in_float32(part, in_float32)
    return copy


def _restore_outputs(graph: GraphProto, whole: GraphProto) -> None:
    """Let the outputs of nodes that stayed float32 be float32, whatever the converter was told: it casts them to half.

    Args:
        graph: as it left it.
        whole: the graph before.
    """
    makers = {name: node for node in graph.node for name in node.output}
    for output, before in zip(graph.output, whole.output, strict=True):
        maker = makers[output.name]
        if output.type.tensor_type.elem_type != before.type.tensor_type.elem_type and maker.op_type == "Cast":
            maker.op_type = "Identity"
            del maker.attribute[:]
            output.type.tensor_type.elem_type = before.type.tensor_type.elem_type


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
