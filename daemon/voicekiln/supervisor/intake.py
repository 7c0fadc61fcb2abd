"""From a look at the inbox to a copy in the spool.

Events only say «look now»; what is true is the scan. A file is taken when it has been quiet for the configured time,
its stamp from a freshly opened descriptor equals the last one seen, and it proves to be whole; a file without a
proof (the older pickle format, or no checkpoint at all) has to be quiet for longer. One that proves incomplete is not
read again before it changes, so it needs no growing distances, and after minutes without a change the person is told:
hours of silence would be no kindness, and what arrives later is taken all the same. A voice's companions (see
`folders.beside`) are part of its state: when one comes, changes or goes, it settles and is taken again, unless its
family looks for none. Only a few copies wait in the spool at once, so that a full inbox never fills the local disk.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections import deque
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from voicekiln.errors import (
    Changed,
    ConflictCopy,
    Incomplete,
    NotAFile,
    Refusal,
    ShareAwayError,
    Unproven,
    Unreadable,
    plain,
)
from voicekiln.folders.inbox import Snapshot, recipe_of, scan
from voicekiln.folders.names import shown
from voicekiln.folders.outbox import intact
from voicekiln.folders.settle import Settler
from voicekiln.folders.spool import Spooled, take
from voicekiln.folders.voices import AT_REST, REPLACEABLE, Known, Published, State, Voice, key_of
from voicekiln.folders.watch import FileSystem
from voicekiln.job import NOT_READ, FileStamp, Refused
from voicekiln.settings import Settings
from voicekiln.steps import Step, passed
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.homes import AwayError

SPARE_SPOOLED = 2
"""So many more copies than there are workers wait for one and could be begun with: if all workers end at once, each
finds its next voice, and the one after that is under way."""

PUT_OFF_SPOOLED = 8
"""So many more may wait that were put off after a loss."""

RESERVE = 64 << 20
"""Bytes that stay free on the disk of the state folder, so that the ledger can always be written."""

ROOM = 5
"""So many times its own size a voice takes there: the copy, and ONNX files in both precisions."""

LEAST_BETWEEN_SCANS_S = 0.5
"""However many events come, the share is not walked more often."""

CROWD = 100
"""So many new files in one look are told in one line; each of them has lines of its own later."""

PORTION = 2000
"""So many new files are entered in one go, the next ones at the next tick: nobody waits for tens of thousands.

A crash in between costs nothing; whatever the ledger does not know is new to the next scan."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the hands bring back from a source that could be copied."""

    spooled: Spooled
    intact: bool
    """Whether all results that the ledger knows of this voice still lie in the outbox unchanged."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the hands bring back from a scan."""

    snapshot: Snapshot
    system: FileSystem
    outbox_away: AwayError | None


