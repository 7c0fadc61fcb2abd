"""Tells somebody of a refusal, by running the command of the configuration with the path of the `.error.json`.

One notice an answer that lies in the outbox: a worker that is lost is told of when its voice is given up, since the
attempts before mend themselves. One command runs at a time, in a thread of its own, because starting a program
from a dead mount hangs. Ten may follow each other at once, then one a minute; what does not find room in the short
queue is only counted, and the next command told how many there were. What waits at a stop is not made up for: the
answers themselves lie in the outbox.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from voicekiln.errors import WorkerLost, plain
from voicekiln.supervisor import program
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.hands import Hands
from voicekiln.supervisor.program import Outcome, environment

Run = Callable[[Sequence[str], Mapping[str, str], float, threading.Event], Outcome]
"""`program.run`."""

AT_ONCE = 10
AGAIN_S = 60.0
"""So many commands may follow each other, and one more for every such time that passes."""

QUEUE = 10
"""So many notices wait; each has a file of its own to tell of."""

CLOSE_S = 5.0
"""How long a command that runs may go on when the daemon stops."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A refusal that was published."""

    file: str
    """The source, as people see it."""
    code: str
    error_file: PurePosixPath
    """Below the outbox."""


class Notices:
    """An attendant of the loop; see the module. The command is that of the settings at the time."""

    def __init__(self, common: Common, hands: Hands, run: Run = program.run) -> None:
        """`hands` do nothing but run the command."""
        self._run = run
        self._common = common
        self._hands = hands
        self._hurry = threading.Event()
        self._waiting: deque[Notice] = deque()
        self._more = 0
        """Refusals for which there was no room, since the last command began."""
        self._allowed = float(AT_ONCE)
        self._counted = common.now.mono
        self._running = False

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """See `Attendant`."""
        refused = event == "refusal.published" or (event == "job.finished" and facts["outcome"] == "refused")
        if not refused or self._common.settings.notify.command is None:
            return
        if len(self._waiting) >= QUEUE:
            self._more += 1
        else:
            self._waiting.append(Notice(facts["file"], facts["code"], facts["error_file"]))

    def step(self) -> float:
        """See `Attendant`."""
        self._hands.collect()
        mono = self._common.now.mono
        self._allowed = min(float(AT_ONCE), self._allowed + (mono - self._counted) / AGAIN_S)
        self._counted = mono
        if self._running or not self._waiting:
            return float("inf")
        if self._allowed < 1:
            return mono + (1 - self._allowed) * AGAIN_S
        self._allowed -= 1
        self._begin(self._waiting.popleft())
        return float("inf")

    def close(self) -> None:
        """See `Attendant`."""
        self._more += len(self._waiting)
        self._waiting.clear()
        if not self._hands.close(CLOSE_S):
            self._hurry.set()
            self._hands.close(program.LONGEST_END_S)
        self._hands.collect()
        self._tell_dropped()

    def _begin(self, notice: Notice) -> None:
        settings = self._common.settings
        command, timeout_s, hurry = settings.notify.command, settings.notify.timeout, self._hurry
        if command is None:  # a reload has taken it away
            self._waiting.clear()
            return
        path = str(settings.outbox / notice.error_file)
        facts = {
            "VOICEKILN_EVENT": "lost" if notice.code == WorkerLost.code else "refused",
            "VOICEKILN_FILE": notice.file,
            "VOICEKILN_CODE": notice.code,
            "VOICEKILN_ERROR_FILE": path,
            "VOICEKILN_MORE": str(self._more),
        }
        self._tell_dropped()
        self._running = True
        self._hands.do(
            "running the notification command",
            lambda: self._run([*command, path], environment(os.environ, facts), timeout_s, hurry),
            lambda outcome: self._done(notice, outcome),
            lambda error: self._failed(notice, error),
        )

    def _done(self, notice: Notice, outcome: Outcome) -> None:
        self._running = False
        log = self._common.log.info if outcome.status == 0 else self._common.log.warning
        facts = {"seconds": round(outcome.seconds, 2), "ended": outcome.ended, "said": outcome.said}
        log("notice.finished", file=notice.file, status=outcome.status, **facts)

    def _failed(self, notice: Notice, error: Exception) -> None:
        self._running = False
        reason = plain(getattr(error, "strerror", None) or str(error))
        self._common.log.warning("notice.finished", file=notice.file, status=None, reason=reason)

    def _tell_dropped(self) -> None:
        if self._more:
            self._common.log.warning("notices.dropped", count=self._more, reason="too many refusals at once")
            self._more = 0
