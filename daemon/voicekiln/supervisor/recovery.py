"""Picking up after a crash.

The ledger's states say what a killed daemon was at; everything that no state accounts for - copies in the spool,
folders in staging, temporary files in the outbox that bear our mark - is litter and goes.
"""

from __future__ import annotations

from collections.abc import Collection

from voicekiln.errors import WorkerLost
from voicekiln.folders.files import remove_tree
from voicekiln.folders.outbox import clear_temps
from voicekiln.folders.voices import State, Voice
from voicekiln.job import Refused
from voicekiln.supervisor.common import Common

MAX_DEATHS = 10
"""How often the daemon may go down with the same voice before that is taken for the voice's doing. More than the
attempts of a worker: machines are switched off for many reasons."""


def recover(common: Common) -> None:
    """Bring ledger, spool and staging into agreement before the first tick. Local disk only."""
    common.ledger.nothing_planned()
    for voice in common.ledger.voices(State.QUEUED, State.CONVERTING, State.CONVERTED):
        _resume(common, voice)
    common.clear_leftovers()


def _resume(common: Common, voice: Voice) -> None:
    """A job that was with a worker is queued again, later each time that the daemon went down with it."""
    if voice.state is State.CONVERTED:
        ready = common.staging(voice.job or "-").is_dir() or common.ledger.twin(voice) is not None
        if not ready:
            common.ledger.start_over(voice.id)
    elif voice.job is None or not _has_copy(common, voice, voice.job):
        common.ledger.start_over(voice.id)
    elif voice.state is State.CONVERTING:
        remove_tree(common.staging(voice.job))
        deaths = common.ledger.died(voice.id)
        if deaths >= MAX_DEATHS:
            refusal = WorkerLost(attempts=deaths, reason="the converter itself was stopped in the middle")
            common.ledger.ended(voice.id, Refused(refusal), of_content=False)
            return
        for _ in range(deaths):
            common.put_off(voice.id)


def _has_copy(common: Common, voice: Voice, job: str) -> bool:
    copies = (common.spool(job), *common.beside(voice).values())
    return all(copy is None or copy.is_file() for copy in copies)


def clear_litter(common: Common, instances: Collection[str]) -> int:
    """Remove from the outbox what killed daemons of these ledgers left there; return how many files. For the hands.

    Raises:
        AwayError: if the outbox is away.
        OSError: if a file cannot be removed.
    """
    common.homes.check("outbox")
    return clear_temps(common.settings.outbox, instances)
