"""Between the ledger and the workers: who gets which job, and what its end means.

An attempt is counted in the ledger before the job is sent, so a file that takes the machine down cannot loop. A lost
job is tried again, later each time, and after as many attempts as the configuration allows it is refused; other
files keep flowing meanwhile.

Each voice takes one worker, and a worker gets a process only when a voice finds no other that is up. The cores are
shared out when a job begins: a voice that is alone has them all, and one of many has one, which is quicker for all
together. A share is not taken back, so the first of many, begun while nobody else was there, uses more than its own
until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from voicekiln.errors import WorkerLost
from voicekiln.folders.files import remove_tree
from voicekiln.folders.names import shown
from voicekiln.folders.voices import State, Voice, alone
from voicekiln.job import Converted, Ending, Job, Lost, Refused, Stage
from voicekiln.steps import Step, passed
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.hiring import WORKER_BYTES, Machine
from voicekiln.worker.keeper import STOPPED, Abandoned, At, Ended, Event, Keeper, Left, Said
from voicekiln.worker.wire import Convert, Looked, Ready

SPARE_STAGED = 3
"""So many more voices than there are workers may be in work or wait, finished, for their publication; with an outbox
that is stuck, no more are converted."""


@dataclass
class Bench:
    """A worker's place: who is kept there and what it works on."""

    keeper: Keeper
    voice: Voice | None = None
    waits: bool = False
    """Whether the voice stands in a queue of its keeper's."""
    entered: list[Stage] = field(default_factory=list)
    """All stages that this voice has come to, the last one last; with several files, some of them more than once."""
    since: float = 0.0
    """Wall-clock seconds at which `stage` began."""
    wanted: bool = True
    """Whether its keeper shall be given voices; False while it leaves."""
    warm: bool = False
    """Whether its process has done a job: it is up, and has taken about as much memory as it ever will."""

    @property
    def stage(self) -> str:
        """Where the voice is: one of `job.STAGES`, `starting` before the first, `sent` while it waits for a place."""
        if self.waits:
            return "sent"
        return self.entered[-1] if self.entered else "starting"