class Intake:
    """Scans, lets settle, takes."""

    def __init__(self, common: Common, workers: Sized) -> None:
        """So many `workers` as there are at a time, so many voices can be in work at once."""
        self._common = common
        self._workers = workers
        self.every_s = common.settings.scan.poll
        """The longest time between two scans; longer where events can be had."""
        self._settler = Settler(common.settings.settle.quiet)
        self._later: dict[PurePosixPath, tuple[float, int]] = {}
        """Until when a voice is let alone, and its number."""
        self._next_later = float("inf")
        self._unreadable: set[PurePosixPath] = set()
        self._coming: deque[tuple[PurePosixPath, FileStamp, Refusal | None]] = deque()
        """New files that the last scan saw and that are not entered yet."""
        self._beside: Mapping[PurePosixPath, Sequence[str]] = {}
        """What companions have voices that have some, as the last scan saw them."""
        self._scanning = False
        self._taking: str | None = None
        """The job whose copy is under way."""
        self._due = float("-inf")
        self._last = float("-inf")
        self.folders = 1
        """In the inbox, itself included, at the last scan."""
        self.system: FileSystem | None = None
        """On which the inbox lay at the last scan; None before the first."""
        self._good = float("-inf")
        self._crowd = False
        """Whether the last scan saw too many new files to tell of each."""

    @property
    def knows(self) -> bool:
        """Whether a scan has succeeded so recently that what the ledger says of the inbox is true."""
        return self._common.now.mono - self._good <= 2 * self.every_s + LEAST_BETWEEN_SCANS_S

    @property
    def last_scan(self) -> float | None:
        """Wall-clock seconds of the last scan that succeeded; None before the first."""
        now = self._common.now
        return None if self._good == float("-inf") else now.wall - (now.mono - self._good)

    def look_soon(self) -> None:
        """An event came: scan as soon as the last scan is long enough ago."""
        self._due = float("-inf")

    def step(self) -> None:
        """Start a scan if one is due, and take the next file that has settled."""
        if self._coming:
            self._enter_some()
        elif not self._scanning and self._common.now.mono >= self.due():
            self._scan()
        if self._taking is None and "inbox" not in self._common.away:
            self._take_next()

    def due(self) -> float:
        """Return the monotonic time of the next scan; now if one is to be gone on with, infinity while one looks."""
        if self._coming:
            return self._common.now.mono
        if self._scanning:
            return float("inf")
        settled = self._settler.next_due()
        return max(min(self._due, self._next_later, float("inf") if settled is None else settled), self.earliest)

    @property
    def earliest(self) -> float:
        """The monotonic time before which no scan begins, whatever happens."""
        return self._last + LEAST_BETWEEN_SCANS_S

    # --- scanning ------------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        self._scanning = True
        self._last = began = self._common.now.mono
        self._due = began + self.every_s
        if self._next_later <= began:
            over = {relpath: voice for relpath, (due, voice) in self._later.items() if due <= began}
            self._common.ledger.due_again(over.values())
            for relpath in over:
                del self._later[relpath]
            self._next_later = min((due for due, _ in self._later.values()), default=float("inf"))
        settings = self._common.settings
        self._common.hands.do(
            "looking through the inbox",
            lambda: _look(self._common, settings),
            lambda snapshot: self._scanned(snapshot, began),
            self._scan_failed,
        )

    def _scan_failed(self, error: Exception) -> None:
        self._scanning = False
        self._common.share_is(
            "inbox", error if isinstance(error, ShareAwayError) else AwayError("inbox", plain(str(error)))
        )

    def _scanned(self, look: Look, began: float) -> None:
        """Bring the ledger into agreement with what lies in the inbox."""
        snapshot = look.snapshot
        self._scanning = False
        self.folders, self.system = snapshot.folders, look.system
        self._common.synced = snapshot.synced
        self._common.share_is("inbox", None)
        self._common.share_is("outbox", look.outbox_away)
        for relpath in snapshot.unreadable.keys() - self._unreadable:
            self._common.log.warning("folder.unreadable", path=shown(relpath), reason=snapshot.unreadable[relpath])
        self._unreadable = set(snapshot.unreadable)
        self._beside = snapshot.beside
        with self._common.ledger.together():
            waiting = self._compare(snapshot)
            self._enter_some()
        self._settler.quiet_s = self._common.settings.settle.quiet
        self._settler.observe(waiting, began, self._common.now.mono)
        self._common.clear_leftovers(self._taking)

    def _compare(self, snapshot: Snapshot) -> dict[PurePosixPath, FileStamp]:
        """Enter what has changed; return the files that are not at rest. The new ones among them are `_coming`.

        Those may be few and the others thousands, of which nothing is kept in memory.
        """
        refused: dict[PurePosixPath, Refusal] = {path: ConflictCopy(tool=t) for path, t in snapshot.conflicts.items()}
        refused |= {path: NotAFile(what=what) for path, what in snapshot.odd.items()}
        seen = snapshot.files | dict.fromkeys(refused, NOT_READ)
        changed: list[tuple[PurePosixPath, FileStamp, Known]] = []
        waiting: dict[PurePosixPath, FileStamp] = {}
        vanished: list[int] = []
        for relpath, old in self._common.ledger.known():
            stamp = seen.pop(relpath, None)
            if stamp is None:
                vanished += [old.id] if old.source == "there" and snapshot.covers(relpath) else []
            elif old.state in REPLACEABLE and (old.stamp != stamp or old.source != "there"):
                changed.append((relpath, stamp, old))
            elif old.state not in AT_REST:
                waiting[relpath] = stamp
        self._crowd = len(changed) + len(seen) > CROWD
        if self._crowd:
            self._common.log.info("files.seen", count=len(changed) + len(seen))
        changed = [found for found in changed if not self._heeds(*found)]
        for relpath, stamp, before in changed:
            # Not told: a growing file is seen every second.
            self._sight(relpath, stamp, refused.get(relpath), before.job, tell=False)
        for number in vanished:
            self._common.ledger.vanished(number)
        self._coming.extend((relpath, stamp, refused.get(relpath)) for relpath, stamp in seen.items())
        waiting |= {relpath: stamp for relpath, stamp, _ in changed} | seen
        return {relpath: stamp for relpath, stamp in waiting.items() if relpath not in refused}

    def _heeds(self, relpath: PurePosixPath, stamp: FileStamp, old: Known) -> bool:
        """Say whether nothing has to be done: only companions have changed, and the voice's family looks for none."""
        only = old.source == "there" and replace(stamp, beside=old.stamp.beside) == old.stamp
        if not (only and self._common.ledger.heed(old.id, stamp)):
            return False
        self._common.log.debug("file.unchanged", file=shown(relpath))
        return True

    def _enter_some(self) -> None:
        """Enter as many of the new files as is quick; behind the last one the ledger agrees with the inbox."""
        with self._common.ledger.together():
            for _ in range(min(PORTION, len(self._coming))):
                self._sight(*self._coming.popleft(), tell=not self._crowd)
        if not self._coming:
            self._good = self._common.now.mono

    def _sight(
        self, relpath: PurePosixPath, stamp: FileStamp, refusal: Refusal | None, job: str | None = None, *, tell: bool
    ) -> None:
        """Enter a file that is new, or another than it was; `job` is what was made of it before."""
        self._common.clear_job(job)
        recipe = recipe_of(relpath, self._common.settings.recipes, "default")
        voice = self._common.ledger.sight(relpath, recipe, stamp, self._common.now.wall)
        passed(Step.SEEN)
        self._common.went_well(voice.id)
        self._later.pop(relpath, None)
        if refusal is not None:
            self._common.ledger.ended(voice.id, Refused(refusal), of_content=False)
        say = self._common.log.info if tell else self._common.log.debug
        say("file.seen", file=shown(relpath), bytes=stamp.size, recipe=voice.recipe)

    # --- taking --------------------------------------------------------------------------------------------------

    def _take_next(self) -> None:
        ledger, common = self._common.ledger, self._common
        queued = ledger.voices(State.QUEUED)
        next_up = [voice for voice in queued if common.may_try(voice.id)]
        spooled = len(self._workers) + SPARE_SPOOLED
        if len(next_up) >= spooled or len(queued) >= spooled + PUT_OFF_SPOOLED:
            return
        voice = ledger.first(self._is_due, State.SETTLING, State.INCOMPLETE)
        if voice is not None and self._has_room(voice, [*next_up, *ledger.voices(State.CONVERTING)]):
            self._take(voice)

    def _has_room(self, voice: Voice, others: Sequence[Voice]) -> bool:
        """Say whether the local disk also holds this voice, with all that becomes of the others.

        If not, it waits for them, and whoever comes after it waits too: a large one would never find room otherwise.
        Without others it is tried, and what that meets is told.
        """
        settings = self._common.settings
        promised = sum((ROOM - 1) * other.stamp.size for other in others)
        return not others or _needed_bytes(voice, settings) + promised <= shutil.disk_usage(settings.state).free

    def _is_due(self, voice: Voice) -> bool:
        settle = self._common.settings.settle
        quiet_s = settle.incomplete_after if voice.state is State.INCOMPLETE else settle.quiet
        return (
            self._settler.quiet(voice.relpath, quiet_s)
            and voice.relpath not in self._later
            and self._common.may_try(voice.id)
        )

    def _take(self, voice: Voice) -> None:
        common, settings = self._common, self._common.settings
        # Not by the clock: one that is set back would give a second voice the name of a copy that still waits.
        job = f"{common.ledger.instance}{secrets.token_hex(6)}"
        self._taking = job
        unproven_ok = self._settler.quiet(voice.relpath, settings.settle.legacy_quiet)
        results = [file for _, file in common.ledger.files(voice.id)]
        beside = self._beside.get(voice.relpath, ())
        common.hands.do(
            f"copying {shown(voice.relpath)}",
            lambda: _copy(common, voice, job, results, beside, unproven_ok=unproven_ok),
            lambda taken: self._took(voice, job, taken),
            lambda error: self._not_taken(voice, error),
        )

    def _took(self, voice: Voice, job: str, taken: Taken) -> None:
        common, spooled = self._common, taken.spooled
        self._taking = None
        common.went_well(voice.id)
        current = common.ledger.voice(voice.relpath)
        settling = current is not None and current.state in (State.SETTLING, State.INCOMPLETE)
        if current is None or not settling or current.id != voice.id or current.stamp != spooled.stamp:
            common.clear_job(job)  # it changed, vanished or was forgotten meanwhile
            return
        recipe = common.recipe(current)
        key = key_of(spooled.sha256, recipe, spooled.beside)
        if current.has_ending_of(key) and taken.intact:
            common.clear_job(job)
            common.ledger.unchanged(voice.id, spooled.stamp, common.now.wall)
            common.log.info("file.unchanged", file=shown(voice.relpath))
            return
        common.ledger.spooled(voice.id, spooled.stamp, spooled.sha256, recipe, key, job, spooled.beside)
        passed(Step.SPOOLED)
        facts: dict[str, object] = {"bytes": spooled.bytes, "sha256": spooled.sha256}
        facts |= {"beside": sorted(map(plain, spooled.beside))} if spooled.beside else {}
        common.log.info("file.settled", file=shown(voice.relpath), **facts)

    def _not_taken(self, voice: Voice, error: Exception) -> None:
        common, settle = self._common, self._common.settings.settle
        self._taking = None
        current = common.ledger.voice(voice.relpath)
        if current is None or current.stamp != voice.stamp or current.state not in (State.SETTLING, State.INCOMPLETE):
            return
        match error:
            case Changed():
                common.ledger.wait(voice.id, voice.state, error.why)
                self._settler.restart(voice.relpath, common.now.mono)
            case Unproven():
                self._wait_until_quiet(voice, State.SETTLING, error.why, settle.legacy_quiet)
            case Incomplete() if self._settler.quiet(voice.relpath, settle.incomplete_after):
                common.ledger.ended(voice.id, Refused(error.refusal()), of_content=False)
            case Incomplete():
                self._wait_until_quiet(voice, State.INCOMPLETE, error.why, settle.incomplete_after)
            case Refusal():
                common.ledger.ended(voice.id, Refused(error), of_content=False)
            case PermissionError() if self._settler.quiet(voice.relpath, settle.legacy_quiet):
                common.ledger.ended(voice.id, Refused(Unreadable()), of_content=False)
            case _:
                common.heard(error)
                reason = plain(getattr(error, "strerror", None) or str(error))
                if reason != voice.reason:
                    common.log.warning("copy.failed", file=shown(voice.relpath), reason=reason)
                common.ledger.wait(voice.id, voice.state, reason, common.put_off(voice.id))

    def _wait_until_quiet(self, voice: Voice, state: State, why: str, quiet_s: float) -> None:
        """Let the file alone until it has been quiet for `quiet_s`; a change begins everything anew."""
        due = self._settler.due(voice.relpath, quiet_s)
        if due is not None:
            self._later[voice.relpath] = due, voice.id
            self._next_later = min(self._next_later, due)
            left_s = due - self._common.now.mono
            self._common.ledger.wait(voice.id, state, why, self._common.now.wall + left_s)
            self._common.log.info("file.waits", file=shown(voice.relpath), reason=why, seconds=round(left_s))


