"""What of a published result counts in a bundle: which part it is, its networks, and what its sidecar says of them.

A sidecar that was found in the outbox may say anything; numbers and texts are read through the doors at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, get_args

from voicekiln.errors import plain
from voicekiln.folders.names import MOEVS_TYPES, shown
from voicekiln.folders.sidecar import onnx_names
from voicekiln.folders.voices import Published
from voicekiln.job import EXTRAS, OF_TEXT, Conversion, Data, OnnxFile, Part, Port

Role = Literal["voice", "diffusion", "kmeans", "index", "vocoder", "speaker_encoder"]
ROLES: tuple[Role, ...] = get_args(Role)
SPOKEN: tuple[Part, ...] = ("decoder", *OF_TEXT)
"""Networks that a voice has which reads text; no other has them."""
GRAPHS: Mapping[Part, Role] = {
    "so-vits-svc": "voice",
    **dict.fromkeys(SPOKEN, "voice"),
    "diffusion": "diffusion",
    "kmeans": "kmeans",
    "index": "index",
    "vocoder": "vocoder",
    "speaker_encoder": "speaker_encoder",
}
ARRAYS: Mapping[Data, Role] = {"KMeans": "kmeans", "vectors": "index"}
"""By which of its networks, or of its bare numbers, a result is what in a bundle; without them it is in none."""

LARGEST = 10**9
MAX_TEXT = 200
"""No number of ours is larger and no text longer."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Member:
    """A published result that may be a part of a bundle."""

    role: Role
    sidecar: Published
    conversion: Conversion

    @property
    def speaks(self) -> bool:
        """Whether it is a voice that reads text; other voices sing."""
        return any(file.interface in SPOKEN for file in self.conversion.files)


Members = Mapping[Role, Member]
"""The one of each part that a bundle is about."""


def role_of(conversion: Conversion) -> Role | None:
    """Return what a result is in a bundle; None for what is in none."""
    if any(file.client.get("Type") == MOEVS_TYPES[1] for file in conversion.files):
        return "voice"
    graphs = (GRAPHS.get(file.interface) for file in conversion.files)
    arrays = (ARRAYS.get(array.name) for array in conversion.data)
    return next((role for role in chain(graphs, arrays) if role is not None), None)


def base(member: Member) -> str:
    """Return what the names of its files begin with."""
    return member.sidecar.path.name.removesuffix(".json")


def names(member: Member) -> list[str]:
    """Return for each of its ONNX files the path from the sidecar's folder."""
    return [found[0] for found in onnx_names(base(member), member.conversion.files)]


def graph(member: Member, part: str | None) -> tuple[OnnxFile, str] | None:
    """Return the ONNX file of a part, or of the main one, and its name; in full precision if it is there."""
    named = list(zip(member.conversion.files, names(member), strict=True))
    fit = [(file, name) for file, name in named if (file.interface == part if part else file.interface not in EXTRAS)]
    return min(fit, key=lambda found: (found[0].interface == "moevs", found[0].precision != "fp32"), default=None)


def fed(member: Member, file: OnnxFile) -> list[tuple[str, Port]]:
    """Return what is fed under each of the file's inputs, as the sidecar's `feed.names` says, else its own name."""
    told = table(table(member.conversion.feed, "names"), file.interface)
    meant = {name: plain(what, MAX_TEXT) for what, name in told.items() if isinstance(name, str)}
    return [(meant.get(port.name, port.name), port) for port in file.inputs]


def taking(member: Member, part: str | None, *whats: str) -> Port | None:
    """Return the input of that network under which one of these is fed."""
    found = graph(member, part)
    ports = fed(member, found[0]) if found is not None else []
    return next((port for what, port in ports if what in whats), None)


# --- the chain -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A network in the chain."""

    role: Role
    part: Part | None
    """Of the role's; None for the main one."""
    makes: Mapping[str, int]
    """Under what later steps are fed its outputs, which by their places."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """What has to be done to an output on its way to them; nothing to those that go as they are."""
    prepared: Mapping[str, str] = field(default_factory=dict)
    """What has to be done to what the caller feeds."""


def chained(chosen: Members, steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
    """Give the steps that have a file, each with what it takes from the caller and from those before it."""
    made: dict[str, dict[str, str]] = {}
    for step in steps:
        if (found := graph(chosen[step.role], step.part)) is None:
            continue
        file, path = found
        inputs = {
            port.name: {**made.get(what, {"from": what} | _ruled(step.prepared, what)), "axes": list(port.axes)}
            for what, port in fed(chosen[step.role], file)
        }
        name, outputs = step.part or step.role, {port.name: list(port.axes) for port in file.outputs}
        yield {"step": name, "file": shown(PurePosixPath(path)), "inputs": inputs, "outputs": outputs}
        for what, place in step.makes.items():
            if place < len(outputs):
                made[what] = {"from": f"{name}.{[*outputs][place]}"} | _ruled(step.rules, what)


def _ruled(rules: Mapping[str, str], what: str) -> dict[str, str]:
    return {"rule": said} if (said := rules.get(what)) else {}


# --- what does not fit -----------------------------------------------------------------------------------------------


def differing(what: str, unit: str, told: Mapping[str, object]) -> Iterator[str]:
    """Give a sentence if the parts do not agree about something of which they know."""
    known = {role: value for role, value in told.items() if value is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{role} {value}{unit}" for role, value in known.items())
        yield f"The parts do not agree about the {what}: {listed}."


def useless(chosen: Members, used: Collection[Role]) -> Iterator[str]:
    """Give a sentence for each part that is there and not one of those that the voice uses."""
    for role in ROLES:
        if role in chosen and role not in ("voice", *used):
            yield f"The voice in this folder has no use for the part of the kind {role}."


def size(port: Port) -> int | None:
    """Return the one size of a port that is fixed and not the batch's."""
    fixed = [axis for axis in port.axes[1:] if isinstance(axis, int)]
    return fixed[0] if len(fixed) == 1 else None


# --- what a sidecar may say ------------------------------------------------------------------------------------------


def table(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what stands there if it is a table, else an empty one."""
    value = of.get(name)
    return value if isinstance(value, dict) else NOTHING


def texts(of: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """Return those of the keys under which a text stands, cleaned and cut."""
    return {key: plain(value, MAX_TEXT) for key in keys if isinstance(value := of.get(key), str) and value}


def number(value: object) -> int | None:
    """Return a count of something, if it is one."""
    return value if type(value) is int and 0 < value <= LARGEST else None
