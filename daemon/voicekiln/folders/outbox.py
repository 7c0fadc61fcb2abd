"""Putting finished files into the outbox so that no reader ever sees half of one.

Every file is copied to a hidden temporary name beside its target, given mode and group, fsynced and closed; only
when all files of a voice lie there complete are they renamed, the ONNX files first and the sidecar last, and the
folder is fsynced. When a result is replaced, the older sidecar goes first: a sidecar that exists tells the truth,
no sidecar means «not finished». The outbox may be writable by strangers, so folders are opened one by one without
following links, and a file that is not ours is never overwritten.

What a client wants to find in folders of its own lies in some below the sidecar's, which go when they become empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from voicekiln.errors import NameTaken, ShareAwayError
from voicekiln.folders.files import NOT_A_FILE, open_folder, open_plain, remove_if_empty, sha256_at, sync_folder
from voicekiln.folders.inbox import MAX_DEPTH
from voicekiln.folders.names import BELOW, folders_below, shown, temp_name, temp_token
from voicekiln.folders.voices import Kind, Published
from voicekiln.job import FileStamp
from voicekiln.steps import Step, passed

_CHUNK = 4 << 20
MAX_SIDECAR = 1 << 20
"""Bytes. A longer file is no sidecar of ours."""


class StagingLostError(Exception):
    """The bytes to publish are not what they were when they were verified; the voice has to be converted again."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What published files and the folders made for them look like."""

    mode: int = 0o644
    folder_mode: int = 0o755
    gid: int | None = None
    """None leaves the group as the system sets it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to publish; its bytes come from `source` or are `text`."""

    path: PurePosixPath
    """Relative to the outbox."""
    kind: Kind
    source: Path | None = None
    sha256: str = ""
    """Of the file at `source`."""
    length: int = 0
    """Bytes of the file at `source`."""
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Delivery:
    """All the files of one ending, in one folder of the outbox and in folders below it."""

    pieces: Sequence[Piece]
    """The ONNX files first, the sidecar (or the refusal alone) last, whose folder is the one."""
    stale: Sequence[PurePosixPath]
    """Older files of ours that this ending replaces and that must not stay beside it."""
    ours: Mapping[PurePosixPath, Published]
    """What the ledger knows to be ours among the targets and the stale."""
    token: str
    """Marks the temporary files; letters and digits."""


def publish(
    outbox: Path, delivery: Delivery, rights: Rights, still: Callable[[], None] = lambda: None
) -> tuple[Published, ...]:
    """Put the pieces into the outbox and return what lies there now.

    `still` is called when all is ready to be shown, and raises if it may not be any more.

    After any failure the temporary files are gone. Files under final names are then either the older ones, or
    newer ONNX files without a sidecar; calling again with the same delivery finishes the work.

    Raises:
        ShareAwayError: if the outbox is not there.
        NameTaken: if a file that is not ours lies under one of the names.
        StagingLostError: if a source is missing or has other bytes than it should.
        OSError: disk full, no permission ...: worth trying again later.
    """
    top = delivery.pieces[-1].path.parent
    try:
        with contextlib.ExitStack() as stack:
            parents = dict.fromkeys([top, *(piece.path.parent for piece in delivery.pieces)])
            folders = {parent: stack.enter_context(folder_for(outbox, parent, rights)) for parent in parents}
            return _publish(outbox, folders, delivery, rights, still)
    finally:
        for path in folders_below(top, [*(piece.path for piece in delivery.pieces), *delivery.stale]):
            remove_if_empty(outbox, path)


def _publish(
    outbox: Path, folders: Mapping[PurePosixPath, int], delivery: Delivery, rights: Rights, still: Callable[[], None]
) -> tuple[Published, ...]:
    """Do as `publish`; `folders` are those of the pieces, open."""
    vouched = _vouched_for(folders[delivery.pieces[-1].path.parent], delivery)
    for piece in delivery.pieces:
        _check_ours(folders[piece.path.parent], piece.path, delivery, vouched)
    temps: list[tuple[int, str]] = []
    for piece in delivery.pieces:
        folder = folders[piece.path.parent]
        name_max = os.fpathconf(folder, "PC_NAME_MAX")
        temps.append((folder, temp_name(piece.path.name, delivery.token, name_max)))
    written: list[Published] = []
    try:
        for (folder, temp), piece in zip(temps, delivery.pieces, strict=True):
            written.append(_write(folder, temp, piece, rights))
            passed(Step.TEMP_WRITTEN)
        still()
        _switch(outbox, folders, temps, delivery)
    finally:
        for folder, temp in temps:
            _unlink(folder, temp)
    return tuple(_stamped(folders[published.path.parent], published) for published in written)


