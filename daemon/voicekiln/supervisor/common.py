"""What all parts of the loop hold in common: settings, ledger, hands, and what they know of the shares."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from voicekiln import words
from voicekiln.errors import ConfigError, NotYet, Refusal, ShareAwayError
from voicekiln.folders.files import remove_tree
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import fold
from voicekiln.folders.outbox import StagingLostError
from voicekiln.folders.spool import all_beside, copies_beside
from voicekiln.folders.voices import Voice
from voicekiln.job import Recipe
from voicekiln.settings import Settings
from voicekiln.supervisor.hands import Hands
from voicekiln.supervisor.homes import AwayError, Homes, Share
from voicekiln.words import Words

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 600.0
"""A share or disk in trouble is tried again after 5 s, then at doubling distances up to ten minutes, for ever."""


EXPECTED = (ConfigError, OSError, NotYet, Refusal, ShareAwayError, StagingLostError)
"""What work on a share may raise; anything else is a defect."""

TROUBLE = "trouble"
"""Fact in the ledger: what keeps the daemon from its work, for the command `health`."""


@dataclass(frozen=True, slots=True)
class Now:
    """Both clocks, read once a tick."""

    mono: float
    """Monotonic seconds: for every wait and deadline."""
    wall: float
    """Wall-clock seconds: for the ledger and for people."""


class Log(Protocol):
    """The part of a structlog logger that the loop uses."""

    def debug(self, event: str, **facts: Any) -> Any: ...  # noqa: ANN401, D102 - structlog's own signature
    def info(self, event: str, **facts: Any) -> Any: ...  # noqa: ANN401, D102 - structlog's own signature
    def warning(self, event: str, **facts: Any) -> Any: ...  # noqa: ANN401, D102 - as above
    def error(self, event: str, **facts: Any) -> Any: ...  # noqa: ANN401, D102 - as above


@dataclass
class Common:
    """See the module. `settings` is exchanged as a whole when the configuration is read anew."""

    settings: Settings
    ledger: Ledger
    hands: Hands
    log: Log
    homes: Homes
    name_max: int
    """Bytes that a file name in the outbox may have."""
    now: Now
    """Read from the clocks at the beginning of each tick."""
    away: dict[Share, str] = field(default_factory=dict)
    """`inbox` or `outbox` with the reason why it cannot be reached."""
    synced: tuple[PurePosixPath, ...] = ()
    """Folders of the inbox that a sync tool keeps equal with other devices, as its markers in them show."""
    in_the_way: set[int] = field(default_factory=set)
    """Voices whose results wait because somebody's file lies under their name: their own affair, nobody else's."""
    without_twin: set[int] = field(default_factory=set)
    """Voices that have to be converted themselves, because their twin's results are no longer there to copy."""
    ended: dict[int, float] = field(default_factory=dict)
    """When each of the voices ended that are being published, in wall-clock seconds."""
    _not_before: dict[int, tuple[float, float]] = field(default_factory=dict)
    _alarms: list[tuple[float, int]] = field(default_factory=list)

    @property
    def boards(self) -> frozenset[str]:
        """The folded names (see `names.fold`) in the outbox under which the status page and its JSON lie."""
        status = self.settings.status
        return frozenset(fold(str(path)) for path in (status.page, status.json) if path and not path.is_absolute())

    @property
    def words(self) -> Words:
        """The language in which people are told what became of their files."""
        return words.of(words.chosen(self.settings.language, os.environ))

    def spool(self, job: str) -> Path:
        """Return where the copy of a job's source lies."""
        return self.settings.state / "spool" / f"{job}.pth"

    def beside(self, voice: Voice) -> dict[str, Path | None]:
        """Return where the copies of the companions of a job's source lie; None for one that could not be read."""
        return copies_beside(self.spool(voice.job or "-"), voice.beside)

    def staging(self, job: str) -> Path:
        """Return the folder in which the worker writes a job's files."""
        return self.settings.state / "staging" / job

    def recipe(self, voice: Voice) -> Recipe:
        """Return what to make of a voice from now on; its recipe may have gone from the configuration."""
        return self.settings.recipes.get(voice.recipe, self.settings.recipes["default"])

    def clear_job(self, job: str | None) -> None:
        """Remove the spooled copy and the staging folder of a job; both lie on local disk."""
        if job is not None:
            self.clear_copy(job)
            remove_tree(self.staging(job))

    def clear_copy(self, job: str) -> None:
        """Remove the spooled copies of a job. What a disk in trouble does not let go is a leftover, and goes later."""
        with suppress(OSError):
            for copy in (self.spool(job), *all_beside(self.spool(job))):
                copy.unlink(missing_ok=True)

    def clear_leftovers(self, taking: str | None = None) -> None:
        """Remove what lies in spool and staging for no voice of the ledger; `taking` is a copy under way."""
        jobs = self.ledger.jobs() | {taking}
        for name in ("spool", "staging"):
            with suppress(OSError):  # the disk is in trouble: they are leftovers still next time
                self._clear(self.settings.state / name, jobs)

    @staticmethod
    def _clear(folder: Path, jobs: Collection[str | None]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():
            if path.name.partition(".")[0] not in jobs:
                remove_tree(path)
                with suppress(OSError):  # a folder, which is gone now
                    path.unlink()

    def put_off(self, voice: int) -> float:
        """Let a voice wait before its next try, longer each time; return the wall-clock time of that try."""
        _, last = self._not_before.get(voice, (0.0, FIRST_RETRY_S / 2))
        delay = min(last * 2, LAST_RETRY_S)
        self._not_before[voice] = (self.now.mono + delay, delay)
        heappush(self._alarms, (self.now.mono + delay, voice))
        return self.now.wall + delay

    def may_try(self, voice: int) -> bool:
        """Say whether a voice that was put off is due again."""
        return self._not_before.get(voice, (0.0, 0.0))[0] <= self.now.mono

    def went_well(self, voice: int) -> None:
        """Forget the delays of a voice."""
        self._not_before.pop(voice, None)

    def next_try(self) -> float:
        """Return the monotonic time at which the next voice that was put off is due."""
        return self._alarms[0][0] if self._alarms else float("inf")

    def wake(self) -> None:
        """Let the ledger give those again that are due; called at every tick, with thousands that are not."""
        due: list[int] = []
        while self._alarms and self._alarms[0][0] <= self.now.mono:
            due.append(heappop(self._alarms)[1])
        if due:
            self.ledger.due_again(due)

    def share_is(self, which: Share, error: ShareAwayError | None) -> None:
        """Note that a share answered (None) or is away, and say so once."""
        if error is not None:
            if which not in self.away:
                self.log.warning("share.lost", share=which, reason=str(error))
            self.away[which] = str(error)
        elif self.away.pop(which, None) is not None:
            self.log.info("share.returned", share=which)

    def heard(self, error: Exception) -> None:
        """Note that a share is away if that is what the error says."""
        if isinstance(error, AwayError):
            self.share_is(error.which, error)
