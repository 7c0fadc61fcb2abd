"""What is laid into the outbox, and the words beside it: `voice.json`, or `voice.error.json` where there is none.

Both are versioned and described by the JSON Schemas in this folder (`sidecar.schema.json`, `refusal.schema.json`).
Whatever in them comes from the file or its name has been made plain before it gets here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from voicekiln import __version__
from voicekiln.errors import Refusal, plain
from voicekiln.folders.names import shown
from voicekiln.folders.outbox import Piece, is_sha256
from voicekiln.job import Conversion, OnnxFile, Recipe

SCHEMA = 1
"""Version of both layouts; raised when a field is removed or changes its meaning."""


MAX_VALUES = 5000
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


@dataclass(frozen=True, slots=True)
class Told:
    """What a sidecar of a daemon's says, as far as a daemon needs it that did not write it."""

    relpath: PurePosixPath
    """Of the source, below the inbox."""
    sha256: str
    """Of the source."""
    recipe: Recipe
    conversion: Conversion
    files: tuple[tuple[str, OnnxFile], ...]
    """Names in the outbox, each with what it is."""


def result(  # noqa: PLR0913, PLR0917 - all that stands in a sidecar comes from these six
    origin: Origin, conversion: Conversion, recipe: Recipe, base: PurePosixPath, sources: Mapping[str, Path], at: float
) -> list[Piece]:
    """Return the files of a finished conversion, the sidecar last; `sources` says where the bytes lie, by hash.

    A single ONNX file is `voice.onnx` whatever its precision; of two, the half one says so in its name.
    """
    several = len(conversion.files) > 1
    pieces, told = [], []
    for file in conversion.files:
        path = _beside(base, ".fp16.onnx" if several and file.precision == "fp16" else ".onnx")
        pieces.append(Piece(path, "onnx", source=sources[file.sha256], sha256=file.sha256, length=file.bytes))
        told.append(asdict(file) | {"name": shown(PurePosixPath(path.name))})
    body = _frame(origin, at) | {
        "model": conversion.model,
        "onnx": told,
        "feed": conversion.feed,
        "notes": list(conversion.notes),
        "recipe": asdict(recipe),
        "seconds": {stage: round(seconds, 3) for stage, seconds in conversion.seconds.items()},
        "device": conversion.device,
        "versions": conversion.versions,
    }
    return [*pieces, Piece(_beside(base, ".json"), "sidecar", text=_json(body))]


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What comes of reading what somebody else has written."""


def read(text: bytes) -> Told | None:
    """Return what `result` wrote for a daemon; None for anything else, whoever wrote it."""
    try:
        body, relpath = _of_a_daemon(text)
        raw = [facts | {"name": f"{facts['precision']}.onnx"} for facts in body["onnx"]]
        conversion = Conversion.from_dict(body | {"files": raw})
        names = [facts["name"] for facts in body["onnx"]]
        hashes = [body["source"]["sha256"], *(file.sha256 for file in conversion.files)]
        plain_names = all(isinstance(name, str) and PurePosixPath(name).name == name for name in names)
        if not (plain_names and all(map(is_sha256, hashes))):
            return None
        files = tuple(zip(names, conversion.files, strict=True))
        return Told(relpath, hashes[0], Recipe.from_dict(body["recipe"]), conversion, files)
    except UNREADABLE:
        return None


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
    is_daemons = made_by["name"] == "voicekiln" and isinstance(made_by["ledger"], str) and body["schema"] == SCHEMA
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


def refusal(origin: Origin, why: Refusal, base: PurePosixPath, at: float) -> Piece:
    """Return the file that tells a person what is wrong, why, and what to do."""
    body = _frame(origin, at) | {"code": why.code, "message": why.text, "hint": why.advice}
    return Piece(_beside(base, ".error.json"), "refusal", text=_json(body))


def utc(at: float) -> str:
    """Return a wall-clock time as `2026-11-21T01:13:11Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _frame(origin: Origin, at: float) -> dict[str, Any]:
    """Return what both kinds of file have in common."""
    return {
        "schema": SCHEMA,
        "made_by": {"name": "voicekiln", "version": __version__, "ledger": origin.ledger},
        "source": {
            "name": shown(PurePosixPath(origin.relpath.name)),
            "path": shown(origin.relpath),
            "sha256": origin.sha256,
            "bytes": origin.bytes,
        },
        "times": {"first_seen": utc(origin.first_seen), "published": utc(at)},
    }


def _beside(base: PurePosixPath, ending: str) -> PurePosixPath:
    return base.with_name(base.name + ending)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"
