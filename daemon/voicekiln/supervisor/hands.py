"""The one thread that touches the shares.

A stat on a dead network mount can block for minutes. So the loop never does one: it hands work over together with
what to do when it is done, goes on, and collects the results at its next tick. One thread, not many: a share is one
resource, and two publications at once would only take turns.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
Finish = Callable[[], None]

STUCK_S = 30.0
"""A look or a copy that takes longer is worth telling of."""


class Hands(Protocol):
    """Does work that may block; results come back to the loop."""

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Take `work` on; `collect` later calls `done` with its result or `failed` with what it raised.

        `what` says in words what is being done, for the status line when it takes long.
        """
        ...

    def collect(self) -> None:
        """Call what is due for all that has finished. For the loop's thread."""
        ...

    def stuck(self) -> str | None:
        """Say what is being done right now, if it takes suspiciously long."""
        ...

    def close(self, wait_s: float) -> bool:
        """Take no more work and wait for what is under way; False if it hangs and has to be left behind."""
        ...


def attempt(
    work: Callable[[], T],
    done: Callable[[T], None],
    failed: Callable[[Exception], None],
    expected: tuple[type[Exception], ...],
) -> Finish:
    """Do the work now; return the call that tells the loop."""
    try:
        result = work()
    except expected as error:
        caught = error
        return lambda: failed(caught)
    return lambda: done(result)


class ThreadHands:
    """Hands with a thread of their own."""

    def __init__(
        self, wake: Callable[[], None], expected: tuple[type[Exception], ...], stuck_s: float = STUCK_S
    ) -> None:
        """`wake` is called when something has finished; `expected` are the errors that go to `failed`.

        Any other exception is a defect: it is raised in the loop by `collect`, so that it ends the daemon with a
        traceback instead of a silent thread.
        """
        self._wake = wake
        self._expected = expected
        self._todo: queue.SimpleQueue[tuple[str, Callable[[], Finish]] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Finish] = queue.SimpleQueue()
        self._doing: tuple[str, float] | None = None
        self._stuck_s = stuck_s
        self._thread = threading.Thread(target=self._run, name="hands", daemon=True)
        self._thread.start()

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """See `Hands`."""
        self._todo.put((what, lambda: attempt(work, done, failed, self._expected)))

    def collect(self) -> None:
        """See `Hands`."""
        while not self._finished.empty():
            self._finished.get()()

    def stuck(self) -> str | None:
        """See `Hands`."""
        doing = self._doing
        return doing[0] if doing is not None and time.monotonic() - doing[1] > self._stuck_s else None

    def close(self, wait_s: float) -> bool:
        """See `Hands`."""
        self._todo.put(None)
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._todo.get()) is not None:
            what, work = task
            self._doing = what, time.monotonic()
            try:
                finish = work()
            except BaseException as error:  # noqa: BLE001 - raised again where it is seen: in the loop's thread
                finish = _raising(error)
            self._doing = None
            self._finished.put(finish)
            self._wake()


def _raising(error: BaseException) -> Finish:
    def finish() -> None:
        raise error

    return finish
