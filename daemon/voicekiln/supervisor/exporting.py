"""Brings the metrics out: into a file for node_exporter, to whoever asks at a local socket, or both.

Neither may hold up the work. The loop looks around every 15 s, which costs it some questions to its own memory and
ledger; writing and answering are done by a thread each. These are not the hands: those serve the shares, and a folder
of node_exporter's that hangs must not keep a voice from being published, nor a dead share a monitor from hearing of it.
The heartbeat is the loop's, not that of the thread that writes, which would go on for ever beside a loop that hangs.

The file is written when something worth it has changed, and every minute for the heartbeat. After a clean stop it
stays, says that nothing is up and tells nothing else that would grow stale; after a crash its heartbeat grows old.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from voicekiln.errors import plain
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.hands import Hands
from voicekiln.supervisor.scrape import Scrape

EVERY_S = 15.0
"""Between two looks around, and so the shortest time between two writes."""
IDLE_S = 60.0
"""The longest time between two writes: the heartbeat."""
FREE_EVERY_S = 60.0
"""Between two questions to the share how much room there is."""
CLOSE_S = 2.0
"""How long a clean stop waits for the last write."""
MODE = 0o644
"""Of the file: node_exporter runs as another user, and nothing in it is secret."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """How things stand. What is not compared changes all the time and is no reason to write."""

    active: bool
    """Whether this daemon works on the outbox; otherwise it stands by."""
    troubles: int
    away: frozenset[str]
    """Shares that cannot be reached."""
    voices: Mapping[str, int]
    """All states."""
    workers: int
    busy: int
    waiting_since: float | None = field(compare=False)
    """Wall-clock seconds since when the oldest unfinished voice waits; None if there is none."""
    last_scan: float | None = field(compare=False)
    """Wall-clock seconds; None before the first."""
    free: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Bytes, by folder; none where it is not known."""


class Meter(Protocol):
    """`metrics.Meter`; named here so that nobody loads that without need."""

    heard: int

    def hear(self, event: str, facts: Mapping[str, Any]) -> None: ...  # noqa: D102 - see there
    def see(self, gauges: Gauges | None, wall: float) -> None: ...  # noqa: D102 - see there
    def text(self) -> bytes: ...  # noqa: D102 - see there


class Exporter:
    """An attendant of the loop; see the module."""

    def __init__(self, common: Common, look: Callable[[], Gauges], meter: Meter, hands: Hands) -> None:
        """`look` says how things stand; `hands` do nothing but write the file."""
        self._common = common
        self._look = look
        self._meter = meter
        self._hands = hands
        self.hear = meter.hear
        self._textfile = common.settings.metrics.textfile
        path = common.settings.metrics.socket
        self._scrape = None if path is None else Scrape(path, meter.text)
        self._due = float("-inf")
        self._free: dict[str, int] = {}
        self._free_due = float("-inf")
        self._asking = False
        self._writing = False
        self._written: tuple[int, Gauges] | None = None
        self._write_due = float("-inf")
        self._told: dict[str, str] = {}
        """The trouble that was logged, of the file and of the socket."""

    def step(self) -> float:
        """See `Attendant`."""
        self._hands.collect()
        now = self._common.now
        if now.mono < self._due:
            return self._due
        self._due = now.mono + EVERY_S
        self._ask_for_room()
        gauges = replace(self._look(), free=dict(self._free))
        self._meter.see(gauges, now.wall)
        if self._textfile is not None and not self._writing:
            worth = self._meter.heard, gauges
            if worth != self._written or now.mono >= self._write_due:
                self._written, self._write_due = worth, now.mono + IDLE_S
                self._write(self._textfile)
        if self._scrape is not None:
            self._note("socket", self._scrape.trouble)
        return self._due

    def close(self) -> None:
        """See `Attendant`. Leaves the file with the word that nothing is up, and no socket."""
        self._meter.see(None, self._common.now.wall)
        if self._textfile is not None:
            self._write(self._textfile)
        self._hands.close(CLOSE_S)
        self._hands.collect()
        if self._scrape is not None:
            self._scrape.close(CLOSE_S)

    def _write(self, path: Path) -> None:
        def done(_: None) -> None:
            self._writing = False
            self._note("textfile", None)

        def failed(error: Exception) -> None:
            self._writing, self._written = False, None
            self._note("textfile", plain(getattr(error, "strerror", None) or str(error)))

        self._writing = True
        self._hands.do("writing the metrics", lambda: write(path, self._meter.text()), done, failed)

    def _note(self, what: str, trouble: str | None) -> None:
        """Say once that something does not work, and once that it works again."""
        if trouble is not None and self._told.get(what) != trouble:
            self._told[what] = trouble
            self._common.log.warning("metrics.failed", what=what, reason=trouble)
        elif trouble is None and self._told.pop(what, None) is not None:
            self._common.log.info("metrics.work", what=what)

    def _ask_for_room(self) -> None:
        """Have the hands ask, since a dead share does not answer; what it said before is then forgotten."""
        common, now = self._common, self._common.now
        overdue = now.mono >= self._free_due
        if common.away or (self._asking and overdue):
            self._free = {}
        if common.away or self._asking or not overdue:
            return
        self._asking, self._free_due = True, now.mono + FREE_EVERY_S

        def done(free: dict[str, int]) -> None:
            self._asking, self._free = False, free

        def failed(error: Exception) -> None:
            self._asking, self._free = False, {}
            common.heard(error)

        common.hands.do("asking for free room", lambda: _free(common), done, failed)


def _free(common: Common) -> dict[str, int]:
    """Return the bytes that may be written to outbox and state folder. For the hands.

    Raises:
        AwayError: if the outbox is away.
        OSError: if it does not say.
    """
    common.homes.check("outbox")
    asked = {name: os.statvfs(getattr(common.settings, name)) for name in ("outbox", "state")}
    return {name: told.f_bavail * told.f_frsize for name, told in asked.items()}


def write(path: Path, text: bytes) -> None:
    """Replace the file at once, readable for all. A crash leaves one hidden file, which the next write takes up.

    Not with the library's own function: its file is as private as the service's umask makes it, and of each crash
    another temporary one is left. Not synced to disk: after a power cut, the next start writes anew.

    Raises:
        OSError: if it cannot be written; the old one is then as it was.
    """
    part = path.with_name(f".~{path.name}.part")  # node_exporter reads only what ends in .prom
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
            os.fchmod(descriptor, MODE)
            file.write(text)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
