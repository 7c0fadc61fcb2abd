"""When the status page and its JSON are written, and that nothing else suffers by it.

Only the owner of the outbox writes, and only when something that is shown has changed; otherwise once an hour, so that
`Board.promised` is true and disks may sleep. The larger the page, the rarer. It is an ornament: whatever goes wrong
with one of the files is told once and tried again at growing distances, while the other one goes on; and no voice waits
for it longer than for the writing itself. What lies outside the outbox may lie on another share that does not answer,
so it has a noticeboard and hands of its own: a page that hangs there holds up neither the work nor the outbox's.

What stands at its place before is written over only if it is ours (`folders.boards`). Where the boards lay is kept in
the ledger, so that the old ones go when they are moved or switched off, also while no daemon ran.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from voicekiln.errors import LedgerStuckError, NameTaken, NotOwnerError, ShareAwayError, plain
from voicekiln.folders.boards import GONE, BoardFile, put_up, take_down
from voicekiln.folders.census import Census
from voicekiln.folders.outbox import Rights
from voicekiln.page.board import JSON_BEGINNING, PAGE_BEGINNING, Board
from voicekiln.page.facts import as_json
from voicekiln.settings import Settings, Status
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.hands import Hands
from voicekiln.supervisor.homes import AwayError
from voicekiln.supervisor.ownership import Ownership
from voicekiln.supervisor.survey import MINUTE_S, Moment, Survey
from voicekiln.words import Words

BOARDS = "boards"
"""Fact in the ledger: the paths of boards that may be there, as JSON."""

PROMISES_S = (600.0, 3600.0)
"""The next board comes within so many seconds while there is something to do, and otherwise."""
MARGIN_S = 300.0
"""So much earlier it is begun, because the hands may be at something else."""

LEAST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 240.0
BYTES_A_SECOND = 100_000
TIMES_AS_LONG = 20
"""After a board there is none for ten seconds, or for longer if it was large or took long to write."""

FAILED_PAUSE_S = 60.0
LAST_FAILED_PAUSE_S = 3600.0
"""A file that could not be written or removed is tried again after a minute, then at doubling distances."""

Render = Callable[[Board, Words, str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Written:
    """What the hands bring back."""

    board: Board
    digest: bytes
    """Of what is shown, but for what changes all the time."""
    bytes: int
    took_s: float
    done: frozenset[str]
    """The paths at which a file was written."""
    left: frozenset[str]
    """Those at which all was as before."""
    troubles: Mapping[str, str]
    """What went wrong, by path."""


class DefectError(Exception):
    """The page could not be made."""


class Noticeboard:
    """Those in the outbox, or those outside it; see the module."""

    def __init__(
        self, common: Common, ownership: Ownership, moment: Callable[[], Moment], hands: Hands, *, outside: bool
    ) -> None:
        """`moment` tells what the loop knows now; those `outside` need `hands` that do nothing else."""
        self._common = common
        self._hands = hands
        self._outside = outside
        self._must_be_sure = ownership.must_be_sure
        self._moment = moment
        self._under_way = False
        self._seen: object = None
        """What the ledger and the loop were like when the last board was begun."""
        self._digests: dict[str, bytes] = {}
        """Of what stands at each path; none where that is not known."""
        self._again: dict[str, tuple[float, float]] = {}
        """When a path that failed is tried again, in monotonic time, and how long that waited."""
        self._manner: object = None
        """The settings with which those have failed."""
        self._not_before = float("-inf")
        self._beat = float("-inf")
        """Monotonic time at which a board is due in any case."""
        self._valid = (float("-inf"), float("inf"))
        """The wall-clock times between which nobody doubts the last board."""
        self._told: dict[str, str] = {}
        """What was said to be wrong, by path; at none where it is about all."""

    def due(self) -> float:
        """Return the monotonic time of the next board, as far as it is known now."""
        if self._under_way or "outbox" in self._common.away or not self._concerned():
            return float("inf")
        changed = self._seen != self._state()
        again = min((at for at, _ in self._again.values()), default=float("inf"))
        return max(self._not_before, min(again, self._common.now.mono if changed else self._beat))

    def step(self) -> None:
        """Begin a board if something has changed and the last one is long enough ago; for the owner of the outbox."""
        now = self._common.now
        if not self._valid[0] <= now.wall < self._valid[1]:  # the machine has slept, or its clock was set
            self._beat = float("-inf")
        if self._under_way and self._outside and self._hands.stuck() is not None:
            self._tell(self._told | {"": "a folder outside the outbox does not answer; the work goes on without"})
        elif now.mono >= self.due():
            self._begin(stopped=False)

    def last(self) -> None:
        """Begin the board that says that the daemon has come to its end; for the owner of the outbox."""
        if "outbox" not in self._common.away and self._concerned():
            self._begin(stopped=True)

    def _concerned(self) -> bool:
        return bool(self._wanted(self._common.settings.status) or self._kept())

    def _wanted(self, status: Status) -> set[str]:
        return {str(path) for path in _paths(status) if path.is_absolute() == self._outside}

    def _kept(self) -> set[str]:
        """Return the paths in the ledger that are this one's."""
        return {path for path in self._noted() if Path(path).is_absolute() == self._outside}

    def _noted(self) -> set[str]:
        return set(json.loads(self._common.ledger.fact(BOARDS) or "[]"))

    def _note(self, kept: set[str]) -> None:
        """Have the ledger know these, and the other noticeboard's."""
        noted = self._noted()
        if (now := (noted - self._kept()) | kept) != noted:
            self._common.ledger.set_fact(BOARDS, json.dumps(sorted(now)) if now else None)

    def _state(self) -> object:
        """Return what has to differ for the board to differ; asked at every tick."""
        common, moment = self._common, self._moment()
        things = moment.at_work, moment.troubles, moment.cluster
        return common.ledger.revision, things, common.settings, common.words.language

    def _begin(self, *, stopped: bool) -> None:
        common, settings = self._common, self._common.settings
        before, wanted = self._kept(), self._wanted(settings.status)
        self._note(before | wanted)  # before there is anything, so that none is ever forgotten
        manner = settings.status, settings.publish
        if stopped or manner != self._manner:
            self._manner, self._again = manner, {}
        self._again = {path: when for path, when in self._again.items() if path in before | wanted}
        tried = {path for path in before | wanted if self._again.get(path, (0.0, 0.0))[0] <= common.now.mono}
        self._under_way, self._seen = True, self._state()
        known = {} if stopped or common.now.mono >= self._beat else dict(self._digests)
        gone = sorted((before - wanted) & tried)
        work = _Work(common, settings, common.words, self._must_be_sure, gone, wanted & tried)
        moment = self._moment()
        self._hands.do(
            "writing the status page",
            lambda: work.carry_out(moment, known, stopped=stopped),
            lambda written: self._written(written, wanted, tried),
            self._failed,
        )

    def _written(self, written: Written, wanted: set[str], tried: set[str]) -> None:
        now, board = self._common.now, written.board
        self._under_way = False
        before, self._again = self._again, {path: when for path, when in self._again.items() if path not in tried}
        self._tell({path: self._told[path] for path in self._again if path in self._told} | dict(written.troubles))
        for path in written.troubles:
            wait_s = min(LAST_FAILED_PAUSE_S, max(FAILED_PAUSE_S, 2 * before.get(path, (0.0, 0.0))[1]))
            self._again[path] = now.mono + wait_s, wait_s
        self._digests = dict.fromkeys(written.done | written.left, written.digest)
        pause_s = max(LEAST_PAUSE_S, written.bytes / BYTES_A_SECOND, TIMES_AS_LONG * written.took_s)
        self._not_before = now.mono + min(LONGEST_PAUSE_S, pause_s)
        if not written.left:  # otherwise the older promise of another one has still to be kept
            self._beat = now.mono + board.promised - board.written - MARGIN_S
            self._valid = board.written - MINUTE_S, board.promised - MARGIN_S
        self._note(wanted | self._again.keys())

    def _failed(self, error: Exception) -> None:
        """The share went away, it may be another's now, or the ledger does not answer."""
        self._under_way, self._seen, self._digests = False, None, {}
        self._not_before = self._common.now.mono + LEAST_PAUSE_S
        self._common.heard(error)
        if not isinstance(error, ShareAwayError):
            self._tell(self._told | {"": plain(str(error))})

    def _tell(self, troubles: Mapping[str, str]) -> None:
        """Say once what is wrong, until it was right."""
        for trouble in sorted({*troubles.values()} - {*self._told.values()}):
            self._common.log.warning("status_page.failed", reason=trouble)
        self._told = dict(troubles)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the hands do."""

    common: Common
    settings: Settings
    words: Words
    must_be_sure: Callable[[], None]
    gone: Sequence[str]
    """Paths at which there shall be none any more."""
    wanted: set[str]
    """Paths at which there shall be one."""

    def carry_out(self, moment: Moment, known: Mapping[str, bytes], *, stopped: bool) -> Written:
        """Remove and write what there is to, but nothing at a path where what is there has the digest that is `known`.

        Raises:
            AwayError: if the outbox is away.
            NotOwnerError: if another daemon may have taken over.
            OSError: if the ledger does not answer.
            LedgerDamagedError: if it is damaged, which is no affair of the page alone.
        """
        self._may_write()
        began = time.monotonic()
        board = self._board(moment, stopped=stopped)
        manner = (self.settings.status, self.settings.publish, self.words.language)
        digest, size = _digest(board, repr(manner)), 0
        troubles: dict[str, str] = {}
        for path in self.gone:
            with _noting(troubles, path):
                self._may_write()
                self._take_down(Path(path))
        status = self.settings.status
        left = {path for path in self.wanted if known.get(path) == digest}
        for place, render in ((status.page, _page), (status.json, as_json)):
            if place is not None and (path := str(place)) in self.wanted - left:
                with _noting(troubles, path):
                    size += self._put_up(place, render, board)
        done = frozenset(self.wanted - left - troubles.keys())
        return Written(board, digest, size, time.monotonic() - began, done, frozenset(left), troubles)

    def _may_write(self) -> None:
        """Raise if it may not be written now; asked again and again, because thousands of voices take seconds."""
        self.common.homes.check("outbox")  # not into the empty folder beneath a mount point
        self.must_be_sure()

    def _board(self, moment: Moment, *, stopped: bool) -> Board:
        free = os.statvfs(self.settings.outbox)
        try:
            with Census(self.common.ledger.path) as census:
                survey = Survey(census, moment, self.settings.sweep)
                return survey.board(PROMISES_S, free.f_bavail * free.f_frsize, stopped=stopped)
        except LedgerStuckError as error:  # the loop finds out for itself whether that is the end
            raise OSError(str(error)) from error

    def _put_up(self, path: Path, render: Render, board: Board) -> int:
        publish, outbox = self.settings.publish, self.settings.outbox
        try:
            rights = Rights(publish.mode, publish.folder_mode, publish.gid)
        except KeyError as error:
            raise OSError(f"there is no group {publish.group} any more") from error
        way = os.path.relpath(outbox, outbox / path.parent)
        self._may_write()
        pieces = _guarded(render(board, self.words, "" if way == "." else way))
        return put_up(self._file(path), pieces, rights, f"{self.common.ledger.instance}board", self._may_write)

    def _take_down(self, path: Path) -> None:
        """A folder outside the outbox that is gone has taken the file with it; the outbox's own is asked for before."""
        try:
            take_down(self._file(path))
        except ShareAwayError as error:
            why = error.__cause__
            if not (path.is_absolute() and isinstance(why, OSError) and why.errno in GONE):
                raise

    def _file(self, path: Path) -> BoardFile:
        root, below = (path.parent, path.name) if path.is_absolute() else (self.settings.outbox, path)
        return BoardFile(root, PurePosixPath(below), (PAGE_BEGINNING, JSON_BEGINNING))


