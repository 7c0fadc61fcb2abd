"""One seed is one run: writers, troubles and a reader at once around the real daemon, and a verdict in the end.

By hand, in `tests/` and for as long as you like: `python -m chaos --seed 7 --voices 400 --minutes 30`. It puts itself
into a user and mount namespace, where it may mount; CI runs a short one (`test_chaos.py`). The seed settles who
writes what and which troubles come in which order; the kernel settles what falls on what, so a run that failed may
pass the next time. What failed is told with the seed, the last things that happened and the end of the daemon's log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from chaos import judge
from chaos.contents import Content
from chaos.ground import Ground
from chaos.trouble import Trouble
from chaos.writers import Writers, scripts

SETTLES_S = 90.0
"""After the last trouble, everything has to be done within this time; delays between tries are 3 s at most."""
QUIET_S = 1.5
"""Settled is what has nothing left to do for so long."""


class Journal:
    """The last things that happened, with the seconds since the start."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.last: deque[str] = deque(maxlen=120)

    def tell(self, what: str) -> None:
        self.last.append(f"{time.monotonic() - self._began_s:7.2f} {what}")


def run(at: Path, seed: int, voices: int, seconds: float) -> tuple[list[str], dict[str, Any], list[str]]:
    """Do one run in the folder `at`; return what was wrong, the figures of the run, and what happened last.

    Needs a mount namespace of its own.
    """
    ground, journal = Ground(at), Journal()
    ground.lay(100_000_000 + 4_000_000 * voices)
    judge.lay_foreign(ground)
    first = Content("v2", 0)
    (ground.inbox / judge.WAITS).write_bytes(first.data)
    foreign = [str(path) for path in judge.FOREIGN["outbox"]]
    report = at / "reader.json"
    command = [sys.executable, "-m", "chaos.reader", str(ground.outbox), str(report), *foreign]
    reader = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    trouble = Trouble(ground, seed, journal.tell)
    wrong = trouble.wrong
    try:
        writers = Writers(ground.inbox, scripts(seed, voices, seconds), journal.tell)
        began_s = time.monotonic()
        writers.start()
        gaps = random.Random(f"{seed} gaps")  # noqa: S311 - one seed, one run
        while time.monotonic() < began_s + seconds:
            trouble.pass_time(gaps.uniform(0.3, 2.5))
            trouble.strike()
        while writers.busy:
            trouble.pass_time(0.1)
        writers.join()
        left = {**writers.left, judge.WAITS: first}
        trouble.over()
        wrong += _settle(ground, trouble, left)
        trouble.end()
        wrong += judge.verdict(ground, left)
    finally:
        trouble.kill()
        reader.terminate()
        reader.wait(60)
    seen = json.loads(report.read_text())
    wrong += [f"the reader saw: {what}" for what in seen.pop("wrong")]
    log = trouble.daemon.events("job.finished")
    figures = {
        "seed": seed,
        "seconds": round(time.monotonic() - began_s, 1),
        "voices": voices,
        "brought": writers.brought,
        "left": len(left),
        "conversions": sum(line["outcome"] == "converted" for line in log),
        "refusals": sum(line["outcome"] == "refused" for line in log),
        "jobs": len(trouble.daemon.events("job.started")),
        "troubles": dict(sorted(trouble.kinds.items())),
        "died at": trouble.steps_died_at(),
        "reader": seen,
    }
    return wrong, figures, [*journal.last]


def _settle(ground: Ground, trouble: Trouble, left: Mapping[PurePosixPath, Content]) -> list[str]:
    """Wait until the daemon has nothing left to do; return what it has after too long a time."""
    end = time.monotonic() + SETTLES_S
    quiet_since: float | None = None
    undone: list[str] = []
    while time.monotonic() < end:
        trouble.pass_time(0.25)
        if undone := judge.unsettled(ground, left):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_S:
            return []
    return [f"after {SETTLES_S:.0f} s: {line}" for line in undone]


def main(words: list[str]) -> int:
    """Run as asked; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--voices", type=int, default=60, help="how many names; most are written more than once")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long troubles come; settling comes on top")
    parser.add_argument("--folder", type=Path, help="an empty folder, kept afterwards")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not options.inside:
        os.execvp("unshare", ["unshare", "-Urm", sys.executable, "-m", "chaos", *words, "--inside"])  # noqa: S606, S607
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as spare:
        at = options.folder or Path(spare)
        wrong, figures, last = run(at, options.seed, options.voices, options.minutes * 60)
        sys.stdout.write(f"{json.dumps(figures, ensure_ascii=False)}\n")
        if wrong:
            log = (at / "log.jsonl").read_text()[-6000:]
            lines = [f"seed {options.seed}:", *wrong, "", "what happened last:", *last, "", "the daemon's log:", log]
            sys.stderr.write("\n".join(lines) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
