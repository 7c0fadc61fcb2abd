"""What the supervisor sees of a worker: what it may ask for, and what it is then told.

`Worker` in `parent` keeps a real process; the tests' fake plays the same part in memory. The supervisor polls and
gets events; nothing here ever calls back into it. For each request that was begun there is exactly one `Ended`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from voicekiln.job import Ending, Lost, Stage
from voicekiln.worker.wire import Looked, Ready, Request

STOPPED = Lost("the converter was stopped", counts=False)
"""How a request ends that its keeper is told to let go."""

UNNEEDED = "the worker was not needed any more"
"""Why an idle process leaves."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process was started; it is not ready yet."""

    pid: int


@dataclass(frozen=True, slots=True)
class At:
    """The request under way has entered a stage, or a step of it (see `Entered`)."""

    id: str
    stage: Stage
    step: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """A line that the process wrote on its standard error, cleaned and cut."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The request is over. After `Lost` nothing of its process writes into the staging folder any more."""

    id: str
    ending: Ending | Looked
    """`Converted` for `Convert`, `Looked` for all others; `Refused` and `Lost` for any."""


@dataclass(frozen=True, slots=True)
class Left:
    """The process is gone."""

    pid: int
    reason: str
    """A clause: `the worker crashed (SIGSEGV)`."""
    wanted: bool
    """True where it left because it was idle or was asked to."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The process did not die of SIGKILL (it hangs in the kernel) and is left behind; it may still hold memory."""

    pid: int


Event = Started | Ready | At | Said | Ended | Left | Abandoned


class Keeper(Protocol):
    """Keeps at most one worker process and gives it one request at a time. For one thread only.

    Every `now` is in seconds of `time.monotonic`.
    """

    @property
    def busy(self) -> bool:
        """Whether a request is under way; only then `begin` may not be called."""
        ...

    @property
    def waits(self) -> bool:
        """Whether nobody has taken on the request under way yet: it stands in a queue that others use, too."""
        ...

    @property
    def ready(self) -> Ready | None:
        """What the process runs on; None while there is none that is ready."""
        ...

    def begin(self, request: Request, now: float) -> None:
        """Take a request on; a process is started where there is none. What goes wrong is told by `poll`."""
        ...

    def poll(self, now: float) -> list[Event]:
        """Do what is due and return what has happened since the last call. Does not block."""
        ...

    def next_due(self, now: float) -> float:
        """Return when `poll` has to be called even if nobody calls `wake`; infinity if never."""
        ...

    def stop(self, now: float) -> None:
        """Let the process go. A request under way ends as `Lost` that does not count; `poll` has to go on."""
        ...

    def close(self, grace_s: float) -> list[Event]:
        """Let the process go and wait until it is gone, at most about `grace_s` before it is killed; for the end."""
        ...
