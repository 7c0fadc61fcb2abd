"""One worker process from its start to its end, with the clocks that run against it.

It knows nothing of requests but whether it serves one: before it was given a file, the file cannot be at fault.

Memory and processor time are measured twice a second, so a process can overshoot its allowance for that long.
Accepted: the kernel's own limits (systemd's MemoryMax) stand behind it, and the worker is what the kernel picks first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from voicekiln.job import Lost, Stage
from voicekiln.worker.keeper import UNNEEDED
from voicekiln.worker.process import Patience, Process, Rung, how_it_ended
from voicekiln.worker.wire import Ready

MEASURE_EVERY_S = 0.5

DYING_S = 0.02
"""Between two looks at a process that has closed its output."""

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may take."""

    deadlines: Mapping[str, float]
    """Seconds for `start` and for each stage."""
    idle_s: float
    """Seconds after which an idle process leaves, so that graphics memory is free."""
    memory_bytes: int
    """What the process and its children may hold of main memory."""
    patience: Patience
    processor_s: float
    """Processor time that a request may take, all threads together. Deadlines hold for a stage, and a process may say
    that it is in a new one; this it cannot talk its way round."""


class Shift:
    """See the module."""

    def __init__(self, command: Sequence[str], limits: Limits, wake: Callable[[], None], now: float) -> None:
        """Start the process.

        Raises:
            OSError: if it cannot be started.
        """
        self.process = Process(command, wake, limits.patience)
        self._limits = limits
        self.ready: Ready | None = None
        self.serving = False
        """Whether it was given a request that has not ended yet."""
        self.verdict: Lost | None = None
        """Why it has to go, where that is our judgement."""
        self.wanted = False
        """Whether it goes because it is not needed any more."""
        self._processor_s = 0.0
        """What it had taken before the request under way."""
        self._doing = "start"
        self._deadline = now + limits.deadlines["start"]
        self._measure_by = now + MEASURE_EVERY_S
        self._idle_by = NEVER
        self._mute_by = NEVER
        self._drained_by = NEVER

    @property
    def free(self) -> bool:
        """Whether it can be given a request."""
        return self.ready is not None and self.process.rung is None and not self.process.dead()

    @property
    def going(self) -> bool:
        """Whether somebody wants to be rid of it, so that nothing that it says counts any more."""
        return self.process.rung is not None

    @property
    def draining(self) -> bool:
        """Whether it is dead and only its pipes are still read."""
        return self._drained_by < NEVER

    def enter(self, stage: Stage, now: float) -> None:
        """Start the clock of a stage."""
        if not self.serving:
            self.serving, self._idle_by, self._measure_by = True, NEVER, now + MEASURE_EVERY_S
            self._processor_s = self.process.processor_s()
        self._doing, self._deadline = stage, now + self._limits.deadlines[stage]

    def rest(self, now: float) -> None:
        """Start the clock of idleness."""
        self.serving, self._deadline, self._measure_by = False, NEVER, NEVER
        self._idle_by = now + self._limits.idle_s

    def condemn(self, reason: str, rung: Rung, now: float, *, counts: bool = True) -> None:
        """Get rid of the process for a reason that is a fault; `counts` as in `Lost`."""
        self.verdict = Lost(reason, counts=counts and self.serving)
        self.process.dismiss(now, rung)

    def release(self, now: float, verdict: Lost | None = None) -> None:
        """Get rid of the process because it is not needed."""
        if not self.going:
            self.verdict, self.wanted = verdict, True
            self.process.dismiss(now, Rung.ASK)

    def watch(self, now: float) -> Lost | None:
        """Do what is due; return what became of the process if it is gone or was given up.

        To be called when all was heard that it has said so far.
        """
        heard_out = self.process.listener.ended and not self.process.listener.waiting
        if not self.process.dead():
            self._judge(now)
        elif not self.draining:
            self.process.kill_offspring()
            self._drained_by = now + self._limits.patience.drain_s
        if self.draining:
            return self._buried() if heard_out or now >= self._drained_by else None
        return self._given_up() if self.process.rung is Rung.GIVE_UP else None

    def next_due(self, now: float) -> float:
        """Return when `watch` has something to do."""
        # The kernel closes a dying process's pipes a moment before it says that it is dead, and says so to nobody.
        soon = now + DYING_S if self.process.listener.answers_ended and not self.draining else NEVER
        if self.going or self.draining:
            return min(self.process.due, self._drained_by, soon)
        return min(self._deadline, self._idle_by, self._measure_by, self._mute_by, soon)

    def _judge(self, now: float) -> None:
        """See whether a living process has to go, or has had its time to."""
        if self.going:
            self.process.climb(now)
        elif now >= self._deadline:
            self.condemn(self._too_long(), Rung.TERMINATE, now)
        elif now >= self._idle_by:
            self.release(now)
        elif now >= self._mute_by:
            self.condemn("the worker closed its output and lived on", Rung.KILL, now)
        elif now >= self._measure_by:
            self._measure_by = now + MEASURE_EVERY_S
            if reason := self._too_much():
                self.condemn(reason, Rung.KILL, now)
        if self.process.listener.answers_ended and self._mute_by == NEVER:
            self._mute_by = now + self._limits.patience.drain_s

    def _too_much(self) -> str | None:
        """Return what it has taken too much of, None if it has not."""
        limits = self._limits
        if self.process.memory() > limits.memory_bytes:
            return f"the worker used more memory than {limits.memory_bytes / 1e9:.1f} GB"
        if self.serving and self.process.processor_s() - self._processor_s > limits.processor_s:
            return f"the worker used more processor time than {limits.processor_s:g} s"
        return None

    def _too_long(self) -> str:
        limit = f"{self._limits.deadlines[self._doing]:g} s"
        if self._doing == "start":
            return f"the worker was not ready after {limit}"
        return f"stage {self._doing} took longer than {limit}"

    def _buried(self) -> Lost:
        status = self.process.bury()
        if self.wanted and self.verdict is None:
            return Lost(UNNEEDED, counts=False)
        return self.verdict or Lost(how_it_ended(status), counts=self.serving)

    def _given_up(self) -> Lost:
        lost = self.verdict or Lost("the worker was asked to leave", counts=False)
        return Lost(f"{lost.reason}, and it could not be killed", counts=lost.counts)
