"""The ground of a run: two shares and a local disk on small tmpfs, as a server, the daemon and a person see them.

The server's side (`hold`) is where writers and the reader work; the daemon sees it through a bind mount, which can
vanish and come back as a network mount does. Needs a mount namespace of its own, as root of it.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARES = ("inbox", "outbox")
STATE_BYTES = 300_000_000
FILL = ".somebody's large file"


@dataclass(frozen=True, slots=True)
class Ground:
    """See the module."""

    at: Path
    """Where the daemon's configuration lies."""

    @property
    def hold(self) -> Path:
        return self.at / "hold"

    @property
    def inbox(self) -> Path:
        """On the server's side."""
        return self.hold / "inbox"

    @property
    def outbox(self) -> Path:
        """On the server's side."""
        return self.hold / "outbox"

    def lay(self, share_bytes: int) -> None:
        """Make and mount everything."""
        for share in SHARES:
            (self.at / share).mkdir()
            (self.hold / share).mkdir(parents=True)
            _mount("-t", "tmpfs", "-o", f"size={share_bytes}", "none", self.hold / share)
            self.bring_back(share)
        (self.at / "state").mkdir()
        _mount("-t", "tmpfs", "-o", f"size={STATE_BYTES}", "none", self.at / "state")

    def take_away(self, share: str) -> None:
        """Let the mount vanish while files of it are open, as a lost connection or `umount -l` does."""
        subprocess.run(["umount", "-l", self.at / share], check=True)  # noqa: S607 - the system's own

    def bring_back(self, share: str) -> None:
        _mount("--bind", self.hold / share, self.at / share)

    def read_only(self, share: str, *, on: bool) -> bool:
        """Return whether that could be done: not while a file is open for writing."""
        words = ["mount", "-o", f"remount,bind,{'ro' if on else 'rw'}", str(self.at / share)]
        return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0

    def beneath(self) -> list[Path]:
        """Take both shares away for good and return what lies in the folders under their mount points."""
        for share in SHARES:
            self.take_away(share)
        return [path for share in SHARES for path in (self.at / share).rglob("*")]

    def disk(self, which: str) -> Path:
        return self.at / "state" if which == "state" else self.hold / which

    def fill(self, which: str) -> None:
        """Leave not one byte free on the disk of the outbox or of the state folder."""
        file = os.open(self.disk(which) / FILL, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            step = 1 << 24
            while step >= os.sysconf("SC_PAGESIZE"):
                try:
                    os.posix_fallocate(file, os.fstat(file).st_size, step)
                except OSError:
                    step //= 2
        finally:
            os.close(file)

    def empty(self, which: str) -> None:
        with suppress(FileNotFoundError):
            (self.disk(which) / FILL).unlink()


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)  # noqa: S607 - the system's own
