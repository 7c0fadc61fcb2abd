"""Between the ledger and the workers: who gets which job, and what its end means.

An attempt is counted in the ledger before the job is sent, so a file that takes the machine down cannot loop. A lost
job is tried again, later each time, and after as many attempts as the configuration allows it is refused; other
files keep flowing meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from voicekiln.errors import WorkerLost
from voicekiln.folders.names import shown
from voicekiln.folders.voices import State, Voice
from voicekiln.job import Ending, Job, Lost, Refused, Stage
from voicekiln.steps import Step, passed
from voicekiln.supervisor.common import Common
from voicekiln.worker.keeper import Abandoned, At, Ended, Event, Keeper, Left, Said
from voicekiln.worker.wire import Convert, Looked, Ready

MAX_STAGED = 4
"""Finished voices that may wait for their publication; with an outbox that is stuck, no more are converted."""


@dataclass
class Bench:
    """A worker's place: who is kept there and what it works on."""

    keeper: Keeper
    voice: Voice | None = None
    stage: Stage | None = None


class Dispatch:
    """Gives queued voices to idle workers and takes their endings."""

    def __init__(self, common: Common, keepers: Sequence[Keeper]) -> None:
        self._common = common
        self.benches = [Bench(keeper) for keeper in keepers]
        self._greeted: set[str] = set()
        self._on_gpus = False
        """Whether a worker has found its GPU. Before that, and without one, a single worker has all the cores."""

    def step(self) -> None:
        """Take what the workers said, then give out work."""
        for bench in self.benches:
            for event in bench.keeper.poll(self._common.now.mono):
                self._hear(bench, event)
        for bench in self.benches[: None if self._on_gpus else 1]:
            if bench.voice is None and not bench.keeper.busy:
                self._give(bench)

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
                self._common.ledger.lost(
                    bench.voice.id, "the converter was stopped", self._common.now.wall, counts=False
                )
                bench.voice = None

    def _hear(self, bench: Bench, event: Event) -> None:
        log, voice = self._common.log, bench.voice
        match event:
            case Ready(device, versions):
                self._greet(device, versions)
            case At(_, stage) if voice is not None:
                bench.stage = stage
                log.info("stage.entered", file=shown(voice.relpath), stage=stage)
            case Said(text):
                log.warning("worker.said", text=text)
            case Left(pid, reason, wanted):
                (log.info if wanted else log.warning)("worker.left", pid=pid, reason=reason)
            case Abandoned(pid):
                log.error("worker.abandoned", pid=pid, reason="it hangs in the kernel and may still hold memory")
            case Ended(_, ending) if voice is not None and not isinstance(ending, Looked):
                bench.voice = bench.stage = None
                self._end(voice, ending)

    def _greet(self, device: dict[str, object], versions: dict[str, str]) -> None:
        """Say once on what the work is done; a missing GPU is nothing to be quiet about."""
        name = str(device.get("name"))
        self._on_gpus = device.get("kind") == "cuda"
        self._common.ledger.set_fact("device", name)
        if name in self._greeted:
            return
        self._greeted.add(name)
        facts = {key: value for key, value in device.items() if key not in {"name", "why_cpu"}}
        if why := device.get("why_cpu"):
            self._common.log.warning("worker.without_gpu", device=name, reason=why, versions=versions, facts=facts)
        else:
            self._common.log.info("worker.ready", device=name, versions=versions, facts=facts)

    def _give(self, bench: Bench) -> None:
        ledger = self._common.ledger
        waiting = [v for v in ledger.voices(State.CONVERTED) if v.id not in self._common.in_the_way]
        if len(waiting) >= MAX_STAGED:
            return
        in_work = ledger.keys_in_work()
        for voice in ledger.voices(State.QUEUED):
            if voice.key in in_work or not self._common.may_try(voice.id):
                continue
            twin = ledger.twin(voice) if voice.id not in self._common.without_twin else None
            if twin is not None and twin.ending is not None:
                if ledger.inherit(voice, twin.ending):
                    self._common.log.info("twin.found", file=shown(voice.relpath), of=shown(twin.relpath))
            elif voice.attempts >= self._common.settings.worker.attempts:
                ledger.inherit(voice, self._given_up(voice, voice.reason), of_content=False)
            elif self._send(bench, voice):
                return

    def _send(self, bench: Bench, voice: Voice) -> bool:
        """Begin the job; False if a command has just forgotten the voice."""
        assert voice.job is not None and voice.sha256 is not None  # noqa: S101, PT018 - so it is with queued voices
        common = self._common
        staging = common.staging(voice.job)
        try:
            shutil.rmtree(staging, ignore_errors=True)
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
        common.log.info("job.started", file=shown(voice.relpath), recipe=recipe.name, attempt=started.attempts)
        bench.voice = started
        job = Job(voice.job, common.spool(voice.job), staging, voice.sha256, recipe)
        bench.keeper.begin(Convert(job), self._common.now.mono)
        passed(Step.SENT)
        return True

    def _end(self, voice: Voice, ending: Ending) -> None:
        if isinstance(ending, Lost):
            self._lost(voice, ending)
            return
        self._common.went_well(voice.id)
        self._common.ledger.ended(voice.id, ending)
        passed(Step.ENDED)
        if voice.job is not None:  # the copy has done its work, and the outbox may be stuck for long
            self._common.spool(voice.job).unlink(missing_ok=True)

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
