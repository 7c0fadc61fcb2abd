"""Figures 18 and 19: what the daemon itself does for a voice while tens of thousands wait, and how fast it writes.

The daemon runs in this one thread, on real folders, with a made-up clock and workers in memory, so nothing waits for
anything: what is counted is work. Hands are counted apart, because in the real daemon they are another thread.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from benchmarks import stand_in
from benchmarks.harness import Figure, Room
from endings import converted
from kiln import Kiln, PromptHands, voice_bytes
from voicekiln.folders.voices import State
from voicekiln.job import Converted
from voicekiln.settings import Scan, Settle, Status
from voicekiln.worker.wire import Convert, Looked, Request

T = TypeVar("T")

WAITING = 50_000
PLACES = (10, 100, 1000)
TICKS = 30
"""A round."""
SOURCE_MB, RESULT_MB = 55, 110
VOICES = 8
TICK_S = 0.5
"""By the daemon's clock; any time longer than a file has to be quiet."""
NEVER_S = 1e6


class _Timed(PromptHands):
    """Hands whose seconds are kept by what they do: `copying`, `publishing` ..."""

    spent: defaultdict[str, list[float]]

    def __init__(self) -> None:
        super().__init__()
        self.spent = defaultdict(list)

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """See `PromptHands`."""
        began = time.perf_counter()
        super().do(what, work, done, failed)
        self.spent[what.split(maxsplit=1)[0]].append(time.perf_counter() - began)

    def total_s(self) -> float:
        """Return the seconds of all that they have done."""
        return sum(map(sum, self.spent.values()))


class _Daemon:
    """A daemon with so many places, in which no more jobs end than `may_end` says."""

    def __init__(self, folder: Path, places: int, megabytes: int = 0) -> None:
        """With `megabytes`, each result is as large, else it is a few bytes."""
        self.may_end = 0
        self._megabytes = megabytes
        scan, settle = Scan(NEVER_S, NEVER_S, "off"), Settle(quiet=TICK_S / 2)
        changes = {"scan": scan, "settle": settle, "status": Status(None, None)}
        self.kiln = Kiln(folder, self._answer, _Timed, PromptHands, places, **changes)
        self.kiln.machine.has_bytes = 1e18
        self.hands: _Timed = self.kiln.service.common.hands  # type: ignore[assignment]  # the class was given above

    def tick(self) -> float:
        """Return the seconds of a turn of the loop, without its hands'."""
        before, began = self.hands.total_s(), time.perf_counter()
        self.kiln.service.tick(self.kiln.now)
        took = time.perf_counter() - began - (self.hands.total_s() - before)
        self.kiln.mono += TICK_S
        self.kiln.wall += TICK_S
        return took

    def until(self, state: State, count: int) -> None:
        """Go on until so many voices are in a state.

        Raises:
            RuntimeError: if that does not come to be.
        """
        for _ in range(4 * count + 100):
            if self.kiln.ledger.counts().get(state, 0) >= count:
                return
            self.tick()
        raise RuntimeError(str(self.kiln.ledger.counts()))

    def _answer(self, request: Request) -> Converted | Looked | None:
        if self.may_end == 0 or not isinstance(request, Convert):
            return None
        self.may_end -= 1
        ending = converted(request.job)
        if not self._megabytes:
            return ending
        (made,) = ending.conversion.files
        (request.job.staging / made.name).write_bytes(content := stand_in.BLOCK * self._megabytes)
        made = replace(made, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        return Converted(replace(ending.conversion, files=(made,)))


def loop(room: Room) -> Iterator[Figure]:
    """Figure 18: a turn in which nothing happens, and one in which a voice ends and another one takes its place."""
    files = WAITING // 10 if room.quick else WAITING
    for places in PLACES:
        with room.scratch() as folder:
            (folder / "inbox").mkdir()
            for number in range(files):
                (folder / "inbox" / f"{number}.pth").write_bytes(voice_bytes(f"voice {number}"))
            daemon = _Daemon(folder, places)
            daemon.until(State.QUEUED, places + 2)
            still, moving = [], []
            for _ in range(3):
                still.append(1000 * sum(daemon.tick() for _ in range(TICKS)) / TICKS)
                total = 0.0
                for _ in range(TICKS):
                    daemon.may_end = 1
                    total += daemon.tick()
                moving.append(1000 * total / TICKS)
            daemon.kiln.close()
        what = f"{files} waiting, {places} places busy: a turn of the loop"
        yield Figure(18, f"{what}, without news", still, "ms")
        yield Figure(18, f"{what}, with a voice's end", moving, "ms")


def hands(room: Room) -> Iterator[Figure]:
    """Figure 19: the way into the spool and the way into the outbox, one voice at a time, synced as always."""
    for what, megabytes in (("small", 0), ("usual", SOURCE_MB)):
        with room.scratch() as folder:
            (folder / "inbox").mkdir()
            for number in range(VOICES):
                content = os.urandom(megabytes * stand_in.MB).hex()[: megabytes * stand_in.MB]
                (folder / "inbox" / f"{number}.pth").write_bytes(voice_bytes(f"{number}{content}"))
            daemon = _Daemon(folder, 1, RESULT_MB if megabytes else 0)
            daemon.may_end = VOICES
            daemon.until(State.DONE, VOICES)
            daemon.kiln.close()
            for way, size in (("copying", megabytes), ("publishing", RESULT_MB if megabytes else 0)):
                seconds = daemon.hands.spent[way]
                yield Figure(19, f"{way} a {what} voice" + f" ({size} MB)" * bool(size), seconds, "s")
