"""From a graph with one step of a repetition between two marks (`nets.loop`) to one with an ONNX `Loop`.

Weights stay initializers of the whole graph, and the body reads them and other values from around it, as ONNX allows.
Constants do not cross the border: each side has its own, so that either can have another precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, shape_inference

from voicekiln.nets.loop import DOMAIN, ENTER, LEAVE

NAME: Final = "/loop"
"""Of the node, and what the names of values begin with that belong to it alone."""


class MarksError(Exception):
    """Marks that are no frame around one step, or a value that leaves it by another way."""


def marked(graph: GraphProto) -> range:
    """Return the positions of the nodes between the marks; an empty range if there are none.

    Raises:
        MarksError: if there is not one mark of each kind, in their order.
    """
    found = [(f"{node.domain}::{node.op_type}", at) for at, node in enumerate(graph.node) if node.domain == DOMAIN]
    if not found:
        return range(0)
    if [mark for mark, _ in found] != [ENTER, LEAVE]:
        raise MarksError(f"the marks of a step are {[mark for mark, _ in found]}")
    return range(found[0][1] + 1, found[1][1])


def roll(model: ModelProto) -> None:
    """Make a `Loop` of what lies between the marks; a model without marks is left as it is.

    Raises:
        MarksError: if there are others than one frame around one step, or the step's values are read from outside.
    """
    graph = model.graph
    if not (step := marked(graph)):
        return
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    enter, leave = nodes[step.start - 1], nodes[step.stop]
    body, before, after = nodes[step.start : step.stop], nodes[: step.start - 1], nodes[step.stop + 1 :]
    for_body = _own_constants(body, before)
    for_rest = _own_constants(after, body)
    made = {name for node in body for name in node.output} | set(enter.output)
    if strays := sorted(made & (_read(after) | {value.name for value in graph.output})):
        raise MarksError(f"{strays[0]} leaves its step by no mark")
    if not (made - set(enter.output)).issuperset(leave.input):
        raise MarksError("a step hands on what it has not made")
    loop = helper.make_node("Loop", [enter.input[0], "", *enter.input[1:]], list(leave.output), NAME)
    state = _state(ModelProto.FromString(model.SerializeToString()), enter)
    loop.attribute.append(helper.make_attribute("body", _body(state, enter, [*for_body, *body], leave)))
    del graph.node[:]
    graph.node.extend([*before, loop, *for_rest, *after])
    kept = [value for value in graph.value_info if value.name not in made]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    imports = [each for each in model.opset_import if each.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    _tell_outputs(model)


def _tell_outputs(model: ModelProto) -> None:
    """Say of the outputs' shapes what follows from the inputs': the exporter knows nothing of what is behind a mark."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    told = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output
    del model.graph.output[:]
    model.graph.output.extend(told)


def bodies(graph: GraphProto) -> Iterator[tuple[NodeProto, GraphProto]]:
    """Give the loops of a graph, each with its body."""
    for node in graph.node:
        if node.op_type == "Loop":
            yield node, next(attribute.g for attribute in node.attribute if attribute.name == "body")


def everywhere(graph: GraphProto) -> Iterator[NodeProto]:
    """Give all nodes of a graph, those of its loops' bodies included."""
    yield from graph.node
    for _, body in bodies(graph):
        yield from everywhere(body)


def alone(model: ModelProto, body: GraphProto) -> ModelProto:
    """Return a model of which one step of a loop is all: what the step reads from around it becomes inputs.

    The weights that it reads are initializers here, too.
    """
    made = {name for node in body.node for name in node.output} | {value.name for value in body.input}
    read = _read(body.node) - made - {""}
    typed = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    around = [value for value in (*typed.input, *typed.value_info) if value.name in read]
    graph = helper.make_graph(body.node, body.name, [*body.input, *around], body.output, weights)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _state(model: ModelProto, enter: NodeProto) -> list[TypeProto]:
    """Return the types of what enters the first step, which are those of every step."""
    del model.graph.value_info[:]
    del model.graph.node[next(at for at, node in enumerate(model.graph.node) if node.name == enter.name) :]
    del model.graph.output[:]
    model.graph.output.extend(ValueInfoProto(name=name) for name in enter.input[1:])
    told = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output
    return [value.type for value in told]


def _body(state: list[TypeProto], enter: NodeProto, nodes: Iterable[NodeProto], leave: NodeProto) -> GraphProto:
    """Return one step as a graph of its own; it always wants to go on, the number of steps says when to stop."""
    on, on_again = f"{NAME}/on", f"{NAME}/on_again"
    number, *before = enter.output
    return helper.make_graph(
        [*nodes, helper.make_node("Identity", [on], [on_again], f"{NAME}/again")],
        "step",
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(on, TensorProto.BOOL, []),
            *(ValueInfoProto(name=name, type=kind) for name, kind in zip(before, state, strict=True)),
        ],
        [
            helper.make_tensor_value_info(on_again, TensorProto.BOOL, []),
            *(ValueInfoProto(name=name, type=kind) for name, kind in zip(leave.input, state, strict=True)),
        ],
    )


def _own_constants(readers: Iterable[NodeProto], others: Iterable[NodeProto]) -> list[NodeProto]:
    """Let nodes read copies of the constants among `others`, and return these."""
    constants = {node.output[0]: node for node in others if node.op_type == "Constant"}
    copies: dict[str, NodeProto] = {}
    for reader in readers:
        for at, name in enumerate(reader.input):
            if name in constants:
                if name not in copies:
                    copies[name] = NodeProto.FromString(constants[name].SerializeToString())
                    copies[name].name, copies[name].output[0] = f"{NAME}/{constants[name].name}", f"{NAME}/{name}"
                reader.input[at] = copies[name].output[0]
    return list(copies.values())


def _read(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}
