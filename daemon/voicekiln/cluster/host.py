"""In a Dask worker: the task that stands for a job, and the doors through which the daemon passes its bytes.

The scheduler chooses the worker, holds the place by its resources and knows nothing else of a job. The task says where
it has begun; then the daemon speaks with this worker directly, so no byte of a voice goes through the scheduler. The
task ends when the daemon has fetched the results, or was silent for too long.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

from distributed import Worker as DaskWorker
from distributed import get_worker
from distributed.core import Status
from distributed.protocol.serialize import to_serialize

from voicekiln.cluster.farewell import close_before_signals
from voicekiln.cluster.ferry import Ferry
from voicekiln.cluster.hand import SharedFolderError
from voicekiln.cluster.letters import Terms, Ticket, encode_event
from voicekiln.cluster.parcels import CHUNK, ParcelError
from voicekiln.cluster.place import Place, Run, ours
from voicekiln.worker.wire import Convert, Inspect, WireError, decode_request

HOLD_S = 5.0
"""So long an empty answer is held back, in case something happens."""

LOOK_S = 1.0
"""Between two looks whether the job is still wanted."""

CLOSE_LOOK_S = 0.05
"""Between two looks whether all have heard that the Dask worker leaves."""

GPU = "GPU"
"""The resource by whose number a Dask worker says how many jobs it takes at once; without it, its threads say that."""

NAME = "voicekiln"
"""Of the host among the extensions of a Dask worker, and in front of the names of its doors."""

TOLD_S = 5.0
"""So long a Dask worker that leaves waits for the daemons to hear of it; `dask worker` itself is given 10 s."""

LEAVING = "the Dask worker was told to leave"
LEAVES = {"trouble": LEAVING, "counts": False}
"""What a daemon hears then. It is nobody's fault, so it is no attempt."""

GIVEN_UP = "the Dask worker has given the job up"
"""Counts where this process knows nothing of the job: then the one before it may have died of it."""

REMEMBERED = 10_000
"""Runs that are over."""

_FIRST = threading.Lock()


def work(ticket: Ticket) -> None:
    """Hold the place of a job until it is over; this is what the scheduler runs."""
    worker = get_worker()
    host = Host.of(worker)
    with host.run(ticket) as stay:
        run = stay.run
        worker.log_event(ticket.topic, {"key": ticket.key, "run": run.name, "address": worker.contact_address})
        while not run.over.wait(LOOK_S) and not (run.silent or stay.place.broken) and _is_wanted(worker, ticket.key):
            pass


Answer = dict[str, Any]


