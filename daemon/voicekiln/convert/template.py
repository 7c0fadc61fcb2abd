"""The graph that all voices of an architecture share, without their numbers, and the file in which it is kept.

A template is made once by the exporter and checked; a voice is then only a matter of streaming numbers into it
(`fill`). Its file is a line that names its kind and the hash of all that follows, a line of JSON that says what it
is for, and the graph as ONNX writes it. A file that is not exactly so is no template (`DamagedError`), and nothing
in it is ever executed.

Its key changes with anything that shapes the graph: the network, the recipe, the tools' versions, our own code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, Self

import onnx
from google.protobuf.message import DecodeError

from voicekiln import __version__
from voicekiln.convert.graph import export
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.families.base import Exportable
from voicekiln.job import Part, Precision

MAGIC: Final = b"voicekiln template 1 "

Arithmetic = Literal["float32", "half"]
"""In what the graph computes, but for the part that is float32 in any case."""

ARITHMETICS: Final[Mapping[Precision, tuple[Arithmetic, ...]]] = {"fp32": ("float32",), "fp16": ("half", "float32")}
"""Those that a precision can have; the first is tried first."""

TOOLS: Final = ("torch", "onnx", "onnxconverter-common")
"""Packages that have a part in the graph, which names the last of them."""
SOURCES: Final = ("convert", "families", "nets", "job.py")
"""Those of our own files that have."""


class DamagedError(Exception):
    """A file that is no template, or not any more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a template is for; equal kinds, equal graphs."""

    graph_key: str
    """See `Exportable`."""
    title: str
    """Of the network, for the person."""
    precision: Precision
    arithmetic: Arithmetic
    opset: int
    interface: Part
    made_by: str
    """Hash of all that makes graphs here (`maker`)."""

    @property
    def key(self) -> str:
        """The name under which it is kept."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Template:
    """A graph whose weights are declared but hold no numbers."""

    kind: Kind
    model: onnx.ModelProto

    @classmethod
    def from_bytes(cls, data: bytes, wanted: Kind) -> Self:
        """Return the template in a file.

        Raises:
            DamagedError: if it is none, is damaged, has been cut or is of another kind.
        """
        kind, graph = read_kind(data)
        if kind != wanted:
            raise DamagedError("it is for something else")
        try:
            return cls(kind, onnx.load_from_string(graph))
        except DecodeError as error:
            raise DamagedError("it holds no graph") from error

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        facts = json.dumps(asdict(self.kind), sort_keys=True).encode()
        rest: bytes = facts + b"\n" + self.model.SerializeToString(deterministic=True)
        return MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def read_kind(data: bytes) -> tuple[Kind, bytes]:
    """Return what the template in a file is for, and its graph as ONNX writes it. Raises as `Template.from_bytes`."""
    opening, _, rest = data.partition(b"\n")
    if opening != MAGIC + hashlib.sha256(rest).hexdigest().encode():
        raise DamagedError("it is no template, or its bytes have changed")
    facts, _, graph = rest.partition(b"\n")
    try:
        return Kind(**json.loads(facts)), graph
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError("it says of itself what no template says") from error


def float32(exportable: Exportable, kind: Kind) -> Template:
    """Export the network.

    Raises:
        BadGraphError: if the graph is not what it has to be.
    """
    return Template(kind, export(exportable, kind.opset))


def half(exportable: Exportable, kind: Kind, whole: onnx.ModelProto) -> Template:
    """Return the half-precision template of a kind, made from the float32 graph. Raises as `float32` does."""
    make = halve if kind.arithmetic == "half" else store_as_half
    return Template(kind, make(whole, exportable.in_float32, exportable.in_half))


@cache
def maker() -> str:
    """Return a hash of what makes graphs here: our own source files and the versions of the tools."""
    found: dict[str, Any] = {tool: metadata.version(tool) for tool in TOOLS} | {"voicekiln": __version__}
    package = Path(__file__).parents[1]
    for name in SOURCES:
        path = package / name
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        found |= {str(file.relative_to(package)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
