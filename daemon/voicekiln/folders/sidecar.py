"""What is laid into the outbox, and the words beside it: `voice.json`, or `voice.error.json` where there is none.

Both are versioned and described by the JSON Schemas in this folder (`sidecar.schema.json`, `refusal.schema.json`).
Whatever in them comes from the file or its name has been made plain before it gets here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from voicekiln import __version__
from voicekiln.errors import Refusal, plain
from voicekiln.folders.names import MOEVS_TYPES, data_name, moevs_names, onnx_name, shown
from voicekiln.folders.outbox import Piece, is_sha256
from voicekiln.folders.voices import Kind, Published
from voicekiln.job import EXTRAS, NAMED, Conversion, OnnxFile, Recipe, staged
from voicekiln.words import Words

SCHEMA = 2
"""Version of both layouts; raised when a field is removed or changes its meaning."""
READABLE = (1, SCHEMA)
"""In the first there was one face, which was not named."""


MAX_VALUES = 20_000
MAX_NESTED = 16
"""More than that, and deeper nested, has no sidecar of ours; a stranger's may."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a result, as the sidecar tells of it."""

    relpath: PurePosixPath
    """Below the inbox."""
    sha256: str | None
    """None where the file was refused before it could be read whole."""
    bytes: int
    first_seen: float
    """Wall-clock seconds."""
    ledger: str | None = None
    """`Ledger.instance` of the daemon that publishes it; None for the command `convert`."""
    beside: Mapping[str, str | None] = field(default_factory=dict)
    """As in `Voice`."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a sidecar of a daemon's says, as far as a daemon needs it that did not write it."""

    relpath: PurePosixPath
    """Of the source, below the inbox."""
    sha256: str
    """Of the source."""
    recipe: Recipe
    conversion: Conversion
    files: tuple[Published, ...]
    """Their paths are those from the sidecar's folder, and not believed yet."""
    beside: dict[str, str | None]
    """As in `Voice`."""


def result(  # noqa: PLR0913, PLR0917 - all that stands in a sidecar comes from these six
    origin: Origin, conversion: Conversion, recipe: Recipe, base: PurePosixPath, sources: Mapping[str, Path], at: float
) -> list[Piece]:
    """Return the files of a finished conversion, the sidecar last; `sources` says where the bytes lie, by hash.

    The first face's file is `voice.onnx`, another's says in its name which it is; of two precisions the half one
    does. Those of moevs lie in a folder of their own and do not count.
    """
    pieces, told = [], []
    for file, names in zip(conversion.files, onnx_names(base.name, conversion.files), strict=True):
        facts = asdict(file) | {"name": shown(PurePosixPath(names[0]))}
        path = base.parent / names[0]
        pieces.append(Piece(path, "onnx", source=sources[file.sha256], sha256=file.sha256, length=file.bytes))
        if file.client:
            pieces.append(piece := _for_client(base, names, file.client))
            name, sha256 = shown(PurePosixPath(names[1])), hashlib.sha256(piece.text).hexdigest()
            facts["client_file"] = {"name": name, "sha256": sha256, "bytes": len(piece.text)}
        else:
            del facts["client"]
        told.append(facts)
    numbers = []
    for array in conversion.data:
        path = base.parent / data_name(base.name, array.name)
        pieces.append(Piece(path, "data", source=sources[array.sha256], sha256=array.sha256, length=array.bytes))
        facts = asdict(array) | {"name": shown(PurePosixPath(path.name)), "data": array.name}
        numbers.append(facts)
    body = _frame(origin, at) | {
        "model": conversion.model,
        "onnx": told,
        **({"data": numbers} if numbers else {}),
        "feed": conversion.feed,
        "notes": list(conversion.notes),
        "recipe": asdict(recipe),
        "seconds": {stage: round(seconds, 3) for stage, seconds in conversion.seconds.items()},
        "device": conversion.device,
        "versions": conversion.versions,
    }
    if conversion.picture:
        body["picture"] = conversion.picture
    return [*pieces, Piece(_beside(base, ".json"), "sidecar", text=_json(body))]


def onnx_names(base: str, files: Sequence[OnnxFile]) -> list[tuple[str, ...]]:
    """Return for each file its path from the sidecar's folder, and that of its client's file where it has one."""
    main = next((file.interface for file in files if file.interface not in ("moevs", *NAMED, *EXTRAS)), None)
    whole = {file.interface for file in files if file.precision == "fp32"}
    found: list[tuple[str, ...]] = []
    for file in files:
        half = file.precision == "fp16" and file.interface in whole
        if file.interface == "moevs":
            said = file.client.get("Type")
            found.append(moevs_names(base, half=half, of=said if said in MOEVS_TYPES else MOEVS_TYPES[0]))
        else:
            found.append((onnx_name(base, "" if file.interface == main else file.interface, half=half),))
    return found


