"""What is known of a file, as values: the rows of the ledger, and how endings are kept as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal

from voicekiln import __version__
from voicekiln.errors import Refusal
from voicekiln.job import Conversion, Converted, FileStamp, Recipe, Refused


class State(StrEnum):
    """What has to happen next with a file."""

    SETTLING = "settling"
    """Seen; it has to stay unchanged for the quiet time."""
    INCOMPLETE = "incomplete"
    """Quiet, but it proves not to be whole: wait for a change, in the end refuse."""
    QUEUED = "queued"
    """Spooled; waits for a worker."""
    CONVERTING = "converting"
    """With a worker."""
    CONVERTED = "converted"
    """The files lie in staging (or in a twin's results) and have to be published."""
    REFUSING = "refusing"
    """The refusal has to be published."""
    DONE = "done"
    REFUSED = "refused"


AT_REST = (State.DONE, State.REFUSED)
"""Nothing is to be done until the file changes."""
WORKING = tuple(state for state in State if state not in AT_REST)
"""Something is to be done, were it only to wait."""
REPLACEABLE = (State.SETTLING, State.INCOMPLETE, State.QUEUED, *AT_REST)
"""A newer file under the same name starts over at once; in the other states it waits for the end."""
IN_WORK = tuple(state for state in State if state not in REPLACEABLE)
"""The other states. No command takes a voice out of them."""

Kind = Literal["source", "onnx", "data", "client", "sidecar", "refusal"]
"""`client`: what a program wants to read beside an ONNX file, in a form of its own."""
Source = Literal["there", "gone", "swept"]
Class = Literal["sources", "results", "refusals"]
"""What has a time to live of its own."""
Place = tuple[float, int]
"""Age and number of a voice, by which a sweep finds where it was."""


BYTES_A_SECOND = 5_000_000
"""For so many bytes that it is larger, a voice lets those pass that were first seen up to a second later.

Also in `tables.TURN`."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A row: one source file of the inbox."""

    id: int
    relpath: PurePosixPath
    recipe: str
    """Name of the recipe that its folder selects."""
    taken: Recipe | None
    """What it is made by: the recipe as it was when the copy was spooled, whatever the configuration says since."""
    stamp: FileStamp
    state: State
    reason: str
    """Why it waits, for people; empty where the state says it all."""
    next_try: float | None
    """Wall-clock seconds, for people; the loop keeps its own monotonic time."""
    first_seen: float
    finished: float | None
    """Wall-clock seconds of the last publication."""
    sha256: str | None
    """Of the content last spooled."""
    key: str | None
    """Content, recipe and tool version together: equal keys have equal results."""
    job: str | None
    attempts: int
    ending: Converted | Refused | None
    base: PurePosixPath | None
    """Path of the results in the outbox without their endings."""
    source: Source
    beside: Mapping[str, str | None] = field(default_factory=dict)
    """The companions last spooled, by their names: what `sha256` is to the voice; None for one that cannot be read."""

    def has_ending_of(self, key: str) -> bool:
        """Say whether its ending is the one that this key leads to."""
        same = key == self.key or (alone(key) == self.key and ignores_beside(self.ending))
        return same and self.ending is not None

    @property
    def turn(self) -> tuple[float, int]:
        """By which the voices that wait for a copy, and those that wait for a worker, are sorted (`Ledger.first` too).

        Small ones go first, but none waits for ever: a voice counts as seen later by a handicap that its own size
        fixes. It is 11 s for a usual one of 55 MB, 90 s for a training checkpoint, 13 minutes for the largest that is
        taken; what is dropped after that comes after it, however small and however many.
        """
        return self.first_seen + self.stamp.size / BYTES_A_SECOND, self.id


@dataclass(frozen=True, slots=True)
class Known:
    """The part of a row that a scan is compared with."""

    id: int
    stamp: FileStamp
    state: State
    source: Source
    job: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """A file of ours in the outbox."""

    path: PurePosixPath
    kind: Kind
    sha256: str
    bytes: int
    stamp: FileStamp | None = None
    """Of exactly these bytes under this name; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is removed as one: a source, or all the files of a result or a refusal."""

    voice: int
    of: Class
    files: tuple[Published, ...]
    """Sidecar first; of a source, its path in the inbox."""
    at: float
    """Since when it has lain there, by the ledger's clock."""

    @property
    def place(self) -> Place:
        """Where it comes among others of its class."""
        return self.at, self.voice


@dataclass(frozen=True, slots=True)
class Left:
    """A voice at rest whose source is gone."""

    voice: int
    files: tuple[Published, ...]
    """What lay in the outbox when we last had to do with it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the outbox for one source, as a sidecar or a refusal tells."""

    relpath: PurePosixPath
    """Of the source, below the inbox."""
    base: PurePosixPath
    """Path in the outbox without the endings."""
    files: tuple[Published, ...]
    sha256: str | None
    """Of the source; this and the next two are None for a refusal, which says too little to be believed."""
    recipe: Recipe | None
    ending: Converted | None
    beside: Mapping[str, str | None] = field(default_factory=dict)
    """As in `Voice`."""


_AND = "/"


def key_of(sha256: str | None, recipe: Recipe, beside: Mapping[str, str | None] = MappingProxyType({})) -> str:
    """Return what content, recipe, our own version and companions make together: equal keys have equal results."""
    alone = f"{sha256}.{recipe.fingerprint}.{__version__}"
    text = json.dumps(sorted(beside.items()))
    return f"{alone}{_AND}{hashlib.sha256(text.encode()).hexdigest()[:16]}" if beside else alone


def alone(key: str) -> str:
    """Return the key without the companions, which is the key of a result for which nobody looked at them."""
    return key.partition(_AND)[0]


def ignores_beside(ending: Converted | Refused | None) -> bool:
    """Say whether this is what becomes of a voice whatever lies beside it."""
    return isinstance(ending, Converted) and not ending.conversion.looked_beside


def ending_json(ending: Converted | Refused) -> str:
    """Return the form in which the ledger keeps an ending."""
    match ending:
        case Converted(conversion):
            return json.dumps({"converted": asdict(conversion)})
        case Refused(refusal):
            return json.dumps({"refused": {"code": refusal.code, "found": refusal.found}})


def read_ending(text: str | None) -> Converted | Refused | None:
    """Return what `ending_json` wrote; None for what another version of voicekiln wrote in other words."""
    if text is None:
        return None
    try:
        body = json.loads(text)
        if "converted" in body:
            return Converted(Conversion.from_dict(body["converted"]))
        return Refused(Refusal.from_wire(body["refused"]["code"], body["refused"]["found"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_recipe(text: str | None) -> Recipe | None:
    """Return the recipe that was kept as JSON of its fields; None as in `read_ending`."""
    if text is None:
        return None
    try:
        return Recipe.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_beside(text: str | None) -> dict[str, str | None]:
    """Return the companions that were kept as JSON; none as in `read_ending`."""
    try:
        told = json.loads(text or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
