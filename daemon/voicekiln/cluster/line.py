"""The daemon's line to the scheduler of a Dask cluster: one thread with Dask's client, and the jobs that go over it.

When the scheduler goes, all jobs that it had are lost without counting as attempts: its workers leave with it. The
line is then taken up anew, at growing distances, with a new client; the old one's keys go with it.

A job is a task that is never tried again by Dask: what an attempt is, the ledger says, and a count in two places would
be a count in none. `retries` is 0, but a task whose worker died is sent to another one all the same, as often as the
scheduler's own configuration (`allowed-failures`) says. So a run has a name of its own, a second run of the same job
is given nothing to do, and goes when the daemon lets go of the task.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, LocalCluster, Security

from voicekiln.cluster.host import GPU, NAME, work
from voicekiln.cluster.letters import Terms, Ticket
from voicekiln.errors import plain
from voicekiln.job import Lost

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
"""Between two tries to reach the scheduler; each pause is twice as long as the one before."""

CONNECT_S = 5.0
"""What the scheduler is given to answer."""

CALL_S = 30.0
"""A Dask worker that does not answer for so long is lost."""

CHUNKS = 16
"""So many chunks at most are in memory here, whatever number of places there is; the network card takes no more."""

LOOK_S = 0.2
COUNT_EVERY_S = 3.0
"""Between two looks at the line, and between two counts of the cluster's places."""

GRACE_S = 2.0
"""When a worker is gone, the scheduler may be, too; so long it is given to show it."""