def door(inner: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    """Let the daemon call a method, with a run's name; what it cannot do it says in words and not by raising.

    Raised here, an error would be raised there as well, where it is nobody's.
    """

    @wraps(inner)
    async def outer(self: Host, run: str, **values: Any) -> Answer:  # noqa: ANN401 - as many as there are doors
        guest = self.guest(run)
        if guest is None:
            return LEAVES if self.leaves else {"trouble": GIVEN_UP, "counts": run not in self.over}
        guest.heard()
        try:
            answer = await inner(self, guest, **values)
        except OSError as error:
            return {"trouble": f"its disk fails ({error.strerror or error})", "counts": False}
        except SharedFolderError as error:
            return {"trouble": str(error), "counts": False}
        except (ParcelError, KeyError, WireError) as error:
            return {"trouble": str(error), "counts": True}
        if self._closing:
            guest.over.set()
            return LEAVES
        return answer

    return outer


@dataclass(frozen=True, slots=True)
class Stay:
    """A run, where it is, and what is set in the Dask worker's loop when there is news of it."""

    run: Run
    place: Place
    happened: asyncio.Event
    ferry: Ferry


class Host:
    """All that voicekiln has in a Dask worker."""

    def __init__(self, worker: DaskWorker) -> None:
        self._worker = worker
        self._closing = False
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop  # type: ignore[attr-defined]  # tornado's own
        self._folder = Path(worker.local_directory, NAME)
        self._folder.mkdir(mode=0o700)
        self._templates = ours(Path(worker.local_directory).parent / f"{NAME}-templates")
        resources = worker.state.total_resources
        self._gpus = int(resources.get(GPU, 0))
        self._threads = max(1, worker.state.nthreads // max(1, self._gpus or worker.state.nthreads))
        self._lock = threading.Lock()
        self._places: list[Place] = []
        self._runs: dict[str, Stay] = {}
        self.over: deque[str] = deque(maxlen=REMEMBERED)
        """Runs that came to an end here, by their daemons' wish or because those were silent."""
        for each in (self.put, self.collect, self.begin, self.hear, self.get, self.lay, self.leave):
            worker.handlers[f"{NAME}_{each.__name__}"] = each
        self._loop.call_soon_threadsafe(close_before_signals, self.close, self._loop)

    @classmethod
    def of(cls, worker: DaskWorker) -> Host:
        """Return the host of a Dask worker, made at the first job."""
        with _FIRST:
            if NAME not in worker.extensions:
                worker.extensions[NAME] = cls(worker)
            host: Host = worker.extensions[NAME]
            return host

    @property
    def leaves(self) -> bool:
        """Whether the Dask worker was told to leave: by a signal, by whoever makes the cluster smaller."""
        return self._closing or self._worker.status not in {Status.running, Status.paused}

    async def close(self) -> None:
        """Let all runs end and the daemons hear why; Dask calls this when its worker leaves in an orderly way."""
        self._closing = True
        for stay in [*self._runs.values()]:
            stay.place.stop()
            stay.happened.set()
        by = self._loop.time() + TOLD_S
        while self._runs and self._loop.time() < by:  # noqa: ASYNC110 - they end in threads, which know no Event
            await asyncio.sleep(CLOSE_LOOK_S)
        for stay in [*self._runs.values()]:
            stay.run.over.set()

    def guest(self, run: str) -> Run | None:
        """Return the run of this name; None if it is over."""
        stay = self._runs.get(run)
        return None if stay is None else stay.run

    @contextmanager
    def run(self, ticket: Ticket) -> Iterator[Stay]:
        """Give a job a place, and have that empty again at the end."""
        request = decode_request(ticket.request)
        assert isinstance(request, Convert | Inspect)  # noqa: S101 - the keeper sends no others
        happened = asyncio.Event()

        def tell() -> None:
            self._loop.call_soon_threadsafe(happened.set)

        with self._lock:
            place = self._free(replace(ticket.terms, device=self._device(ticket.terms.device)))
            run = place.run = Run(secrets.token_hex(8), request, place.folder, tell)
            self._runs[run.name] = stay = Stay(run, place, happened, Ferry(run))
        try:
            yield stay
        finally:
            run.over.set()
            place.stop()
            self._wait_for(place)
            if not place.broken:
                self.over.append(run.name)
            with self._lock:
                del self._runs[run.name]
                place.run = None
            stay.ferry.close()
            run.clear()

    @door
    async def put(self, run: Run, file: str, offset: int, chunk: bytes, sha256: str | None) -> Answer:
        """Take a chunk of a source, see `Run.take`."""
        await asyncio.to_thread(run.take, file, offset, chunk, sha256)
        return {}

    @door
    async def collect(self, run: Run, folder: str, parcel: str, file: str, sha256: str) -> Answer:
        """Take a chunk of a source that lies in the shared folder, see `Ferry.collect`."""
        return {"more": await self._runs[run.name].ferry.collect(Path(folder), parcel, file, sha256)}

    @door
    async def begin(self, run: Run) -> Answer:
        """Let the job begin."""
        self._runs[run.name].place.begin(run, self._threads)
        return {}

    @door
    async def hear(self, run: Run) -> Answer:
        """Return the lines of what has happened since the last call, after `HOLD_S` at the latest."""
        happened = self._runs[run.name].happened
        with suppress(TimeoutError):
            await asyncio.wait_for(happened.wait(), HOLD_S)
        happened.clear()
        return {"lines": [encode_event(event) for event in run.events()]}

    @door
    async def get(self, run: Run, file: str) -> Answer:
        """Return the next chunk of a result, see `Run.give`."""
        offset, chunk = await asyncio.to_thread(run.give, file)
        return {"offset": offset, "chunk": to_serialize(chunk), "more": len(chunk) == CHUNK}

    @door
    async def lay(self, run: Run, folder: str, file: str) -> Answer:
        """Put the next chunk of a result into the shared folder, see `Ferry.lay`."""
        more, sha256 = await self._runs[run.name].ferry.lay(Path(folder), file)
        return {"more": more, "sha256": sha256}

    @door
    async def leave(self, run: Run) -> Answer:
        """Hear that the daemon wants nothing more of a run; its place is free as soon as its process lets go."""
        run.over.set()
        return {}

    def _free(self, terms: Terms) -> Place:
        """Return a place that nobody has. Dask bounds how many there are in use."""
        for place in self._places:
            if place.run is None and place.terms == terms and not place.broken:
                return place
        place = Place(ours(self._folder / str(len(self._places))), self._templates, terms)
        self._places.append(place)
        return place

    def _device(self, wanted: str) -> str:
        """Return the device for one more run: of several GPUs the one that has the fewest, under whichever terms."""
        if self._gpus < 2 or wanted != "auto":  # noqa: PLR2004 - several
            return wanted
        taken = Counter(place.terms.device for place in self._places if place.run is not None)
        return min((f"cuda:{number}" for number in range(self._gpus)), key=taken.__getitem__)

    @staticmethod
    def _wait_for(place: Place) -> None:
        while place.busy:  # the ladder of `worker.process` bounds it
            threading.Event().wait(0.005)


def _is_wanted(worker: DaskWorker, key: str) -> bool:
    """Say whether the scheduler still waits for a task: it lets go of all that a daemon wanted when that is gone.

    Dask does not interrupt a function that runs; it only notes, in the worker's own state, that nobody wants it.
    """
    task = worker.state.tasks.get(key)
    return task is not None and task.state == "executing"
