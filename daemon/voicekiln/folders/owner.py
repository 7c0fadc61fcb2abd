"""One daemon an outbox: the marker by which daemons, on this host or others, see that there is another.

A hidden file in the outbox names the daemon that works there, with a counter. Another daemon lays a question beside it,
which the owner takes away and answers by raising the counter; it watches the counter on its own clock, stands by
while it moves, and takes over when it stands still. What clocks say on two hosts is never compared, and no lock is
asked for, since not every share has them. Nobody asks, nothing is written: disks may sleep and sync tools have
nothing to do. The file stays when a daemon ends: `released` says that nobody need wait. A daemon knows its own earlier
runs by its ledger; any other run is another's, also one of a copy of its state folder, or of what came after the backup
that it was put back from.

Nothing that is correct depends on this. Two daemons that both think they own an outbox do work twice; what they publish
is keyed by content and comes as a whole either way. Accepted: a daemon that is paused in the milliseconds between its
last look at the clock and its rename, and wakes up after a newer file was published by another, puts the older result
back, whole and with its own sidecar; and two daemons with one inbox and two outboxes do not see each other, so both
should have `sources: never`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from voicekiln.folders.files import NOT_A_FILE, open_folder, open_plain
from voicekiln.folders.names import temp_name

MARKER = temp_name("voicekiln", "owner")
QUESTION = temp_name("voicekiln", "question")
FILES = (MARKER, QUESTION)
"""Names that sync tools leave alone, like those of our temporary files."""

BEAT_S = 5.0
"""How often the owner looks whether it is asked, and others whether it has answered."""

STALE_S = 30.0
"""For so long a question has to be without an answer before another takes over."""

SURE_S = 15.0
"""For so long after a look that found its marker a daemon counts as the owner; the rest is for clocks and caches."""

UNKNOWN = "?"
"""Owner and ledger of a marker that cannot be read."""

_LEDGER = re.compile("[0-9a-f]{8}")
"""What `Ledger.instance` looks like. Whose temporary files are cleared away hangs on it."""

NO_FILE = f"{MARKER} in the outbox is not a file"

_BYTES = 512
"""The marker always has this length, so that it is written in one go, over the older one, on a full disk too."""


def clock() -> float:
    """Return seconds that go on while the machine sleeps: what was sure before is not after it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Marker:
    """What stands in the file."""

    owner: str
    """Random; of one run of one daemon."""
    ledger: str
    """`Ledger.instance` of that daemon: what it has published is known there."""
    host: str
    """Its name, at most 64 characters, for people."""
    beat: int
    released: bool = False
    """The daemon ended and waits for nobody."""