def intact(outbox: Path, files: Sequence[Published]) -> bool:
    """Say whether all these files lie in the outbox with the bytes that were published, and there is at least one."""
    for file in files:
        try:
            with open_folder(outbox, file.path.parent) as folder:
                found = sha256_at(folder, file.path.name, (file.bytes,))
        except OSError:
            return False
        if found is None or found[0] != file.sha256:
            return False
    return bool(files)


def clear_temps(outbox: Path, instances: Collection[str]) -> int:
    """Remove the temporary files whose token begins with one of `instances`, in the whole outbox; return how many.

    Called while nothing is being published: whatever bears our mark then is left from a crash. Folders that cannot
    be read are passed over.
    """
    marks = tuple(instances)
    count = 0
    for _, _, names, folder in walk(outbox):
        for name in names:
            token = temp_token(name)
            if token is not None and token.startswith(marks):
                with contextlib.suppress(OSError):  # a folder that may not be written any more
                    _unlink(folder, name)
                    count += 1
                    passed(Step.LITTER_REMOVED)
    return count


def walk(
    outbox: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[PurePosixPath, list[str], list[str], int]]:
    """Give what `os.fwalk` does, with paths below `outbox`, and no deeper than anything of ours lies."""
    for top, folders, names, folder in os.fwalk(outbox, onerror=onerror, follow_symlinks=False):
        where = PurePosixPath(Path(top).relative_to(outbox))
        if len(where.parts) >= MAX_DEPTH + BELOW:
            folders.clear()
        yield where, folders, names, folder


