"""The messages between the supervisor and the worker: one JSON object a line, both ways.

Never pickle: the worker has touched a stranger's file, so the supervisor believes nothing it says. Everything
read here is checked for type and size before it becomes a value; what does not fit is a `WireError`, and the
parent kills the worker for it. A refusal crosses as a code with values, its words are made in the supervisor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from voicekiln.errors import Refusal, plain
from voicekiln.job import PICTURE, STAGES, Conversion, Job, Recipe, Speech, Stage

MAX_LINE = 1024 * 1024
"""Bytes. A voice of a thousand speakers has that long an answer, any other a hundredth of it. A longer line means that
the worker has gone mad; it is killed."""

MAX_DEPTH = 8
"""Objects and lists within each other in an answer. Deeper ones could exhaust the stack of whoever walks them later."""

MAX_DIGITS = 18
"""Of a whole number in an answer; every such number fits into 64 bits and into the ledger."""

MAX_STEPS = 1000
"""That a stage may be said to have."""


class WireError(Exception):
    """A line that is no message."""


@dataclass(frozen=True, slots=True)
class Convert:
    """Request: make the ONNX files of `job.recipe` in `job.staging`."""

    job: Job
    threads: int
    """How many cores the worker shall use; its share of them, as many as nobody else needs when it begins."""
    turn: float = 0.0
    """The less, the sooner it comes where it has to wait for a worker; see `Voice.turn`."""

    @property
    def id(self) -> str:
        """The job's id, under the name that the other requests have for theirs."""
        return self.job.id


@dataclass(frozen=True, slots=True)
class Inspect:
    """Request: say what the file is."""

    id: str
    source: Path
    beside: Mapping[str, Path | None] = field(default_factory=dict)
    """As in `Job`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Request: write a valid checkpoint with random weights to `target`."""

    id: str
    target: Path


@dataclass(frozen=True, slots=True)
class Templates:
    """Request: list the templates that are kept, make those of the usual networks, or remove all."""

    id: str
    verb: Literal["list", "build", "clear"]
    recipes: tuple[Recipe, ...]
    """For which templates are made."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Request: say whether an ONNX file is the voice of a checkpoint."""

    id: str
    model: Path
    checkpoint: Path
    long: bool
    """Whether ten seconds are compared as well."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Request: let an ONNX file speak."""

    id: str
    speech: Speech


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is up: what it runs on."""

    device: dict[str, Any]
    """`kind` (`cpu` or `cuda`), `name`, `providers`, and `why_cpu` where a GPU was not found."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Entered:
    """The job with this id has entered a stage, or the next step of one that is known to have several."""

    id: str
    stage: Stage
    step: int = 0
    """Which one begins, counted from 1; 0 where nobody knows how many there are."""
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """`Convert` is done: the files lie, fsynced, in the staging folder."""

    id: str
    conversion: Conversion


@dataclass(frozen=True, slots=True)
class Looked:
    """All but `Convert` is done."""

    id: str
    model: dict[str, Any]
    """What was found (JSON values); of `Judge` and `Listen` only `trouble` and `hint` if they could not be done."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """The file was refused."""

    id: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Troubled:
    """The job failed for a reason that is not the file's fault; `outside` if it lies outside the worker (disk full)."""

    id: str
    reason: str
    outside: bool


Request = Convert | Inspect | Sample | Templates | Judge | Listen
Answer = Ready | Entered | Finished | Looked | Declined | Troubled


def encode(message: Request | Answer) -> bytes:
    """Return the line for a message, newline included.

    Raises:
        WireError: if it is longer than `MAX_LINE` or holds a number that is not finite.
    """
    body: dict[str, Any] = {"is": type(message).__name__.lower()}
    if isinstance(message, Declined):
        body |= {"id": message.id, "code": message.refusal.code, "found": message.refusal.found}
    else:
        body |= asdict(message)
    try:
        # Answers hold plain text only, and six bytes for each Chinese character would not leave them much room.
        ascii_only = isinstance(message, Request)
        line = json.dumps(body, default=str, allow_nan=False, ensure_ascii=ascii_only).encode() + b"\n"
    except ValueError as error:
        raise WireError(str(error)) from error
    if len(line) > MAX_LINE:
        raise WireError(f"a message of {len(line)} bytes")
    return line


