"""Try all tools that are installed and print the README's table: in `tests/`, `python -m pairing`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pairing import mounted, synced
from pairing.pair import Pair
from pairing.programs import missing
from pairing.tools import TOOLS
from pairing.witness import HEAD, Row


def _row(tried: Callable[[Path], Row | None]) -> Row | None:
    with tempfile.TemporaryDirectory() as at:
        return tried(Path(at))


def main() -> int:
    """Return the exit status: 1 if anything was missing."""
    sys.stdout.write(f"{HEAD}\n")
    absent: list[str] = []
    tries: list[tuple[str, tuple[str, ...], Callable[[Path], Row | None]]] = [
        (synced.SYNCTHING, ("syncthing",), synced.one_way),
        *((tool.name, tool.programs, lambda at, tool=tool: Pair(tool, at).run()) for tool in TOOLS),
        ("Syncthing both ways", ("syncthing",), synced.two_way),
        ("rclone mount", ("rclone", "fusermount3"), mounted.mounted),
    ]
    for name, programs, tried in tries:
        if why := missing(programs):
            absent.append(f"{name}: {why}")
        elif row := _row(tried):
            sys.stdout.write(f"{row.line()}\n")
            sys.stdout.flush()
    for line in absent:
        sys.stderr.write(f"{line}\n")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
