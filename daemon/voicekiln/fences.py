"""What must be true of the folders before the first file is touched, tried out at every start and reload.

A daemon that finds at its first voice that it may not write has kept somebody waiting for nothing, and one whose
outbox lies in its inbox feeds itself. So this asks the system itself, by writing and removing a hidden file, instead
of reading permission bits. Only what a person has to put right is a problem; a full disk or a server that does not
answer passes by itself, and the daemon waits for it. A file system that is locked against writing counts as the
person's: a unit without ReadWritePaths for the folder looks just like that. A daemon that runs waits for that, too.

Risks accepted: folders that are nested through a bind mount of a part of one of them are not recognised; neither is
a sync tool that leaves no marker in the folders that it syncs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from voicekiln.cluster import fences as cluster
from voicekiln.errors import plain
from voicekiln.folders.names import fold, temp_name
from voicekiln.folders.watch import file_system, sync_marker
from voicekiln.settings import FOLDERS, Settings, group_id

_PROBE = temp_name("voicekiln", "probe")
"""One name for all, so that a probe that a crash left behind goes with the next start."""

_MAX_SOCKET = 107
"""Bytes of a path that fit into the address of a Unix socket."""

_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.EINTR),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN),
    *(errno.ECONNABORTED, errno.ECONNRESET, errno.EMFILE, errno.ENFILE),
}
"""Troubles that end without anybody's changing the configuration."""


def problems(settings: Settings, *, make: bool = True) -> list[str]:
    """Return all that stands in the way, a line each, dotted key first.

    Unless `make` is False or the folders are nested, missing folders are made where they were given relative to the
    configuration, and the state folder wherever it is.
    """
    found = [*_nested(settings), *_state_on_share(settings)]
    if make and not found:
        found += _make(settings)
    told = {line.partition(":")[0] for line in found}
    found += [line for line in _absent(settings) if line.partition(":")[0] not in told]
    if not found:
        found += _no_access(settings)
    return [
        *found,
        *_group(settings),
        *_synced(settings),
        *_boards(settings),
        *_metrics(settings),
        *_command(settings),
        *cluster.problems(settings.workers),
        *_spool(settings),
    ]


def _nested(settings: Settings) -> Iterator[str]:
    for first, second in combinations(FOLDERS, 2):
        one, two = _real(getattr(settings, first)), _real(getattr(settings, second))
        if _same(one, two):
            yield f"{second}: is the same folder as {first} ({_shown(two)}); each needs one of its own"
        elif any(_same(above, one) for above in two.parents):
            yield f"{second}: {_shown(two)} lies inside the {first} {_shown(one)}; put them beside each other"
        elif any(_same(above, two) for above in one.parents):
            yield f"{first}: {_shown(one)} lies inside the {second} {_shown(two)}; put them beside each other"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _same(one: Path, two: Path) -> bool:
    """Say whether both are one folder, here or on a machine that sees the share without regard to case."""
    if fold(str(one)) == fold(str(two)):
        return True
    with suppress(OSError):
        return one.samefile(two)
    return False


def _state_on_share(settings: Settings) -> Iterator[str]:
    where = file_system(settings.state)
    # Whatever the root of the file system is (9p or virtiofs in virtual machines), no disk here is more local.
    if where.is_network and where.mount_point != Path("/"):
        yield (
            f"state: {_shown(settings.state)} lies on a network file system ({where.type}), where its database could "
            "be destroyed; give a folder on a disk of this machine"
        )


def _make(settings: Settings) -> Iterator[str]:
    for name in FOLDERS:
        folder: Path = getattr(settings, name)
        if name not in settings.beside and name != "state":
            continue
        try:
            folder.mkdir(mode=0o700 if name == "state" else 0o777, parents=True, exist_ok=True)
        except FileExistsError:
            yield f"{name}: {_shown(folder)} is a file, not a folder"
        except OSError as error:
            if error.errno not in _PASSING:
                yield f"{name}: {_shown(folder)} cannot be made ({_why(error)})"


