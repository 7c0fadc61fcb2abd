"""What can be set, with every default. Plain values; `config` reads them from YAML, `fences` tries the folders.

A field is called as its key in the file is, so that searching for a dotted key finds its use: durations are seconds,
sizes bytes, shares fractions of one. The hints say how a value is written (see `values`).
"""

from __future__ import annotations

import grp
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from voicekiln.job import Recipe

Seconds = Annotated[float, "duration"]
Life = Annotated[float | None, "duration or never"]
"""Seconds; None is `never`."""
Size = Annotated[int, "size"]
"""Bytes."""
Share = Annotated[float, "share"]
"""More than 0, at most 1."""
FileMode = Annotated[int, "file mode"]
FolderMode = Annotated[int, "folder mode"]
"""Permission bits."""
Group = Annotated[str | None, "group"]
Attempts = Annotated[int, "attempts"]
Folder = Annotated[Path, "folder"]
"""Absolute."""
Recipes = Annotated[dict[str, Recipe], "recipes"]
LocalFile = Annotated[Path | None, "local file"]
"""Absolute; None for none."""
LocalFolder = Annotated[Path | None, "local folder"]
"""Absolute; None for none."""
Command = Annotated[tuple[str, ...] | None, "command"]
"""The words of a program that is run without a shell; None for none."""

Scheduler = Annotated[str | None, "scheduler"]
"""`tls://host:port`, `tcp://host:port`, or `local` for one that is started here; None for none."""

BoardFile = Annotated[Path | None, "board file"]
"""Relative to the outbox, or absolute; None for off."""

FOLDERS = ("inbox", "outbox", "state")


def group_id(group: str) -> int:
    """Return the number of a group that is given by its name or its number.

    Raises:
        KeyError: if this system has no group of that name.
    """
    return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid


def span(seconds: float | None) -> str:
    """Return a length of time as the configuration writes it: `7d`, `90s`, `never`."""
    if seconds is None:
        return "never"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f}d"
    return f"{seconds / 3600:.1f}h" if seconds >= 2 * 3600 else f"{seconds:.0f}s"


@dataclass(frozen=True, slots=True)
class Scan:
    """How the inbox is looked at."""

    rescan: Seconds = 60.0
    """Between two full scans while events come in, which may miss something."""
    poll: Seconds = 5.0
    """Between two full scans where no events are to be had."""
    events: Literal["auto", "on", "off"] = "auto"
    """`auto`: on local file systems; network ones do not tell what other machines change."""


@dataclass(frozen=True, slots=True)
class Settle:
    """When a file counts as arrived."""

    quiet: Seconds = 3.0
    """A file whose completeness can be proven must have been unchanged for this time."""
    legacy_quiet: Seconds = 60.0
    """The same for old files (before PyTorch 1.6), of which nothing but waiting shows that they are complete."""
    incomplete_after: Seconds = 300.0
    """A file that proves incomplete and has been unchanged for this time is refused as damaged."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the worker may take for each step before it counts as hung and is stopped."""

    start: Seconds = 180.0
    load: Seconds = 120.0
    template: Seconds = 600.0
    fill: Seconds = 300.0
    verify: Seconds = 600.0


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that converts."""

    device: Literal["auto", "cpu"] = "auto"
    idle: Seconds = 300.0
    """After this time without work it leaves, so that the GPU's memory is free for others."""
    memory: Size = 8_000_000_000
    """Main memory above which it is stopped."""
    attempts: Attempts = 3
    """How often a file may take the worker down before it is refused."""
    deadlines: Deadlines = field(default_factory=Deadlines)


@dataclass(frozen=True, slots=True)
class Workers:
    """Where the workers are."""

    engine: Literal["local", "dask"] = "local"
    """`dask`: on a Dask cluster."""
    scheduler: Scheduler = None
    """Where its scheduler is."""
    ca: LocalFile = None
    cert: LocalFile = None
    key: LocalFile = None
    """Of TLS: who signs, and who we are."""
    plain_tcp: bool = False
    """The person's word that plain TCP goes through a network where nobody else is."""
    spool: LocalFolder = None
    """Through which the files of voices go to Dask workers and back; None for over Dask."""
    fallback: Literal["none", "local"] = "none"
    """Who does the work while the scheduler is away."""


@dataclass(frozen=True, slots=True)
class Publish:
    """What published files look like to the system."""

    mode: FileMode = 0o644
    folder_mode: FolderMode = 0o755
    group: Group = None
    """A name or a number; None leaves it as the system sets it."""

    @property
    def gid(self) -> int | None:
        """The group's number.

        Raises:
            KeyError: if the group has gone since `fences` looked.
        """
        return None if self.group is None else group_id(self.group)


@dataclass(frozen=True, slots=True)
class Status:
    """Where people and programs find how things stand. What lies in the outbox is nobody else's name."""

    page: BoardFile = Path("status.html")
    json: BoardFile = Path("status.json")


@dataclass(frozen=True, slots=True)
class Sweep:
    """When what has served its time is removed."""

    every: Seconds = 6 * 3600.0
    sources: Life = 7 * 86400.0
    """Of a voice in the inbox after its conversion."""
    results: Life = 7 * 86400.0
    refusals: Life = 7 * 86400.0
    max_share: Share = 0.25
    """The most that one sweep removes of what the ledger knows."""
    originals_elsewhere: bool = False
    """The person's word that nobody's only copy is in a synced inbox."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where Prometheus finds what it is told."""

    textfile: LocalFile = None
    """In the folder that node_exporter reads."""
    socket: LocalFile = None
    """A Unix socket that answers `GET /metrics`."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told of a refusal."""

    command: Command = None
    timeout: Seconds = 30.0
    """After which it is stopped."""


@dataclass(frozen=True, slots=True)
class Log:
    """How it tells what it does."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


def default_recipes() -> dict[str, Recipe]:
    """Return the recipes that are there when the file has none."""
    kinds = (Recipe("default"), Recipe("fp16", ("fp16",)), Recipe("both", ("fp32", "fp16")))
    return {recipe.name: recipe for recipe in kinds}


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole of it."""

    inbox: Folder
    outbox: Folder
    state: Folder
    """On local disk: ledger, copies in work."""
    recipes: Recipes = field(default_factory=default_recipes)
    """By name; `default` is always among them."""
    scan: Scan = field(default_factory=Scan)
    settle: Settle = field(default_factory=Settle)
    max_bytes: Size = 4_000_000_000
    """A larger file is refused."""
    conflict_copies: Literal["refuse", "convert"] = "refuse"
    language: Literal["auto", "en", "zh"] = "auto"
    """In which refusals and the status page are written; `auto`: the system's."""
    worker: Worker = field(default_factory=Worker)
    workers: Workers = field(default_factory=Workers)
    publish: Publish = field(default_factory=Publish)
    status: Status = field(default_factory=Status)
    sweep: Sweep = field(default_factory=Sweep)
    metrics: Metrics = field(default_factory=Metrics)
    notify: Notify = field(default_factory=Notify)
    log: Log = field(default_factory=Log)
    beside: frozenset[str] = frozenset(FOLDERS)
    """Those of `FOLDERS` that were given relative to the configuration file; they are made where they are missing."""

    @property
    def templates(self) -> Path:
        """Where the graphs that voices share are kept; whatever is lost of them is made again."""
        return self.state / "templates"

    @classmethod
    def in_folder(cls, folder: Path) -> Settings:
        """Return the settings of an empty configuration file in `folder`."""
        return cls(inbox=folder / "inbox", outbox=folder / "outbox", state=folder / "state")