def decode_request(line: bytes) -> Request:
    """Return the request in a line; for the worker, which trusts its parent.

    Raises:
        WireError: if it is none.
    """
    try:
        body = json.loads(line)
        match body.pop("is"):
            case "convert":
                raw = body["job"]
                recipe = Recipe.from_dict(raw["recipe"])
                paths = {key: Path(raw[key]) for key in ("source", "staging")}
                facts = raw | paths | {"recipe": recipe, "beside": _beside(raw)}
                return Convert(Job(**facts), _threads(body["threads"]), float(body["turn"]))
            case "inspect":
                return Inspect(body["id"], Path(body["source"]), _beside(body))
            case "sample":
                return Sample(body["id"], Path(body["target"]))
            case "templates":
                return Templates(body["id"], body["verb"], tuple(map(Recipe.from_dict, body["recipes"])))
            case "judge":
                return Judge(body["id"], Path(body["model"]), Path(body["checkpoint"]), body["long"])
            case "listen":
                raw = body["speech"]
                paths = {key: raw[key] and Path(raw[key]) for key in ("model", "features", "f0", "target")}
                return Listen(body["id"], Speech(**(raw | paths)))
            case other:
                raise WireError(f"unknown request {other!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(str(error)) from error


def decode_answer(untrusted_line: bytes) -> Answer:
    """Return the answer in a line from the worker, all of it checked and cleaned.

    Raises:
        WireError: if it is none, or not of the types that it should be.
    """
    if len(untrusted_line) > MAX_LINE:
        raise WireError("a line that is too long")
    try:
        untrusted_body = json.loads(
            untrusted_line.decode(), parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
        return _answer(_clean(untrusted_body))
    except RecursionError as error:
        raise WireError("a message nested too deeply") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(plain(str(error), 200)) from error


def _answer(body: dict[str, Any]) -> Answer:
    match body["is"]:
        case "ready":
            return Ready(_dict(body["device"]), {k: _text(v) for k, v in _dict(body["versions"]).items()})
        case "entered":
            if body["stage"] not in STAGES:
                raise ValueError("an unknown stage")
            return Entered(_id(body), body["stage"], *_steps(body.get("step", 0), body.get("steps", 0)))
        case "finished":
            return Finished(_id(body), Conversion.from_dict(_dict(body["conversion"])))
        case "looked":
            return Looked(_id(body), _dict(body["model"]), tuple(_text(note) for note in _list(body["notes"])))
        case "declined":
            found = _dict(body["found"])
            if not all(isinstance(v, str | int | float) for v in found.values()):
                raise ValueError("a value that is neither text nor number")
            return Declined(_id(body), Refusal.from_wire(_text(body["code"]), found))
        case "troubled":
            return Troubled(_id(body), _text(body["reason"]), body["outside"] is True)
        case _:
            raise ValueError("an unknown message")


def _beside(body: dict[str, Any]) -> dict[str, Path | None]:
    return {name: None if path is None else Path(path) for name, path in _dict(body["beside"]).items()}


def _threads(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("expected a number of threads")
    return value


def _steps(step: object, steps: object) -> tuple[int, int]:
    if type(step) is not int or type(steps) is not int or not min(1, steps) <= step <= steps <= MAX_STEPS:
        raise ValueError("a step that there cannot be")
    return step, steps


def _id(body: dict[str, Any]) -> str:
    return _text(body["id"])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("expected an object")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number that is too large")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)  # "NaN" and "-Infinity" among them, which json would let pass
    if not math.isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _clean(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - decoded JSON
    """Return decoded JSON with every text in it made plain."""
    if depth > MAX_DEPTH:
        raise ValueError("a message nested too deeply")
    match value:
        case str():
            return value if PICTURE.fullmatch(value) else plain(value)  # which is longer than other texts, and plain
        case list():
            return [_clean(item, depth + 1) for item in value]
        case dict():
            return {plain(key, 100): _clean(item, depth + 1) for key, item in value.items()}
        case _:
            return value