Standing = Literal["owner", "claiming", "spare"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the marker showed."""

    standing: Standing
    sure_until: float
    """Until when (`clock`) this daemon is the owner; it was never, if that has passed."""
    other: Marker | None
    """The marker of another ledger's daemon: of the owner that it stands by for, or of the one that it follows."""


class Tenancy:
    """One daemon's side of it. All methods touch the share, and are called from one thread."""

    def __init__(
        self, outbox: Path, me: Marker, former: Collection[str] = (), clock: Callable[[], float] = clock
    ) -> None:
        """`former` are the owners that earlier runs of the same daemon have been, as its ledger knows."""
        self._outbox = outbox
        self._me = me
        self._former = former
        self._clock = clock
        self._watched: Marker | None = None
        self._watched_since = 0.0
        self._claims = 0
        """Looks that the claim still has to survive; rivals write theirs in the same moment or not at all."""

    def look(self) -> Look:
        """Answer if somebody asks, or see whether the owner does; to be called every `BEAT_S`.

        Raises:
            ShareAwayError: if the outbox is not there.
            OSError: if the marker cannot be read or written, or something else lies in its place.
        """
        began = self._clock()
        with open_folder(self._outbox, PurePosixPath()) as folder:
            found = _read(folder)
            if found is not None and found.owner == self._me.owner:
                return self._go_on(folder, began)
            if found is None and _create(folder, self._me):
                return Look("owner", began + SURE_S, None)
            if found is None:  # somebody was quicker
                return Look("claiming", began, None)
            ours = found.owner in self._former
            if not ours and not found.released and not self._silent(folder, found, began):
                return Look("spare", began, found)
            self._watched = None
            self._me = replace(self._me, beat=0)
            _write(folder, self._me)
            _take_question(folder)
            self._claims = 0 if ours else 2
            return Look("owner", began + SURE_S, None) if ours else Look("claiming", began, found)

    def release(self) -> None:
        """Say that nobody need wait for this daemon, if it is the owner. Raises as `look` does."""
        with open_folder(self._outbox, PurePosixPath()) as folder:
            found = _read(folder)
            if found is not None and found.owner == self._me.owner:
                _write(folder, replace(self._me, beat=self._me.beat + 1, released=True))
            else:
                _take_question(folder)  # if another one asks, too, it asks again

    def _go_on(self, folder: int, began: float) -> Look:
        if _take_question(folder):
            self._me = replace(self._me, beat=self._me.beat + 1)
            _write(folder, self._me)
        self._claims = max(0, self._claims - 1)
        return Look("claiming", began, None) if self._claims else Look("owner", began + SURE_S, None)

    def _silent(self, folder: int, found: Marker, now: float) -> bool:
        """Ask; say whether the owner has been asked for so long and not answered."""
        watched, self._watched = self._watched, None  # if the question cannot be laid down, its silence says nothing
        _ask(folder)
        if found != watched:
            self._watched_since = now
        self._watched = found
        return now - self._watched_since >= STALE_S


def other_owner(outbox: Path, former: Collection[str]) -> Marker | None:
    """Return the marker of another daemon that may be at work there; `former` as in `Tenancy`.

    Raises:
        ShareAwayError: if the outbox is not there.
        OSError: if the marker cannot be read.
    """
    with open_folder(outbox, PurePosixPath()) as folder:
        found = _read(folder)
    return None if found is None or found.released or found.owner in former else found


def _ask(folder: int) -> None:
    with suppress(FileExistsError):
        os.close(os.open(QUESTION, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder))


def _take_question(folder: int) -> bool:
    """Take a question away; say whether there was one."""
    try:
        os.unlink(QUESTION, dir_fd=folder)
    except FileNotFoundError:
        return False
    except OSError:  # somebody's folder, or another user's file where only owners may delete: answered for ever
        return True
    return True


def _read(folder: int) -> Marker | None:
    """Return the marker; one that says nothing sensible is as good as that of an unknown daemon."""
    try:
        with open_plain(folder, MARKER) as file:
            text = file.read(_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in NOT_A_FILE:
            raise OSError(NO_FILE) from error
        raise
    try:
        facts = json.loads(text)
        ledger = str(facts["ledger"])
        return Marker(
            str(facts["owner"]),
            ledger if _LEDGER.fullmatch(ledger) else UNKNOWN,
            str(facts["host"]),
            int(facts["beat"]),
            facts["released"] is True,
        )
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return Marker(UNKNOWN, UNKNOWN, "an unknown host", zlib.crc32(text))


def _create(folder: int, marker: Marker) -> bool:
    """Write the first marker; False if there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(MARKER, flags, 0o644, dir_fd=folder)
    except FileExistsError:
        return False
    try:
        with suppress(PermissionError):  # a share that decides about that itself
            os.fchmod(file, 0o644)  # the daemon of another host may have another number
        _fill(file, marker)
    except OSError:  # the disk is full; an empty marker would make everybody wait
        os.unlink(MARKER, dir_fd=folder)
        raise
    finally:
        os.close(file)
    return True


def _write(folder: int, marker: Marker) -> None:
    """Write over the marker, in place: that needs no room."""
    try:
        file = os.open(MARKER, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except PermissionError:  # another user's
        os.unlink(MARKER, dir_fd=folder)
        _create(folder, marker)
        return
    try:
        _fill(file, marker)
    finally:
        os.close(file)


def _fill(file: int, marker: Marker) -> None:
    _must_be_plain(file)
    text = json.dumps(asdict(marker)).encode().ljust(_BYTES - 1) + b"\n"
    os.pwrite(file, text, 0)
    os.fsync(file)


def _must_be_plain(file: int) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(NO_FILE)