def _for_client(base: PurePosixPath, names: Sequence[str], facts: Mapping[str, Any]) -> Piece:
    """Return MoeVoiceStudio's file: what the family says of the voice, and its names."""
    path = base.parent / names[1]
    body = {"Folder": path.stem, "Name": path.stem, **facts}
    return Piece(path, "client", text=_json(body))


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What comes of reading what somebody else has written."""


def read(text: bytes) -> Told | None:
    """Return what `result` wrote for a daemon; None for anything else, whoever wrote it."""
    try:
        body, relpath = _of_a_daemon(text)
        raw = [{"interface": "rvc"} | facts for facts in body["onnx"]]
        raw = [facts | {"name": staged(facts["interface"], facts["precision"])} for facts in raw]
        arrays = [facts | {"name": facts["data"]} for facts in body.get("data", ())]
        conversion = Conversion.from_dict(body | {"files": raw, "data": arrays})
        files = tuple(
            Published(PurePosixPath(facts["name"]), kind, facts["sha256"], facts["bytes"])
            for entry in body["onnx"]
            for kind, facts in _lying(entry)
        ) + tuple(
            Published(PurePosixPath(facts["name"]), "data", facts["sha256"], facts["bytes"])
            for facts in body.get("data", ())
        )
        beside = dict(body["source"].get("beside", {}))
        told = [sha256 for sha256 in beside.values() if sha256 is not None]
        hashes = [body["source"]["sha256"], *told, *(file.sha256 for file in files)]
        if not all(map(is_sha256, hashes)) or not all(type(file.bytes) is int for file in files):
            return None
        return Told(relpath, hashes[0], Recipe.from_dict(body["recipe"]), conversion, files, beside)
    except UNREADABLE:
        return None


def _lying(entry: Mapping[str, Any]) -> Iterator[tuple[Kind, Mapping[str, Any]]]:
    """Give the files that an entry of the list `onnx` names, each with its kind."""
    yield "onnx", entry
    if "client_file" in entry:
        yield "client", entry["client_file"]


def read_refusal(text: bytes) -> PurePosixPath | None:
    """Return the source that `refusal` told of for a daemon; None for anything else, whoever wrote it."""
    try:
        body, relpath = _of_a_daemon(text)
        return relpath if body["code"] else None
    except UNREADABLE:
        return None


def _of_a_daemon(text: bytes) -> tuple[dict[str, Any], PurePosixPath]:
    """Return what stands in a file of either kind, and the path of its source.

    Whoever may write to the outbox may write such a file, so nothing in it is believed that could lead out of the
    folder that it lies in.

    Raises:
        one of `UNREADABLE`: if it is none that a daemon wrote.
    """
    body: dict[str, Any] = json.loads(text)
    _must_be_plain(body, [MAX_VALUES])
    relpath, made_by = PurePosixPath(body["source"]["path"]), body["made_by"]
    is_daemons = made_by["name"] == "voicekiln" and isinstance(made_by["ledger"], str) and body["schema"] in READABLE
    if not (is_daemons and relpath.parts and not relpath.is_absolute() and ".." not in relpath.parts):
        raise ValueError("not a daemon's")
    return body, relpath


def _must_be_plain(value: object, left: list[int], depth: int = 0) -> None:
    """Raise ValueError for what no sidecar of ours holds: it would go on into ledger, status and other sidecars."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_NESTED or (isinstance(value, str) and value != plain(value, len(value))):
        raise ValueError("no words of ours")
    inner = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else []
    for one in inner:
        _must_be_plain(one, left, depth + 1)


def refusal(origin: Origin, why: Refusal, base: PurePosixPath, at: float, words: Words) -> Piece:
    """Return the file that tells a person what is wrong, why, and what to do."""
    message, hint = words.refusal(why)
    body = _frame(origin, at) | {"code": why.code, "language": words.language, "message": message, "hint": hint}
    return Piece(_beside(base, ".error.json"), "refusal", text=_json(body))


def utc(at: float) -> str:
    """Return a wall-clock time as `2026-11-21T01:13:11Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def local(at: float) -> str:
    """Return a wall-clock time as a person at this machine reads it, with the zone: `2026-11-21 02:13 CET`."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M %Z}"


def _frame(origin: Origin, at: float) -> dict[str, Any]:
    """Return what both kinds of file have in common."""
    beside = {shown(PurePosixPath(name)): sha256 for name, sha256 in sorted(origin.beside.items())}
    return {
        "schema": SCHEMA,
        "made_by": {"name": "voicekiln", "version": __version__, "ledger": origin.ledger},
        "source": {
            "name": shown(PurePosixPath(origin.relpath.name)),
            "path": shown(origin.relpath),
            "sha256": origin.sha256,
            "bytes": origin.bytes,
            **({"beside": beside} if beside else {}),
        },
        "times": {"first_seen": utc(origin.first_seen), "published": utc(at)},
    }


def _beside(base: PurePosixPath, ending: str) -> PurePosixPath:
    return base.with_name(base.name + ending)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"
