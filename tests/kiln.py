"""A whole daemon in one thread for tests: real folders, real ledger, a made-up clock, a fake worker.

`Kiln.run(seconds)` lets the loop tick as often as it asks to, without waiting; a test reads what lies in the outbox.
The voices here are ZIP files with a name's worth of bytes in them: enough for the folders, nothing for a network.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from endings import converted
from fake_worker import FakeWorker
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.owner import FILES
from voicekiln.folders.voices import Voice
from voicekiln.job import Ending
from voicekiln.loop import LEDGER
from voicekiln.notify import Notifier
from voicekiln.service import Service
from voicekiln.settings import Settings
from voicekiln.supervisor.common import EXPECTED, Common, Now
from voicekiln.supervisor.hands import Finish, attempt
from voicekiln.supervisor.hiring import Machine
from voicekiln.supervisor.homes import Homes
from voicekiln.supervisor.ownership import Ownership
from voicekiln.worker.wire import Convert, Looked, Request

T = TypeVar("T")
START_WALL = 1_750_000_000.0


class PromptHands:
    """Hands that do everything at once, in the caller's thread; the loop hears of it at its next tick."""

    def __init__(self) -> None:
        self._finished: list[Finish] = []

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        del what
        self._finished.append(attempt(work, done, failed, EXPECTED))

    def collect(self) -> None:
        finished, self._finished = self._finished, []
        for finish in finished:
            finish()

    def stuck(self) -> str | None:
        return None

    def busy(self) -> bool:
        """Whether there is something to collect, for which real hands would wake the loop."""
        return bool(self._finished)

    def close(self, wait_s: float) -> bool:
        del wait_s
        return True


class SlowHands(PromptHands):
    """Hands that begin with nothing before the next tick, and tell of nothing before the one after that."""

    def __init__(self) -> None:
        super().__init__()
        self._todo: list[Callable[[], Finish]] = []

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        del what
        self._todo.append(lambda: attempt(work, done, failed, EXPECTED))

    def collect(self) -> None:
        super().collect()
        if self._todo:
            self._finished.append(self._todo.pop(0)())

    def busy(self) -> bool:
        return bool(self._todo) or super().busy()


class HeldHands(PromptHands):
    """Hands that do nothing until they are let go, and that may be left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[], Finish]] = []
        self.ends = True

    def do(
        self, what: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        del what
        self.held.append(lambda: attempt(work, done, failed, EXPECTED))

    def let_go(self) -> None:
        self._finished += [work() for work in self.held]
        self.held = []

    def close(self, wait_s: float) -> bool:
        del wait_s
        return self.ends


class Lines:
    """A log that is kept as a list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    debug = warning = error = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == event]


class Room(Machine):
    """A machine of eight cores with memory for as many workers, unless a test says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.has_cores = 8
        self.has_bytes = 64e9

    def cores(self) -> int:
        return self.has_cores

    def free_bytes(self) -> float:
        return self.has_bytes


def good(request: Request) -> Ending | Looked:
    """Answer as a worker that can convert everything."""
    assert isinstance(request, Convert)
    return converted(request.job)


def voice_bytes(content: str = "weights") -> bytes:
    """Return a ZIP as torch.save writes one, as far as the folders can tell."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), content)
    return out.getvalue()


class Kiln:
    """See the module."""

    def __init__(
        self,
        at: Path,
        answer: Callable[[Request], Ending | Looked | None] = good,
        hands: type[PromptHands] = PromptHands,
        aside: type[PromptHands] = PromptHands,
        workers: int = 1,
        **changes: Any,
    ) -> None:
        self.at = at
        self.answer = answer
        self.hands = hands
        self.make_aside = aside
        self.workers = workers
        self.machine = Room()
        for name in ("inbox", "outbox", "state"):
            (at / name).mkdir(exist_ok=True)
        self.settings = replace(Settings.in_folder(at), **changes)
        self.inbox, self.outbox = self.settings.inbox, self.settings.outbox
        self.mono, self.wall = 1000.0, START_WALL
        self.start()

    def start(self) -> None:
        """Begin, or begin anew after `crash`."""
        self.log = Lines()
        self.ledger = Ledger(self.settings.state / LEDGER)
        self.keepers = [FakeWorker(self._answer) for _ in range(self.workers)]
        homes = Homes.of(self.settings)
        common = Common(self.settings, self.ledger, self.hands(), self.log, homes, homes.name_max(), self.now)
        self.pulse = PromptHands()
        ownership = Ownership(common, self.pulse, host="here", clock=lambda: self.mono)
        self.aside = self.make_aside()
        self.service = Service(common, self.keepers, Notifier(), ownership, self.aside, self.machine)

    @property
    def asked(self) -> list[Request]:
        """What the workers were asked since the start, one worker after the other."""
        return [request for keeper in self.keepers for request in keeper.begun]

    def crash(self) -> None:
        """Forget all that is in memory, as a killed daemon does, and begin anew."""
        self.ledger.close()
        self.start()

    def close(self) -> None:
        self.ledger.close()

    def configure(self, **changes: Any) -> None:
        """Change settings as a reload does, for all starts to come."""
        self.settings = self.service.common.settings = replace(self.settings, **changes)

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def run(self, seconds: float = 30.0) -> None:
        """Let time pass: tick whenever the loop wants to, at least every five seconds."""
        end, turns = self.mono + seconds, 0
        while self.mono < end:
            due = min(self.service.tick(self.now), end)
            if self.pulse.busy() or self.aside.busy() or self.service.common.hands.busy():  # type: ignore[attr-defined]  # ours; real ones ring the bell
                due = self.mono
            step = max(due - self.mono, 0.02)  # the time that hands and worker take
            self.mono += step
            self.wall += step
            turns += 1
        self.service.tick(self.now)
        assert turns < 500 + 10 * seconds, "the loop spins"

    def skip(self, seconds: float) -> None:
        """Let much time pass as for a machine that slept, and then run for a minute."""
        self.mono += seconds
        self.wall += seconds
        self.run(60)

    def drop(self, name: str, content: bytes | None = None) -> Path:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(voice_bytes(name) if content is None else content)
        return path

    def voice(self, name: str) -> Voice:
        found = self.ledger.voice(PurePosixPath(name))
        assert found is not None
        return found

    def results(self) -> set[str]:
        return {
            str(path.relative_to(self.outbox))
            for path in self.outbox.rglob("*")
            if path.is_file() and path.name not in FILES and path not in self.boards
        }

    @property
    def boards(self) -> set[Path]:
        """Where the status page and its JSON lie."""
        status = self.service.common.settings.status
        return {self.outbox / path for path in (status.page, status.json) if path is not None}

    def read(self, name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.outbox / name).read_text())
        return body

    def litter(self) -> list[Path]:
        """Return what should not lie anywhere when all work is done."""
        left = [*(self.settings.state / "spool").iterdir(), *(self.settings.state / "staging").iterdir()]
        return left + [path for path in self.outbox.rglob(".*") if path.is_file() and path.name not in FILES]

    def _answer(self, request: Request) -> Ending | Looked | None:
        return self.answer(request)
