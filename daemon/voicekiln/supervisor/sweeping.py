"""Sweeping when it is time, piece by piece, and never while a share is away: absent is not empty.

After each sweep a round follows that forgets voices whose source is gone and whose results somebody has collected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from voicekiln.errors import ShareAwayError, plain
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.sweep import Ground, Lives, Plan, Swept, carry_out, collected, note
from voicekiln.folders.voices import Left
from voicekiln.settings import Settings
from voicekiln.supervisor.common import Common, Log
from voicekiln.supervisor.homes import Homes
from voicekiln.supervisor.ownership import Ownership

T = TypeVar("T")

WANT_SWEEP = "sweep wanted"
"""Fact in the ledger: the command `sweep` asks the running daemon for one."""

PIECE = 500
PIECE_S = 0.1
"""So many items make a piece, and no more than their first files can be removed of in so many seconds; the other files
take about as long again. In between, the hands do what else there is to do."""

ROUND = 50_000
"""So many voices whose source is gone are looked after at each sweep, the next ones at the next."""


class Sweeper:
    """Sweeps when it is time."""

    def __init__(self, common: Common, ownership: Ownership) -> None:
        self._common = common
        self._must_be_sure = ownership.must_be_sure
        self._due = self._common.now.mono
        self._plan: Plan | None = None
        self._told: set[str] = set()
        """The troubles of this sweep that were logged."""
        self._removed = 0
        self._looked_to = 0
        self._to_look = 0
        self._under_way = False

    def due(self) -> float:
        """Return the monotonic time of the next piece; infinity while there can be none."""
        if self._under_way or self._common.away:
            return float("inf")
        return self._common.now.mono if self._plan is not None or self._to_look else self._due

    def step(self) -> None:
        """Start a sweep if one is due or asked for, or hand over the next piece of the one under way."""
        common = self._common
        if common.away:
            self.forget_plan()
        if self._under_way or common.away:
            return
        if self._plan is None and not self._to_look:
            asked = common.ledger.fact(WANT_SWEEP) is not None
            if common.now.mono < self._due and not asked:
                return
            common.ledger.set_fact(WANT_SWEEP, None)
            self._due = common.now.mono + common.settings.sweep.every
            self._plan = plan_by(common.settings, common.ledger, common.synced, common.ledger.clock)
            self._told.clear()
            self._removed = 0
        if self._plan is not None:
            self._sweep_on(self._plan)
        if self._plan is None and self._to_look:
            self._look_on()

    def forget_plan(self) -> None:
        """Begin with a new plan next time: the settings or the shares are not what they were."""
        self._plan, self._to_look = None, 0

    def _sweep_on(self, plan: Plan) -> None:
        if items := plan.next(PIECE):
            self._hand_over(
                lambda: carry_out(items, *_grounds(self._common), enough_after(PIECE_S)),
                lambda swept: self._swept(plan, swept),
            )
            return
        if held_back := plan.held_back():
            self._common.log.warning(
                "sweep.stopped",
                removed=self._removed,
                held_back=held_back,
                reason="more is due than sweep.max_share allows at once; the rest waits for the next sweep",
            )
        self._plan, self._to_look = None, ROUND

    def _look_on(self) -> None:
        voices = self._common.ledger.left(self._looked_to, min(PIECE, self._to_look))
        if not voices:
            self._looked_to = self._to_look = 0
            return
        outbox = self._common.settings.outbox
        self._hand_over(
            lambda: collected(voices, outbox, enough_after(PIECE_S)),
            lambda found: self._looked(voices[: found[0]], found[1]),
        )

    def _hand_over(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        self._under_way = True
        self._common.hands.do("sweeping", lambda: self._with_both_shares(work), done, self._failed)

    def _with_both_shares(self, work: Callable[[], T]) -> T:
        """For the hands. Looks again afterwards: in a folder beneath a mount point everything seems to be gone."""
        self._must_be_sure()
        _grounds(self._common)
        done = work()
        _grounds(self._common)
        return done

    def _swept(self, plan: Plan, swept: Sequence[Swept]) -> None:
        self._under_way = False
        plan.passed([done.item for done in swept])
        note(self._common.ledger, swept)
        self._removed += sum(len(done.removed) for done in swept)
        for done in swept:
            tell_swept(self._common.log, done, plan.age_s(done.item))
            if done.trouble is not None:
                self._tell_trouble(shown(done.item.files[0].path), plain(done.trouble.strerror or str(done.trouble)))

    def _looked(self, voices: Sequence[Left], gone: Sequence[Left]) -> None:
        self._under_way = False
        self._looked_to = voices[-1].voice
        self._to_look = max(0, self._to_look - len(voices))
        with self._common.ledger.together():
            for voice in gone:
                self._common.ledger.swept_files(voice.voice, voice.files)
        if gone:
            self._common.log.info("voices.forgotten", count=len(gone), reason="source and results were taken away")

    def _failed(self, error: Exception) -> None:
        """The share went away, or it may be another's now."""
        self._under_way = False
        self._common.heard(error)
        self.forget_plan()
        if not isinstance(error, ShareAwayError):
            self._tell_trouble(None, plain(str(error)))

    def _tell_trouble(self, file: str | None, reason: str) -> None:
        """One file that cannot be removed does not keep the others; what thousands have in common is told once."""
        if reason not in self._told:
            self._told.add(reason)
            self._common.log.warning("sweep.failed", file=file, reason=reason)


def _grounds(common: Common) -> tuple[Ground, Ground]:
    return grounds(common.settings, common.homes)


def grounds(settings: Settings, homes: Homes) -> tuple[Ground, Ground]:
    """Return inbox and outbox as places to sweep.

    Raises:
        AwayError: if one of them is away.
    """
    inbox, outbox = homes.check("inbox"), homes.check("outbox")
    return Ground(settings.inbox, inbox.stable_inodes), Ground(settings.outbox, outbox.stable_inodes)


def enough_after(seconds: float) -> Callable[[], bool]:
    """Return what says, from now on, whether so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def tell_swept(log: Log, swept: Swept, age_s: float) -> None:
    """Write into the log what a sweep did to a voice."""
    if swept.removed:
        files = [shown(path) for path in swept.removed]
        size = sum(file.bytes for file in swept.item.files if file.path in swept.removed)
        log.info("file.swept", file=files[0], files=len(files), bytes=size, of=swept.item.of, age_s=round(age_s))
    for path, why in swept.kept[:1]:
        log.warning("file.kept", file=shown(path), files=len(swept.kept), of=swept.item.of, reason=why)


def plan_by(settings: Settings, ledger: Ledger, synced: Sequence[PurePosixPath], at: float) -> Plan:
    """Return what the settings let go at `at` (of the ledger's clock); `synced` is `Snapshot.synced`."""
    sweep = settings.sweep
    lives = Lives(sweep.sources, sweep.results, sweep.refusals)
    return Plan(ledger, lives, sweep.max_share, at, () if sweep.originals_elsewhere else synced)
