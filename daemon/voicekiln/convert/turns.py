"""One process at a time in a folder, so that of several that want the same made there, one makes it.

The folder itself is what is locked: nothing lies there for it, and the kernel unlocks it for a process that dies. It is
a courtesy and no fence: where there is no folder, on a file system without locks, or beside a process that never lets
go, the work is done all the same.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

TURN_S: Final = 120.0
"""So long others may hold the folder."""

LOOK_S: Final = 0.05


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold a folder before all other processes; what is in the way of that is passed over."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            _wait(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait(descriptor: int) -> None:
    """Return when the folder is locked, or after `TURN_S`.

    Raises:
        OSError: if it cannot be locked at all.
    """
    by = time.monotonic() + TURN_S
    while not locked(descriptor) and time.monotonic() < by:
        time.sleep(LOOK_S)


def locked(descriptor: int) -> bool:
    """Lock what is open here and say so; say no if somebody else has it.

    Raises:
        OSError: if it cannot be locked at all.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
