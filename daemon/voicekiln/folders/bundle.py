"""`bundle.json`: how the parts of one voice that lie in one folder plug together.

A so-vits-svc voice comes with a diffusion model, k-means centres, an index of features, a vocoder: each is a file, and
a result, of its own. Where a folder holds one voice and some of the others, this says which of their ONNX files feeds
which, what the caller feeds, and where parts do not fit each other. All of it follows from what was published with
the sidecars; the layout is `bundle.schema.json`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from voicekiln import __version__
from voicekiln.errors import plain
from voicekiln.folders.names import MOEVS_TYPES, data_name, shown
from voicekiln.folders.sidecar import onnx_names
from voicekiln.folders.voices import Published
from voicekiln.job import EXTRAS, Conversion, Data, OnnxFile, Part, Port

NAME = "bundle.json"
"""No result may have it, in no folder."""
SCHEMA = 1
"""Version of the layout; raised when a field is removed or changes its meaning."""
BEGINNING = '{\n  "voicekiln": "bundle",\n'
"""By these words a daemon knows what it, or another one, has written and may write over (`boards`)."""

Role = Literal["voice", "diffusion", "kmeans", "index", "vocoder"]
ROLES: tuple[Role, ...] = get_args(Role)
GRAPHS: Mapping[Part, Role] = {
    "so-vits-svc": "voice",
    "diffusion": "diffusion",
    "kmeans": "kmeans",
    "index": "index",
    "vocoder": "vocoder",
}
ARRAYS: Mapping[Data, Role] = {"KMeans": "kmeans", "vectors": "index"}
"""By which of its networks, or of its bare numbers, a result is what in a bundle; without them it is in none."""

LARGEST = 10**9
MAX_TEXT = 200
"""No number of ours is larger and no text longer; a sidecar that was found in the outbox may say anything."""

FACTS = {"sample_rate": ("sample rate", "Hz"), "hop": ("hop", "samples a frame")}
"""What all parts with sound in them share, and how people call it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A published result that may be a part of a bundle."""

    role: Role
    sidecar: Published
    conversion: Conversion


def role_of(conversion: Conversion) -> Role | None:
    """Return what a result is in a bundle; None for what is in none."""
    if any(file.client.get("Type") == MOEVS_TYPES[1] for file in conversion.files):
        return "voice"
    graphs = (GRAPHS.get(file.interface) for file in conversion.files)
    arrays = (ARRAYS.get(array.name) for array in conversion.data)
    return next((role for role in chain(graphs, arrays) if role is not None), None)


def belong_together(members: Sequence[Member]) -> bool:
    """Say whether a folder with these has a bundle: one voice and something beside it."""
    roles = [member.role for member in members]
    return roles.count("voice") == 1 and len(roles) > 1


def text(members: Sequence[Member], ledger: str) -> Iterator[str]:
    """Give the text of the file; of several in one role the first is taken.

    Args:
        members: that belong together.
        ledger: `Ledger.instance` of the daemon that publishes it.
    """
    yield BEGINNING
    yield json.dumps(_body(members, ledger), indent=2, ensure_ascii=False).removeprefix("{\n") + "\n"


def _body(members: Sequence[Member], ledger: str) -> dict[str, Any]:
    of = {role: [member for member in members if member.role == role] for role in ROLES}
    chosen = {role: some[0] for role, some in of.items() if some}
    feed, model = chosen["voice"].conversion.feed, chosen["voice"].conversion.model
    return {
        "schema": SCHEMA,
        "made_by": {"name": "voicekiln", "version": __version__, "ledger": ledger},
        **{role: _part(some) if (some := of[role]) else None for role in ROLES},
        "features": _features(feed, model),
        "interpolation": _texts(_table(feed, "stretch"), ("rule", "formula")),
        **{name: _number(model.get(name)) for name in FACTS},
        "chain": list(_chain(chosen)),
        "disagreements": [*_several(of), *_disagreements(chosen)],
    }


def _part(some: Sequence[Member]) -> dict[str, Any]:
    """Return which files are the first one's, and the sidecars of the others."""
    member, base = some[0], _base(some[0])
    files = [
        {"name": shown(PurePosixPath(name)), "part": file.interface, "precision": file.precision}
        for file, name in zip(member.conversion.files, _names(member), strict=True)
    ]
    data = [
        {"name": shown(PurePosixPath(data_name(base, array.name))), "data": array.name}
        for array in member.conversion.data
    ]
    return {
        "sidecar": {"name": shown(PurePosixPath(member.sidecar.path.name)), "sha256": member.sidecar.sha256},
        "files": files,
        **({"data": data} if data else {}),
        **({"others": [shown(PurePosixPath(other.sidecar.path.name)) for other in some[1:]]} if some[1:] else {}),
    }


