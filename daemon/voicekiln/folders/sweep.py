"""Removing what has served its time, and nothing else.

Ages are counted by the ledger's own clock from publication on, never by a file's time stamps: sync tools restore old
ones, and a wall clock may be set wrong by years (`Ledger.pass_time`). A file goes only if the ledger knows it, its
class has a time to live, that has passed, its voice is not in work, and it still is what was recorded: by its stamp,
which tells every later write, or where that differs or is not known by its hash. A file that somebody replaced is
theirs and stays. A source goes only after its own conversion was published. Results go sidecar first, so that a
sidecar never outlives its ONNX. Folders below the sidecar's that were made for a result go when they are empty.

Sources go too unless the configuration says `never`: an inbox is a drop box, and one that a sync tool keeps equal with
somebody's own folder needs that person's word first (`fences`).

All is done in pieces that take part of a second, so that copies and publications are not kept waiting for thousands.

Risk accepted: a file exchanged in the moment between the look and the removal is removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Self

from voicekiln.folders.files import NOT_A_FILE, open_folder, remove_if_empty, sha256_at, sync_folder
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import folders_below
from voicekiln.folders.voices import Class, Item, Left, Place, Published
from voicekiln.job import FileStamp
from voicekiln.steps import Step, passed

BEGINNING: Place = (float("-inf"), 0)


@dataclass(frozen=True, slots=True)
class Lives:
    """Seconds that each class lives after publication; None is for ever."""

    sources: float | None
    results: float | None
    refusals: float | None


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of an item."""

    item: Item
    removed: tuple[PurePosixPath, ...]
    kept: tuple[tuple[PurePosixPath, str], ...]
    """Files that stay, with the reason."""
    trouble: OSError | None = None
    """Why it could not be done; it is tried again by the next sweep."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A folder below which files are removed."""

    root: Path
    inodes: bool
    """`FileSystem.stable_inodes`."""


class Plan:
    """What a sweep will remove, the oldest first, asked from the ledger piece by piece: it may be a million files.

    At most a share of all files goes, but at least one item, or a folder with a single voice would never be swept.
    """

    def __init__(
        self, ledger: Ledger, lives: Lives, max_share: float, now: float, synced: Sequence[PurePosixPath] = ()
    ) -> None:
        """`now` is `Ledger.clock`.

        Sources below a folder of `synced` stay: a sync tool would remove them on the person's own computer, too.
        """
        self._ledger = ledger
        self._now = now
        self._synced = frozenset(synced)
        each: dict[Class, float | None] = {
            "sources": lives.sources,
            "results": lives.results,
            "refusals": lives.refusals,
        }
        self._until = {of: now - life for of, life in each.items() if life is not None}
        self._after = dict.fromkeys(self._until, BEGINNING)
        self._files_left = max_share * ledger.size()
        self._begun = False

    def next(self, most: int) -> list[Item]:
        """Return the oldest items that are due, `most` at most; the same until `passed` is called. No item: the end."""
        oldest = merge(*(self._due(of, most) for of in self._until), key=lambda item: item.at)
        found: list[Item] = []
        left = self._files_left
        for item in islice(oldest, most):
            left -= len(item.files)
            if left < 0 and (self._begun or found):
                break
            found.append(item)
        return found

    def passed(self, items: Sequence[Item]) -> None:
        """Go on behind these items, which were the first that `next` gave."""
        for item in items:
            self._after[item.of] = item.place
            self._files_left -= len(item.files)
            self._begun = True

    def held_back(self) -> int:
        """Return how much is due and has not been passed; after the end, what is left for the next sweep."""
        counted = [of for of in self._until if of != "sources" or not self._synced]
        return sum(self._ledger.due(of, self._until[of], self._after[of]) for of in counted)

    def age_s(self, item: Item) -> float:
        """Return how long an item has lain there."""
        return self._now - item.at

    def _due(self, of: Class, most: int) -> Iterator[Item]:
        after, until = self._after[of], self._until[of]
        while page := self._ledger.aged(of, until, after, most):
            yield from (item for item in page if of != "sources" or self._synced.isdisjoint(item.files[0].path.parents))
            after = page[-1].place


def carry_out(
    items: Sequence[Item], inbox: Ground, outbox: Ground, enough: Callable[[], bool] = lambda: False
) -> list[Swept]:
    """Remove the files of the first items, as many as there is time for, and say what became of those.

    Files that have to be read are read for one item at a time; those that their stamps vouch for go together, so that
    a folder is flushed once for all of them. `enough` says that there was time enough.

    Raises:
        ShareAwayError: if a root folder is not there; what was removed until then counts as removed the next time.
    """
    with _Hand() as hand:
        going: list[_Going] = []
        for item in items:
            ground = inbox if item.of == "sources" else outbox
            quick = all(_needs_no_reading(hand, ground, file) for file in item.files)
            if going and (enough() or not quick):
                break
            going.append(_Going(item, ground))
            going[-1].remove(hand, slice(1))  # at once: a disk may take longer to remove a file than to look at it
            if not quick:
                break
        hand.flush()
        for each in going:
            each.remove(hand, slice(1, None))
        hand.flush()
    for each in going:
        each.remove_folders()
    return [Swept(each.item, tuple(each.removed), tuple(each.kept), each.trouble) for each in going]


