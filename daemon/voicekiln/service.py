"""The daemon without its process: puts the parts together.

`Service.tick` is the loop's body as a function: it reads the clocks, collects what the hands and the workers have
finished, gives out new work and says when it has to be called again. It never touches a share itself and never
waits, so that the watchdog ping it sends is proof of progress. `loop` calls it; tests do with made-up clocks and hands.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from voicekiln import config, logs
from voicekiln.errors import ConfigError, plain
from voicekiln.folders.names import shown
from voicekiln.folders.voices import State
from voicekiln.notify import Notifier
from voicekiln.settings import Settings
from voicekiln.supervisor.adoption import Adoption
from voicekiln.supervisor.attendants import Attendant, ClusterAttendant, Overheard
from voicekiln.supervisor.bundles import Bundles
from voicekiln.supervisor.common import TROUBLE, Common, Now
from voicekiln.supervisor.delivery import Post
from voicekiln.supervisor.dispatch import Dispatch
from voicekiln.supervisor.exporting import Gauges
from voicekiln.supervisor.hands import Hands
from voicekiln.supervisor.hiring import HERE, Machine
from voicekiln.supervisor.intake import Intake
from voicekiln.supervisor.noticeboard import Noticeboard
from voicekiln.supervisor.ownership import Ownership
from voicekiln.supervisor.recovery import clear_litter, recover
from voicekiln.supervisor.survey import AtWork, Moment
from voicekiln.supervisor.sweeping import Sweeper
from voicekiln.worker.keeper import Keeper

FIXED = ("inbox", "outbox", "state", "worker", "workers", "metrics")
"""Settings that a running daemon cannot change."""

LONGEST_NAP_S = 5.0
"""The loop wakes at least this often, to see what a command has written into the ledger."""

STOP_HANDS_S = 20.0
STOP_WORKER_S = 5.0
STOP_ASIDE_S = 3.0
RELEASE_S = 5.0
"""How long a clean stop waits for a copy that is under way, for each worker that does not leave at once, for a status
page outside the outbox, and for the share to take the word that the outbox is free."""


WAITING = (State.SETTLING, State.INCOMPLETE, State.QUEUED, State.CONVERTED, State.REFUSING)
"""For time, for a worker or for their publication; those in work are named one by one."""


class Service:
    """See the module."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that touches the world comes from outside
        self,
        common: Common,
        keepers: Sequence[Keeper],
        notifier: Notifier,
        ownership: Ownership,
        aside: Hands,
        machine: Machine = HERE,
    ) -> None:
        """Pick up what a former daemon left; `keepers` are the workers, which share `machine` among them.

        `aside` are hands for a status page outside the outbox, which may hang.
        """
        self.common = common
        self.attendants: list[Attendant] = []
        self.cluster: ClusterAttendant | None = None
        """Where the workers are, if not on this machine; one of the attendants."""
        common.log = Overheard(common.log, self.attendants)
        self.ownership = ownership
        self.adoption = Adoption(common, ownership)
        self.intake = Intake(common, workers=keepers)
        self.dispatch = Dispatch(common, keepers, machine)
        self.post = Post(common, ownership)
        self.bundles = Bundles(common, ownership)
        self.sweeper = Sweeper(common, ownership)
        self.noticeboard = Noticeboard(common, ownership, self.moment, common.hands, outside=False)
        self.outer_noticeboard = Noticeboard(common, ownership, self.moment, aside, outside=True)
        self._aside = aside
        self._notifier = notifier
        self.watchless: str | None = None
        """Why no events are to be had from the inbox although there should be some; for the status."""
        self._said_ready = False
        self._status: str | None = None
        self._litter: set[str] = set()
        recover(common)

    def tick(self, now: Now) -> float:
        """Do all that can be done now without waiting; return the monotonic time of the next call.

        The caller calls earlier when something wakes it: an event, a worker's line, hands that have finished.
        """
        self.common.now = now
        self.common.ledger.pass_time(now.mono, now.wall)
        self.common.hands.collect()
        self._aside.collect()
        self.common.wake()
        self.ownership.step()
        due = [self.ownership.due(), self.common.next_try(), now.mono + LONGEST_NAP_S]
        if self.ownership.waits:
            self.adoption.forget()
            self.dispatch.hear()
        elif self.adoption.under_way and self.ownership.sure:
            self.dispatch.hear()
            self.adoption.step()
        else:
            due += self._work()
        self._tell_systemd()
        due += [attendant.step() for attendant in self.attendants]
        due.append(self.dispatch.due())
        return max(now.mono, min(due))

    def _work(self) -> list[float]:
        """Do what the owner of the outbox does; return when there is more to do."""
        self.dispatch.step()
        self.intake.step()
        if self.ownership.sure:
            self.post.step()
            self._clear_litter()
        due = [self.intake.due()]
        if self.ownership.sure:
            due.append(self.bundles.step())
        if self.intake.knows and self.ownership.sure:
            self.sweeper.step()
            due.append(self.sweeper.due())
        if self.ownership.sure:
            for noticeboard in (self.noticeboard, self.outer_noticeboard):
                noticeboard.step()
                due.append(noticeboard.due())
        return due

    def reload(self, path: Path) -> None:
        """Read the configuration anew; it is taken only if it is right and the folders are the same."""
        self._notifier.reloading(int(self.common.now.mono * 1e6))
        old, away = self.common.settings, bool(self.common.away)
        self.common.hands.do(
            "reading the configuration", lambda: _reread(path, old, away=away), self._reloaded, self._not_reloaded
        )

    def _reloaded(self, settings: Settings) -> None:
        self.common.settings = settings
        self.sweeper.forget_plan()
        logs.configure(settings.log.format, settings.log.level, sys.stderr)
        self.common.log.info("config.reloaded")
        self._notifier.ready()

    def _not_reloaded(self, error: Exception) -> None:
        problems = error.problems if isinstance(error, ConfigError) else [plain(str(error))]
        self.common.log.error("config.refused", problems=problems)
        self._notifier.ready()

    def stop(self) -> bool:
        """Stop cleanly: jobs go back into the queue, a copy under way is finished. False if a share hangs."""
        self._notifier.stopping()
        self.dispatch.close(STOP_WORKER_S)
        end = time.monotonic() + STOP_HANDS_S
        if self._drained(end) and self.ownership.sure and not self.adoption.under_way:
            self.noticeboard.last()
            self.outer_noticeboard.last()
        finished = self.common.hands.close(max(0.0, end - time.monotonic()))
        if finished:
            self.common.hands.collect()
            self._aside.close(STOP_ASIDE_S)
            self._aside.collect()  # one that hangs may not rename anything after the release
            finished = self.ownership.release(RELEASE_S)
        self.leave()
        return finished

    def _drained(self, end: float) -> bool:
        """Wait until all that the hands have taken on is in the ledger; False if that lasts until `end`."""
        idle = threading.Event()
        self.common.hands.do("stopping", idle.set, lambda _: None, lambda _: None)
        while not idle.wait(0.05) and time.monotonic() < end:
            self.common.hands.collect()
        self.common.hands.collect()
        return idle.is_set()

    def leave(self) -> None:
        """Let those go who only attend to the work; the last step of a stop."""
        for attendant in self.attendants:
            attendant.close()

    def moment(self) -> Moment:
        """Return what the ledger does not tell of how things stand."""
        common, benches = self.common, self.dispatch.benches
        return Moment(
            at_work={b.voice.id: AtWork(b.stage, tuple(b.entered), b.since) for b in benches if b.voice is not None},
            ended=dict(common.ended),
            troubles=tuple(self.troubles()),
            cluster=None if self.cluster is None else self.cluster.facts(),
            last_scan=self.intake.last_scan,
            clock=common.ledger.clock,
            wall=common.now.wall,
        )

    def status(self) -> str:
        """Return the state of things in one line."""
        counts = self.common.ledger.counts()
        waiting = sum(counts.get(s, 0) for s in WAITING)
        parts = [standing] if (standing := self.ownership.told()) else []
        parts += [f"{waiting} waiting", f"{counts.get(State.DONE, 0)} done", f"{counts.get(State.REFUSED, 0)} refused"]
        parts += [] if self.cluster is None else [f"places in the cluster: {self.cluster.facts().places}"]
        parts += self.troubles()
        parts += [f"looking without events: {self.watchless}"] if self.watchless else []
        benches = [bench for bench in self.dispatch.benches if bench.voice]
        sent = sum(bench.waits for bench in benches)
        parts += [f"waiting for a place in the cluster: {sent}"] if sent else []
        parts += [  # last, because it is many with many workers, and systemd shows so much of a line and no more
            f"converting {shown(b.voice.relpath)}: {b.stage}" for b in benches if b.voice and not b.waits
        ]
        return ", ".join(parts)

    def gauges(self) -> Gauges:
        """Return the state of things in numbers."""
        common, counts = self.common, self.common.ledger.counts()
        return Gauges(
            active=not self.ownership.waits,
            troubles=len(self.troubles()),
            away=frozenset(common.away),
            voices={str(state): counts.get(state, 0) for state in State},
            workers=len(self.dispatch.benches),
            busy=sum(bench.voice is not None for bench in self.dispatch.benches),
            waiting_since=common.ledger.waiting_since(common.now.wall),
            last_scan=self.intake.last_scan,
        )

    def troubles(self) -> list[str]:
        """Return what keeps the work from going on that somebody should see to."""
        stuck = self.common.hands.stuck()
        found = [f"still {stuck}"] if stuck is not None else []
        found += [trouble] if (trouble := self.ownership.trouble()) else []
        found += [trouble] if self.cluster is not None and (trouble := self.cluster.trouble()) else []
        return found + [f"{which} away: {reason}" for which, reason in sorted(self.common.away.items())]

    def _clear_litter(self) -> None:
        """Once for each ledger whose daemon left something, as soon as the outbox is there."""
        instances = self.ownership.former - self._litter
        if not instances or "outbox" in self.common.away:
            return
        self._litter |= instances

        def failed(error: Exception) -> None:
            self._litter -= instances
            self.common.heard(error)

        self.common.hands.do(
            "clearing up in the outbox",
            lambda: clear_litter(self.common, instances),
            lambda count: self.common.log.info("litter.removed", files=count) if count else None,
            failed,
        )

    def _tell_systemd(self) -> None:
        status = self.status()
        if not self._said_ready and (self.intake.knows or self.ownership.told() or self.troubles()):
            self._said_ready = True
            self._notifier.ready()
            self.common.log.info("service.ready", status=status, workers=len(self.dispatch.benches))
        if status != self._status:
            self._status = status
            self._notifier.status(status)
            self.common.ledger.set_fact("status", status)
            self.common.ledger.set_fact(TROUBLE, "; ".join(self.troubles()) or None)
        self._notifier.watchdog(self.common.now.mono)


def _reread(path: Path, old: Settings, *, away: bool) -> Settings:
    """Return the settings in the file. While a share is away, its folder cannot be tried, and need not be."""
    new = config.load(path) if away else config.load_prepared(path)
    moved = [f"{name}: changed, which needs a restart" for name in FIXED if getattr(old, name) != getattr(new, name)]
    if moved:
        raise ConfigError(moved)
    return new
