"""Removing what has served its time, and nothing else.

Ages are counted from the ledger's time of publication, never from a file's own time stamps: sync tools restore old
ones. A file goes only if the ledger knows it, its class has a time to live, that has passed, its voice is not in
work, and its bytes still have the recorded hash; a file that somebody replaced is theirs and stays. A source goes
only after its own conversion was published. Results go sidecar first, so that a sidecar never outlives its ONNX.

Risk accepted: a file exchanged in the milliseconds between hashing and removal is removed; the stat taken with the
hash is compared once more right before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Literal

from voicekiln.folders.files import NOT_A_FILE, open_folder, sha256_at, sync_folder
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.voices import Published, Resting
from voicekiln.job import FileStamp
from voicekiln.steps import Step, passed

Class = Literal["sources", "results", "refusals"]


@dataclass(frozen=True, slots=True)
class Lives:
    """Seconds that each class lives after publication; None is for ever."""

    sources: float | None
    results: float | None
    refusals: float | None


@dataclass(frozen=True, slots=True)
class Item:
    """What is removed as one: a source, or all the files of a result or a refusal."""

    voice: int
    of: Class
    files: tuple[Published, ...]
    """Sidecar first; of a source, its path in the inbox."""
    age_s: float
    finished: float | None
    """Of the voice, when this was planned."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep will remove, and how much that is due it leaves for the next one."""

    items: tuple[Item, ...]
    held_back: int
    """Items that are due but exceed the share of files that one sweep may remove."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of an item."""

    item: Item
    removed: tuple[PurePosixPath, ...]
    kept: tuple[tuple[PurePosixPath, str], ...]
    """Files that stay, with the reason."""


def plan(ledger: Ledger, lives: Lives, max_share: float, now: float, synced: Sequence[PurePosixPath] = ()) -> Plan:
    """Return what is due at `now` (wall-clock seconds), the oldest first, at most `max_share` of all files.

    At least one item may always go, or a folder with a single voice would never be swept. Sources below a folder of
    `synced` stay: a sync tool would remove them on the person's own computer, too.
    """
    due, files = [], 0
    for item in _items(ledger, now):
        if item.of != "sources" or not _below(item, synced):
            files += len(item.files)
            due += [item] if _is_due(item, lives) else []
    due.sort(key=lambda item: -item.age_s)
    most = max_share * files
    so_far = list(accumulate(len(item.files) for item in due))
    going = max(1, sum(1 for files in so_far if files <= most))
    return Plan(tuple(due[:going]), max(0, len(due) - going))


def carry_out(item: Item, inbox: Path, outbox: Path) -> Swept:
    """Remove the files of one item that still are what was recorded.

    Raises:
        ShareAwayError: if the root folder is not there; nothing was removed.
        OSError: from the share; files before the one it came from are gone, which a second try copes with.
    """
    removed: list[PurePosixPath] = []
    kept: list[tuple[PurePosixPath, str]] = []
    for file in item.files:
        why = _remove(inbox if item.of == "sources" else outbox, file)
        if why is None:
            removed.append(file.path)
        else:
            kept.append((file.path, why))
            if file.kind == "sidecar":  # a sidecar that stays must not lose the files that it tells of
                kept += [(other.path, "its sidecar stays") for other in item.files if other is not file]
                break
    passed(Step.SOURCE_SWEPT if item.of == "sources" else Step.FILES_SWEPT)
    return Swept(item, tuple(removed), tuple(kept))


def note(ledger: Ledger, swept: Swept) -> None:
    """Write into the ledger what a sweep did; a result that was kept is given up as somebody else's."""
    if swept.item.of != "sources":
        ledger.swept_files(swept.item.voice, swept.item.files)
    elif swept.removed:
        ledger.swept_source(swept.item.voice)


def _items(ledger: Ledger, now: float) -> Iterator[Item]:
    for voice in ledger.at_rest():
        yield from _published_items(voice, now)
        if voice.source is not None and voice.finished is not None:
            yield Item(voice.id, "sources", (voice.source,), now - voice.finished, voice.finished)


def _published_items(row: Resting, now: float) -> Iterator[Item]:
    results = [(at, f) for at, f in row.files if f.kind != "refusal"]
    if results:
        ordered = sorted((f for _, f in results), key=lambda f: (f.kind != "sidecar", f.path))
        yield Item(row.id, "results", tuple(ordered), now - max(at for at, _ in results), row.finished)
    for at, file in row.files:
        if file.kind == "refusal":
            yield Item(row.id, "refusals", (file,), now - at, row.finished)


def _below(item: Item, folders: Sequence[PurePosixPath]) -> bool:
    return any(file.path.is_relative_to(folder) for file in item.files for folder in folders)


def _is_due(item: Item, lives: Lives) -> bool:
    life: float | None = getattr(lives, item.of)
    return life is not None and item.age_s > life


def _remove(root: Path, file: Published) -> str | None:
    """Remove one file; return why it stays, or None if it is gone."""
    try:
        with open_folder(root, file.path.parent) as folder:
            found = sha256_at(folder, file.path.name, (file.bytes,))
            if found is None:
                return None
            sha256, st = found
            if sha256 != file.sha256:
                return "somebody changed it"
            if FileStamp.of(os.stat(file.path.name, dir_fd=folder, follow_symlinks=False)) != FileStamp.of(st):
                return "somebody is changing it"
            os.unlink(file.path.name, dir_fd=folder)
            sync_folder(folder)
    except FileNotFoundError:  # the file's folder, or the file since it was hashed
        return None
    except OSError as error:
        if error.errno in NOT_A_FILE:
            return "somebody put something else there"
        raise
    return None
