"""What happens to a daemon: killed, stopped, frozen, disks full, shares away, clocks that jump, events that are lost.

One daemon after the other works on the same folders. Each life draws its own weaknesses (`_prelude`): whether it
hears of events at all, and whether it dies by itself at a named step, which no signal from outside would hit.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from chaos.ground import Ground
from running import Daemon

CONFIG = """
scan: {{rescan: 2s, poll: 1s, events: {events}}}
settle: {{quiet: 0.3s, legacy_quiet: 1s, incomplete_after: 2s}}
worker: {{device: cpu, attempts: 100}}
sweep: {{sources: 30d, results: 30d, refusals: 30d, every: 1s, max_share: 100%, originals_elsewhere: true}}
log: {{format: json}}
"""
"""So many attempts, because here it is never the file's fault that a worker was killed. Nothing gets 30 days old,
whatever the clock says."""

PRELUDE = """
import os, random, signal, time

real_time, real_write, real_fsync, real_sleep = time.time, os.write, os.fsync, time.sleep
dice = random.Random({number})

def wall():
    try:
        with open({clock!r}) as file:
            return real_time() + float(file.read())
    except (OSError, ValueError):
        return real_time()

def write(file, data):  # a share is slower than memory, and takes large pieces bit by bit
    if len(data) > 65536:
        real_sleep(0.002)
        data = data[:65536]
    return real_write(file, data)

def fsync(file):
    real_sleep(0.005 * dice.random())
    real_fsync(file)

time.time, os.write, os.fsync = wall, write, fsync

import voicekiln.loop, voicekiln.steps, voicekiln.supervisor.common

voicekiln.supervisor.common.FIRST_RETRY_S = 0.3
voicekiln.supervisor.common.LAST_RETRY_S = 3.0
voicekiln.loop.LEDGER_RETRY_S = 1.0

def passed(step):
    real_sleep(0.02 * dice.random())
    if dice.random() < {dies}:
        with open({deaths!r}, "a") as file:
            file.write(step.name + chr(10))
        os.kill(os.getpid(), signal.SIGKILL)

voicekiln.steps.on_passed = passed
if {deaf}:
    voicekiln.loop._Loop._on_event = lambda self: None
