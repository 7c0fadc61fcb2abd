"""Who looks on while a tool works in a folder, and what was seen, in the words of the README's table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from pairing.programs import until


@dataclass
class Row:
    """What was measured of a tool."""

    tool: str
    version: str
    """As many of its numbers as matter."""
    arrives: str = ""
    """Whether the file gets its name when it is whole."""
    temporary: str = ""
    """Its names until then; NAME stands for the file's own, … for what differs each time."""
    date: str = ""
    replaces: str = ""
    """What happens to the older file."""
    broken_off: str = ""
    """What lies there after Ctrl-C in the middle of it."""

    def line(self) -> str:
        """Return it as a line of the table."""
        return f"| {' | '.join(str(getattr(self, cell.name)) for cell in fields(self))} |"


HEAD = """\
| tool | version | a file arrives | until then it is called | its date | the older one is | broken off, there is |
|---|---|---|---|---|---|---|"""


class Witness(FileSystemEventHandler):
    """Keeps what happens in a folder; use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[str, str, str]] = []
        """Kind, path, new path; relative."""

    def __enter__(self) -> Self:
        self._observer = Observer()
        self._observer.schedule(self, str(self.folder), recursive=True)
        self._observer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.stop()
        self._observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Keep it."""
        if not event.is_directory and event.event_type not in {"opened", "closed_no_write"}:
            self.events.append((event.event_type, self._within(event.src_path), self._within(event.dest_path)))

    def _within(self, path: str | bytes) -> str:
        return os.path.relpath(os.fsdecode(path), self.folder) if path else ""

    def seen(self) -> list[tuple[str, str, str]]:
        """Return what happened since the last call, all of it."""
        flag = self.folder / ".~seen"
        flag.touch()
        until(lambda: ("created", ".~seen", "") in self.events)
        flag.unlink()
        until(lambda: ("deleted", ".~seen", "") in self.events)
        told, self.events = self.events, []
        return [event for event in told if ".~seen" not in event]


def replacement(events: list[tuple[str, str, str]], name: str, *, same_inode: bool) -> str:
    """Return what happened to an older file of that name."""
    if any(path == name and kind in {"deleted", "moved"} for kind, path, _ in events):
        return "removed first"
    return "rewritten in place" if same_inode else "replaced at once"


def temporary(names: list[str], name: str) -> str:
    """Return the pattern of the names among these that are not the file's own."""
    parts = sorted({_pattern(path, name) for path in names if path and path != name})
    return ", ".join(f"`{part}`" for part in parts) or "nothing"


def _pattern(path: str, name: str) -> str:
    return re.sub(r"(?<=[.~])(?!tmp$|part$|partial$|pth$)\w{3,}$", "…", path.replace(name, "NAME"))