def _absent(settings: Settings) -> Iterator[str]:
    for name in FOLDERS:
        folder: Path = getattr(settings, name)
        try:
            os.stat(f"{folder}/")  # noqa: PTH116 - the slash asks for a folder and does not survive in a Path
        except FileNotFoundError:
            if name not in settings.beside and name != "state":
                yield (
                    f"{name}: absent: there is no folder {_shown(folder)}. If it lies on a share, that is perhaps not "
                    "mounted; otherwise make the folder"
                )
        except OSError as error:
            if error.errno not in _PASSING:
                yield f"{name}: {_shown(folder)} cannot be used ({_why(error)})"


def _no_access(settings: Settings) -> Iterator[str]:
    for name in ("outbox", "state"):
        folder: Path = getattr(settings, name)
        why = _unwritable(folder)
        if why and _is_there(folder):
            yield f"{name}: nothing can be written to {_shown(folder)} ({why}); {_remedy()}"
    why = _unreadable(settings.inbox)
    if not _is_there(settings.inbox):
        return
    if why:
        yield f"inbox: {_shown(settings.inbox)} cannot be read ({why}); {_remedy()}"
    elif settings.sweep.sources is not None and (why := _unwritable(settings.inbox)):
        yield (
            f"sweep.sources: converted voices are to be removed from the inbox, but nothing can be changed in "
            f"{_shown(settings.inbox)} ({why}); {_remedy()}, or write sources: never"
        )


def _is_there(folder: Path) -> bool:
    """Say whether a folder was made already: a mistake elsewhere in the configuration keeps it from being made."""
    return os.path.isdir(folder)  # noqa: PTH112 - never raises


def _remedy() -> str:
    return f"give the user with the number {os.geteuid()} the right to it"


def _unwritable(folder: Path) -> str | None:
    """Write and remove a hidden file; return why that does not work."""
    probe = folder / _PROBE
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        probe.unlink(missing_ok=True)
    except OSError as error:
        return None if error.errno in _PASSING else _why(error)
    return None


def _unreadable(folder: Path) -> str | None:
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as error:
        return None if error.errno in _PASSING else _why(error)
    return None


def _group(settings: Settings) -> Iterator[str]:
    group = settings.publish.group
    if group is None:
        return
    try:
        gid = group_id(group)
    except KeyError:
        yield f"publish.group: there is no group {plain(group, 60)!r} on this machine"
        return
    if os.geteuid() != 0 and gid not in {os.getegid(), *os.getgroups()}:
        yield (
            f"publish.group: the user with the number {os.geteuid()} is no member of {plain(group, 60)!r}, so files "
            "cannot be given to that group; add it to the group"
        )


def _synced(settings: Settings) -> Iterator[str]:
    sweep = settings.sweep
    if sweep.sources is None or sweep.originals_elsewhere:
        return
    marker = sync_marker(settings.inbox)
    if marker is not None:
        yield (
            f"sweep.sources: the inbox is synced with other devices ({_shown(marker)} shows it), so a voice removed "
            "here would also be removed there. Write sources: never; or, if nobody keeps the only copy of a voice in "
            "this folder, originals_elsewhere: true"
        )