class LostError(Exception):
    """A job is lost; `lost` says how."""

    def __init__(self, reason: str, *, counts: bool) -> None:
        super().__init__(reason)
        self.lost = Lost(reason, counts=counts)


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a job runs."""

    run: str
    address: str


@dataclass(frozen=True, slots=True)
class Here:
    """In place of an address: a cluster of our own on this host, one Dask worker with a place for each device."""

    places: int
    gpus: int

    def __str__(self) -> str:
        return "this host"


def _local_cluster(here: Here, security: Security) -> LocalCluster:
    """Return a cluster that is not started yet.

    It is encrypted, with certificates that exist in memory alone: a port on loopback is open to every user of the host.
    """
    return LocalCluster(
        n_workers=1,
        threads_per_worker=here.places,
        processes=True,
        resources={GPU: here.gpus} if here.gpus else None,
        host="127.0.0.1",
        protocol="tls://",
        security=security,
        dashboard_address=None,
        memory_limit=0,  # the caged processes have limits of their own, and nothing is kept in the Dask worker
        asynchronous=True,
    )


class Line:
    """See the module. Its thread runs what `carry` is given; everything else may be asked from any thread."""

    def __init__(self, scheduler: str | Here, security: Security | None, ledger: str, wake: Callable[[], None]) -> None:
        """Begin to connect.

        Args:
            scheduler: its address, `tls://host:8786`; or what to start here.
            security: the certificates; None for plain TCP.
            ledger: which marks this daemon's jobs among others'.
            wake: called from the line's thread when `places` or `trouble` have changed.
        """
        self.places = 0
        """How many jobs the cluster runs side by side; 0 while there is no connection."""
        self.trouble: str | None = "the scheduler has not answered yet"
        """Why there is no connection, for people."""
        self._scheduler = scheduler
        self._security = security
        self._topic = f"{NAME}-{ledger}"
        self._wake = wake
        self._client: Client | None = None
        self._resources: dict[str, float] = {}
        self._jobs: dict[str, asyncio.Future[Begun]] = {}
        self._dead = asyncio.Event()
        self.room = asyncio.Semaphore(CHUNKS)
        """To be held while a chunk is in memory."""
        self._loop = asyncio.new_event_loop()
        self._life: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="cluster-line", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the scheduler is there."""
        return self._client is not None

    def carry(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run in the line's thread."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[[], None]) -> None:
        """Let a function run in the line's thread."""
        self._loop.call_soon_threadsafe(function)

    def close(self, patience_s: float = 5.0) -> None:
        """Hang up."""

        def end() -> None:
            if self._life is not None:
                self._life.cancel()

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(end)
            self._thread.join(patience_s)

    @asynccontextmanager
    async def job(self, name: str, request: bytes, terms: Terms) -> AsyncIterator[Begun]:
        """Send a job to the cluster and yield where it has begun; with the end of the context it is over there.

        Raises:
            LostError: if the scheduler is away or goes, before it begins or while it runs.
        """
        client = self._client
        if client is None:
            raise LostError(f"the scheduler at {self._scheduler} is away", counts=False)
        key = f"{self._topic}-{name}-{secrets.token_hex(4)}"
        begun = self._jobs[key] = self._loop.create_future()
        ticket = Ticket(key, self._topic, request, terms)
        task = client.submit(work, ticket, key=key, retries=0, resources=self._resources or None, pure=False)
        done = asyncio.ensure_future(task.exception())
        gone = self._loop.create_task(self._dead.wait())
        where = None
        try:
            await asyncio.wait({begun, done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not begun.done():
                raise LostError(self._why_not(task), counts=False)
            where = begun.result()
            yield where
        finally:
            done.cancel()
            gone.cancel()
            del self._jobs[key]
            if where is not None:
                await self._send_away(where)
            task.release()

    async def ask(self, where: Begun, door: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - as many as there are doors
        """Return what a Dask worker answers at one of the doors of `host`.

        Raises:
            LostError: if it is gone, which counts unless the scheduler is gone with it; or if it cannot do it.
        """
        client = self._client
        if client is None:
            raise LostError(f"the scheduler at {self._scheduler} is away", counts=False)
        try:
            door_of = getattr(client.rpc(where.address), f"{NAME}_{door}")
            answer: dict[str, Any] = await asyncio.wait_for(door_of(run=where.run, **values), CALL_S)
        except (OSError, TimeoutError) as error:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), GRACE_S)
            if self._dead.is_set():
                raise LostError(f"the scheduler at {self._scheduler} went away", counts=False) from error
            raise LostError(f"the Dask worker at {where.address} went away", counts=True) from error
        if trouble := answer.get("trouble"):
            raise LostError(plain(f"{where.address}: {trouble}", 300), counts=answer["counts"])
        return answer

    def _why_not(self, task: Any) -> str:  # noqa: ANN401 - a Future of Dask, which ships no types
        """Return why a task is over that has never begun, in words that need no waiting."""
        if task.status == "error":
            return plain(f"a Dask worker could not begin with it ({task._state.exception!r})", 300)  # noqa: SLF001 - as said
        return f"the scheduler at {self._scheduler} gave it up"

    async def _send_away(self, where: Begun) -> None:
        """Tell a Dask worker that a run is over; where it cannot be told, it finds out by the silence."""
        client = self._client
        if client is not None:
            with suppress(Exception):
                leave = getattr(client.rpc(where.address), f"{NAME}_leave")
                await asyncio.wait_for(leave(run=where.run), LOOK_S * 10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._life = self._loop.create_task(self._live())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._life)
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _live(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with self._connection() as client:
                    pause_s = FIRST_PAUSE_S
                    await self._mind(client)
            except Exception as error:  # noqa: BLE001 - Dask raises what it likes, and a line that died would tell nobody
                self._is(plain(f"the scheduler at {self._scheduler} cannot be reached: {error}", 300))
            else:
                self._is(f"the scheduler at {self._scheduler} went away")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        if isinstance(self._scheduler, str):
            async with self._call(self._scheduler, self._security) as client:
                yield client
            return
        security = await asyncio.to_thread(Security.temporary)
        async with (
            _local_cluster(self._scheduler, security) as cluster,
            self._call(cluster.scheduler_address, security) as client,
        ):
            yield client

    @asynccontextmanager
    async def _call(self, address: str, security: Security | None) -> AsyncIterator[Client]:
        client = Client(
            address,
            security=security,
            asynchronous=True,
            direct_to_workers=True,
            set_as_default=False,
            timeout=CONNECT_S,
            name=NAME,
        )
        try:
            await client
            client.subscribe_topic(self._topic, self._began)
            self._dead.clear()
            self._client = client
            await self._count(client)
            self._is(None)
            yield client
        finally:
            self._client = None
            self.places = 0
            self._dead.set()
            with suppress(Exception):
                await asyncio.wait_for(client._close(fast=True), CONNECT_S)  # noqa: SLF001 - `close` waits for the lost

    async def _mind(self, client: Client) -> None:
        """Return when the scheduler is gone; Dask's own way to reconnect would take up keys that nobody wants."""
        count_by = self._loop.time() + COUNT_EVERY_S
        while client.status == "running":
            await asyncio.sleep(LOOK_S)
            if self._loop.time() >= count_by and client.status == "running":
                await asyncio.wait_for(self._count(client), CONNECT_S)
                count_by = self._loop.time() + COUNT_EVERY_S

    async def _count(self, client: Client) -> None:
        """Count the places: GPUs where any worker has some, else threads."""
        assert client.scheduler is not None  # noqa: S101 - for the type checker; it is there from the start
        workers = (await client.scheduler.identity(n_workers=-1))["workers"].values()
        gpus = sum(int(worker["resources"].get(GPU, 0)) for worker in workers)
        self._resources = {GPU: 1} if gpus else {}
        places = gpus or math.floor(sum(worker["nthreads"] for worker in workers))
        if places != self.places:
            self.places = places
            self._wake()

    def _began(self, event: tuple[float, Any]) -> None:
        """Hear from a Dask worker that it has begun with a job."""
        told = event[1]
        where, begun = Begun(told["run"], told["address"]), self._jobs.get(told["key"])
        if begun is not None and not begun.done():
            begun.set_result(where)

    def _is(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._wake()
