"""Hears a worker out: one thread that cuts what the process writes into lines, within limits.

The limits are kept while reading, not afterwards: a worker that writes without end costs a bounded amount of
memory and no time of the loop. Its answers arrive in order; of its standard error the oldest lines are dropped
when they come faster than they are collected.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

from voicekiln.errors import plain
from voicekiln.worker.wire import MAX_LINE

CHUNK = 64 * 1024
"""Bytes per read; what a pipe holds."""

MAX_WAITING = 64
"""Answers that wait to be collected. A job has about ten; more of them are a flood."""

MAX_SAID = 200
"""Lines of standard error that wait to be collected."""

MAX_TEXT = 2000
"""Bytes of a line of standard error; the rest of the line is dropped."""


class Mad:
    """Stands in place of an answer: the worker wrote a line, or a number of lines, beyond the limits."""


class LineCutter:
    """Cuts a stream of bytes into lines and keeps at most `limit` bytes of an unfinished one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self.too_long = False
        """Whether a line was ever longer than the limit; such a line comes out cut."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Return the lines that `chunk` completes, without their ends."""
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            yield self._cut(self._rest + piece)
            self._rest = b""
        self._rest = self._cut(self._rest + rest)

    def flush(self) -> bytes:
        """Return what came after the last line end."""
        rest, self._rest = self._rest, b""
        return rest

    def _cut(self, line: bytes) -> bytes:
        self.too_long |= len(line) > self._limit
        return line[: self._limit]


class Listener:
    """The thread. Ends when both pipes have, or by `close`; it owns the pipes and closes them."""

    def __init__(self, answers: IO[bytes], murmur: IO[bytes], wake: Callable[[], None]) -> None:
        """`wake` is called from the thread when answers have come or ended; not for standard error, which can wait."""
        self._answers = answers
        self._murmur = murmur
        self._wake = wake
        self._heard: deque[bytes | Mad] = deque()
        self._said: deque[str] = deque(maxlen=MAX_SAID)
        self._stop_reading, self._stop_writing = os.pipe()
        self.answers_ended = False
        """Whether the worker can no longer answer: its end of the pipe is closed, or it has gone mad."""
        self.ended = False
        """Whether both pipes have ended."""
        self._thread = threading.Thread(target=self._run, name="worker-listener", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether something was heard and not yet collected."""
        return bool(self._heard or self._said)

    def heard(self) -> Iterator[bytes | Mad]:
        """Yield and forget the answers that have come."""
        while self._heard:
            yield self._heard.popleft()

    def said(self) -> Iterator[str]:
        """Yield and forget the lines of standard error."""
        while self._said:
            yield self._said.popleft()

    def close(self) -> None:
        """End the thread and close the pipes. It never blocks on them, so this does not wait for the worker."""
        os.close(self._stop_writing)
        self._thread.join()
        os.close(self._stop_reading)

    def _run(self) -> None:
        cutters = {self._answers: LineCutter(MAX_LINE), self._murmur: LineCutter(MAX_TEXT)}
        with selectors.DefaultSelector() as selector, self._answers, self._murmur:
            selector.register(self._stop_reading, selectors.EVENT_READ)
            for pipe in cutters:
                selector.register(pipe, selectors.EVENT_READ)
            while len(selector.get_map()) > 1:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._stop_reading in ready:
                    break
                for pipe, cutter in cutters.items():
                    if pipe in ready and not self._hear(pipe, cutter):
                        selector.unregister(pipe)
                        self.answers_ended |= pipe is self._answers
                        self._wake()
        self.ended = True
        self._wake()

    def _hear(self, pipe: IO[bytes], cutter: LineCutter) -> bool:
        """Read once; return False if nothing more shall be read from this pipe."""
        chunk = os.read(pipe.fileno(), CHUNK)
        lines = list(cutter.feed(chunk))
        if pipe is self._murmur:
            lines += [] if chunk else [cutter.flush()]
            self._said.extend(plain(line.decode(errors="replace")) for line in lines if line.strip())
            return bool(chunk)
        mad = cutter.too_long or len(self._heard) + len(lines) > MAX_WAITING
        self._heard.extend([Mad()] if mad else lines)
        if lines or mad:
            self._wake()
        return bool(chunk) and not mad


class Quota:
    """Lets a flood of text shrink to what a log can bear: the first lines of a job, then only its last ones.

    The last ones matter most: a traceback comes at the end.
    """

    def __init__(self, first: int = 100, last: int = 30) -> None:
        self._first = first
        self._left = first
        self._held: deque[str] = deque(maxlen=last)
        self._dropped = 0

    def admit(self, lines: Iterator[str]) -> list[str]:
        """Return those of the lines that can be told now, and hold the others."""
        told = []
        for line in lines:
            if self._left:
                self._left -= 1
                told.append(line)
            else:
                self._dropped += len(self._held) == self._held.maxlen
                self._held.append(line)
        return told

    def renew(self) -> list[str]:
        """Return what was held and begin anew; for the end of a job."""
        note = [f"… {self._dropped} more lines …"] if self._dropped else []
        told = note + list(self._held)
        self._left, self._dropped = self._first, 0
        self._held.clear()
        return told
