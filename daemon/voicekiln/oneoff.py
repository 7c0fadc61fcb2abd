"""One file, no folders to watch: what the commands `convert`, `inspect` and `sample` do.

The same steps as the daemon's, one after the other: the source is copied and hashed, a worker does the work in its
own process, and the result is published beside its final name and renamed. No ledger; a file that lies in the way
and is not a voicekiln result is never overwritten.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from voicekiln.config import Settings
from voicekiln.errors import Damaged, Incomplete, NotYet, Unproven
from voicekiln.folders import sidecar
from voicekiln.folders.inbox import stamp_of
from voicekiln.folders.ledger import Published
from voicekiln.folders.names import output_base
from voicekiln.folders.outbox import Delivery, Rights, publish
from voicekiln.folders.spool import take
from voicekiln.job import Converted, Ending, Job, Recipe, Refused, Stage
from voicekiln.worker.keeper import At, Ended, Keeper
from voicekiln.worker.parent import Worker
from voicekiln.worker.wire import Convert, Inspect, Looked, Request, Sample


class NotDoneError(Exception):
    """The worker was lost; the text says how."""


class Desk:
    """A worker for the commands, kept warm over several files."""

    def __init__(self, settings: Settings) -> None:
        self._wake = threading.Event()
        worker = settings.worker
        self._keeper: Keeper = Worker(
            device=worker.device,
            deadlines=worker.deadlines,
            idle_s=worker.idle,
            memory_bytes=worker.memory,
            wake=self._wake.set,
        )
        self._settings = settings

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.close(1.0)
