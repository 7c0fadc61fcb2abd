"""Landlock: the kernel's means by which a process without privileges gives up its access to files for good.

Three system calls through ctypes and not a library: of those for Python none had a release that was not called alpha
or development when this was written, and they are longer than what is needed here. What a kernel does not know yet is
left out of what is asked for (the versions of the interface, "ABI", are numbered; the kernel's documentation,
userspace-api/landlock, has the table). It holds for the thread that asks and for all that it starts later, so it comes
before any other thread.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Mapping
from enum import IntFlag
from pathlib import Path
from typing import Final

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""The numbers of the system calls, the same on every architecture."""

CREATE_RULESET_VERSION: Final = 1
RULE_PATH_BENEATH: Final = 1


class Files(IntFlag):
    """What can be done with files; from <linux/landlock.h>."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ: Final = Files.READ_FILE | Files.READ_DIR
WRITE: Final = (
    READ | Files.WRITE_FILE | Files.TRUNCATE | Files.MAKE_REG | Files.MAKE_DIR | Files.REMOVE_FILE | Files.REMOVE_DIR
)
"""Plain files and folders only: no links that lead elsewhere, no pipes, no devices."""
DEVICE: Final = Files.READ_FILE | Files.WRITE_FILE | Files.IOCTL_DEV

OF_A_FILE: Final = Files.EXECUTE | Files.WRITE_FILE | Files.READ_FILE | Files.TRUNCATE | Files.IOCTL_DEV
"""What makes sense for something that is no folder; the kernel takes no more for it."""

KNOWN_SINCE: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The bits of `Files` that exist from an ABI on."""

TCP: Final = 0b11
"""To bind and to connect; from ABI 4. Other ways into the network are seccomp's."""
SCOPES: Final = 0b11
"""To connect to abstract sockets and to send signals, both to processes outside; from ABI 6."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def abi() -> int:
    """Return the version of the interface.

    Raises:
        OSError: if this kernel has none, or the surroundings forbid it.
    """
    return _call(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)


def restrict(allowed: Mapping[Path, Files], version: int) -> None:
    """Leave this thread what `allowed` names, with all beneath it, and forbid it all else.

    A path that is not there is left out. The descriptors of folders in /proc stay open: there the kernel knows a
    folder only while somebody holds it. Without privileges, the thread has to have given up gaining any.

    Raises:
        OSError: if that is not possible; nothing is forbidden then.
    """
    handled = Files(KNOWN_SINCE[max(since for since in KNOWN_SINCE if since <= version)])
    attributes = _Ruleset(handled, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0)  # noqa: PLR2004 - above
    size = 8 * (1 + (version >= 4) + (version >= 6))  # noqa: PLR2004 - an older kernel knows a shorter form
    ruleset = _call(CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access & handled)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: Files) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    try:
        rule = _Beneath(access if folder else access & OF_A_FILE, descriptor)
        _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        if not path.is_relative_to("/proc/self"):
            os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    got = int(_libc.syscall(ctypes.c_long(number), *_wide(arguments)))
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return got


def _wide(arguments: Iterable[object]) -> list[object]:
    """Return whole numbers as wide as the kernel reads them; ctypes would hand on half of their bits."""
    return [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
