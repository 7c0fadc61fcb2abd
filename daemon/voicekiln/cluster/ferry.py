"""A job's folder in a folder that the daemon's host and the Dask workers' have mounted, as either end has it.

The Dask worker copies what lies there to a disk of its own before the caged process may see it, and back: what was
hashed is what is read, though a stranger or a stale cache may change the shared folder in between; the caged process
needs no way to other jobs' files; and a file server that hangs does not hang it.

Accepted: who may write into the shared folder can hold up every voice, and exchange a job's folder for one that is
read by others. What is converted and published is only what has the hash that it left with.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from contextlib import closing
from functools import cache
from pathlib import Path

from voicekiln.cluster.hand import Hand, SharedFolderError
from voicekiln.cluster.parcels import CHUNK, Incoming, Outgoing
from voicekiln.cluster.place import Run

ALTERED = "the shared folder does not give back what was put there"

PROBE, ANSWER = "probe", "answer"
"""Files by which daemon and Dask worker find out whether they see one folder."""

SEES, ABSENT, ANOTHER, DENIED, FAILS = "sees", "absent", "another", "denied", "fails"
"""What a Dask worker says of the shared folder."""


class JobFolder:
    """See the module. One file after the other, each from its first chunk to its last."""

    def __init__(self, root: Path, name: str, hand: Hand | None = None) -> None:
        """Nothing is made yet; `hand` is whose work it is, a new one by default."""
        self.root = root
        self.path = root / name
        self.hand = hand or Hand(root)
        self._incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None

    async def read(self, file: str) -> tuple[bytes, str]:
        """Return the next chunk of a file, a short one at its end, and the hash of all that was read of it.

        Raises:
            SharedFolderError: if the folder fails.
        """
        return await self.hand.do(self._read, file)

    async def write(self, file: str, offset: int, chunk: bytes, *, last: bool) -> str:
        """Write a chunk; return the hash of all that was written of the file, which after the `last` is on disk.

        Raises:
            SharedFolderError: if the folder fails.
        """
        return await self.hand.do(self._write, file, offset, chunk, last)

    def close(self) -> None:
        """Let its files go as they are, as soon as that can be."""
        self.hand.later(self._close)

    def _read(self, file: str) -> tuple[bytes, str]:
        if self._outgoing is None:
            self._outgoing = Outgoing(self.path / file, self.root)
        outgoing = self._outgoing
        chunk = outgoing.read()
        if len(chunk) < CHUNK:
            self._close()
        return chunk, outgoing.sha256

    def _write(self, file: str, offset: int, chunk: bytes, last: bool) -> str:  # noqa: FBT001 - by position
        if offset == 0:
            self._incoming = Incoming(self.path / file, self.root)
        incoming = self._incoming
        assert incoming is not None  # noqa: S101 - a file begins with its first byte
        incoming.write(offset, chunk)
        if last:
            incoming.finish(incoming.sha256)
            self._incoming = None
        return incoming.sha256

    def _close(self) -> None:
        for file in (self._incoming, self._outgoing):
            if file is not None:
                file.close()
        self._incoming = self._outgoing = None


class Ferry:
    """In a Dask worker: carries a run's files between the shared folder and the place."""

    def __init__(self, run: Run) -> None:
        """Nothing is opened yet."""
        self._run = run
        self._folder: JobFolder | None = None
        self._offset = 0

    async def collect(self, folder: Path, parcel: str, file: str, sha256: str) -> bool:
        """Take the next chunk of a source out of a job's folder; return whether there is more.

        Raises:
            SharedFolderError: if the folder fails, or what lies there has another hash.
            OSError: if the disk of the place fails.
        """
        chunk, found = await self._at(folder).read(parcel)
        more = len(chunk) == CHUNK
        if not more and found != sha256:
            raise SharedFolderError(ALTERED)
        await asyncio.to_thread(self._run.take, file, self._offset, chunk, None if more else sha256)
        self._offset = self._offset + len(chunk) if more else 0
        return more

    async def lay(self, folder: Path, file: str) -> tuple[bool, str]:
        """Put the next chunk of a result into a job's folder; return whether there is more, and the hash so far.

        Raises:
            SharedFolderError: if the folder fails.
            ParcelError: as `Run.give`.
            OSError: if the disk of the place fails.
        """
        offset, chunk = await asyncio.to_thread(self._run.give, file)
        more = len(chunk) == CHUNK
        return more, await self._at(folder).write(file, offset, chunk, last=not more)

    def close(self) -> None:
        """Let the shared folder go."""
        if self._folder is not None:
            self._folder.close()

    def _at(self, folder: Path) -> JobFolder:
        if self._folder is None:
            self._folder = JobFolder(folder.parent, folder.name)
        return self._folder


def answer_of(probe: bytes) -> bytes:
    """Return what is written beside a probe."""
    return hashlib.sha256(probe).digest()


async def answer(root: Path, name: str) -> tuple[str, str]:
    """In a Dask worker: read a probe and write the answer beside it; return what it is to say, and why.

    Raises:
        SharedFolderError: if the folder does not answer.
    """
    return await _hand(root).do(_answer, root, name)


@cache
def _hand(root: Path) -> Hand:
    """Return the one for the probes of a folder: if its server hangs, so does one thread, however often it is asked."""
    return Hand(root)


def _answer(root: Path, name: str) -> tuple[str, str]:
    try:
        os.stat(f"{root}/")  # noqa: PTH116 - the slash asks for a folder and does not survive in a Path
    except FileNotFoundError:
        return ABSENT, ""
    except OSError as error:
        return _failed(error)
    try:
        with closing(Outgoing(root / name / PROBE, root)) as probe:
            content = probe.read()
        with closing(Incoming(root / name / ANSWER, root)) as beside:
            beside.write(0, answer_of(content))
            beside.finish(beside.sha256)
    except FileNotFoundError:
        return ANOTHER, ""
    except OSError as error:
        return _failed(error)
    return SEES, ""


def _failed(error: OSError) -> tuple[str, str]:
    denied = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
    return DENIED if denied else FAILS, (error.strerror or type(error).__name__).lower()
