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
import logging
import pickle
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, Security

from voicekiln.cluster.connection import CONNECT_S, Here, Places, connection, places, why_unreachable
from voicekiln.cluster.host import NAME, work
from voicekiln.cluster.letters import Begun, LostError, Terms, Ticket
from voicekiln.cluster.shared import SharedFolder
from voicekiln.cluster.versions import Versions
from voicekiln.errors import plain

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
"""Between two tries to reach the scheduler; each pause is twice as long as the one before."""

CALL_S = 30.0
"""A Dask worker that does not answer for so long is lost."""

CHUNKS = 16
"""So many chunks at most are in memory here, whatever number of places there is; the network card takes no more."""

LOOK_S = 0.2
COUNT_EVERY_S = 3.0
"""Between two looks at the line, and between two counts of the cluster's places."""

COUNTING = 0.05
"""The part of its time that counting may take: the scheduler names all its workers, and thousands take a while."""

UNANSWERED = "the scheduler has not answered yet"

UNSEEN = "no Dask worker has said yet that it sees the shared folder"

LEAVE_S = 2.0
"""What a Dask worker is given to hear that a job is over."""

GRACE_S = 2.0
"""When a worker is gone, the scheduler may be, too; so long it is given to show it."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A job that was sent to the cluster."""

    begun: asyncio.Future[Begun]
    bound: frozenset[str]
    """To which Dask workers it may go; none for all."""
    resources: dict[str, float]
    """What it takes of one of them."""

    def fits(self, found: Places) -> bool:
        """Say whether somebody could begin with it; where nobody is, somebody may come who can."""
        if self.bound and not self.bound & found.present:
            return False
        return not (self.resources and found.present) or self.resources == found.resources


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A job that the task itself unpickles: a Dask worker without voicekiln that did so before would end of it."""

    ticket: Ticket

    def __reduce__(self) -> tuple[Callable[[Ticket], None], tuple[Ticket]]:
        return work, (self.ticket,)


class Line:
    """See the module. Its thread runs what `carry` is given; everything else may be asked from any thread."""

    def __init__(
        self,
        scheduler: str | Here,
        security: Security | None,
        ledger: str,
        wake: Callable[[], None],
        spool: Path | None = None,
    ) -> None:
        """Begin to connect.

        Args:
            scheduler: its address, `tls://host:8786`; or what to start here.
            security: the certificates; None for plain TCP.
            ledger: which marks this daemon's jobs among others'.
            wake: called from the line's thread when `places` or `trouble` have changed.
            spool: the folder through which files go; None for over Dask.
        """
        self.places = 0
        """How many jobs the cluster runs side by side; 0 while there is no connection."""
        self.trouble: str | None = UNANSWERED
        """Why there is no connection, or which Dask workers are of no use, for people."""
        self.scheduler = scheduler
        self.dashboard: str | None = None
        """The address of the scheduler's own page, while there is one."""
        self._security = security
        self._topic = f"{NAME}-{ledger}"
        self._wake = wake
        self._client: Client | None = None
        self._resources: dict[str, float] = {}
        self.shared = None if spool is None else SharedFolder(spool, self._topic)
        """The folder through which files go."""
        self._present: frozenset[str] = frozenset()
        self._usable: frozenset[str] = frozenset()
        self._unreached: set[str] = set()
        """Dask workers that the scheduler reaches and we do not."""
        self._jobs: dict[str, _Sent] = {}
        """By their keys."""
        self._gone = asyncio.Event()
        """Set when the scheduler has gone; another one for each that comes."""
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

    @property
    def unsure(self) -> bool:
        """Whether nothing is known yet."""
        return self.trouble in {UNANSWERED, UNSEEN}

    @property
    def unusable(self) -> bool:
        """Whether there are Dask workers, none of which may be given a job."""
        return bool(self._present and not self._usable)

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
    async def job(self, name: str, request: bytes, terms: Terms, priority: float) -> AsyncIterator[Begun]:
        """Send a job to the cluster and yield where it has begun; with the end of the context it is over there.

        Of the jobs that wait for a place, the one of the highest `priority` is begun first.

        Raises:
            LostError: if the scheduler is away, or goes before it begins; or if a Dask worker cannot begin with it.
        """
        client = self._client
        if client is None or client.status != "running":  # `submit` would raise, which nobody could tell from a defect
            raise LostError(f"the scheduler at {self.scheduler} is away", counts=False)
        key = f"{self._topic}-{name}-{secrets.token_hex(4)}"
        begun: asyncio.Future[Begun] = self._loop.create_future()
        ticket = Ticket(key, self._topic, request, terms)
        # Where nobody is, anybody may come: a cluster that grows with its work has to see some. A resource of those
        # that see the folder will not do: told of a new one, Dask forgets which are in use.
        choosy = self.shared is not None or self._usable != self._present
        sent = self._jobs[key] = _Sent(begun, self._usable if choosy else frozenset(), self._resources)
        task = client.submit(
            pickle.loads,
            pickle.dumps(_Deferred(ticket)),
            key=key,
            retries=0,
            resources=sent.resources or None,
            priority=priority,
            workers=[*sent.bound] or None,
            pure=False,
        )
        done = asyncio.ensure_future(task.exception())
        gone = self._loop.create_task(self._gone.wait())
        where = None
        try:
            await asyncio.wait({begun, done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not begun.done():
                raise LostError(self._went_away() if gone.done() else self._why_not(task), counts=False)
            where = begun.result()
            if self.shared is not None and (trouble := await self.shared.trouble_of(client, where.address)):
                raise LostError(plain(trouble, 300), counts=False)
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
            LostError: if it is gone, or cannot do it. That it is gone counts only while the caged process may be at
                work, and unless the scheduler is gone with it: nobody opens a voice that is on its way.
        """
        client = self._client
        if client is None or where.gone.is_set():
            raise LostError(self._went_away(), counts=False)
        try:
            door_of = getattr(client.rpc(where.address), f"{NAME}_{door}")
            answer: dict[str, Any] = await asyncio.wait_for(door_of(run=where.run, **values), CALL_S)
        except (OSError, TimeoutError) as error:
            with suppress(TimeoutError):
                await asyncio.wait_for(where.gone.wait(), GRACE_S)
            if where.gone.is_set() or not await _answers(client):
                raise LostError(self._went_away(), counts=False) from error
            if door in {"begin", "hear"}:
                raise LostError(f"the Dask worker at {where.address} went away", counts=True) from error
            self._unreached.add(where.address)
            raise LostError(f"the Dask worker at {where.address} cannot be reached", counts=False) from error
        self._unreached.discard(where.address)
        if trouble := answer.get("trouble"):
            raise LostError(plain(f"on the Dask worker at {where.address}: {trouble}", 300), counts=answer["counts"])
        return answer

    def _went_away(self) -> str:
        return f"the scheduler at {self.scheduler} went away"

    def _why_not(self, task: Any) -> str:  # noqa: ANN401 - a Future of Dask, which ships no types
        """Return why a task is over that has never begun, in words that need no waiting."""
        if task.status == "error":
            return plain(f"a Dask worker could not begin with it ({task._state.exception!r})", 300)  # noqa: SLF001 - as said
        return f"the scheduler at {self.scheduler} gave it up"

    async def _send_away(self, where: Begun) -> None:
        """Tell a Dask worker that a run is over; where it cannot be told, it finds out by the silence."""
        client = self._client
        if client is not None:
            with suppress(Exception):
                leave = getattr(client.rpc(where.address), f"{NAME}_leave")
                await asyncio.wait_for(leave(run=where.run), LEAVE_S)

    def _run(self) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says, we say in words and once
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
                async with connection(self.scheduler, self._security) as client:
                    pause_s = FIRST_PAUSE_S
                    await self._mind(client)
            except TimeoutError:
                self._is(f"the scheduler at {self.scheduler} does not answer")
            except Exception as error:  # noqa: BLE001 - Dask raises what it likes, and a line that died would tell nobody
                self._is(plain(f"the scheduler at {self.scheduler} cannot be reached ({await self._why(error)})", 300))
            else:
                self._is(self._went_away())
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _why(self, error: Exception) -> str:
        """Return why there is no connection."""
        if isinstance(self.scheduler, Here) or not isinstance(error, OSError):
            return str(error)
        return await asyncio.to_thread(why_unreachable, self.scheduler, error)

    async def _mind(self, client: Client) -> None:
        """Return when the scheduler is gone; Dask's own way to reconnect would take up keys that nobody wants."""
        client.subscribe_topic(self._topic, self._began)
        self._gone = asyncio.Event()
        versions = Versions()
        if (shared := self.shared) is not None:
            shared.clear()
        try:
            count_by = self._loop.time()
            while client.status == "running":
                if (began := self._loop.time()) >= count_by or (shared is not None and shared.news):
                    found = await places(client, versions, shared)
                    there = None if shared is None else shared.trouble
                    trouble = versions.trouble or there or self._barrier(found.present)
                    self._count(client, found, trouble)
                    took_s = self._loop.time() - began
                    count_by = self._loop.time() + max(COUNT_EVERY_S, took_s / COUNTING)
                await asyncio.sleep(LOOK_S)
        finally:
            self._client = self.dashboard = None
            self._present = self._usable = frozenset()
            self.places = 0
            if shared is not None:
                shared.forget()
            self._gone.set()

    def _barrier(self, present: frozenset[str]) -> str | None:
        """Return which Dask worker we do not reach, for people."""
        self._unreached &= present
        if not self._unreached:
            return None
        return (
            f"the Dask worker at {min(self._unreached)} cannot be reached from here, though the scheduler reaches it; "
            "see whether a firewall is in between"
        )

    def _count(self, client: Client, found: Places, trouble: str | None) -> None:
        """Take a count of the places; from the first one on, jobs may come, since it says what each of them takes."""
        self._resources = found.resources
        self.dashboard = found.dashboard
        self._client = client
        self._present, self._usable = found.present, found.usable
        for sent in self._jobs.values():
            if not sent.fits(found):
                self._strand(sent.begun)
        if found.number != self.places:
            self.places = found.number
            self._wake()
        self._is(trouble or (UNSEEN if self.unusable else None))

    @staticmethod
    def _strand(begun: asyncio.Future[Begun]) -> None:
        """Let a job go that waits for Dask workers that have left; the scheduler would keep it for ever."""
        if not begun.done():
            begun.set_exception(LostError("the Dask workers that it waited for have left", counts=False))

    def _began(self, event: tuple[float, Any]) -> None:
        """Hear from a Dask worker that it has begun with a job."""
        told = event[1]
        where, sent = Begun(told["run"], told["address"], self._gone), self._jobs.get(told["key"])
        if sent is not None and not sent.begun.done():
            sent.begun.set_result(where)

    def _is(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._wake()


async def _answers(client: Client) -> bool:
    """Say whether the scheduler is there; of a network that is cut, its own connection may learn later than a job's."""
    if client.scheduler is None:
        return False
    try:
        await asyncio.wait_for(client.scheduler.identity(n_workers=0), CONNECT_S)
    except (OSError, TimeoutError):
        return False
    return True
