"""Work on a folder whose file server may hang: whoever asks waits for a while, and nobody for the thread.

A thread that the kernel holds cannot be ended. So it is none of a pool, where others would miss it: one is begun where
there is something to do, does one thing after the other, and the process may end without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from voicekiln.errors import ShareAwayError, plain

_T = TypeVar("_T")

STUCK_S = 20.0
"""What a file server is given for one chunk; less than `line.CALL_S`, so that a Dask worker can still say so."""


class SharedFolderError(Exception):
    """The shared folder fails, which is no voice's fault; the text says how."""


class Hand:
    """See the module. What it is given, from one event loop, it does in that order."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the one that is worked on, for people."""
        self._folder = folder
        self._lock = threading.Lock()
        self._todo: deque[Callable[[], None]] = deque()
        self._works = False
        self._stuck = False

    async def do(self, function: Callable[..., _T], *values: object) -> _T:
        """Return what a function returns; if it was waited for in vain before it began, it never does.

        Raises:
            SharedFolderError: if it takes longer than `STUCK_S` or something before it still does; if it raises an
                OSError.
        """
        if self._stuck:  # who asks again and again must not have ever more of it waiting
            raise SharedFolderError(f"the folder {plain(str(self._folder))} does not answer")
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._put(partial(_tell, asyncio.get_running_loop(), result, partial(function, *values)))
        try:
            return await asyncio.wait_for(result, STUCK_S)
        except TimeoutError as error:
            with self._lock:
                self._stuck = result.cancelled() and self._works
            raise SharedFolderError(f"the folder {plain(str(self._folder))} does not answer") from error
        except (OSError, ShareAwayError) as error:
            why = getattr(error, "strerror", None) or error
            raise SharedFolderError(f"the folder {plain(str(self._folder))} fails ({why})") from error

    def later(self, function: Callable[..., None], *values: object) -> None:
        """Do something last that nobody waits for, and that may be in vain."""

        def tidy() -> None:
            with suppress(OSError, ShareAwayError):
                function(*values)

        self._put(tidy)

    def _put(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._todo.append(task)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="voicekiln-hand", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._stuck = False
                if not self._todo:
                    self._works = False
                    return
                task = self._todo.popleft()
            task()


def _tell(loop: asyncio.AbstractEventLoop, result: asyncio.Future[_T], function: Callable[[], _T]) -> None:
    """In the thread: do it, and tell whoever still waits."""
    if result.cancelled():
        return
    told: partial[None]
    try:
        told = partial(_set, result.set_result, result, function())
    except Exception as error:  # noqa: BLE001 - raised again where it is seen: by whoever waits
        told = partial(_set, result.set_exception, result, error)
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(told)


def _set(told: Callable[[Any], None], result: asyncio.Future[_T], value: object) -> None:
    if not result.done():
        told(value)
