"""Keeps one worker process: starts it on demand, gives it one request at a time, and gets rid of it when it must.

The process has touched a stranger's file, so nothing that it says is believed before it was checked, and the first
thing that is out of order costs it its life: an answer to what was not asked, a line beyond the limits, a stage
beyond its deadline, memory beyond its allowance. A request whose process died is `Lost`, never anything better; it
is told so only when the process is gone, because until then it may still write. After any trouble the process is
replaced, for nobody knows what state it is in.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from voicekiln.job import EXTRAS, INTERFACES, OF_TEXT, PRECISIONS, STAGES, Converted, Ending, Lost, Part, Refused
from voicekiln.worker.keeper import STOPPED, Abandoned, At, Ended, Event, Left, Said, Started
from voicekiln.worker.lines import Mad, Quota
from voicekiln.worker.process import Patience, Process, Rung
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.shift import NEVER, Limits, Shift
from voicekiln.worker.wire import (
    MAX_STEPS,
    Answer,
    Convert,
    Declined,
    Entered,
    Finished,
    Listen,
    Looked,
    Ready,
    Request,
    Templates,
    Troubled,
    WireError,
    decode_answer,
    encode,
)

BESIDE: frozenset[Part] = frozenset({"moevs", *OF_TEXT})
"""Faces that may stand beside a family's own."""
MAX_FILES = len(PRECISIONS) * max(len(INTERFACES), 1 + len(EXTRAS))
MAX_ENTERED = 2 * MAX_FILES * len(STAGES)
"""How often a job may say that it has entered a stage: some are entered once for each file, or twice if need be."""


@dataclass
class _Task:
    """The request under way."""

    request: Request
    bound: bool = False
    """Whether its fate hangs on the present process; False while it waits for an older one to leave."""
    sent: bool = False
    entered: int = 0


class Worker:
    """See the module, and `Keeper` for the methods."""

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        *,
        command: Sequence[str] | None = None,
        device: str,
        rooms: Rooms,
        deadlines: Mapping[str, float],
        idle_s: float,
        memory_bytes: int,
        wake: Callable[[], None],
        patience: Patience | None = None,
        processor_s: float | None = None,
    ) -> None:
        """No process is started yet.

        Args:
            command: what to start; None for the real worker.
            device: `auto`, `cpu`, `cuda:0` ...
            rooms: the folders that the process may use.
            deadlines: see `Limits`.
            idle_s: see `Limits`.
            memory_bytes: see `Limits`.
            wake: called from another thread when `poll` has something to do.
            patience: how long each rung of the stop ladder is given.
            processor_s: see `Limits`; None for what fits the deadlines.
        """
        self._command = command or _child_command(device, rooms, memory_bytes)
        self._rooms = rooms
        self._limits = Limits(
            deadlines, idle_s, memory_bytes, patience or Patience(), processor_s or _enough(deadlines)
        )
        self._wake = wake
        self._task: _Task | None = None
        self._shift: Shift | None = None
        self._abandoned: list[Process] = []
        self._events: list[Event] = []
        self._quota = Quota()

    @property
    def busy(self) -> bool:
        """See `Keeper`."""
        return self._task is not None

    @property
    def waits(self) -> bool:
        """See `Keeper`. The process is nobody else's."""
        return False

    @property
    def ready(self) -> Ready | None:
        """See `Keeper`."""
        return self._shift.ready if self._shift else None

    def begin(self, request: Request, now: float) -> None:
        """See `Keeper`."""
        if self._task is not None:
            raise RuntimeError("the worker is busy")
        self._task = _Task(request)
        self._proceed(now)

    def poll(self, now: float) -> list[Event]:
        """See `Keeper`."""
        self._bury_abandoned()
        if self._shift is not None:
            self._listen(self._shift, now)
            lost = self._shift.watch(now)
            if lost is not None:
                self._part(self._shift, lost, now)
        self._proceed(now)
        events, self._events = self._events, []
        return events

    def next_due(self, now: float) -> float:
        """See `Keeper`."""
        if self._events or (self._task is not None and self._shift is None):
            return now
        if self._shift is None:
            return NEVER
        if self._task is not None and not self._task.bound and not (self._shift.going or self._shift.draining):
            return now  # it died while it was idle, and that was not noticed yet
        return self._shift.next_due(now)

    def stop(self, now: float) -> None:
        """See `Keeper`."""
        if self._task is not None and not self._task.bound:
            self._end(STOPPED, now)
        if self._shift is not None:
            self._shift.release(now, STOPPED if self._task is not None else None)

    def close(self, grace_s: float) -> list[Event]:
        """See `Keeper`."""
        now = time.monotonic()
        by = now + grace_s
        self.stop(now)
        events = self.poll(now)
        while self._shift is not None:
            time.sleep(0.01)
            now = time.monotonic()
            if now >= by:
                self._shift.process.dismiss(now, Rung.KILL)
            events += self.poll(now)
        return events

    def _proceed(self, now: float) -> None:
        """Bring a request that has not been sent yet as far as it goes now."""
        task, shift = self._task, self._shift
        if task is None or task.sent:
            return
        if shift is None:
            self._start(task, now)
        elif shift.free:
            self._send(task, shift, now)

    def _start(self, task: _Task, now: float) -> None:
        try:
            for folder in (self._rooms.sources, self._rooms.staging):  # its cage opens only to what is there
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._shift = Shift(self._command, self._limits, self._wake, now)
        except OSError as error:
            self._end(Lost(f"the worker could not be started ({error.strerror})", counts=False), now)
            return
        task.bound = True
        self._events.append(Started(self._shift.process.pid))

    def _send(self, task: _Task, shift: Shift, now: float) -> None:
        task.bound = task.sent = True
        shift.enter(STAGES[0], now)
        try:
            shift.process.tell(encode(task.request))
        except OSError as error:
            shift.condemn(f"the worker took no request ({error.strerror or error})", Rung.KILL, now)

    def _listen(self, shift: Shift, now: float) -> None:
        self._events += [Said(text) for text in self._quota.admit(shift.process.listener.said())]
        for untrusted_line in shift.process.listener.heard():
            if shift.going:
                continue
            if isinstance(untrusted_line, Mad):
                shift.condemn("the worker wrote more than it may", Rung.KILL, now)
                continue
            try:
                answer = decode_answer(untrusted_line)
            except WireError as error:
                shift.condemn(f"the worker wrote what is no answer ({error})", Rung.KILL, now)
            else:
                self._hear(shift, answer, now)

    def _hear(self, shift: Shift, answer: Answer, now: float) -> None:
        """Take an answer that is well formed, if it is due."""
        if isinstance(answer, Ready) and shift.ready is None:
            shift.ready = answer
            self._events.append(answer)
            self._proceed(now)
            return
        task = self._task
        if isinstance(answer, Ready) or task is None or not task.sent or answer.id != task.request.id:
            shift.condemn("the worker spoke out of turn", Rung.KILL, now)
            return
        match answer:
            case Entered() if task.entered < _most_entered(task.request):
                task.entered += 1
                shift.enter(answer.stage, now)
                self._events.append(At(answer.id, answer.stage, answer.step, answer.steps))
            case Finished() if _is_asked_for(answer, task.request):
                self._end(Converted(answer.conversion), now)
            case Looked() if not isinstance(task.request, Convert):
                self._end(answer, now)
            case Declined():
                self._end(Refused(answer.refusal), now)
            case Troubled():
                shift.condemn(answer.reason, Rung.ASK, now, counts=not answer.outside)
            case _:
                shift.condemn("the worker answered what it was not asked", Rung.KILL, now)

    def _end(self, ending: Ending | Looked, now: float) -> None:
        """Say how the request ended."""
        assert self._task is not None  # noqa: S101 - for the type checker; every caller has looked
        self._events += [Said(text) for text in self._quota.renew()]
        self._events.append(Ended(self._task.request.id, ending))
        self._task = None
        if self._shift is not None:
            self._shift.rest(now)

    def _part(self, shift: Shift, lost: Lost, now: float) -> None:
        """The process is gone or was given up; say so, and what that means for its request."""
        self._shift = None
        if self._task is not None and self._task.bound:
            self._end(lost, now)
        if shift.process.rung is Rung.GIVE_UP:
            self._abandoned.append(shift.process)
            self._events.append(Abandoned(shift.process.pid))
        else:
            self._events.append(Left(shift.process.pid, lost.reason, shift.wanted))

    def _bury_abandoned(self) -> None:
        for process in [p for p in self._abandoned if p.dead()]:
            process.bury()
            self._abandoned.remove(process)


