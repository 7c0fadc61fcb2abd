"""Reaching files below a root that strangers may write to: no link is followed, no pipe is waited for.

Folders are opened one by one, each from the one above, so that nobody can exchange one for a link in between and
lead us out of the root.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath

from voicekiln.errors import ShareAwayError
from voicekiln.steps import Step, passed

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a pipe that somebody put there must not hold us up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

NOT_A_FILE = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EEXIST)
"""Errors that say that a link, folder, pipe or device lies where a file should."""


@contextlib.contextmanager
def open_folder(
    root: Path, relative: PurePosixPath, make: Callable[[int, str], None] = lambda _folder, _name: None
) -> Iterator[int]:
    """Yield a descriptor of the folder `relative` below `root`; only `root` itself may be a link.

    `make` is called with each folder and the name below it before that is opened.

    Raises:
        ShareAwayError: if `root` cannot be opened.
        OSError: if the folder is not there, is a link or cannot be opened.
    """
    try:
        folder = os.open(root, _FOLDER)
    except OSError as error:
        raise ShareAwayError(f"the folder cannot be opened: {error.strerror}") from error
    try:
        for name in relative.parts:
            make(folder, name)
            above, folder = folder, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(above)
        yield folder
    finally:
        os.close(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, however deep it goes and whatever its rights; what does not go stays.

    A folder in it is first hung up beside it, under a hidden name that begins with its own, so that nothing recurses.
    """
    todo = [path.name]
    with contextlib.suppress(ShareAwayError), open_folder(path.parent, PurePosixPath()) as beside:
        while todo:
            with contextlib.suppress(OSError):
                _remove_one(beside, todo.pop(), todo, path.name)


def _remove_one(beside: int, name: str, todo: list[str], prefix: str) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=beside, follow_symlinks=False).st_mode):
        os.chmod(name, 0o700, dir_fd=beside)
    folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=beside)
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(f"{prefix}.{secrets.token_hex(8)}")
                os.rename(entry.name, todo[-1], src_dir_fd=folder, dst_dir_fd=beside)
            else:
                os.unlink(entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=beside)


def remove_if_empty(root: Path, path: PurePosixPath) -> None:
    """Remove the folder `path` below `root` if nothing is in it."""
    # Something is in it, it is gone, or it cannot be removed.
    with contextlib.suppress(OSError, ShareAwayError), open_folder(root, path.parent) as parent:
        os.rmdir(path.name, dir_fd=parent)
        sync_folder(parent)
        passed(Step.FOLDER_REMOVED)


def open_plain(folder: int, name: str) -> BufferedReader:
    """Return the plain file `name` in an open folder, for reading.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        OSError: with one of `NOT_A_FILE` if it is something else; others if it cannot be opened.
    """
    # Looked at before it is opened, because opening a device can have effects; and after, because it may have changed.
    _only_plain(os.stat(name, dir_fd=folder, follow_symlinks=False), name)
    file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
    try:
        _only_plain(os.fstat(file.fileno()), name)
    except BaseException:
        file.close()
        raise
    return file


def sha256_at(folder: int, name: str, sizes: Collection[int]) -> tuple[str, os.stat_result] | None:
    """Return hash and stat of the plain file `name` in an open folder; None if there is nothing of that name.

    A file that has none of the `sizes` (bytes) cannot be one that we know; it is not read, and its hash is "".

    Raises:
        OSError: as `open_plain`.
    """
    try:
        with open_plain(folder, name) as file:
            st = os.fstat(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest() if st.st_size in sizes else "", st
    except FileNotFoundError:
        return None


def sync_folder(folder: int) -> None:
    """Flush a folder; some network shares cannot and say so, which has to do."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def _only_plain(st: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(st.st_mode):
        raise OSError(errno.ELOOP, "a link", name)
    if not stat.S_ISREG(st.st_mode):
        raise OSError(errno.EEXIST, "not a plain file", name)
