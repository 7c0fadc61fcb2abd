"""Files on their way from one host to another: in chunks, hashed where they leave and where they arrive.

A file is never in memory as a whole, at either end. What arrives is a file only when its size and hash are those that
it left with; until then it has no name but in an empty folder of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from voicekiln.errors import ShareAwayError
from voicekiln.folders.files import open_folder, open_plain, sync_folder

CHUNK = 2 * 1024 * 1024
"""Bytes. Large enough that the way there and back costs little, small enough that one gets through a slow network in
`line.CALL_S`, also where others are on their way."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

UNLIKE = "the content arrived with another hash than it left with"


class ParcelError(Exception):
    """What arrived is not what left; the text says how."""


class Outgoing:
    """Reads a file that somebody else may have made: a plain one, by its own name, in a folder that is ours."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """Open it.

        Args:
            path: where it is.
            root: a folder above it that strangers may write to: below it no link is followed.

        Raises:
            OSError: if there is no plain file; a link is none, wherever it leads.
        """
        with _folder_of(path, root) as folder:
            self._file: BinaryIO = open_plain(folder, path.name)
        self._hash = hashlib.sha256()
        self.offset = 0
        """Of the next chunk."""

    @property
    def sha256(self) -> str:
        """Of all that was read so far."""
        return self._hash.hexdigest()

    def read(self) -> bytes:
        """Return the next chunk; only the last one is shorter than `CHUNK`, and may be empty.

        Raises:
            OSError: if the disk fails.
        """
        chunk = self._file.read(CHUNK)
        self._hash.update(chunk)
        self.offset += len(chunk)
        return chunk

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


class Incoming:
    """Writes a file that comes in chunks."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """Begin it; `root` as in `Outgoing`.

        Raises:
            OSError: if there is something of its name, or the disk fails.
        """
        self._path = path
        self._root = root
        with _folder_of(path, root) as folder:
            self._file = os.fdopen(os.open(path.name, _NEW, 0o600, dir_fd=folder), "wb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    @property
    def sha256(self) -> str:
        """Of all that was written so far."""
        return self._hash.hexdigest()

    def write(self, offset: int, chunk: bytes | bytearray | memoryview) -> None:
        """Take a chunk.

        Raises:
            ParcelError: if it is not the next one.
            OSError: if the disk fails.
        """
        if offset != self._bytes:
            raise ParcelError(f"a chunk is missing: byte {self._bytes} was due and {offset} came")
        self._file.write(chunk)
        self._hash.update(chunk)
        self._bytes += len(chunk)

    def finish(self, sha256: str) -> None:
        """Have it on disk under its name, as a worker on this host leaves its files.

        Raises:
            ParcelError: if it is not what left; then it is gone.
            OSError: if the disk fails.
        """
        if self.sha256 != sha256:
            self.drop()
            raise ParcelError(UNLIKE)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with _folder_of(self._path, self._root) as folder:
            sync_folder(folder)

    def close(self) -> None:
        """Let it go as it is."""
        self._file.close()

    def drop(self) -> None:
        """Remove it."""
        with suppress(OSError):  # a full disk says once more that it is full
            self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def _folder_of(path: Path, root: Path | None) -> Iterator[int]:
    root = root or path.parent
    try:
        with open_folder(root, PurePosixPath(path.parent.relative_to(root))) as folder:
            yield folder
    except ShareAwayError as error:
        raise error.__cause__ or error from None
