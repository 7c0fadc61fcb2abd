"""What the daemon tells systemd: datagrams to the socket named in NOTIFY_SOCKET, without a library.

Silent where there is no such socket (a terminal, a container). A message that cannot be sent is no reason to stop
converting, so `False` is all that comes of it: a READY or WATCHDOG that systemd misses has consequences of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from voicekiln.errors import plain

PATIENCE_S = 1.0
"""How long a message may wait for room in systemd's queue."""

MAX_STATUS = 240
"""Characters of the status line."""


@dataclass(slots=True)
class Notifier:
    """Speaks the sd_notify protocol."""

    address: str | None = None
    """Of the socket; None is silence. A leading NUL is an abstract one."""
    watchdog_every_s: float | None = None
    """How often systemd has to hear of progress; half of the time after which it would end the daemon."""
    _last: float = field(default=float("-inf"), init=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str], pid: int | None = None) -> Notifier:
        """Return the notifier that the variables of systemd ask for; `pid` is this process."""
        return cls(_address(env.get("NOTIFY_SOCKET", "")), _every_s(env, os.getpid() if pid is None else pid))

    def ready(self) -> bool:
        """Say that the start, or a reload, is over."""
        return self._send("READY=1")

    def watchdog(self, mono: float) -> bool:
        """Say that there is progress, if the last time was long enough ago; `mono` are monotonic seconds."""
        # Half again: the loop naps between two calls, and a ping that is a little late must still be in time.
        if self.watchdog_every_s is None or mono - self._last < self.watchdog_every_s / 2:
            return False
        self._last = mono
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(f"STATUS={plain(text, MAX_STATUS)}")

    def reloading(self, monotonic_us: int) -> bool:
        """Say that the configuration is read anew; `ready` ends that."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> bool:
        """Say that the end has begun."""
        return self._send("STOPPING=1")

    def _send(self, message: str) -> bool:
        if self.address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(PATIENCE_S)
                sender.sendto(message.encode(), self.address)
        except OSError:
            return False
        return True


def _address(named: str) -> str | None:
    """Return the address in Python's form; None for what is no local socket (systemd also has vsock)."""
    if named.startswith("@"):
        return "\0" + named[1:]
    return named if named.startswith("/") else None


def _every_s(env: Mapping[str, str], pid: int) -> float | None:
    usec = env.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or env.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 2e6