class Dispatch:
    """Gives queued voices to idle workers and takes their endings."""

    def __init__(self, common: Common, keepers: Sequence[Keeper], machine: Machine) -> None:
        """`keepers` may become more and fewer while we work."""
        self._common = common
        self._keepers = keepers
        self._machine = machine
        self.benches = [Bench(keeper) for keeper in keepers]
        self._greeted: set[str] = set()

    def hear(self) -> None:
        """Take what the workers said."""
        self._muster()
        for bench in self.benches:
            events = bench.keeper.poll(self._common.now.mono)
            self._see_whether_it_waits(bench)
            for event in events:
                self._hear(bench, event)

    def step(self) -> None:
        """Take what the workers said, then give out work."""
        self.hear()
        if any(_is_idle(bench) for bench in self.benches):
            self._give_out()

    def due(self) -> float:
        """Return the monotonic time at which a worker has to be looked at, even if it says nothing."""
        return min((bench.keeper.next_due(self._common.now.mono) for bench in self.benches), default=float("inf"))

    def close(self, grace_s: float) -> None:
        """Stop the workers; a job under way goes back into the queue and its attempt is not counted."""
        for bench in self.benches:
            bench.keeper.stop(self._common.now.mono)
        for bench in self.benches:
            bench.keeper.close(grace_s)
            if bench.voice is not None:
                self._common.ledger.lost(bench.voice.id, STOPPED.reason, self._common.now.wall, counts=STOPPED.counts)
                bench.voice = None

    def _muster(self) -> None:
        """Have a bench for each keeper; that of one who is no longer wanted stays until voice and process are gone."""
        now, here = self._common.now.mono, {id(keeper): keeper for keeper in self._keepers}
        for bench in self.benches:
            wanted, bench.wanted = bench.wanted, id(bench.keeper) in here
            here.pop(id(bench.keeper), None)
            if not bench.wanted and bench.voice is None and (wanted or bench.warm):
                bench.warm = False
                bench.keeper.stop(now)
        stay = [b for b in self.benches if b.wanted or b.voice is not None or b.keeper.next_due(now) < float("inf")]
        self.benches = stay + [Bench(keeper) for keeper in here.values()]

    def _hear(self, bench: Bench, event: Event) -> None:
        log, voice = self._common.log, bench.voice
        match event:
            case Ready(device, versions):
                self._greet(device, versions)
            case At(_, stage) if voice is not None:
                bench.since = self._common.now.wall
                bench.entered.append(stage)
                log.debug("stage.entered", file=shown(voice.relpath), stage=stage)
            case Said(text):
                log.warning("worker.said", file=None if voice is None else shown(voice.relpath), text=text)
            case Left(pid, reason, wanted):
                bench.warm = False
                (log.info if wanted else log.warning)("worker.left", pid=pid, reason=reason)
            case Abandoned(pid):
                bench.warm = False
                log.error("worker.abandoned", pid=pid, reason="it hangs in the kernel and may still hold memory")
            case Ended(_, ending) if voice is not None and not isinstance(ending, Looked):
                bench.voice = None
                bench.warm |= isinstance(ending, Converted)
                self._end(voice, ending)

    def _see_whether_it_waits(self, bench: Bench) -> None:
        waited, bench.waits = bench.waits, bench.keeper.waits
        if waited != bench.waits:
            bench.since = self._common.now.wall

    def _greet(self, device: dict[str, object], versions: dict[str, str]) -> None:
        """Say once on what the work is done; a missing GPU is nothing to be quiet about."""
        name = str(device.get("name"))
        self._common.ledger.set_fact("device", name)
        if name in self._greeted:
            return
        self._greeted.add(name)
        facts = {key: value for key, value in device.items() if key not in {"name", "why_cpu"}}
        if why := device.get("why_cpu"):
            self._common.log.warning("worker.without_gpu", device=name, reason=why, versions=versions, facts=facts)
        else:
            self._common.log.info("worker.ready", device=name, versions=versions, facts=facts)

    def _give_out(self) -> None:
        """Let as many voices begin as can be in work side by side now."""
        common = self._common
        staged = sum(voice.id not in common.in_the_way for voice in common.ledger.voices(State.CONVERTED))
        room = len(self.benches) + SPARE_STAGED - self._busy() - staged
        if room <= 0 or not (voices := self._runnable()):
            return
        benches = self._open()[:room]
        together = self._busy() + min(len(voices), len(benches))
        for voice in voices:
            if not benches:
                return
            if self._send(benches[0], voice, threads=max(1, self._machine.cores() // together)):
                benches.pop(0)

    def _busy(self) -> int:
        return sum(bench.voice is not None for bench in self.benches)

    def _open(self) -> list[Bench]:
        """Return the places that can take a voice now, those first whose worker is up.

        Another process is started only where memory for it is free beside what those will take that were started
        just before; the first one in any case.
        """
        idle = [bench for bench in self.benches if _is_idle(bench)]
        warm, cold = [b for b in idle if b.warm], [b for b in idle if not b.warm]
        if not cold:
            return warm
        growing = sum(not bench.warm for bench in self.benches if bench.voice is not None)
        fitting = int(self._machine.free_bytes() // WORKER_BYTES) - growing
        return [*warm, *cold[: max(fitting, 0 if warm or self._busy() else 1)]]

    def _runnable(self) -> list[Voice]:
        """Return the queued voices that a worker could begin with, in their turn; end those that need none.

        Of those with equal content the first one only: the others wait for its ending.
        """
        ledger, common = self._common.ledger, self._common
        runnable: list[Voice] = []
        keys = ledger.keys_in_work()
        for voice in sorted(ledger.voices(State.QUEUED), key=lambda voice: voice.turn):
            if alone(voice.key or "") in keys or not common.may_try(voice.id):
                continue
            twin = ledger.twin(voice) if voice.id not in common.without_twin else None
            if twin is not None and twin.ending is not None:
                if ledger.inherit(voice, twin.ending):
                    common.log.info("twin.found", file=shown(voice.relpath), of=shown(twin.relpath))
            elif voice.attempts >= common.settings.worker.attempts:
                ledger.inherit(voice, self._given_up(voice, voice.reason), of_content=False)
            else:
                runnable.append(voice)
                keys.add(alone(voice.key or ""))
        return runnable

    def _send(self, bench: Bench, voice: Voice, threads: int) -> bool:
        """Begin the job; False if a command has just forgotten the voice."""
        assert voice.job is not None and voice.sha256 is not None  # noqa: S101, PT018 - so it is with queued voices
        common = self._common
        staging = common.staging(voice.job)
        try:
            remove_tree(staging)
            staging.mkdir(mode=0o700, parents=True)
        except OSError as error:  # the local disk is full, as a rule
            common.log.warning("job.put_off", file=shown(voice.relpath), reason=error.strerror)
            common.put_off(voice.id)
            return False
        recipe = voice.taken or common.recipe(voice)
        started = common.ledger.start(voice)
        if started is None:
            return False
        passed(Step.STARTED)
        facts = {"recipe": recipe.name, "attempt": started.attempts, "threads": threads}
        common.log.info("job.started", file=shown(voice.relpath), **facts)
        bench.voice, bench.entered, bench.since = started, [], common.now.wall
        job = Job(voice.job, common.spool(voice.job), staging, voice.sha256, recipe, common.beside(voice))
        bench.keeper.begin(Convert(job, threads, voice.turn[0]), self._common.now.mono)
        self._see_whether_it_waits(bench)
        passed(Step.SENT)
        return True

    def _end(self, voice: Voice, ending: Ending) -> None:
        if isinstance(ending, Lost):
            self._lost(voice, ending)
            return
        self._common.went_well(voice.id)
        self._common.ledger.ended(voice.id, ending)
        self._common.ended[voice.id] = self._common.now.wall
        passed(Step.ENDED)
        if voice.job is not None:  # the copy has done its work, and the outbox may be stuck for long
            self._common.clear_copy(voice.job)

    def _lost(self, voice: Voice, lost: Lost) -> None:
        common = self._common
        common.log.warning("worker.lost", file=shown(voice.relpath), reason=lost.reason, attempt=voice.attempts)
        if lost.counts and voice.attempts >= common.settings.worker.attempts:
            self._common.ledger.ended(voice.id, self._given_up(voice, lost.reason), of_content=False)
        else:
            common.ledger.lost(voice.id, lost.reason, common.put_off(voice.id), counts=lost.counts)

    def _given_up(self, voice: Voice, reason: str) -> Refused:
        self._common.went_well(voice.id)
        return Refused(WorkerLost(attempts=voice.attempts, reason=reason or "for an unknown reason"))


def _is_idle(bench: Bench) -> bool:
    return bench.wanted and bench.voice is None and not bench.keeper.busy