@contextlib.contextmanager
def folder_for(outbox: Path, relative: PurePosixPath, rights: Rights) -> Iterator[int]:
    """Yield a descriptor of a folder below the outbox, which is made where it is missing.

    Raises:
        ShareAwayError: if the outbox is not there.
        NameTaken: if something else lies where a folder belongs.
        OSError: if it cannot be made or opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(open_folder(outbox, relative, partial(_make_folder, rights=rights)))
        except OSError as error:
            if error.errno in NOT_A_FILE:  # somebody's file, or a link, where the folder belongs
                raise NameTaken(name=shown(relative)) from error
            raise
        yield folder


def _make_folder(parent: int, name: str, rights: Rights) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not _is_half_made(parent, name):
            return
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        _give(made, rights.folder_mode, rights.gid)
    finally:
        os.close(made)
    sync_folder(parent)
    passed(Step.FOLDER_MADE)


def _is_half_made(parent: int, name: str) -> bool:
    """Say whether we went down between making this folder and giving it its rights: nobody else could enter it."""
    st = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(st.st_mode) or stat.S_IMODE(st.st_mode) != 0o700 or st.st_uid != os.geteuid():  # noqa: PLR2004 - as above
        return False
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    finally:
        os.close(folder)


def _give(file: int, mode: int, gid: int | None) -> None:
    """Set group and mode; a share that decides about them itself (SMB) answers EPERM, which is its right."""
    with contextlib.suppress(PermissionError):
        if gid is not None:
            os.fchown(file, -1, gid)
    with contextlib.suppress(PermissionError):
        os.fchmod(file, mode)


def _write(folder: int, temp: str, piece: Piece, rights: Rights) -> Published:
    """Write one temporary file as `write_whole` does."""
    sha256, size, stamp = write_whole(folder, temp, _chunks(piece), rights)
    if piece.source is not None and sha256 != piece.sha256:
        raise StagingLostError(f"{piece.source.name} has changed since it was verified")
    return Published(piece.path, piece.kind, sha256, size, stamp)


def write_whole(folder: int, temp: str, chunks: Iterable[bytes], rights: Rights) -> tuple[str, int, FileStamp]:
    """Write a file, complete and on the disk, and return hash, length and stamp; after a failure a part of it is left.

    Raises:
        OSError: as writing does.
        Whatever comes of `chunks`.
    """
    _unlink(folder, temp)  # left by a crash, or planted: never written into
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(temp, flags, 0o600, dir_fd=folder)
    digest = hashlib.sha256()
    size = 0
    try:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(out, rest) :]
        _give(out, rights.mode, rights.gid)
        os.fsync(out)
        stamp = FileStamp.of(os.fstat(out))
    except BaseException:
        os.close(out)
        raise
    os.close(out)  # outside of any handler: a network share says only now that the disk was full
    return digest.hexdigest(), size, stamp


def _stamped(folder: int, file: Published) -> Published:
    """Return the file with the stamp that it has under its final name; a rename changes the ctime and nothing else."""
    with contextlib.suppress(OSError):
        found = FileStamp.of(os.stat(file.path.name, dir_fd=folder, follow_symlinks=False))
        if file.stamp is not None and replace(file.stamp, ctime_ns=found.ctime_ns) == found:
            return replace(file, stamp=found)
    return replace(file, stamp=None)  # whoever was so quick, or a share that made up the inode


def _chunks(piece: Piece) -> Iterator[bytes]:
    if piece.source is None:
        yield piece.text
        return
    # A twin's result lies in the outbox, where anything may have been put in its place since.
    try:
        with open_folder(piece.source.parent, PurePosixPath()) as folder, open_plain(folder, piece.source.name) as file:
            left = piece.length + 1  # one more than there should be shows that it has grown
            while left and (chunk := file.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
    except (OSError, ShareAwayError) as error:
        raise StagingLostError(f"{piece.source.name} cannot be read") from error


def _switch(
    outbox: Path, folders: Mapping[PurePosixPath, int], temps: Sequence[tuple[int, str]], delivery: Delivery
) -> None:
    """Rename everything into place: older sidecar away, ONNX files, stale files away, sidecar."""
    *others, last = [(folder, temp, piece.path) for (folder, temp), piece in zip(temps, delivery.pieces, strict=True)]
    if others:
        _unlink(last[0], last[2].name)
        passed(Step.OLD_SIDECAR_GONE)
    for folder, temp, path in others:
        os.rename(temp, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        passed(Step.ONNX_RENAMED)
    for path in delivery.stale:
        _remove_own(outbox, path, delivery)
        passed(Step.STALE_REMOVED)
    for folder in folders.values():
        sync_folder(folder)
    folder, temp, path = last
    os.rename(temp, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    sync_folder(folder)
    passed(Step.SIDECAR_RENAMED)


def _check_ours(folder: int, path: PurePosixPath, delivery: Delivery, vouched: Mapping[str, int]) -> None:
    """Raise NameTaken if a file lies under this name that is neither ours nor already what we bring."""
    brought = {piece.sha256: piece.length for piece in delivery.pieces if piece.source}
    brought |= {hashlib.sha256(piece.text).hexdigest(): len(piece.text) for piece in delivery.pieces if piece.text}
    known = {**brought, **vouched}
    if (own := delivery.ours.get(path)) is not None:
        known[own.sha256] = own.bytes
    try:
        found = sha256_at(folder, path.name, known.values())
    except OSError as error:
        if error.errno in NOT_A_FILE:
            raise NameTaken(name=shown(path)) from error
        raise
    if found is not None and found[0] not in known:
        raise NameTaken(name=shown(path))


def _vouched_for(folder: int, delivery: Delivery) -> dict[str, int]:
    """Return hash and length of what a sidecar or refusal of the same source vouches for, its own among them.

    After a lost ledger this is how our own files are known again. What is said there of another source, by another
    daemon or the command `convert`, makes nothing ours.
    """
    last = delivery.pieces[-1]
    try:
        with open_plain(folder, last.path.name) as file:
            text = file.read(MAX_SIDECAR)
        body = json.loads(text)
        if body["made_by"]["name"] != "voicekiln" or body["source"]["path"] != json.loads(last.text)["source"]["path"]:
            return {}
        files = [told for file in body.get("onnx", []) for told in (file, file.get("client_file"))]
        files += body.get("data", [])
        told = [(file["sha256"], file["bytes"]) for file in files if file is not None]
        known = {sha256: size for sha256, size in told if is_sha256(sha256) and type(size) is int}
        return {hashlib.sha256(text).hexdigest(): len(text)} | known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def is_sha256(value: object) -> bool:
    """Say whether this is a hash as we write it."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _remove_own(outbox: Path, path: PurePosixPath, delivery: Delivery) -> None:
    """Remove a stale file if it still is what the ledger says; a changed one belongs to somebody else now."""
    own = delivery.ours[path]
    with contextlib.suppress(OSError), open_folder(outbox, path.parent) as folder:
        found = sha256_at(folder, path.name, (own.bytes,))
        if found is not None and found[0] == own.sha256:
            _unlink(folder, path.name)
            sync_folder(folder)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
