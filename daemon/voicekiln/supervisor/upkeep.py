"""What is done at the edges of the work: picking up after a crash, and sweeping.

At start the ledger's states say what a killed daemon was at; everything that no state accounts for - temporary files
in the outbox that bear our mark, copies in the spool, folders in staging - is litter and goes. Sweeping waits while
a share is away: an absent folder is not an empty one.
"""

from __future__ import annotations

import shutil

from voicekiln.errors import plain
from voicekiln.folders.ledger import State, Voice
from voicekiln.folders.names import shown
from voicekiln.folders.outbox import clear_temps
from voicekiln.folders.sweep import Item, Lives, Plan, Swept, carry_out, note, plan
from voicekiln.settings import Settings
from voicekiln.supervisor.common import Common, Log, at_home

WANT_SWEEP = "sweep wanted"
"""Fact in the ledger: the command `sweep` asks the running daemon for one."""


def recover(common: Common) -> None:
    """Bring ledger, spool and staging into agreement before the first tick. Local disk only."""
    for name in ("spool", "staging"):
        (common.settings.state / name).mkdir(mode=0o700, exist_ok=True)
    for voice in common.ledger.voices(State.QUEUED, State.CONVERTING, State.CONVERTED):
        _resume(common, voice)
    jobs = {voice.job for voice in common.ledger.voices() if voice.job}
    for path in (common.settings.state / "spool").iterdir():
        if path.name.removesuffix(".pth") not in jobs:
            path.unlink()
    for path in (common.settings.state / "staging").iterdir():
        if path.name not in jobs:
            shutil.rmtree(path)


def _resume(common: Common, voice: Voice) -> None:
    """A job that was with a worker has used up its attempt; it is queued again, or refused, as after any loss."""
    ready = common.staging(voice.job or "-").is_dir() or common.ledger.twin(voice) is not None
    if voice.state is State.CONVERTED:
        if not ready:
            common.ledger.start_over(voice.id)
        return
    if voice.job is None or not common.spool(voice.job).is_file():
        common.ledger.start_over(voice.id)
    elif voice.state is State.CONVERTING:
        shutil.rmtree(common.staging(voice.job), ignore_errors=True)
        common.ledger.lost(voice.id, "the converter itself was stopped in the middle", None, counts=True)


def clear_litter(common: Common) -> None:
    """Let the hands remove what a killed daemon left in the outbox."""
    outbox, instance = common.settings.outbox, common.ledger.instance
    common.hands.do(
        "clearing up in the outbox",
        lambda: clear_temps(outbox, instance),
        lambda count: common.log.info("litter.removed", files=count) if count else None,
        lambda error: common.log.warning("litter.unreachable", reason=plain(str(error))),
    )


class Broom:
    """Sweeps when it is time."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._due = self._common.now.mono
        self._items: list[Item] = []
        self._under_way = False

    @property
    def due(self) -> float:
        """Monotonic time of the next sweep."""
        return self._due

    def step(self) -> None:
        """Start a sweep if one is due or asked for, or hand over the next item of the one under way."""
        common = self._common
        if self._under_way or common.away:
            return
        if not self._items:
            asked = common.ledger.fact(WANT_SWEEP) is not None
            if self._common.now.mono < self._due and not asked:
                return
            common.ledger.set_fact(WANT_SWEEP, None)
            self._due = self._common.now.mono + common.settings.sweep.every
            self._items = list(self._planned().items)
        if self._items:
            self._hand_over(self._items.pop(0))

    def _planned(self) -> Plan:
        common, sweep = self._common, self._common.settings.sweep
        synced = () if sweep.originals_elsewhere else common.synced
        planned = plan(common.ledger, lives(common.settings), sweep.max_share, common.now.wall, synced)
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
        self._common.share_is("inbox" if item.of == "sources" else "outbox", error)
        if self._common.away:
            self._items = []
        self._common.log.warning("sweep.failed", file=shown(item.files[0].path), reason=plain(str(error)))


def _carry_out(common: Common, item: Item) -> Swept:
    at_home(common.settings.inbox, common.home.inbox)
    at_home(common.settings.outbox, common.home.outbox)
    return carry_out(item, common.settings.inbox, common.settings.outbox)


def tell_swept(log: Log, swept: Swept) -> None:
    """Write into the log what a sweep did."""
    for path in swept.removed:
        log.info("file.swept", file=shown(path), of=swept.item.of, age_s=round(swept.item.age_s))
    for path, why in swept.kept:
        log.warning("file.kept", file=shown(path), of=swept.item.of, reason=why)


def lives(settings: Settings) -> Lives:
    """Return the times to live from the settings."""
    return Lives(settings.sweep.sources, settings.sweep.results, settings.sweep.refusals)
