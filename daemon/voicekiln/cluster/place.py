"""A place in a Dask worker where one job after the other runs: a thread, and the caged process that it keeps.

The thread lives as long as the Dask worker, because the kernel ties the process's life to it (see `worker.process`);
Dask's own threads come and go. Nothing of a stranger's file is opened here: it is written down as it comes, the caged
process reads it, and what that leaves is read on as plain bytes of a known name.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from voicekiln.cluster.letters import Terms, moved, sources
from voicekiln.cluster.parcels import Incoming, Outgoing, ParcelError
from voicekiln.folders.files import NOT_A_FILE, remove_tree
from voicekiln.job import Converted, staged_files
from voicekiln.worker.keeper import Ended, Event, Keeper, Started
from voicekiln.worker.parent import Worker
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.wire import Convert, Inspect

SILENCE_S = 300.0
"""A run whose daemon was not heard for so long is given up: the daemon has gone, or the way to it."""


class Run:
    """One job in a place, from the first chunk of its source to the last of its results."""

    def __init__(self, name: str, request: Convert | Inspect, folder: Path, tell: Callable[[], None]) -> None:
        """`tell` is called, from another thread, when there are events."""
        self.name = name
        self.over = threading.Event()
        """Set when the daemon has all that it wants, or wants nothing any more; then nothing is begun."""
        self._heard_at = time.monotonic()
        self._request = request
        self._tell = tell
        self._events: deque[Event] = deque()
        self._source_folder, self.staging = folder / "sources" / name, folder / "staging" / name
        for each in (self._source_folder, self.staging):
            each.mkdir(mode=0o700, parents=True)
        names = enumerate(sources(request))
        self._places = {file: self._source_folder / f"{number}" for number, file in names}
        self._coming: Incoming | None = None
        self._going: dict[str, Outgoing] = {}
        self._results: frozenset[str] = frozenset()

    @property
    def silent(self) -> bool:
        """Whether the daemon was not heard for too long."""
        return time.monotonic() - self._heard_at > SILENCE_S

    def heard(self) -> None:
        """Note that the daemon is there."""
        self._heard_at = time.monotonic()

    def take(self, file: str, offset: int, chunk: bytes, sha256: str | None) -> None:
        """Write a chunk of a source; the last one comes with the hash of the whole.

        Raises:
            ParcelError: if it is not what left.
            KeyError: if the request has no such file.
            OSError: if the disk fails.
        """
        if offset == 0:
            self._coming = Incoming(self._places[file])
        assert self._coming is not None  # noqa: S101 - a file begins with its first byte
        self._coming.write(offset, chunk)
        if sha256 is not None:
            self._coming.finish(sha256)
            self._coming = None

    def request(self, threads: int) -> Convert | Inspect:
        """Return what the worker is asked here."""
        return moved(self._request, self._places, self.staging, threads)

    def happened(self, event: Event) -> None:
        """Keep an event for the daemon, and remember which files an ending names."""
        if isinstance(event, Ended) and isinstance(event.ending, Converted):
            self._results = frozenset(p.name for p in staged_files(event.ending.conversion, self.staging).values())
        self._events.append(event)
        self._tell()

    def events(self) -> list[Event]:
        """Return and forget what has happened."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def give(self, file: str) -> tuple[int, bytes]:
        """Return the next chunk of a result, a short one at its end, and where in the file it begins.

        Raises:
            ParcelError: if the ending names no such file, or there is none, or only a link.
            OSError: if the disk fails.
        """
        if file not in self._results:
            raise ParcelError(f"{file} was not made")
        if file not in self._going:
            try:
                self._going[file] = Outgoing(self.staging / file)
            except OSError as error:
                if error.errno not in {errno.ENOENT, *NOT_A_FILE}:
                    raise
                raise ParcelError(f"{file} is no plain file") from error
        return self._going[file].offset, self._going[file].read()

    def clear(self) -> None:
        """Remove all that was written for it."""
        if self._coming is not None:
            self._coming.drop()
        for outgoing in self._going.values():
            outgoing.close()
        for folder in (self._source_folder, self.staging):
            remove_tree(folder)


class Place:
    """See the module. Calls come from Dask's threads, the worker is met by the place's own thread only."""

    def __init__(self, folder: Path, templates: Path, terms: Terms) -> None:
        """Nothing is started yet but the thread."""
        self.terms = terms
        self.folder = folder
        self.run: Run | None = None
        """Who has the place."""
        rooms = Rooms(templates, folder / "sources", folder / "staging")
        self._bell = threading.Event()
        self._worker: Keeper = Worker(
            device=terms.device,
            rooms=rooms,
            deadlines=terms.deadlines,
            idle_s=terms.idle_s,
            memory_bytes=terms.memory_bytes,
            wake=self._bell.set,
        )
        self._started: Started | None = None
        self._orders: deque[Callable[[float], None]] = deque()
        self._thread = threading.Thread(target=self._keep, name="voicekiln-place", daemon=True)
        self._thread.start()

    @property
    def broken(self) -> bool:
        """Whether a defect has ended its thread, and the kernel with it the process: nothing happens here any more."""
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return not self.broken and (bool(self._orders) or self._worker.busy)

    def begin(self, run: Run, threads: int) -> None:
        """Let the worker begin with the run that has the place; its files are there."""
        self._order(lambda now: self._begin(run, threads, now))

    def stop(self) -> None:
        """Let the process go if it is busy."""
        self._order(lambda now: self._worker.stop(now) if self._worker.busy else None)

    def _order(self, order: Callable[[float], None]) -> None:
        self._orders.append(order)
        self._bell.set()

    def _begin(self, run: Run, threads: int, now: float) -> None:
        """Begin, and say first which process is up, since this daemon may not know it yet."""
        if run.over.is_set():  # given up just when its daemon was heard again: nobody would hear of its end
            return
        if self._started is not None and self._worker.ready is not None:
            run.happened(self._started)
            run.happened(self._worker.ready)
        self._worker.begin(run.request(threads), now)

    def _keep(self) -> None:
        """The supervisor's loop, for one worker."""
        while True:
            self._bell.clear()
            now = time.monotonic()
            while self._orders:
                self._orders[0](now)
                self._orders.popleft()  # not before: until then the place is busy with it
            for event in self._worker.poll(now):
                self._happened(event)
            wait = self._worker.next_due(now) - time.monotonic()
            self._bell.wait(None if wait == float("inf") else max(0.0, wait))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started = event
        if self.run is not None:
            self.run.happened(event)


def ours(folder: Path) -> Path:
    """Return a folder that is ours alone, made where it is missing.

    Raises:
        PermissionError: if somebody else has made it, who could then write into what our process reads.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    st = folder.lstat()
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.getuid() or st.st_mode & 0o022:
        raise PermissionError(f"{folder} is not ours alone")
    return folder
