"""A worker in memory: plays `Keeper` for the tests of the loop, with endings that the test makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from voicekiln.job import STAGES, Converted, Ending, Lost
from voicekiln.worker.keeper import At, Ended, Event, Left, Started
from voicekiln.worker.wire import Convert, Looked, Ready, Request

READY = Ready(
    {"kind": "cpu", "name": "a test", "providers": ["CPUExecutionProvider"], "why_cpu": "none"}, {"torch": "0"}
)

Answer = Callable[[Request], Ending | Looked | None]
"""Says how a request ends; None if it is still under way, then it is asked again at the next poll."""


class FakeWorker:
    """See `Keeper`. `begun` lists every request that was ever taken on."""

    def __init__(
        self, answer: Answer | Iterable[Ending | Looked], *, ready: Ready = READY, idle_s: float = float("inf")
    ) -> None:
        """`answer` is asked once a poll, or gives the endings one after the other."""
        self.begun: list[Request] = []
        self.stopped = False
        self.waits = False
        """See `Keeper`; for a test to set."""
        self._answer = answer if callable(answer) else _one_by_one(answer)
        self._facts = ready
        self._idle_s = idle_s
        self._pids = count(1000)
        self._pid: int | None = None
        self._ready: Ready | None = None
        self._request: Request | None = None
        self._idle_by = float("inf")
        self._held = False
        self._events: list[Event] = []

    @property
    def busy(self) -> bool:
        """See `Keeper`."""
        return self._request is not None

    @property
    def ready(self) -> Ready | None:
        """See `Keeper`."""
        return self._ready

    def begin(self, request: Request, now: float) -> None:  # noqa: ARG002 - the part that it plays has it
        """See `Keeper`."""
        if self.busy:
            raise RuntimeError("the worker is busy")
        self.begun.append(request)
        self._request, self._held, self._idle_by = request, False, float("inf")
        if self._pid is None:
            self._pid = next(self._pids)
            self._events.append(Started(self._pid))

    def poll(self, now: float) -> list[Event]:
        """See `Keeper`."""
        if self._pid is not None and self._ready is None:
            self._ready = self._facts
            self._events.append(self._facts)
        if self._request is not None and not self.waits:
            self._work_on(self._request, now)
        elif not self.busy and self._pid is not None and now >= self._idle_by:
            self._leave("the worker was not needed any more", wanted=True)
        events, self._events = self._events, []
        return events

    def next_due(self, now: float) -> float:
        """See `Keeper`."""
        if self._events or (self.busy and not self._held and not self.waits):
            return now
        return self._idle_by

    def stop(self, now: float) -> None:
        """See `Keeper`."""
        self.stopped = True
        if self._request is not None:
            self._end(self._request, Lost("the converter was stopped", counts=False), now)
        if self._pid is not None:
            self._leave("the converter was stopped", wanted=True)

    def close(self, grace_s: float) -> list[Event]:  # noqa: ARG002 - as above
        """See `Keeper`."""
        self.stop(0.0)
        events, self._events = self._events, []
        return events

    def _work_on(self, request: Request, now: float) -> None:
        if not self._held:
            self._events.append(At(request.id, STAGES[0]))
        ending = self._answer(request)
        self._held = ending is None
        if ending is None:
            return
        if isinstance(request, Convert) and isinstance(ending, Converted):
            self._events += [At(request.id, stage) for stage in STAGES[1:]]
        self._end(request, ending, now)
        if isinstance(ending, Lost):
            self._leave(ending.reason, wanted=False)

    def _end(self, request: Request, ending: Ending | Looked, now: float) -> None:
        self._events.append(Ended(request.id, ending))
        self._request, self._idle_by = None, now + self._idle_s

    def _leave(self, reason: str, *, wanted: bool) -> None:
        assert self._pid is not None
        self._events.append(Left(self._pid, reason, wanted))
        self._pid, self._ready, self._idle_by = None, None, float("inf")


def _one_by_one(endings: Iterable[Ending | Looked]) -> Answer:
    rest = iter(endings)
    return lambda _: next(rest)