def _boards(settings: Settings) -> Iterator[str]:
    """Those below the outbox need nothing but what results need; the others have to lie elsewhere, in a folder."""
    wanted = {"status.page": settings.status.page, "status.json": settings.status.json}
    given = {key: path for key, path in wanted.items() if path is not None}
    if len({fold(str(path)) for path in given.values()}) < len(given):
        yield "status.json: is the same file as status.page; give each a name of its own"
    for key, path in given.items():
        if not path.is_absolute():
            if blocked := [above for above in path.parents[:-1] if _is_no_folder(settings.outbox / above)]:
                yield f"{key}: {_shown(blocked[-1])} lies in the outbox already and is no folder; write another path"
            continue
        above = _real(path).parents
        within = [name for name in FOLDERS if any(_same(one, _real(getattr(settings, name))) for one in above)]
        if within == ["outbox"]:
            short = _shown(Path(path.name))
            yield f"{key}: {_shown(path)} lies in the outbox; write its path from there on, such as {short}"
        elif within:
            yield f"{key}: {_shown(path)} lies in the folder {within[0]}, which is no place for it"
        elif not _is_there(path.parent):
            yield f"{key}: there is no folder {_shown(path.parent)}"
        elif _is_there(path):
            yield f"{key}: {_shown(path)} is a folder; write the path of a file in it"
        elif why := _unwritable(path.parent):
            yield f"{key}: nothing can be written to {_shown(path.parent)} ({why}); {_remedy()}"


def _is_no_folder(path: Path) -> bool:
    """Say whether something else is there; a link is never followed on the way to what is published."""
    return os.path.lexists(path) and (os.path.islink(path) or not _is_there(path))  # noqa: PTH114 - never raises


def _metrics(settings: Settings) -> Iterator[str]:
    """What stands at these paths is replaced, so it has to be what it is called; see `scrape.listen` for the socket."""
    textfile, socket = settings.metrics.textfile, settings.metrics.socket
    if textfile is not None and (textfile.suffix != ".prom" or textfile.name.startswith(".")):
        yield f"metrics.textfile: node_exporter reads only files whose name ends in .prom; {_shown(textfile)} does not"
    if socket is not None and len(os.fsencode(socket)) > _MAX_SOCKET:
        yield f"metrics.socket: {_shown(socket)} is too long; the path of a socket has at most {_MAX_SOCKET} bytes"
    for key, path in (("textfile", textfile), ("socket", socket)):
        if path is None:
            continue
        if not _is_there(path.parent):
            if path.is_relative_to("/run"):  # the unit makes its folder there with each start
                continue
            yield f"metrics.{key}: there is no folder {_shown(path.parent)}"
        elif why := _unwritable(path.parent):
            yield f"metrics.{key}: nothing can be written to {_shown(path.parent)} ({why}); {_remedy()}"
        elif os.path.lexists(path) and not (path.is_file() if key == "textfile" else path.is_socket()):
            yield f"metrics.{key}: {_shown(path)} is there already and something else; give another name"


def _command(settings: Settings) -> Iterator[str]:
    command = settings.notify.command
    if command is None:
        return
    program = Path(command[0])
    if not os.path.isfile(program):  # noqa: PTH113 - never raises
        yield f"notify.command: there is no program {_shown(program)}"
    elif not os.access(program, os.X_OK, effective_ids=True):
        yield f"notify.command: {_shown(program)} may not be run; make it executable (chmod a+x)"


def _spool(settings: Settings) -> Iterator[str]:
    """The folder itself is tried here; whether the hosts of Dask workers see it, the daemon finds out (`cluster`)."""
    spool = settings.workers.spool
    if spool is None:
        return
    if settings.workers.engine == "local":
        yield "workers.spool: without engine: dask nothing goes through a folder; write spool: null"
        return
    for name in FOLDERS:
        other = _real(getattr(settings, name))
        if any(_same(one, other) for one in (_real(spool), *_real(spool).parents)):
            yield f"workers.spool: {_shown(spool)} lies in the folder {name}, which is no place for it"
            return
        if any(_same(above, _real(spool)) for above in other.parents):
            yield f"workers.spool: the folder {name} lies inside {_shown(spool)}; give another folder"
            return
    if not _is_there(spool):
        yield f"workers.spool: there is no folder {_shown(spool)}. If it lies on a share, that is perhaps not mounted"
    elif why := _unwritable(spool):
        yield f"workers.spool: nothing can be written to {_shown(spool)} ({why}); {_remedy()}"


def _shown(path: Path) -> str:
    return plain(str(path))


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