def note(ledger: Ledger, swept: Sequence[Swept]) -> None:
    """Write into the ledger what a sweep did; a result that was kept is given up as somebody else's."""
    with ledger.together():
        for done in swept:
            if done.trouble is not None:
                continue
            if done.item.of != "sources":
                ledger.swept_files(done.item.voice, done.item.files)
            elif done.removed:
                ledger.swept_source(done.item.voice)


def collected(voices: Sequence[Left], outbox: Path, enough: Callable[[], bool]) -> tuple[int, list[Left]]:
    """Look which voices have nothing in the outbox any more; return how many were looked at, and those.

    A folder that cannot be read has not lost its files.

    Raises:
        ShareAwayError: if the outbox is not there.
    """
    gone: list[Left] = []
    with _Hand() as hand:
        for count, voice in enumerate(voices):
            if count and enough():
                return count, gone
            if all(_is_missing(hand, outbox, file.path) for file in voice.files):
                gone.append(voice)
    return len(voices), gone


class _Hand:
    """Keeps that folder open that was used last, and knows which ones have to be flushed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: tuple[Path, PurePosixPath] | None = None
        self._folder = -1
        self._changed: dict[tuple[Path, PurePosixPath], None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self, root: Path, parent: PurePosixPath) -> int:
        """Return a descriptor, good until the next call; raises what `open_folder` does."""
        if self._open != (root, parent):
            self._open = None
            self._stack.close()
            self._folder = self._stack.enter_context(open_folder(root, parent))
            self._open = root, parent
        return self._folder

    def unlink(self, root: Path, path: PurePosixPath) -> None:
        """Remove a name."""
        os.unlink(path.name, dir_fd=self.folder(root, path.parent))
        self._changed[root, path.parent] = None
        passed(Step.FILE_SWEPT)

    def flush(self) -> None:
        """Have on the disk what was removed; a folder that has gone meanwhile needs no flushing."""
        for root, parent in self._changed:
            try:
                sync_folder(self.folder(root, parent))
            except FileNotFoundError:
                continue
        self._changed.clear()


@dataclass(slots=True)
class _Going:
    """An item under removal."""

    item: Item
    ground: Ground
    removed: list[PurePosixPath] = field(default_factory=list)
    kept: list[tuple[PurePosixPath, str]] = field(default_factory=list)
    trouble: OSError | None = None

    def remove(self, hand: _Hand, which: slice) -> None:
        """Remove some of its files, as far as they are ours; a sidecar that stays keeps the files that it tells of."""
        for file in self.item.files[which]:
            if self.trouble is not None:
                return
            if self.kept and self.item.files[0].path == self.kept[0][0] and self.item.files[0].kind == "sidecar":
                self.kept.append((file.path, "its sidecar stays"))
                continue
            try:
                why = _remove(hand, self.ground, file)
            except OSError as error:
                self.trouble = error
                return
            if why is None:
                self.removed.append(file.path)
            else:
                self.kept.append((file.path, why))

    def remove_folders(self) -> None:
        """Remove the folders of its own that are empty now; one that somebody has put something into stays."""
        for path in folders_below(self.item.files[0].path.parent, [file.path for file in self.item.files]):
            remove_if_empty(self.ground.root, path)


def _remove(hand: _Hand, ground: Ground, file: Published) -> str | None:
    """Remove one file; return why it stays, or None if it is gone."""
    try:
        folder = hand.folder(ground.root, file.path.parent)
        if not _is_untouched(folder, file, inodes=ground.inodes):
            found = sha256_at(folder, file.path.name, (file.bytes,))
            if found is None:
                return None
            sha256, st = found
            if sha256 != file.sha256:
                return "somebody changed it"
            if FileStamp.of(os.stat(file.path.name, dir_fd=folder, follow_symlinks=False)) != FileStamp.of(st):
                return "somebody is changing it"
        hand.unlink(ground.root, file.path)
    except FileNotFoundError:  # the file's folder, or the file since it was looked at
        return None
    except OSError as error:
        if error.errno in NOT_A_FILE:
            return "somebody put something else there"
        raise
    return None


def _needs_no_reading(hand: _Hand, ground: Ground, file: Published) -> bool:
    try:
        return _is_untouched(hand.folder(ground.root, file.path.parent), file, inodes=ground.inodes)
    except FileNotFoundError:
        return True
    except OSError:  # it shows again when the file is to be removed
        return False


def _is_untouched(folder: int, file: Published, *, inodes: bool) -> bool:
    """Say whether a file's stamp is the recorded one: nobody can write to it and leave all of that as it was."""
    st = os.stat(file.path.name, dir_fd=folder, follow_symlinks=False)
    known, now = file.stamp, FileStamp.of(st)
    if known is None or not stat.S_ISREG(st.st_mode):
        return False
    # A source on such a file system was recorded without its inode, which is 0 then.
    return known == now if inodes else replace(known, ino=0) == replace(now, ino=0)


def _is_missing(hand: _Hand, root: Path, path: PurePosixPath) -> bool:
    try:
        os.stat(path.name, dir_fd=hand.folder(root, path.parent), follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