def _base(member: Member) -> str:
    return member.sidecar.path.name.removesuffix(".json")


def _names(member: Member) -> list[str]:
    return [names[0] for names in onnx_names(_base(member), member.conversion.files)]


def _features(feed: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return which speech features the voice is fed."""
    told = _table(feed, "features")
    numbers = {
        "layer": _number(told.get("layer")),
        "width": _number(told.get("width")) or _number(model.get("feature_width")),
        "units_per_second": _number(told.get("frames_per_second")),
    }
    return _texts(told, ("encoder",)) | {name: number for name, number in numbers.items() if number is not None}


# --- the chain -------------------------------------------------------------------------------------------------------


def _chain(chosen: Mapping[Role, Member]) -> Iterator[dict[str, Any]]:
    """Give the steps from features to sound, each with what it takes from the caller and from those before it."""
    made: dict[str, str] = {}
    for role, part, makes in _ways(chosen):
        if (found := _graph(chosen[role], part)) is None:
            continue
        file, name = found
        step = part or role
        meant = _meant(chosen[role], file)
        outputs = {port.name: list(port.axes) for port in file.outputs}
        inputs = {
            port.name: {"from": made.get(what := meant.get(port.name, port.name), what), "axes": list(port.axes)}
            for port in file.inputs
        }
        yield {"step": step, "file": shown(PurePosixPath(name)), "inputs": inputs, "outputs": outputs}
        if outputs:
            made[makes] = f"{step}.{next(iter(outputs))}"


def _ways(chosen: Mapping[Role, Member]) -> Iterator[tuple[Role, Literal["mel"] | None, str]]:
    """Give role, part (None for the main one) and what is made by it, in the order of the chain.

    Centres and index stand for the same step, as in so-vits-svc, which takes one of them. Without diffusion, nothing
    has to go through a mel spectrogram.
    """
    if "kmeans" in chosen or "index" in chosen:
        yield "kmeans" if "kmeans" in chosen else "index", None, "features"
    yield "voice", None, "audio"
    if "diffusion" in chosen:
        if "vocoder" in chosen:
            yield "vocoder", "mel", "mel"
        yield "diffusion", None, "mel"
        if "vocoder" in chosen:
            yield "vocoder", None, "audio"


def _graph(member: Member, part: str | None) -> tuple[OnnxFile, str] | None:
    """Return the ONNX file of a part, or of the main one, and its name; in full precision if it is there."""
    named = list(zip(member.conversion.files, _names(member), strict=True))
    fit = [(file, name) for file, name in named if (file.interface == part if part else file.interface not in EXTRAS)]
    return min(fit, key=lambda found: (found[0].interface == "moevs", found[0].precision != "fp32"), default=None)


def _meant(member: Member, file: OnnxFile) -> dict[str, str]:
    """Return for the file's inputs what is fed under each name, as the sidecar's `feed.names` says."""
    names = _table(_table(member.conversion.feed, "names"), file.interface)
    return {name: plain(what, MAX_TEXT) for what, name in names.items() if isinstance(name, str)}


# --- what does not fit -----------------------------------------------------------------------------------------------


def _several(of: Mapping[Role, Sequence[Member]]) -> Iterator[str]:
    for role in ROLES:
        if len(of[role]) > 1:
            taken = shown(PurePosixPath(of[role][0].sidecar.path.name))
            yield f"There are several parts of the kind {role} in this folder; {taken} was taken."
    if of["kmeans"] and of["index"]:
        yield (
            "There are k-means centres and a feature index; one of them is used at a time. The chain has the centres; "
            "the index can take their place."
        )


def _disagreements(chosen: Mapping[Role, Member]) -> Iterator[str]:
    """Give a sentence for each thing in which parts that feed each other differ."""
    sounding = [role for role in ROLES if role in ("voice", "diffusion", "vocoder") and role in chosen]
    for fact, (what, unit) in FACTS.items():
        told: dict[str, object] = {role: _number(chosen[role].conversion.model.get(fact)) for role in sounding}
        yield from _differing(what, f" {unit}", told)
    yield from _differing(
        "features", " wide", {role: _width(chosen[role]) for role in ROLES if role != "vocoder" and role in chosen}
    )
    yield from _differing("mel spectrograms", " bands", _bands(chosen))
    fed = {role: chosen[role] for role in sounding if role != "vocoder"}
    yield from _differing("speech encoder", "", {role: _encoder(member) for role, member in fed.items()})
    rules = {role: _texts(_table(member.conversion.feed, "stretch"), ("rule",)) for role, member in fed.items()}
    yield from _differing(
        "way in which units become frames", "", {role: rule.get("rule") for role, rule in rules.items()}
    )
    if "diffusion" in chosen and "vocoder" not in chosen:
        yield "There is no vocoder in this folder, and diffusion makes mel spectrograms: take the one it was made for."


def _differing(what: str, unit: str, told: Mapping[str, object]) -> Iterator[str]:
    known = {role: value for role, value in told.items() if value is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{role} {value}{unit}" for role, value in known.items())
        yield f"The parts do not agree about the {what}: {listed}."


def _width(member: Member) -> int | None:
    """Return how wide the features are that the main graph takes, or those that the sidecar tells of."""
    ports = _meaning(member, "features")
    model, feed = member.conversion.model, member.conversion.feed
    told = (model.get("feature_width"), _table(feed, "features").get("width"))
    return next((n for n in (*(_size(port) for port in ports), *map(_number, told)) if n is not None), None)


def _bands(chosen: Mapping[Role, Member]) -> dict[str, object]:
    """Return how many mel bands diffusion makes and the vocoder takes."""
    roles: tuple[Role, ...] = ("diffusion", "vocoder")
    ports = {role: _meaning(chosen[role], "mel") for role in roles if role in chosen}
    return {role: _size(some[0]) for role, some in ports.items() if some}


def _meaning(member: Member, what: str) -> list[Port]:
    """Return the inputs of the main graph under which this is fed."""
    if (found := _graph(member, None)) is None:
        return []
    meant = _meant(member, found[0])
    return [port for port in found[0].inputs if meant.get(port.name) == what]


def _size(port: Port) -> int | None:
    """Return the one size of a port that is fixed and not the batch's."""
    fixed = [axis for axis in port.axes[1:] if isinstance(axis, int)]
    return fixed[0] if len(fixed) == 1 else None


def _encoder(member: Member) -> str | None:
    told = _table(member.conversion.feed, "features") | {"embedder": member.conversion.model.get("embedder")}
    return next(iter(_texts(told, ("encoder", "embedder")).values()), None)


# --- what a sidecar may say ------------------------------------------------------------------------------------------


def _table(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def _texts(of: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: plain(value, MAX_TEXT) for name in names if isinstance(value := of.get(name), str) and value}


def _number(value: object) -> int | None:
    """Return a count of something, if it is one."""
    return value if type(value) is int and 0 < value <= LARGEST else None
