"""Ports of the loopback for servers that the tests start."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a port that nobody has, of those that the kernel gives to nobody by itself before it is used."""
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", 15_000 + secrets.randbelow(17_000)))
            return int(free.getsockname()[1])