@contextmanager
def _noting(troubles: dict[str, str], path: str) -> Iterator[None]:
    """Note what goes wrong: one file that cannot be written does not keep the other."""
    try:
        yield
    except (NotOwnerError, AwayError):
        raise
    except NameTaken as error:
        troubles[path] = f"{error.found['name']} is there already and is no folder"
    except (OSError, ShareAwayError, DefectError) as error:
        troubles[path] = plain(str(error))


def _paths(status: Status) -> list[Path]:
    return [path for path in (status.page, status.json) if path is not None]


def _page(board: Board, words: Words, outbox: str) -> Iterable[str]:
    from voicekiln.page.render import render  # noqa: PLC0415 - megabytes, for those who want a page

    return render(board, words, outbox)


def _guarded(pieces: Iterable[str]) -> Iterator[str]:
    try:
        yield from pieces
    except Exception as error:  # whatever it is: a defect in an ornament must not stop the work, and the log tells it
        raise DefectError(f"the page cannot be made: {type(error).__name__}: {error}") from error


def _digest(board: Board, manner: str) -> bytes:
    """Return what differs if anything does that people would miss, or where and how it is shown.

    Row by row, because it may be thousands.
    """
    rows = (*board.in_work, *board.waiting, *board.refused, *board.done)
    totals = replace(board.totals, free_bytes=None)
    rest = replace(
        board, written=0, promised=0, last_scan=None, totals=totals, in_work=(), waiting=(), refused=(), done=()
    )
    digest = hashlib.sha256(manner.encode(errors="surrogatepass"))
    for part in (rest, *rows):
        digest.update(repr(part).encode(errors="surrogatepass"))
    return digest.digest()
