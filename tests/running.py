"""The real daemon in a process of its own, on folders of the test's, with short waits in its configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from voicekiln.folders.owner import FILES

CONFIG = """
scan: {rescan: 1s, poll: 1s}
settle: {quiet: 0.2s, legacy_quiet: 1s, incomplete_after: 2s}
worker: {device: cpu}
sweep: {sources: never, results: never, refusals: never}
log: {format: json, level: debug}
"""

PATIENCE_S = 180.0
"""After this a test that waits for something has failed."""


class Daemon:
    """`voicekiln run`; use it as a context, which ends it cleanly."""

    def __init__(self, at: Path, config: str = CONFIG, prelude: str = "", env: Mapping[str, str] | None = None) -> None:
        """`prelude` is Python that runs in the daemon's process before anything else, `env` variables for it."""
        self.at = at
        self.config = at / "config.yaml"
        self.config.write_text(config)
        self.prelude = prelude
        self.env = {**os.environ, **(env or {})}
        self.inbox, self.outbox, self.state = at / "inbox", at / "outbox", at / "state"
        self.log = at / "log.jsonl"

    def __enter__(self) -> Self:
        code = f"{self.prelude}\nimport sys\nfrom voicekiln.cli import main\nsys.exit(main())"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "run", "--config", str(self.config)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            finally:
                self.process.kill()

    def until(self, what: Callable[[], bool], alive: bool = True) -> None:  # noqa: FBT001, FBT002 - reads well here
        """Wait until `what` is true; fail if the daemon dies before, unless that is what is waited for."""
        end = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end, self.log.read_text()[-4000:]
            assert not alive or self.process.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def until_there(self, *names: str) -> None:
        """Wait until these lie in the outbox."""
        self.until(lambda: all((self.outbox / name).exists() for name in names))

    def drop(self, path: Path, name: str) -> Path:
        """Put a file into the inbox as a sync tool does: under a hidden name first, then renamed."""
        target = self.inbox / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.with_name(f".{target.name}.tmp")
        temp.write_bytes(path.read_bytes())
        return temp.rename(target)

    def read(self, name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.outbox / name).read_text())
        return body

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of this event, of all runs on these folders; without one that is being written."""
        text = self.log.read_bytes() if self.log.exists() else b""
        lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines() if line.startswith(b"{")]
        return [line for line in lines if line.get("event") == name]

    def status(self) -> dict[str, Any]:
        """Return what the command `status` says to programs."""
        code = "import sys\nfrom voicekiln.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", code, "status", "--json", "--config", str(self.config)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=self.env)
        body: dict[str, Any] = json.loads(told.stdout)
        return body

    def worker(self) -> int | None:
        """Return the process number of the worker, if there is one."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue
                if parent == self.process.pid and b"voicekiln.worker.child" in words:
                    return int(entry.name)
        return None

    def kill_worker(self, number: signal.Signals) -> None:
        """Wait for a worker and send it a signal."""
        self.until(lambda: self.worker() is not None)
        pid = self.worker()
        assert pid is not None
        os.kill(pid, number)

    def litter(self) -> list[Path]:
        """Return what should not lie anywhere when all work is done."""
        left = [*(self.state / "spool").iterdir(), *(self.state / "staging").iterdir()]
        hidden = [path for path in self.outbox.rglob(".*") if path.is_file() and path.name not in FILES]
        return left + [path for path in hidden if not path.name.startswith(".~status.")]  # it may be written just now
