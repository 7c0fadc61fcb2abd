"""What all parts of the loop hold in common: settings, ledger, hands, and what they know of the shares."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

from voicekiln.errors import ShareAwayError
from voicekiln.folders.ledger import Ledger, Voice
from voicekiln.folders.watch import FileSystem, file_system
from voicekiln.job import Recipe
from voicekiln.settings import Settings
from voicekiln.supervisor.hands import Hands

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 600.0
"""A share or disk in trouble is tried again after 5 s, then at doubling distances up to ten minutes, for ever."""


@dataclass(frozen=True, slots=True)
class Now:
    """Both clocks, read once a tick."""

    mono: float
    """Monotonic seconds: for every wait and deadline."""
    wall: float
    """Wall-clock seconds: for the ledger and for people."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where inbox and outbox lay at the start; elsewhere later means that a share was unmounted."""

    inbox: FileSystem
    outbox: FileSystem
    name_max: int
    """Bytes that a file name in the outbox may have."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Look where they lie now. Touches the shares."""
        name_max = os.pathconf(settings.outbox, "PC_NAME_MAX")
        return cls(file_system(settings.inbox), file_system(settings.outbox), name_max)


def at_home(folder: Path, home: FileSystem) -> None:
    """Check that a folder still lies where it lay at the start. Touches the share, so for the hands only.

    Raises:
        ShareAwayError: if it is not there, or lies on another file system: what is seen there is the empty folder
            beneath the mount point, where nothing may be written and from where nothing has vanished.
    """
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # opening lets an automount come
    except OSError as error:
        raise ShareAwayError(f"the folder cannot be reached: {error.strerror}") from error
    now = file_system(folder)
    if now != home:
        raise ShareAwayError(
            f"the folder lies on {now.type}, at the start it was {home.type}: was the share unmounted?"
        )


class Log(Protocol):
    """The part of a structlog logger that the loop uses."""

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
    home: Home
    now: Now
    """Read from the clocks at the beginning of each tick."""
    away: dict[str, str] = field(default_factory=dict)
    """`inbox` or `outbox` with the reason why it cannot be reached."""
    synced: tuple[PurePosixPath, ...] = ()
    """Folders of the inbox that a sync tool keeps equal with other devices, as its markers in them show."""
    without_twin: set[int] = field(default_factory=set)
    """Voices that have to be converted themselves, because their twin's results are no longer there to copy."""
    _not_before: dict[int, tuple[float, float]] = field(default_factory=dict)

    def spool(self, job: str) -> Path:
        """Return where the copy of a job's source lies."""
        return self.settings.state / "spool" / f"{job}.pth"

    def staging(self, job: str) -> Path:
        """Return the folder in which the worker writes a job's files."""
        return self.settings.state / "staging" / job

    def recipe(self, voice: Voice) -> Recipe:
        """Return what to make of a voice; its recipe may have gone from the configuration since it was seen."""
        return self.settings.recipes.get(voice.recipe, self.settings.recipes["default"])

    def put_off(self, voice: int) -> float:
        """Let a voice wait before its next try, longer each time; return the wall-clock time of that try."""
        _, last = self._not_before.get(voice, (0.0, FIRST_RETRY_S / 2))
        delay = min(last * 2, LAST_RETRY_S)
        self._not_before[voice] = (self.now.mono + delay, delay)
        return self.now.wall + delay

    def may_try(self, voice: int) -> bool:
        """Say whether a voice that was put off is due again."""
        return self._not_before.get(voice, (0.0, 0.0))[0] <= self.now.mono

    def went_well(self, voice: int) -> None:
        """Forget the delays of a voice."""
        self._not_before.pop(voice, None)

    def next_try(self) -> float:
        """Return the monotonic time at which the next voice that was put off is due."""
        return min((due for due, _ in self._not_before.values() if due > self.now.mono), default=float("inf"))

    def share_is(self, which: str, error: Exception | None) -> None:
        """Note that a share answered (None) or is away, and say so once."""
        if isinstance(error, ShareAwayError):
            if which not in self.away:
                self.log.warning("share.lost", share=which, reason=str(error))
            self.away[which] = str(error)
        elif error is None and self.away.pop(which, None) is not None:
            self.log.info("share.returned", share=which)