"""

TEN_YEARS_S = 10 * 365.25 * 86400


class Trouble:
    """See the module."""

    def __init__(self, ground: Ground, seed: int, tell: Callable[[str], None]) -> None:
        self._ground = ground
        self._dice = random.Random(f"{seed} trouble")  # noqa: S311 - one seed, one run
        self._tell = tell
        self._clock = ground.at / "clock"
        self._deaths = ground.at / "deaths"
        self._frail = False
        self._may_start = True
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.daemon = self._life()

    # --- lives ---------------------------------------------------------------------------------------------------

    def _life(self, *, healthy: bool = False) -> Daemon:
        """Start a daemon with the weaknesses that this life has."""
        draw = self._dice.random
        self._frail = not healthy and draw() < 0.5
        deaf, events = not healthy and draw() < 0.3, "off" if not healthy and draw() < 0.2 else "auto"
        prelude = PRELUDE.format(
            number=self._dice.randrange(1 << 30),
            clock=str(self._clock),
            deaths=str(self._deaths),
            dies=0.02 if self._frail else 0,
            deaf=deaf,
        )
        self._tell(f"daemon starts: frail={self._frail} deaf={deaf} events={events}")
        return Daemon(self._ground.at, CONFIG.format(events=events), prelude).__enter__()

    def pass_time(self, seconds: float) -> None:
        """Wait, and start the next daemon where one has died by itself, as systemd would."""
        end = time.monotonic() + seconds
        while True:
            if self._may_start and (status := self.daemon.process.poll()) is not None:
                if not (self._frail and status == -signal.SIGKILL):
                    self.wrong.append(f"the daemon ended by itself with status {status}")
                self.kinds["killed at a step"] += 1
                self.daemon = self._life()
            if time.monotonic() >= end:
                return
            time.sleep(0.02)

    def end(self) -> int:
        """End the daemon as systemd does; return its exit status."""
        self.daemon.process.send_signal(signal.SIGTERM)
        try:
            status = self.daemon.process.wait(60)
        except subprocess.TimeoutExpired:
            self.wrong.append("the daemon did not end within a minute of SIGTERM")
            self.daemon.process.kill()
            status = self.daemon.process.wait()
        # A SIGTERM that comes before there is anything to end may end the process by itself.
        if status not in (0, -signal.SIGTERM) and not (self._frail and status == -signal.SIGKILL):
            self.wrong.append(f"SIGTERM ended the daemon with status {status}")
        return status

    def kill(self) -> None:
        """Leave nothing running."""
        self.daemon.process.kill()
        self.daemon.process.wait()

    def over(self) -> None:
        """Let a daemon without weaknesses have the last word."""
        self._set_clock(0.0)
        self._die()
        self._frail = False
        self.daemon = self._life(healthy=True)

    # --- troubles ------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Let something happen, whatever is drawn, until it is over."""
        troubles: dict[str, Callable[[], None]] = {
            "daemon killed": self._kill_daemon,
            "daemon stopped": self._stop_daemon,
            "daemon frozen": self._freeze,
            "worker killed": self._kill_workers,
            "outbox full": lambda: self._full("outbox"),
            "state full": lambda: self._full("state"),
            "inbox away": lambda: self._away("inbox"),
            "outbox away": lambda: self._away("outbox"),
            "both away": lambda: self._away("inbox", "outbox"),
            "outbox read-only": self._read_only,
            "clock jumps": self._jump,
        }
        name = self._dice.choice(sorted(troubles))
        self.kinds[name] += 1
        self._tell(f"trouble: {name}")
        troubles[name]()
        self._tell(f"over: {name}")

    def _while_it_lasts(self) -> None:
        """Pass some time, in which more may happen."""
        self.pass_time(self._dice.uniform(0.3, 2.0))
        match self._dice.randrange(5):
            case 0:
                self._kill_workers()
            case 1:
                self._kill_daemon()
            case _:
                return
        self.pass_time(self._dice.uniform(0.3, 2.0))

    def _die(self) -> None:
        with suppress(ProcessLookupError):
            self.daemon.process.kill()
        self.daemon.process.wait()

    def _kill_daemon(self) -> None:
        self._die()
        self.pass_with_none()
        self.daemon = self._life()

    def _stop_daemon(self) -> None:
        if self.daemon.process.poll() is None:
            self.end()
        self.pass_with_none()
        self.daemon = self._life()

    def pass_with_none(self) -> None:
        """Leave a gap between two daemons; some begin at the time of an earlier one, as without a clock."""
        if self._dice.random() < 0.3:
            self._set_clock(1_700_000_000.0 - time.time())
            self.kinds["no clock at start"] += 1
        time.sleep(self._dice.uniform(0.0, 0.5))

    def _freeze(self) -> None:
        with suppress(ProcessLookupError):
            self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.2, 1.5))
        with suppress(ProcessLookupError):
            self.daemon.process.send_signal(signal.SIGCONT)

    def _kill_workers(self) -> None:
        for _ in range(2):
            pid = self.daemon.worker()
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, self._dice.choice((signal.SIGKILL, signal.SIGSEGV)))

    def _full(self, which: str) -> None:
        self._ground.fill(which)
        try:
            self._while_it_lasts()
        finally:
            self._ground.empty(which)

    def _away(self, *shares: str) -> None:
        for share in shares:
            self._ground.take_away(share)
        try:
            self._while_it_lasts()
        finally:
            for share in shares:
                self._ground.bring_back(share)

    def _read_only(self) -> None:
        """A daemon that starts meanwhile says so and ends, since that is for a person to put right; none follows it."""
        while not self._ground.read_only("outbox", on=True):
            self.pass_time(0.02)
        self._may_start = False
        try:
            self.pass_time(self._dice.uniform(0.5, 2.0))
        finally:
            self._ground.read_only("outbox", on=False)
            self._may_start = True
        if self.daemon.process.poll() == os.EX_CONFIG:
            self.daemon = self._life()

    def _jump(self) -> None:
        self._set_clock(self._dice.choice((-TEN_YEARS_S, 0.0, TEN_YEARS_S)))

    def _set_clock(self, offset_s: float) -> None:
        part = self._clock.with_suffix(".part")
        part.write_text(repr(offset_s))
        part.replace(self._clock)

    def steps_died_at(self) -> dict[str, int]:
        """Return how often a daemon died at which step."""
        try:
            return dict(Counter(self._deaths.read_text().split()))
        except FileNotFoundError:
            return {}
