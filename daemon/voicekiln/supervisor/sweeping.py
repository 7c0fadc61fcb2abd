"""Sweeping when it is time, one item after the other, and never while a share is away: absent is not empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from voicekiln.errors import ShareAwayError, plain
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.sweep import Item, Lives, Plan, Swept, carry_out, note, plan
from voicekiln.folders.voices import AT_REST
from voicekiln.settings import Settings
from voicekiln.supervisor.common import Common, Log

WANT_SWEEP = "sweep wanted"
"""Fact in the ledger: the command `sweep` asks the running daemon for one."""


class Sweeper:
    """Sweeps when it is time."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._due = self._common.now.mono
        self._items: list[Item] = []
        self._under_way = False

    def due(self) -> float:
        """Return the monotonic time of the next sweep; infinity while none can be."""
        return float("inf") if self._under_way or self._common.away else self._due

    def step(self) -> None:
        """Start a sweep if one is due or asked for, or hand over the next item of the one under way."""
        common = self._common
        if common.away:
            self.forget_plan()
        if self._under_way or common.away:
            return
        if not self._items:
            asked = common.ledger.fact(WANT_SWEEP) is not None
            if self._common.now.mono < self._due and not asked:
                return
            common.ledger.set_fact(WANT_SWEEP, None)
            self._due = self._common.now.mono + common.settings.sweep.every
            self._items = list(self._planned().items)
        while self._items and not self._under_way:
            item = self._items.pop(0)
            row = common.ledger.by_id(item.voice)
            # It may have got work, or been published anew, since it was planned.
            if row is not None and row.state in AT_REST and row.finished == item.finished:
                self._hand_over(item)

    def forget_plan(self) -> None:
        """Begin with a new plan next time: the settings or the shares are not what they were."""
        self._items = []

    def _planned(self) -> Plan:
        common = self._common
        planned = plan_by(common.settings, common.ledger, common.synced, common.now.wall)
        if planned.held_back:
            self._common.log.warning(
                "sweep.stopped",
                removing=len(planned.items),
                held_back=planned.held_back,
                reason="more is due than sweep.max_share allows at once; the rest waits for the next sweep",
            )
        return planned

    def _hand_over(self, item: Item) -> None:
        self._under_way = True
        self._common.hands.do(
            "sweeping", lambda: _carry_out(self._common, item), self._swept, lambda error: self._failed(item, error)
        )

    def _swept(self, swept: Swept) -> None:
        self._under_way = False
        note(self._common.ledger, swept)
        tell_swept(self._common.log, swept)

    def _failed(self, item: Item, error: Exception) -> None:
        """One file that cannot be removed does not keep the others; a share that went away does."""
        self._under_way = False
        self._common.heard(error)
        if isinstance(error, ShareAwayError):
            self._items = []
        self._common.log.warning("sweep.failed", file=shown(item.files[0].path), reason=plain(str(error)))


def _carry_out(common: Common, item: Item) -> Swept:
    common.homes.check("inbox")
    common.homes.check("outbox")
    return carry_out(item, common.settings.inbox, common.settings.outbox)


def tell_swept(log: Log, swept: Swept) -> None:
    """Write into the log what a sweep did."""
    for path in swept.removed:
        log.info("file.swept", file=shown(path), of=swept.item.of, age_s=round(swept.item.age_s))
    for path, why in swept.kept:
        log.warning("file.kept", file=shown(path), of=swept.item.of, reason=why)


def plan_by(settings: Settings, ledger: Ledger, synced: Sequence[PurePosixPath], at: float) -> Plan:
    """Return what the settings let go at `at` (wall-clock seconds); `synced` is `Snapshot.synced`."""
    sweep = settings.sweep
    lives = Lives(sweep.sources, sweep.results, sweep.refusals)
    return plan(ledger, lives, sweep.max_share, at, () if sweep.originals_elsewhere else synced)
