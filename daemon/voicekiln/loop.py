"""The process around the service: one daemon a state folder, the loop that waits, signals, events, full disks.

What a test of the service does without. A ledger that cannot be written ends the loop and begins a new one from
what the ledger holds, as after a crash; everything else that goes wrong is an answer within a tick, or a defect.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from voicekiln import __version__
from voicekiln.errors import LedgerDamagedError, LedgerStuckError
from voicekiln.folders.database import set_aside
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.watch import Watch
from voicekiln.notify import Notifier
from voicekiln.service import STOP_WORKER_S, Service
from voicekiln.settings import Settings, span
from voicekiln.supervisor.common import EXPECTED, Common, Log, Now
from voicekiln.supervisor.exporting import Exporter
from voicekiln.supervisor.hands import ThreadHands
from voicekiln.supervisor.hiring import HERE, Machine, devices, hire, rooms
from voicekiln.supervisor.homes import Homes
from voicekiln.supervisor.notices import Notices
from voicekiln.supervisor.ownership import Ownership
from voicekiln.worker.keeper import Keeper

if TYPE_CHECKING:
    from voicekiln.cluster.crew import Crew

LEDGER = "ledger.sqlite"
LOCK = "lock"
"""Files of the state folder."""

ENDING = {signal.SIGTERM, signal.SIGINT}
"""Signals that ask for a clean end."""

CLOSED = "closed"
"""Fact in the ledger while no daemon has it: the last one came to a clean end."""

LEDGER_RETRY_S = 10.0
"""How long to wait when the ledger cannot be written, before everything begins anew from what it holds."""


GROWING_S = 5.0
"""For so long the number of watched folders has to stand still below that of the folders before it is too small."""


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
        for patience in (*(0.1,) * 10, None):  # `is_running` may hold it for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if patience is None:
                    raise AlreadyRunningError(str(state)) from error
                time.sleep(patience)
        yield
    finally:
        os.close(file)


def is_running(state: Path) -> bool:
    """Say whether a daemon works on this state folder."""
    if not (state / LOCK).exists():  # made by the daemon, with its rights; not by whoever asks
        return False
    file = os.open(state / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def run(path: Path, settings: Settings, log: Log) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit status. SIGHUP reads the configuration at `path` anew.

    Raises:
        AlreadyRunningError: if another daemon works on the same state folder.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes now must not end us; the settings are fresh anyway
    why = "the ledger cannot be written; is the disk of the state folder full?"
    try:
        with only_daemon(settings.state):
            try:
                with _ledger(settings.state / LEDGER, log) as ledger:
                    return _Loop(path, settings, ledger, log).run()
            except LedgerDamagedError as error:  # since it was opened
                why = "the ledger is damaged; a new one is begun"
                _replace(settings.state / LEDGER, error, log)
    except LedgerStuckError as error:
        log.error("ledger.stuck", reason=str(error), again_s=LEDGER_RETRY_S)  # noqa: TRY400 - that is all there is to say
    _begin_anew(why)
    return 0


def _ledger(path: Path, log: Log) -> Ledger:
    """Open the ledger, or begin a new one where it is of no use; what lies in the outbox fills that.

    All of it is read only after an end that was not clean, which is when damage is done: with a million rows that
    takes half a minute. Any other damage is met where it lies, and the ledger replaced then.
    """
    ledger = None
    try:
        ledger = Ledger(path)
        if ledger.fact(CLOSED) is None:
            ledger.close()
            _read_through(path)
            ledger = Ledger(path)
            ledger.must_be_sound()
        ledger.set_fact(CLOSED, None)
    except LedgerDamagedError as error:
        if ledger is not None:
            ledger.close()
        _replace(path, error, log)
        return Ledger(path)
    return ledger


def _read_through(path: Path) -> None:
    """Have a file in the system's memory, read from front to back; SQLite leaps, which takes ten times as long.

    Only while no connection is open here: closing any descriptor of the file gives up the locks of that, too.
    """
    with suppress(OSError), path.open("rb") as file:  # SQLite meets the same error, and knows what it means
        while file.read(1 << 20):
            pass


def _replace(path: Path, error: LedgerDamagedError, log: Log) -> None:
    """Keep the ledger under another name and say so."""
    kept = set_aside(path)
    log.error("ledger.replaced", reason=str(error), kept_as=kept.name, then="a new one is filled from the outbox")


def _begin_anew(why: str) -> None:
    """Wait, and become a new process with the same number, which goes on from what the ledger holds.

    Nothing of the old one can then go on beside it: no thread that hangs on a share, no setting that has changed.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    notifier = Notifier.from_env(os.environ)
    notifier.ready()
    notifier.status(why)
    end = time.monotonic() + LEDGER_RETRY_S
    while (left := end - time.monotonic()) > 0:
        notifier.watchdog(time.monotonic())
        time.sleep(min(1.0, left))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, word for word


