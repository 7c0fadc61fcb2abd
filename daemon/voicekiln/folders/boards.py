"""A file that the daemon writes anew again and again: the status page and its JSON, and bundles.

It is written under a hidden name, flushed, and renamed over the older one, so that a reader sees one or the other. The
folder is not flushed: after a power failure the older one will do. Somebody's file of that name is never written over.
Ours is known by the words that it begins with, not by the ledger, so that a daemon that follows another one, or has
lost its ledger, goes on with the file of the one before.

Accepted: a file that somebody puts there in the moment between the last look and the rename is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from voicekiln.folders.files import NOT_A_FILE, open_folder, open_plain
from voicekiln.folders.names import shown, temp_name
from voicekiln.folders.outbox import Rights, folder_for, write_whole
from voicekiln.steps import Step, passed

GONE = (errno.ENOENT, *NOT_A_FILE)
"""Errors that say that no file of ours is there, or no folder with one."""


@dataclass(frozen=True, slots=True)
class BoardFile:
    """Where such a file lies, and how it is known."""

    root: Path
    path: PurePosixPath
    """Below `root`."""
    beginnings: tuple[str, ...]
    """With one of these begins what is ours."""


def put_up(
    board: BoardFile, pieces: Iterable[str], rights: Rights, token: str, still: Callable[[], None] = lambda: None
) -> int:
    """Write the file; return its length in bytes. After a failure the older one is there as it was.

    Args:
        board: which one.
        pieces: its text, which begins as it should.
        rights: of the file, and of folders that are made for it.
        token: marks the temporary file; the same one each time, so that no more than one is ever left by crashes.
        still: called when all is ready to be shown; raises if it may not be any more.

    Raises:
        ShareAwayError: if `root` is not there.
        NameTaken: if something else lies where a folder belongs.
        OSError: if somebody's file is in the way, the disk is full ...
    """
    with folder_for(board.root, board.path.parent, rights) as folder:
        _must_be_free(folder, board)  # before all the work
        temp = temp_name(board.path.name, token, os.fpathconf(folder, "PC_NAME_MAX"))
        try:
            _, size, _ = write_whole(folder, temp, _encoded(pieces), rights)
            passed(Step.TEMP_WRITTEN)
            still()
            _must_be_free(folder, board)
            os.rename(temp, board.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            passed(Step.BOARD_RENAMED)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp, dir_fd=folder)
    return size


def take_down(board: BoardFile) -> None:
    """Remove the file if it is ours and still there; what lies behind a link was never ours.

    Raises:
        ShareAwayError: if `root` is not there.
        OSError: if it cannot be removed.
    """
    try:
        with open_folder(board.root, board.path.parent) as folder:
            if _is_ours(folder, board):
                os.unlink(board.path.name, dir_fd=folder)
                passed(Step.BOARD_REMOVED)
    except OSError as error:
        if error.errno not in GONE:
            raise


def _must_be_free(folder: int, board: BoardFile) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not _is_ours(folder, board):
            raise OSError(f"{shown(board.path)} is there already and is not voicekiln's; it is left alone")


def _is_ours(folder: int, board: BoardFile) -> bool:
    beginnings = tuple(beginning.encode() for beginning in board.beginnings)
    with open_plain(folder, board.path.name) as file:
        return file.read(max(map(len, beginnings))).startswith(beginnings)


def _encoded(pieces: Iterable[str]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.encode()