def _look(common: Common, settings: Settings) -> Look:
    """Scan the inbox, and see whether both shares are there; for the hands."""
    system = common.homes.check("inbox")
    snapshot = scan(
        settings.inbox, inodes=system.stable_inodes, conflicts_are_voices=settings.conflict_copies == "convert"
    )
    common.homes.check("inbox")  # it may have been unmounted in between, and half of it have seemed to vanish
    try:
        common.homes.check("outbox")
    except AwayError as error:
        return Look(snapshot, system, error)
    return Look(snapshot, system, None)


def _copy(  # noqa: PLR0913 - what is copied, where to, and what was known of it
    common: Common,
    voice: Voice,
    job: str,
    results: Sequence[Published],
    beside: Sequence[str],
    *,
    unproven_ok: bool,
) -> Taken:
    """Copy a source into the spool and see whether its earlier results are still there; for the hands."""
    settings = common.settings
    inodes = common.homes.check("inbox").stable_inodes
    if results:
        common.homes.check("outbox")
    there = intact(settings.outbox, results)
    if _needed_bytes(voice, settings) > shutil.disk_usage(settings.state).free:
        raise OSError(errno.ENOSPC, "too little room on the disk of the state folder")
    spooled = take(
        settings.inbox,
        voice.relpath,
        voice.stamp,
        common.spool(job),
        settings.max_bytes,
        beside=beside,
        inodes=inodes,
        unproven_ok=unproven_ok,
    )
    return Taken(spooled, there)


def _needed_bytes(voice: Voice, settings: Settings) -> int:
    """Return how much has to be free on the local disk before a voice is copied; no more than fits is ever copied."""
    return min(voice.stamp.size, settings.max_bytes) * ROOM + RESERVE
