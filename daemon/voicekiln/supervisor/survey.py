"""From the ledger to what stands on the status page.

For the hands: it reads thousands of rows. What only the loop knows - who is at which step, what is in the way - comes
along as a `Moment`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from voicekiln import __version__
from voicekiln.errors import plain
from voicekiln.folders.census import Census, shares
from voicekiln.folders.names import shown
from voicekiln.folders.voices import AT_REST, Kind, Published, State, Voice
from voicekiln.job import STAGES, Conversion, Converted, OnnxFile, Recipe, Refused, Stage, staged
from voicekiln.page.board import Board, Cluster, DoneVoice, Made, RefusedVoice, Totals, VoiceInWork, WaitingVoice
from voicekiln.settings import Sweep

MOST = 5000
"""Voices on a page; a browser opens no more of them within two seconds."""

MOST_PUBLISHING = 100
"""More of them than there ever are at once."""

TURNS = (State.QUEUED, State.REFUSING, State.INCOMPLETE, State.SETTLING)
"""In which those are listed that wait for their turn: the nearest to their end first."""

WEIGHTS: Mapping[Stage, float] = dict.fromkeys(STAGES, 1.0) | {"verify": 4.0}
"""About how long the stages take, compared with each other."""

PUBLISHING = 0.95
"""As progress: all is done but a copy."""

MINUTE_S = 60

LARGEST = 10**9
"""No voice has more hertz, speakers or seconds; a sidecar that was found in the outbox may say anything."""

MARKED = "The plain name was taken by another voice or by a file of voicekiln's own; hence the mark (~) in these names."
"""Why the results of `zoe.pth` are called `zoe~454567`, as a note."""

_MARK = re.compile("~[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class AtWork:
    """What the loop knows of a voice with a worker."""

    stage: str
    """See `VoiceInWork`."""
    entered: tuple[Stage, ...]
    """The stages that it has come to, the last one last."""
    since: float
    """Wall-clock seconds at which the stage began."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the loop knows when it asks for a board."""

    at_work: Mapping[int, AtWork]
    """By the voice's number."""
    ended: Mapping[int, float]
    """`Common.ended`."""
    troubles: tuple[str, ...]
    cluster: Cluster | None
    last_scan: float | None
    clock: float
    """`Ledger.clock`."""
    wall: float
    """Wall-clock seconds."""


class Survey:
    """See the module."""

    def __init__(self, census: Census, moment: Moment, sweep: Sweep) -> None:
        self._census = census
        self._moment = moment
        self._sweep = sweep

    def board(self, promised: tuple[float, float], free_bytes: int | None, *, stopped: bool, most: int = MOST) -> Board:
        """Return what there is to show.

        Args:
            promised: in how many seconds the next one is written while there is something to do, and otherwise.
            free_bytes: on the outbox's file system.
            stopped: this is the last one.
            most: so many voices.
        """
        with self._census.at_once():
            return self._board(promised, free_bytes, stopped=stopped, most=most)

    def _board(self, promised: tuple[float, float], free_bytes: int | None, *, stopped: bool, most: int) -> Board:
        counts, sums, moment = self._census.counts(), self._census.sums(), self._moment
        in_work = tuple(self._in_work(most))
        known = sum(counts.values())
        done, refused = (counts.get(state, 0) for state in AT_REST)
        waiting = known - done - refused - len(in_work)
        rooms = shares(max(0, most - len(in_work)), (waiting, refused, done))
        listed = (
            tuple(map(_waiting, self._waiting(rooms[0]))),
            tuple(self._refused(rooms[1])),
            tuple(self._done(rooms[2])),
        )
        busy = bool(waiting or in_work)
        return Board(
            written=moment.wall,
            promised=moment.wall + promised[not busy],
            stopped=stopped,
            version=__version__,
            device=plain(self._census.fact("device") or ""),
            cluster=moment.cluster,
            last_scan=moment.last_scan,
            troubles=moment.troubles,
            totals=Totals(
                waiting=waiting,
                in_work=len(in_work),
                done=done,
                refused=refused,
                bytes_in=sums.bytes_in,
                bytes_out=sums.bytes_out,
                mean_seconds=None if sums.mean_seconds is None else round(sums.mean_seconds, 2),
                free_bytes=free_bytes,
            ),
            in_work=in_work,
            waiting=listed[0],
            refused=listed[1],
            done=listed[2],
            left_out=known - len(in_work) - sum(map(len, listed)),
        )

    def _in_work(self, most: int) -> Iterator[VoiceInWork]:
        for voice in self._census.newest(State.CONVERTING, most):
            work = self._moment.at_work.get(voice.id, AtWork("starting", (), self._moment.wall))
            yield _at_work(voice, work.stage, done_part(work.entered, voice.taken), work.since)
        for voice in self._census.in_turn(State.CONVERTED, MOST_PUBLISHING):
            yield _at_work(voice, "publishing", PUBLISHING, self._moment.ended.get(voice.id, self._moment.wall))

    def _waiting(self, most: int) -> Iterator[Voice]:
        """Give those with a reason first: somebody may have to do something."""
        turns = (self._census.in_turn(state, most) for state in TURNS)
        return islice(chain(self._census.put_off(most), *turns), most)

    def _refused(self, most: int) -> Iterator[RefusedVoice]:
        for voice in self._census.newest(State.REFUSED, most):
            if not isinstance(voice.ending, Refused):  # another version's words, or known by its file only
                continue
            head = self._head(voice, "refusal")
            yield RefusedVoice(
                file=shown(voice.relpath),
                refusal=voice.ending.refusal,
                at=voice.finished or voice.first_seen,
                error_file=None if head is None else str(head[1].path),
                swept_at=None if head is None else self._swept_at(head[0], self._sweep.refusals),
            )

    def _done(self, most: int) -> Iterator[DoneVoice]:
        for voice in self._census.newest(State.DONE, most):
            if not isinstance(voice.ending, Converted):
                continue
            made, model = voice.ending.conversion, voice.ending.conversion.model
            head = self._head(voice, "sidecar")
            lying = [file for _, file in self._census.files(voice.id)]
            files = [file for file in lying if file.kind == "onnx"]
            yield DoneVoice(
                file=shown(voice.relpath),
                recipe=voice.recipe if voice.taken is None else voice.taken.name,
                family=_text(model.get("family")),
                version=_text(model.get("version")),
                sample_rate=_whole(model.get("sample_rate")),
                f0=model.get("f0") is True,
                speakers=_whole(model.get("speakers")),
                bytes=voice.stamp.size,
                at=voice.finished or voice.first_seen,
                # Without an attempt of its own, as in `delivery`, the times are another voice's.
                seconds=_seconds(made) if voice.attempts else None,
                files=tuple(_made(files, made)),
                sidecar=None if head is None else str(head[1].path),
                swept_at=None if head is None else self._swept_at(head[0], self._sweep.results),
                notes=(*made.notes, *([MARKED] if _is_marked(voice) else [])),
                picture=made.picture,
                data=tuple(str(file.path) for file in lying if file.kind == "data"),
            )

    def _head(self, voice: Voice, kind: Kind) -> tuple[float, Published] | None:
        """Return the file that stands for all that are swept together, with the time of its publication."""
        return next((found for found in self._census.files(voice.id) if found[1].kind == kind), None)

    def _swept_at(self, published: float, life_s: float | None) -> float | None:
        """Return when its time is over, to the minute and never too late; the next sweep after that comes for it.

        Not when that sweep is: a restart moves it, and a sweep may stop short.
        """
        if life_s is None:
            return None
        over = published + life_s - self._moment.clock + self._moment.wall
        return math.floor(over / MINUTE_S) * float(MINUTE_S)


