"""What crosses between the daemon and a Dask worker about a job: orders one way, events the other, as lines of JSON.

The lines are those of `worker.wire` wherever it has one, checked on arrival in the same way, so that daemons and Dask
workers of different versions of voicekiln find each other out here and not in the middle of a voice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from voicekiln.job import Converted, Lost, Refused
from voicekiln.worker.keeper import Abandoned, At, Ended, Event, Left, Said, Started
from voicekiln.worker.wire import (
    Answer,
    Convert,
    Declined,
    Entered,
    Finished,
    Inspect,
    Looked,
    Ready,
    WireError,
    decode_answer,
    encode,
)

SOURCE = ""
"""The name under which a job's source is sent; a companion has its own, and none has this."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which conditions a job runs, wherever it does: those of the daemon's configuration."""

    device: str
    deadlines: Mapping[str, float]
    idle_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the scheduler passes on with a job: so little that thousands of them would not matter."""

    key: str
    topic: str
    """Where the Dask worker says that it has begun."""
    request: bytes
    """As on the wire, with the daemon's paths."""
    terms: Terms


class LostError(Exception):
    """A job is lost; `lost` says how."""

    def __init__(self, reason: str, *, counts: bool) -> None:
        super().__init__(reason)
        self.lost = Lost(reason, counts=counts)


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a job runs, and the name of the run there."""

    run: str
    address: str
    gone: asyncio.Event
    """Set when the scheduler that gave it its place has gone, whether or not another one has come since."""


def sources(request: Convert | Inspect) -> dict[str, Path]:
    """Return the files that have to be sent, by name."""
    where, beside = (request.job, request.job.beside) if isinstance(request, Convert) else (request, request.beside)
    return {SOURCE: where.source} | {name: path for name, path in beside.items() if path is not None}


def moved(request: Convert | Inspect, sources: Mapping[str, Path], staging: Path, threads: int) -> Convert | Inspect:
    """Return the request as it reads on another host, where its files lie elsewhere."""
    if isinstance(request, Inspect):
        return replace(request, source=sources[SOURCE], beside=_beside(request.beside, sources))
    job = replace(request.job, source=sources[SOURCE], staging=staging, beside=_beside(request.job.beside, sources))
    return replace(request, job=job, threads=threads)


def encode_event(event: Event) -> bytes:  # noqa: PLR0911 - one for each event
    """Return the line for an event.

    Raises:
        WireError: if it is too long for one.
    """
    match event:
        case Ready():
            return encode(event)
        case At(name, stage, step, steps):
            return encode(Entered(name, stage, step, steps))
        case Ended(name, Converted(conversion)):
            return encode(Finished(name, conversion))
        case Ended(name, Refused(refusal)):
            return encode(Declined(name, refusal))
        case Ended(_, Looked() as looked):
            return encode(looked)
        case Ended(name, Lost(reason, counts)):
            return _own("lost", {"id": name, "reason": reason, "counts": counts})
        case Started() | Said() | Left() | Abandoned():
            return _own(type(event).__name__.lower(), asdict(event))
        case _:
            raise WireError("an event without a line")


def decode_event(line: bytes) -> Event:
    """Return the event in a line.

    Raises:
        WireError: if it is none that this version knows.
    """
    try:
        body: dict[str, Any] = json.loads(line)
        match body.pop("is"):
            case "started":
                return Started(**body)
            case "said":
                return Said(**body)
            case "left":
                return Left(**body)
            case "abandoned":
                return Abandoned(**body)
            case "lost":
                return Ended(body["id"], Lost(body["reason"], counts=body["counts"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(str(error)) from error
    return _event(decode_answer(line))


def _event(answer: Answer) -> Event:
    match answer:
        case Ready():
            return answer
        case Entered(name, stage, step, steps):
            return At(name, stage, step, steps)
        case Finished(name, conversion):
            return Ended(name, Converted(conversion))
        case Declined(name, refusal):
            return Ended(name, Refused(refusal))
        case Looked(name):
            return Ended(name, answer)
        case _:
            raise WireError("an answer that ends nothing")


def _own(kind: str, facts: dict[str, Any]) -> bytes:
    return json.dumps({"is": kind} | facts).encode()


def _beside(beside: Mapping[str, Path | None], sources: Mapping[str, Path]) -> dict[str, Path | None]:
    return {name: None if path is None else sources[name] for name, path in beside.items()}