class _Bell:
    """Wakes the loop from other threads and from signal handlers; a pipe, because an Event's lock is not reentrant."""

    def __init__(self) -> None:
        self._hear, self._ring = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # full: it has been rung often enough
            os.write(self._ring, b"!")

    def wait(self, seconds: float) -> None:
        """Return when the bell was rung since the last call, or after so many seconds."""
        select.select([self._hear], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._hear, 65536)


class _Loop:
    """What a test of the service does without: clocks, signals, threads, events."""

    def __init__(self, path: Path, settings: Settings, ledger: Ledger, log: Log) -> None:
        self._path = path
        self._bell = _Bell()
        self._event = threading.Event()
        self._wanted: set[int] = set()
        self._watch: Watch | None = None
        self._watch_again = float("-inf")
        self._arming = False
        self._watched = 0
        self._watched_since = float("-inf")
        self._crew: Crew | None = None
        homes = Homes.of(settings)
        hands = ThreadHands(self._bell.ring, EXPECTED)
        common = Common(settings, ledger, hands, log, homes, homes.name_max(), now())
        keepers, machine = self._hire(settings, ledger.instance, log)
        ownership = Ownership(common, ThreadHands(self._bell.ring, EXPECTED))
        aside = ThreadHands(self._bell.ring, EXPECTED)
        self._service = Service(common, keepers, Notifier.from_env(os.environ), ownership, aside, machine)
        self._log = log
        self._add_attendants()

    def _hire(self, settings: Settings, ledger: str, log: Log) -> tuple[Sequence[Keeper], Machine]:
        """Return the workers, and the machine that they share."""
        local = [
            hire(settings.worker, device, rooms(settings), self._bell.ring)
            for device in devices(settings.worker.device)
        ]
        if settings.workers.engine == "local":
            return local, HERE
        from voicekiln.cluster.crew import Crew  # noqa: PLC0415 - thirty megabytes, for those who have a cluster

        self._crew = Crew.of(settings, ledger, self._bell.ring, local, log)
        return self._crew, self._crew.machine

    def _add_attendants(self) -> None:
        """Each with a thread of its own, so that it can hang without holding up anybody else."""
        if self._crew is not None:
            self._service.attendants.append(self._crew)
            self._service.cluster = self._crew
        service, settings = self._service, self._service.common.settings.metrics
        service.attendants.append(Notices(service.common, ThreadHands(self._bell.ring, EXPECTED)))
        if settings.textfile is not None or settings.socket is not None:
            from voicekiln.metrics import Meter  # noqa: PLC0415 - two megabytes, for those who want it

            hands = ThreadHands(self._bell.ring, EXPECTED)
            service.attendants.append(Exporter(service.common, service.gauges, Meter(), hands))

    def run(self) -> int:
        for number in (*ENDING, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        settings = self._service.common.settings
        self._log.info(
            "service.started",
            version=__version__,
            config=str(self._path.absolute()),
            inbox=str(settings.inbox),
            outbox=str(settings.outbox),
            removes={name: span(getattr(settings.sweep, name)) for name in ("sources", "results", "refusals")},
        )
        self._mind_the_watch()
        try:
            while not self._wanted & ENDING:
                due = self._turn()
                self._bell.wait(max(0.0, due - time.monotonic()))
            return self._end()
        except (LedgerStuckError, LedgerDamagedError):
            self._leave()
            if self._wanted & ENDING:
                return 0
            raise

    def _leave(self) -> None:
        """Leave without a word to the ledger: what was under way is found there at the next start, as after a crash."""
        for bench in self._service.dispatch.benches:
            bench.keeper.close(STOP_WORKER_S)
        self._service.leave()

    def _turn(self) -> float:
        """Do what can be done now; return the monotonic time of the next turn."""
        intake = self._service.intake
        if self._event.is_set() and time.monotonic() >= intake.earliest:
            self._event.clear()  # before the look, so that what comes during it is not lost
            intake.look_soon()
        due = self._service.tick(now())
        if signal.SIGHUP in self._wanted:
            self._wanted.discard(signal.SIGHUP)
            self._service.reload(self._path)
        self._mind_the_watch()
        return min(due, intake.earliest) if self._event.is_set() else due

    def _end(self) -> int:
        clean = self._service.stop()
        if self._watch is not None:
            self._watch.stop()
        if clean:
            self._service.common.ledger.set_fact(CLOSED, "yes")
        self._log.info("service.stopped", clean=clean)
        if not clean:
            os._exit(0)  # a thread hangs on a dead share; the interpreter would wait for it for ever
        return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._wanted.add(number)
        self._bell.ring()

    def _on_event(self) -> None:
        if not self._event.is_set():  # a flood of them is one reason to look, not thousands of turns
            self._event.set()
            self._bell.ring()

    def _mind_the_watch(self) -> None:
        """Keep an observer on the inbox where events are to be had; without one, look more often.

        An observer that has died, or that a share took with it when it went away, is replaced when the share is back.
        """
        common, intake, scan = self._service.common, self._service.intake, self._service.common.settings.scan
        wanted = intake.system is not None and intake.system.has_events(scan.events)
        wanted = wanted and not common.away and not self._service.ownership.waits
        healthy = self._watch is not None and self._watch.healthy(intake.folders)
        if self._watch is not None and not (wanted and (healthy or self._may_grow())):
            self._drop_watch(self._watch, wanted=wanted)
        if self._watch is None and wanted and not self._arming and time.monotonic() >= self._watch_again:
            self._watch_again = time.monotonic() + scan.rescan
            self._arm()
        if healthy and self._service.watchless is not None:
            self._service.watchless = None
            common.log.info("watch.works")
        intake.every_s = scan.rescan if healthy else scan.poll

    def _may_grow(self) -> bool:
        """Say whether the watch lives and was set up just now, or a folder came just now, that is not watched yet."""
        assert self._watch is not None  # noqa: S101 - for the type checker; the caller has looked
        watched = self._watch.watched()
        if watched != self._watched:
            self._watched, self._watched_since = watched, time.monotonic()
        return self._watch.alive() and time.monotonic() - self._watched_since < GROWING_S

    def _drop_watch(self, watch: Watch, *, wanted: bool) -> None:
        intake = self._service.intake
        if wanted and watch.alive():
            self._without_events(
                f"only {watch.watched()} of {intake.folders} folders can be watched; the system allows no more "
                "(fs.inotify.max_user_watches)"
            )
        watch.stop()
        self._watch = None
        intake.look_soon()

    def _arm(self) -> None:
        """Set up a watch; for the hands, because it walks through the share."""
        watch = Watch(self._service.common.settings.inbox, self._on_event)
        self._arming = True
        self._service.common.hands.do(
            "setting up the watch", watch.start, lambda _: self._armed(watch), lambda _: self._armed(watch)
        )

    def _armed(self, watch: Watch) -> None:
        self._arming = False
        if watch.problem is None:
            self._watch, self._watched_since = watch, time.monotonic()
            self._service.intake.look_soon()  # for what came before
        else:
            self._without_events(watch.problem)

    def _without_events(self, reason: str) -> None:
        """Say it once, and in the status as long as it is so."""
        if self._service.watchless is None:
            every = span(self._service.common.settings.scan.poll)
            self._service.common.log.warning("watch.failed", reason=reason, instead=f"a scan every {every}")
        self._service.watchless = reason


def now() -> Now:
    """Read both clocks."""
    return Now(time.monotonic(), time.time())