def _is_marked(voice: Voice) -> bool:
    """Say whether the results could not have the source's own stem (see `names.bases`)."""
    stem = voice.relpath.stem
    return (
        voice.base is not None
        and voice.base.name.startswith(stem)
        and _MARK.fullmatch(voice.base.name, len(stem)) is not None
    )


def done_part(entered: Sequence[Stage], recipe: Recipe | None) -> float:
    """Return which part of its steps lies behind a voice: all stages but the last that it has come to, by weight."""
    made = recipe or Recipe("default")
    files = len({staged(interface, precision) for interface in made.interfaces for precision in made.precisions})
    whole = WEIGHTS["load"] + files * sum(WEIGHTS[stage] for stage in STAGES if stage != "load")
    # A file that was not exact enough is made once more.
    return round(min(PUBLISHING, sum(WEIGHTS[stage] for stage in entered[:-1]) / whole), 3)


def _at_work(voice: Voice, stage: str, done: float, since: float) -> VoiceInWork:
    recipe = voice.recipe if voice.taken is None else voice.taken.name
    return VoiceInWork(shown(voice.relpath), recipe, voice.attempts, voice.stamp.size, stage, done, since)


def _waiting(voice: Voice) -> WaitingVoice:
    return WaitingVoice(
        shown(voice.relpath), str(voice.state), voice.reason, voice.next_try, voice.stamp.size, voice.first_seen
    )


def _made(files: Sequence[Published], conversion: Conversion) -> Iterator[Made]:
    """Give the files that are there; of two of one content, the one in folders of its own is MoeVoiceStudio's."""
    told_of: dict[str, list[OnnxFile]] = {}
    for one in sorted(conversion.files, key=lambda one: one.interface != "moevs"):
        told_of.setdefault(one.sha256, []).append(one)
    for file in sorted(files, key=lambda file: len(file.path.parts)):
        if not (same := told_of.get(file.sha256)):
            continue
        told = same.pop()
        yield Made(str(file.path), told.interface, told.precision, file.bytes, _snr_db(told))


def _snr_db(file: OnnxFile) -> float | None:
    return min((found.snr_db for found in file.fidelity), default=None)


def _text(value: object) -> str:
    """Return what a worker said of a voice as text, whatever it is."""
    return "" if value is None else plain(str(value), 60)


def _whole(value: object) -> int:
    return value if type(value) is int and 0 < value <= LARGEST else 0


def _seconds(made: Conversion) -> float | None:
    """Return how long it took; None where that cannot be."""
    took_s = sum(made.seconds.values())
    return round(took_s, 2) if 0 <= took_s <= LARGEST else None
