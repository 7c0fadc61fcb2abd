"""What lies in an outbox by its sidecars, for a daemon whose ledger does not know it.

After another daemon has worked there, or when the ledger was lost, the sidecars say which content was converted by
which recipe into which files. What they say is checked against names and sizes here; the bytes are compared with the
hashes when it matters, before a voice counts as converted and before a file is swept. Refusals are ours to sweep, but
say too little to be believed: what was refused is judged anew.

Accepted: whoever may write to the outbox may write a sidecar, and so let files of his own be swept one day.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

from voicekiln.folders.files import open_folder, open_plain
from voicekiln.folders.names import LONGEST, NAME_MAX, WAS_LONGEST, bases, reserved
from voicekiln.folders.outbox import walk
from voicekiln.folders.sidecar import read, read_refusal
from voicekiln.folders.voices import Found, Published
from voicekiln.job import Converted

MAX_TOLD = 64 << 10
"""Bytes. Ours have some 4 kB; many of them are in memory at once."""

MAX_MARKS = 4
"""So many names of a source are tried: more of them clash for nobody who does not want it."""

RESULT = ".json"
REFUSAL = ".error.json"


def found_in(outbox: Path, name_max: int = NAME_MAX) -> Iterator[Found]:
    """Give what sidecars and refusals in the outbox tell of; folders that one may not read are passed over.

    For the hands: it reads every sidecar, and goes on between two calls of `next`.

    Raises:
        OSError: if the share does not answer; what was given until then is not all.
    """
    for where, folders, names, folder in walk(outbox, _pass_over):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(RESULT) and (found := _read(outbox, folder, where / name, name_max)) is not None:
                yield found


def _pass_over(error: OSError) -> None:
    if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        raise error


def _read(outbox: Path, folder: int, path: PurePosixPath, name_max: int) -> Found | None:
    try:
        with open_plain(folder, path.name) as file:
            text = file.read(MAX_TOLD)
    except OSError:
        return None
    told = read(text)
    if told is None and path.name.endswith(REFUSAL):
        return _refusal(path, text, name_max)
    base = path.with_name(path.name.removesuffix(RESULT))
    if told is None or not _is_of(told.relpath, base, name_max):
        return None
    files = [Published(path, "sidecar", *_identity(text))]
    for one in told.files:
        known = replace(one, path=path.parent / one.path)
        if str(one.path) not in reserved(base.name) or _size(outbox, folder, known.path, path.parent) != one.bytes:
            return None
        files.append(known)
    ending = Converted(told.conversion)
    return Found(told.relpath, base, tuple(files), told.sha256, told.recipe, ending, told.beside)


def _refusal(path: PurePosixPath, text: bytes, name_max: int) -> Found | None:
    relpath, base = read_refusal(text), path.with_name(path.name.removesuffix(REFUSAL))
    if relpath is None or not _is_of(relpath, base, name_max):
        return None
    return Found(relpath, base, (Published(path, "refusal", *_identity(text)),), None, None, None)


def _is_of(relpath: PurePosixPath, base: PurePosixPath, name_max: int) -> bool:
    """Say whether results of a source may lie there, and it is told of by its true name: an odd one is not written."""
    told = str(relpath)
    odd = "\N{REPLACEMENT CHARACTER}" in told or "\\x" in told
    if odd or relpath.parent != base.parent:
        return False
    # When endings were shorter, longer stems had room.
    rooms = (name_max, *(name_max + LONGEST - was for was in WAS_LONGEST))
    return any(base.name in islice(bases(relpath, room), MAX_MARKS) for room in rooms)


def _identity(text: bytes) -> tuple[str, int]:
    return hashlib.sha256(text).hexdigest(), len(text)


def _size(outbox: Path, folder: int, path: PurePosixPath, here: PurePosixPath) -> int | None:
    """Return the bytes of a file in `folder`, which is `here`, or below it; not through links."""
    try:
        if path.parent == here:
            return os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_size
        with open_folder(outbox, path.parent) as below:
            return os.stat(path.name, dir_fd=below, follow_symlinks=False).st_size
    except OSError:
        return None
