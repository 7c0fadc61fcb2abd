"""The nodes of an ONNX graph that draw random numbers: which there are, and a graph in which they are still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from voicekiln.errors import plain

NORMAL: Final = ("RandomNormal", "RandomNormalLike")
UNIFORM: Final = ("RandomUniform", "RandomUniformLike")
RANDOM: Final = (*NORMAL, *UNIFORM)
CASTLIKE_OPSET: Final = 15


@dataclass(frozen=True, slots=True)
class Draw:
    """A node that draws random numbers."""

    output: str
    normal: bool
    mean: float
    scale: float

    def standard(self, drawn: NDArray[Any]) -> NDArray[np.float32]:
        """Return the standard normal numbers from which the node's were made, without axes of one."""
        numbers: NDArray[np.float32] = drawn.squeeze().astype(np.float32)
        return (numbers - np.float32(self.mean)) / np.float32(self.scale)


def draws(graph: onnx.GraphProto) -> tuple[Draw, ...]:
    """Return the nodes of the graph that draw random numbers on which its first output depends."""
    return tuple(_draw(node) for node in _live(graph) if node.op_type in RANDOM)


def is_hidden(model: onnx.ModelProto) -> bool:
    """Say whether numbers are drawn where nobody can listen: in a function, in the body of a loop or a branch."""
    inner = [node for node in _live(model.graph) for graph in _bodies(node) for node in _walk(graph)]
    inner += [node for function in model.functions for node in _walk(function)]
    return any(node.op_type in RANDOM for node in inner)


def fatal(model: onnx.ModelProto) -> str | None:
    """Return a clause on a node that draws what cannot be; ONNX Runtime does not refuse it but ends the process."""
    for node in (node for graph in (model.graph, *model.functions) for node in _walk(graph)):
        facts = {attribute.name: attribute.f for attribute in node.attribute}
        if node.op_type in NORMAL and not facts.get("scale", 1.0) > 0:
            return f"its node {plain(node.name, 60)} draws random numbers with a scale of {facts['scale']:g}"
        if node.op_type in UNIFORM and not facts.get("low", 0.0) <= facts.get("high", 1.0):
            return f"its node {plain(node.name, 60)} draws random numbers from a range that ends before it begins"
    return None


def silent(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose random nodes draw nothing but their mean."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = next((o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), 0)
    for graph in (copy.graph, *copy.functions):
        _silence(graph, opset)
    return copy


def _draw(node: onnx.NodeProto) -> Draw:
    facts = {attribute.name: attribute.f for attribute in node.attribute if attribute.type == AttributeProto.FLOAT}
    return Draw(node.output[0], node.op_type in NORMAL, facts.get("mean", 0.0), facts.get("scale", 1.0))


def _live(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes on which the first output depends, in the graph's order."""
    wanted = {graph.output[0].name}
    found: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            wanted.update(name for body in _bodies(node) for inner in _walk(body) for name in inner.input)
            found.append(node)
    return iter(found[::-1])


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g,) if attribute.HasField("g") else attribute.graphs


def _walk(graph: Any) -> Iterator[onnx.NodeProto]:  # noqa: ANN401 - a graph or a function
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _walk(body)


def _silence(graph: Any, opset: int) -> None:  # noqa: ANN401 - as above
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in _bodies(node):
            _silence(body, opset)
        kept += _still(node, opset) if node.op_type in RANDOM else [node]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)


def _still(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Return nodes that give a random node's mean in its shape and type."""
    facts: Mapping[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kind, mean = facts.get("dtype", TensorProto.FLOAT), facts.get("mean", 0.0) if node.op_type in NORMAL else 0.0
    out, like = node.output[0], node.op_type.endswith("Like")
    shape, still = f"{out}/shape", out if not like or "dtype" in facts or opset < CASTLIKE_OPSET else f"{out}/still"
    if like:
        first = helper.make_node("Shape", [node.input[0]], [shape])
    else:
        dims = numpy_helper.from_array(np.array(facts.get("shape", []), np.int64))
        first = helper.make_node("Constant", [], [shape], value=dims)
    value = helper.make_tensor("value", kind, [1], [mean])
    nodes = [first, helper.make_node("ConstantOfShape", [shape], [still], value=value)]
    return nodes if still == out else [*nodes, helper.make_node("CastLike", [still, node.input[0]], [out])]
