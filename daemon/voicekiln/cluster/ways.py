"""How a job's files go to a Dask worker and come back: over Dask, or through a folder that both have mounted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distributed.protocol.serialize import to_serialize

from voicekiln.cluster.ferry import ALTERED, JobFolder
from voicekiln.cluster.hand import SharedFolderError
from voicekiln.cluster.letters import Begun, LostError
from voicekiln.cluster.line import Line
from voicekiln.cluster.parcels import CHUNK, UNLIKE, Incoming, Outgoing, ParcelError
from voicekiln.cluster.shared import SharedFolder

_T = TypeVar("_T")


class Way(Protocol):
    """For one job, in the line's thread. What goes wrong is raised as in `keeper`: a `LostError` says all itself."""

    async def send(self, where: Begun, file: str, path: Path, sha256: str | None) -> None:
        """Send a file; `sha256` is what it has to have, where that is known."""
        ...

    async def fetch(self, where: Begun, path: Path, sha256: str) -> None:
        """Have a result at `path`; what is not all there is not there."""
        ...


@asynccontextmanager
async def way(line: Line) -> AsyncIterator[Way]:
    """Yield the way of a job's files; with the end of the context nothing is left on it."""
    shared = line.shared
    if shared is None:
        yield OverDask(line)
        return
    folder = shared.folder()
    try:
        yield ByPath(line, shared, folder)
    finally:
        shared.leave(folder)


@dataclass(frozen=True, slots=True)
class OverDask:
    """In chunks, each an answer or a question at one of the doors of `host`."""

    line: Line

    async def send(self, where: Begun, file: str, path: Path, sha256: str | None) -> None:
        """See `Way`."""

        async def put(offset: int, chunk: bytes, sha256: str | None) -> None:
            values = {"offset": offset, "chunk": to_serialize(chunk), "sha256": sha256}
            await self.line.ask(where, "put", file=file, **values)

        await _read(self.line, path, sha256, put)

    async def fetch(self, where: Begun, path: Path, sha256: str) -> None:
        """See `Way`."""

        async def get() -> tuple[int, bytes, bool]:
            got = await self.line.ask(where, "get", file=path.name)
            return got["offset"], got["chunk"], got["more"]

        await _write(self.line, path, sha256, get)


class ByPath:
    """Through the shared folder: copied there at one end, and from there at the other; Dask says what lies where."""

    def __init__(self, line: Line, shared: SharedFolder, folder: JobFolder) -> None:
        self._line = line
        self._shared = shared
        self._folder = folder
        self._parcels = 0

    async def send(self, where: Begun, file: str, path: Path, sha256: str | None) -> None:
        """See `Way`."""
        parcel, there = f"{self._parcels}", ""

        async def put(offset: int, chunk: bytes, sha256: str | None) -> None:
            nonlocal there
            there = await self._folder.write(parcel, offset, chunk, last=sha256 is not None)

        with self._blaming(where):
            if not self._parcels:
                await self._shared.make(self._folder)
            self._parcels += 1
            await _read(self._line, path, sha256, put)
            while (await self._ask(where, "collect", parcel=parcel, file=file, sha256=there))["more"]:
                pass

    async def fetch(self, where: Begun, path: Path, sha256: str) -> None:
        """See `Way`."""
        offset, laid = 0, {"more": True, "sha256": ""}

        async def get() -> tuple[int, bytes, bool]:
            nonlocal offset
            chunk, found = await self._folder.read(path.name)
            begins, more = offset, len(chunk) == CHUNK
            if not more and found != sha256:
                raise SharedFolderError(ALTERED)
            offset += len(chunk)
            return begins, chunk, more

        with self._blaming(where):
            while laid["more"]:
                laid = await self._ask(where, "lay", file=path.name)
            if laid["sha256"] != sha256:
                raise ParcelError(UNLIKE)
            await _write(self._line, path, sha256, get)

    async def _ask(self, where: Begun, door: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - as many as there are doors
        return await self._line.ask(where, door, folder=str(self._folder.path), **values)

    @contextmanager
    def _blaming(self, where: Begun) -> Iterator[None]:
        """Have it looked at anew whether a Dask worker sees the folder, where a job there did not get through."""
        try:
            yield
        except (SharedFolderError, LostError):
            self._shared.doubt(where.address)
            raise


async def _read(
    line: Line, path: Path, sha256: str | None, put: Callable[[int, bytes, str | None], Awaitable[None]]
) -> None:
    """Read a file of this host's; `put` is given offset, chunk, and with the last one the hash of the whole."""
    outgoing, offset, last = await _done(Outgoing, path), 0, False
    try:
        while not last:
            async with line.room:
                chunk = await _done(outgoing.read)
                last = len(chunk) < CHUNK
                if last and sha256 not in {None, outgoing.sha256}:
                    raise LostError("the copy of the voice on this host's disk is damaged", counts=True)
                await put(offset, chunk, outgoing.sha256 if last else None)
                offset += len(chunk)
    finally:
        outgoing.close()


async def _write(line: Line, path: Path, sha256: str, get: Callable[[], Awaitable[tuple[int, bytes, bool]]]) -> None:
    """Write a file of this host's; `get` gives offset, chunk, and whether there is more."""
    incoming, more = await _done(Incoming, path), True
    try:
        while more:
            async with line.room:
                offset, chunk, more = await get()
                await _done(incoming.write, offset, chunk)
        await _done(incoming.finish, sha256)
    except BaseException:
        incoming.drop()
        raise


async def _done(function: Callable[..., _T], *values: object) -> _T:
    """Return what a function returns that touches this host's disk; where we are stopped, it is through before."""
    thread = asyncio.ensure_future(asyncio.to_thread(function, *values))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise
