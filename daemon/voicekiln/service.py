"""The daemon: puts the parts together and runs the loop.

`Service.tick` is the loop's body as a function: it reads the clocks, collects what the hands and the workers have
finished, gives out new work and says when it has to be called again. It never touches a share itself and never
waits, so that the watchdog ping it sends is proof of progress. Tests call it with made-up clocks and hands.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from voicekiln import __version__, config, logs
from voicekiln.errors import ConfigError
from voicekiln.folders.ledger import Ledger, State
from voicekiln.folders.names import shown
from voicekiln.folders.watch import Watch, file_system
from voicekiln.notify import Notifier
from voicekiln.settings import Settings
from voicekiln.supervisor.common import Common, Home, Log, Now
from voicekiln.supervisor.delivery import Post
from voicekiln.supervisor.dispatch import Dispatch
from voicekiln.supervisor.hands import ThreadHands
from voicekiln.supervisor.hiring import devices, hire
from voicekiln.supervisor.intake import EXPECTED, Intake
from voicekiln.supervisor.upkeep import Broom, clear_litter, recover
from voicekiln.worker.keeper import Keeper

LEDGER = "ledger.sqlite"
LOCK = "lock"
FIXED = ("inbox", "outbox", "state", "worker")
"""Settings that a running daemon cannot change."""

LONGEST_NAP_S = 5.0
"""The loop wakes at least this often, to see what a command has written into the ledger."""

STOP_HANDS_S = 20.0
STOP_WORKER_S = 5.0
"""How long a clean stop waits for a copy that is under way, and for the worker at each rung of its ladder."""


class AlreadyRunningError(Exception):
    """Another daemon holds the lock of the state folder."""


@contextmanager
def only_daemon(state: Path) -> Iterator[None]:
    """Hold the lock of the state folder.

    Raises:
        AlreadyRunningError: if another process holds it.
    """
    file = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(str(state)) from error
        yield
    finally:
        os.close(file)


def is_running(state: Path) -> bool:
    """Say whether a daemon works on this state folder."""
    if not (state / LOCK).exists():  # made by the daemon, with its rights; not by whoever asks
        return False
    try:
        with only_daemon(state):
            return False
    except AlreadyRunningError:
        return True


class Service:
    """See the module."""

    def __init__(self, common: Common, keepers: Sequence[Keeper], notifier: Notifier) -> None:
        """Pick up what a former daemon left; `keepers` are the workers, one per device."""
        self.common = common
        self.intake = Intake(common)
        self.dispatch = Dispatch(common, keepers)
        self.post = Post(common)
        self.broom = Broom(common)
        self._notifier = notifier
        self._said_ready = False
        self._status: str | None = None
        recover(common)
        clear_litter(common)

    def tick(self, now: Now) -> float:
        """Do all that can be done now without waiting; return the monotonic time of the next call.

        The caller calls earlier when something wakes it: an event, a worker's line, hands that have finished.
        """
        self.common.now = now
        self.common.hands.collect()
        self.dispatch.step()
        self.intake.step()
        self.post.step()
        if self.intake.knows:
            self.broom.step()
        self._tell_systemd()
        due = (self.intake.due(), self.dispatch.due(), self.common.next_try(), self.broom.due)
        return max(now.mono, min(*due, now.mono + LONGEST_NAP_S))

    def reload(self, path: Path) -> None:
        """Read the configuration anew; it is taken only if it is right and the folders are the same."""
        self._notifier.reloading(int(self.common.now.mono * 1e6))
        try:
            self.common.settings = _reread(path, self.common.settings)
        except ConfigError as error:
            self.common.log.error("config.refused", problems=error.problems)  # noqa: TRY400 - they are all there is to say
        else:
            logs.configure(self.common.settings.log.format, self.common.settings.log.level, sys.stderr)
            self.common.log.info("config.reloaded", config=str(path))
        self._notifier.ready()

    def stop(self) -> bool:
        """Stop cleanly: jobs go back into the queue, a copy under way is finished. False if a share hangs."""
        self._notifier.stopping()
        self.dispatch.close(STOP_WORKER_S)
        finished = self.common.hands.close(STOP_HANDS_S)
        if finished:
            self.common.hands.collect()
        return finished

    def status(self) -> str:
        """Return the state of things in one line."""
        counts = self.common.ledger.counts()
        waiting = sum(counts.get(s, 0) for s in (State.SETTLING, State.INCOMPLETE, State.QUEUED))
        parts = [f"{waiting} waiting", f"{counts.get(State.DONE, 0)} done", f"{counts.get(State.REFUSED, 0)} refused"]
        parts += [
            f"converting {shown(b.voice.relpath)}: {b.stage or 'starting'}" for b in self.dispatch.benches if b.voice
        ]
        parts += [f"{which} away: {reason}" for which, reason in sorted(self.common.away.items())]
        return ", ".join(parts)

    def _tell_systemd(self) -> None:
        if not self._said_ready and (self.intake.knows or self.common.away):
            self._said_ready = True
            self._notifier.ready()
            self.common.log.info("service.ready", status=self.status())
        status = self.status()
        if status != self._status:
            self._status = status
            self._notifier.status(status)
            self.common.ledger.set_fact("status", status)
        self._notifier.watchdog(self.common.now.mono)


def _reread(path: Path, old: Settings) -> Settings:
    new = config.load_prepared(path)
    moved = [f"{name}: changed, which needs a restart" for name in FIXED if getattr(old, name) != getattr(new, name)]
    if moved:
        raise ConfigError(moved)
    return new


def run(path: Path, settings: Settings, log: Log) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit status. SIGHUP reads the configuration at `path` anew.

    Raises:
        AlreadyRunningError: if another daemon works on the same state folder.
    """
    with only_daemon(settings.state), Ledger(settings.state / LEDGER) as ledger:
        return _Loop(path, settings, ledger, log).run()


class _Loop:
    """What a test of the service does without: clocks, signals, threads, events."""

    def __init__(self, path: Path, settings: Settings, ledger: Ledger, log: Log) -> None:
        self._path = path
        self._wake = threading.Event()
        self._event = threading.Event()
        self._wanted: set[int] = set()
        self._watch: Watch | None = None
        self._watch_again = float("-inf")
        common = Common(settings, ledger, ThreadHands(self._wake.set, EXPECTED), log, Home.of(settings), now())
        keepers = [hire(settings.worker, device, self._wake.set) for device in devices(settings.worker.device)]
        self._service = Service(common, keepers, Notifier.from_env(os.environ))
        self._log = log

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._log.info("service.started", version=__version__, config=str(self._path))
        self._mind_the_watch()
        while not self._wanted & {signal.SIGTERM, signal.SIGINT}:
            self._wake.clear()
            if self._event.is_set():
                self._event.clear()
                self._service.intake.look_soon()
            due = self._service.tick(now())
            if signal.SIGHUP in self._wanted:
                self._wanted.discard(signal.SIGHUP)
                self._service.reload(self._path)
            self._mind_the_watch()
            self._wake.wait(max(0.0, due - time.monotonic()))
        return self._end()

    def _end(self) -> int:
        clean = self._service.stop()
        if self._watch is not None:
            self._watch.stop()
        self._log.info("service.stopped", clean=clean)
        if not clean:
            os._exit(0)  # a thread hangs on a dead share; the interpreter would wait for it for ever
        return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._wanted.add(number)
        self._wake.set()

    def _on_event(self) -> None:
        self._event.set()
        self._wake.set()

    def _mind_the_watch(self) -> None:
        """Keep an observer on the inbox where events are to be had; without one, look more often.

        An observer that has died, or that a share took with it when it went away, is replaced when the share is back.
        """
        settings = self._service.common.settings
        wanted = wants_events(settings) and "inbox" not in self._service.common.away
        if self._watch is not None and not (wanted and self._watch.healthy(self._service.intake.folders)):
            self._watch.stop()
            self._watch = None
            self._service.intake.look_soon()
        if self._watch is None and wanted and time.monotonic() >= self._watch_again:
            self._watch_again = time.monotonic() + settings.scan.rescan
            self._watch = Watch(settings.inbox, self._on_event)
            self._watch.start()
            self._service.intake.look_soon()
        alive = self._watch is not None
        self._service.intake.every_s = settings.scan.rescan if alive else settings.scan.poll


def wants_events(settings: Settings) -> bool:
    """Say whether the inbox is to be watched by events: where its file system tells of changes made by others."""
    if settings.scan.events == "auto":
        return not file_system(settings.inbox).is_network
    return settings.scan.events == "on"


def now() -> Now:
    """Read both clocks."""
    return Now(time.monotonic(), time.time())
