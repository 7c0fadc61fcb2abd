"""A place in the cluster as the supervisor sees it: the part of a worker, played by whichever Dask worker is free.

Files go there and come back by one of the `ways`; the daemon is told of an ending only when all that it names lies in
the job's staging folder, synced, as a worker on this host would have left it.

The process that is told of by `Started` and `Left` is the one that worked here last. It lives on another host, and may
serve another place next; this one lets go of it when it was not needed for as long as an idle worker stays.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from voicekiln.cluster.hand import SharedFolderError
from voicekiln.cluster.letters import SOURCE, Begun, LostError, Terms, decode_event, sources
from voicekiln.cluster.line import LEAVE_S, Line
from voicekiln.cluster.parcels import ParcelError
from voicekiln.cluster.ways import way
from voicekiln.errors import plain
from voicekiln.job import Converted, Ending, Lost, staged_files
from voicekiln.worker.keeper import STOPPED, UNNEEDED, Abandoned, Ended, Event, Left, Started
from voicekiln.worker.wire import Convert, Inspect, Looked, Ready, Request, WireError, encode

NEVER = float("inf")

CLOSE_S = LEAVE_S + 1.0
"""What a job is given beyond the grace: its Dask worker hears that it is over."""


class DaskKeeper:
    """See the module, and `Keeper` for the methods."""

    def __init__(self, line: Line, terms: Terms, wake: Callable[[], None]) -> None:
        """`wake` is called from another thread when `poll` has something to do."""
        self._line = line
        self._terms = terms
        self._wake = wake
        self._request: Request | None = None
        self._fresh = False
        self._waits = False
        self._stopping = asyncio.Event()
        self._told: deque[tuple[str, Event | Begun]] = deque()
        """Filled by the line's thread: where it happened, and what."""
        self._process: tuple[str, int] | None = None
        """Where the process is, and its number there."""
        self._ready: Ready | None = None
        self._idle_by = NEVER

    @property
    def busy(self) -> bool:
        """See `Keeper`."""
        return self._request is not None

    @property
    def waits(self) -> bool:
        """See `Keeper`."""
        return self._waits

    @property
    def ready(self) -> Ready | None:
        """See `Keeper`."""
        return self._ready

    def begin(self, request: Request, now: float) -> None:  # noqa: ARG002 - the part that it plays has it
        """See `Keeper`."""
        if self._request is not None:
            raise RuntimeError("the worker is busy")
        self._request, self._fresh, self._waits, self._idle_by = request, True, True, NEVER
        self._stopping = asyncio.Event()
        self._line.carry(self._serve(request, self._stopping))

    def poll(self, now: float) -> list[Event]:
        """See `Keeper`."""
        self._fresh = False
        events: list[Event] = []
        while self._told:
            events += self._hear(*self._told.popleft(), now)
        if now >= self._idle_by:
            events += self._part(UNNEEDED, wanted=True)
        return events

    def next_due(self, now: float) -> float:
        """See `Keeper`."""
        return now if self._told or self._fresh else self._idle_by

    def stop(self, now: float) -> None:
        """See `Keeper`. An idle process is let go of here and leaves in its own time there."""
        if self._request is not None:
            self._line.call(self._stopping.set)
        else:
            self._idle_by = now if self._process else NEVER

    def close(self, grace_s: float) -> list[Event]:
        """See `Keeper`. Nobody is killed here: a Dask worker that does not hear of it finds out by the silence."""
        now = time.monotonic()
        by = now + grace_s + CLOSE_S
        self.stop(now)
        events = self.poll(now)
        while self._request is not None and now < by:
            time.sleep(0.01)
            now = time.monotonic()
            events += self.poll(now)
        return events

    def _hear(self, address: str, event: Event | Begun, now: float) -> list[Event]:  # noqa: PLR0911 - one for each event
        """Take what the line's thread tells; the same process is announced at each of its jobs, and told of once."""
        match event:
            case Begun():
                self._waits = False
                return []
            case Started(pid) if self._process == (address, pid):
                return []
            case Started(pid):
                left = self._part("another one took its place", wanted=True)
                self._process = address, pid
                return [*left, event]
            case Ready():
                news = [event] if self._ready is None else []
                self._ready = event
                return [*news]
            case Left(pid, reason, wanted):
                return self._part(reason, wanted=wanted) if self._process == (address, pid) else []
            case Abandoned():
                self._process = self._ready = None
                return [event]
            case Ended(_, ending):
                self._request, self._waits = None, False
                if isinstance(ending, Lost):
                    return [event, *self._part(ending.reason, wanted=ending is STOPPED)]
                self._idle_by = now + self._terms.idle_s
        return [event]

    def _part(self, reason: str, *, wanted: bool) -> list[Event]:
        """Let go of the process."""
        process, self._process, self._ready, self._idle_by = self._process, None, None, NEVER
        return [] if process is None else [Left(process[1], reason, wanted)]

    def _tell(self, address: str, event: Event | Begun) -> None:
        self._told.append((address, event))
        self._wake()

    async def _serve(self, request: Request, stopping: asyncio.Event) -> None:
        """In the line's thread, as all below: see a request to its one end."""
        work = asyncio.create_task(self._ending(request))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        stop.cancel()
        await asyncio.wait({work})
        self._tell("", Ended(request.id, _ending_of(work)))

    async def _ending(self, request: Request) -> Ending | Looked:
        if not isinstance(request, Convert | Inspect):
            raise LostError("a cluster does conversions and looks, nothing else", counts=False)
        job = self._line.job(request.id, encode(request), self._terms, _priority(request))
        async with way(self._line) as files, job as where:
            self._tell(where.address, where)
            for file, path in sources(request).items():
                await files.send(where, file, path, _known(request, file))
            await self._line.ask(where, "begin")
            ending = await self._listen(where, request)
            if isinstance(ending, Converted) and isinstance(request, Convert):
                for sha256, path in staged_files(ending.conversion, request.job.staging).items():
                    await files.fetch(where, path, sha256)
            return ending

    async def _listen(self, where: Begun, request: Request) -> Ending | Looked:
        """Pass on what happens until the request ends."""
        while True:
            for line in (await self._line.ask(where, "hear"))["lines"]:
                event = decode_event(line)
                if not isinstance(event, Ended):
                    self._tell(where.address, event)
                elif event.id == request.id:
                    return event.ending


def _priority(request: Convert | Inspect) -> float:
    """Return Dask's priority: voices in the ledger's order, so small ones go first and none waits for ever.

    A person waits for a look, so it goes before all voices, whose turns are times.
    """
    return -request.turn if isinstance(request, Convert) else 0.0


def _known(request: Request, file: str) -> str | None:
    """Return the hash that the ledger has of a file."""
    return request.job.sha256 if isinstance(request, Convert) and file == SOURCE else None


def _ending_of(work: asyncio.Task[Ending | Looked]) -> Ending | Looked:  # noqa: PLR0911 - one for each way to end
    """Return how a request ended; a defect of ours counts, so that it cannot loop."""
    if work.cancelled():
        return STOPPED
    match work.exception():
        case None:
            return work.result()
        case LostError(lost=lost):
            return lost
        case SharedFolderError() as error:
            return Lost(plain(str(error), 300), counts=False)
        case ParcelError() | WireError() as error:
            return Lost(f"the Dask worker and this daemon do not understand each other: {plain(str(error), 200)}")
        case OSError() as error:
            return Lost(f"a file of the job fails on this host ({error.strerror or error})", counts=False)
        case error:
            return Lost(plain(repr(error), 300))
