"""How a scheduler is reached: through Dask's client, and first of all started where the configuration says `local`."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from distributed import Client, LocalCluster, Security
from distributed.utils import format_dashboard_link

from voicekiln.cluster.host import GPU, NAME
from voicekiln.cluster.shared import SharedFolder
from voicekiln.cluster.versions import Versions

CONNECT_S = 5.0
"""What the scheduler is given to answer."""

REGISTER_S = 15.0
"""What it is given to take us in; somebody who only listens there never does."""

MAX_FILES, OTHER_FILES = 65_536, 512
"""So many files this process may have open in any case, and so many of those are no connections of jobs."""


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


@dataclass(frozen=True, slots=True)
class Places:
    """How many jobs a cluster runs side by side."""

    number: int
    resources: dict[str, float]
    """What each of them takes of a Dask worker beside a thread."""
    dashboard: str | None
    """The address of the scheduler's own page; None if it has none."""
    present: frozenset[str]
    """The addresses of all Dask workers."""
    usable: frozenset[str]
    """Of those that have our version and see the shared folder, if there is one; only their places are counted."""


async def places(client: Client, versions: Versions, shared: SharedFolder | None) -> Places:
    """Count the places, GPUs where any worker has some, else threads; no more than this process may have connections.

    Raises:
        OSError: if the scheduler is gone.
        TimeoutError: if it does not answer.
    """
    assert client.scheduler is not None  # noqa: S101 - for the type checker; it is there from the start
    identity = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), CONNECT_S)
    present = identity["workers"]
    usable = await versions.fitting(client, present)
    if shared is not None:
        usable = shared.seen_by(client, usable)
    workers = [present[address] for address in usable]
    gpus = any(worker["resources"].get(GPU) for worker in present.values())
    number = sum(int(worker["resources"].get(GPU, 0)) if gpus else worker["nthreads"] for worker in workers)
    dashboard = _dashboard(str(client.scheduler.address), identity["services"].get("dashboard"))
    number = min(number, _room_for_connections())
    return Places(number, {GPU: 1} if gpus else {}, dashboard, frozenset(present), frozenset(usable))


def _dashboard(scheduler: str, port: int | None) -> str | None:
    """Return the address of the scheduler's own page, in the form that Dask's configuration gives it."""
    if port is None:
        return None
    host = urlsplit(scheduler).hostname or ""
    link = str(format_dashboard_link(f"[{host}]" if ":" in host else host, port))
    return link if link.startswith(("http://", "https://")) else None  # the form may be anything


def _room_for_connections() -> int:
    """Let this process have as many files open as it may; return how many of them may be jobs' connections.

    While a job runs, one is held open to its Dask worker.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, MAX_FILES) if hard != resource.RLIM_INFINITY else MAX_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted - OTHER_FILES)


def why_unreachable(scheduler: str, told: Exception) -> str:
    """Return what is in the way to a scheduler, for people; what Dask has `told` only where somebody is there."""
    place = urlsplit(scheduler)
    try:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()
    except socket.gaierror:
        return f"the name {place.hostname} is unknown"
    except ConnectionRefusedError:
        return "nothing listens there; see whether the scheduler runs"
    except TimeoutError:
        return "that host does not answer; see whether it is up, and whether a firewall is in between"
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return f"{told}; the scheduler's own log may say more"


@asynccontextmanager
async def connection(scheduler: str | Here, security: Security | None) -> AsyncIterator[Client]:
    """Yield a client of the scheduler, which may go at any time.

    Raises:
        Exception: whatever Dask raises, if there is no such scheduler.
    """
    async with AsyncExitStack() as stack:
        if isinstance(scheduler, Here):
            security = own = await asyncio.to_thread(Security.temporary)
            cluster = await stack.enter_async_context(_local_cluster(scheduler, own))
            scheduler = cluster.scheduler_address
        client = Client(
            scheduler,
            security=security,
            asynchronous=True,
            direct_to_workers=True,
            set_as_default=False,
            timeout=CONNECT_S,
            connection_limit=MAX_FILES,  # a job that waits for one would be taken for lost
            name=NAME,
        )
        try:
            yield await asyncio.wait_for(client, REGISTER_S)
        finally:
            with suppress(Exception):
                await asyncio.wait_for(client._close(fast=True), CONNECT_S)  # noqa: SLF001 - `close` waits for the lost