def _most_entered(request: Request) -> int:
    """Return how often it may say that it has entered a stage or a step of one."""
    return MAX_STEPS if isinstance(request, Templates | Listen) else MAX_ENTERED


def _is_asked_for(answer: Finished, request: Request) -> bool:
    """Say whether the files are those that the recipe wants, each of them once, and verified if it wants that.

    A part that there cannot be is left out as a whole; the worker's note says why.
    """
    if not isinstance(request, Convert):
        return False
    recipe, files = request.job.recipe, answer.conversion.files
    verified = all(bool(file.fidelity) == (recipe.verify != "off") for file in files)
    parts = {file.interface for file in files}
    faces = parts & {*INTERFACES}
    main = parts - faces - {*EXTRAS}
    wanted = sorted(product(parts, recipe.precisions))
    asked = faces <= {*recipe.interfaces} and (len(main) == 1 and faces <= BESIDE if main else bool(faces))
    several = len({array.name for array in answer.conversion.data}) < len(answer.conversion.data)
    found = sorted((file.interface, file.precision) for file in files)
    return verified and asked and found == wanted and not several


def _enough(deadlines: Mapping[str, float]) -> float:
    """Return more processor time than a file can need: all cores, all the time; most stages come once per file."""
    return (os.cpu_count() or 1) * sum(MAX_FILES * deadlines.get(stage, 0.0) for stage in STAGES)


def _child_command(device: str, rooms: Rooms, memory_bytes: int) -> list[str]:
    """Return the command of the real worker; -P keeps the folder it starts in out of the places to import from."""
    own = ["--device", device, "--memory", str(memory_bytes), "--parent", str(os.getpid())]
    own += ["--templates", str(rooms.templates), "--sources", str(rooms.sources), "--staging", str(rooms.staging)]
    return [sys.executable, "-P", "-m", "voicekiln.worker.child", *own]
