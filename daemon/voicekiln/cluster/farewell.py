"""What a Dask worker still does when a signal tells its process to leave.

With a nanny, a signal closes the worker in an orderly way. Without one, `dask worker` ends its loop on the spot and
closes nothing, so the daemons would take the worker for dead.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def close_before_signals(close: Callable[[], Awaitable[None]], loop: asyncio.AbstractEventLoop) -> None:
    """Let `close` come before what Python does now at a signal; where that is nothing, it stays so.

    Called in the thread of `loop`. Where that is not the main one, no signal ends it alone.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            if callable(before):
                _precede(number, before, close, loop)


def _precede(
    number: signal.Signals,
    before: Callable[[int, FrameType | None], Any],
    close: Callable[[], Awaitable[None]],
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def leave() -> None:
        await close()
        before(number, None)

    def caught(*_: object) -> None:
        signal.signal(number, before)  # the second one is not for us
        asyncio.run_coroutine_threadsafe(leave(), loop)

    signal.signal(number, caught)
