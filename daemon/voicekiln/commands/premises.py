"""What `doctor` asks of the place where voicekiln works: its folders, watches, ledger and daemon.

All of it is asked in processes of their own (see `aside`), as the user whose state folder it is where root asks.
Nothing is made or changed but for the hidden file with which `fences` tries whether it may write.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from voicekiln import fences, loop
from voicekiln.commands.aside import Found, become_owner_of
from voicekiln.commands.machine import owner
from voicekiln.errors import LedgerError, plain
from voicekiln.folders.census import Census
from voicekiln.folders.names import shown
from voicekiln.folders.sidecar import local
from voicekiln.folders.voices import State, Voice
from voicekiln.folders.watch import file_system
from voicekiln.job import Refused
from voicekiln.settings import Settings
from voicekiln.supervisor.common import TROUBLE

LITTLE_BYTES = 500_000_000
LITTLE_INODES = 1000
"""Less room than this is no room for long."""
LATEST = 5
"""Of what was refused and of what waits, so many are told."""
ARRIVING = (State.SETTLING, State.INCOMPLETE)
"""Voices that are given time to arrive, which is as it should be."""
INOTIFY = Path("/proc/sys/fs/inotify")
IN_CREATE = 0x100
"""As the kernel counts it."""

CLUSTER_S = 12.0
"""What a scheduler is given to answer; that a host is silent, the line itself finds out after five seconds."""

_GB = 1e9


def folder(name: str, path: Path) -> Found:
    """Return where a folder lies, whose it is and how much room there is."""
    try:
        st = path.stat()
    except FileNotFoundError:
        return Found([f"{path} is not there"])
    where, room = file_system(path), os.statvfs(path)
    free, inodes = room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None
    found = Found([f"{path}, {stat.filemode(st.st_mode)} of {owner(st.st_uid)}, group {st.st_gid}"])
    found.lines.append(f"{where.type}{' (network)' if where.is_network else ''}, {_mount(where.mount_point)}")
    left = "" if inodes is None else f", for at most {inodes:,} files"
    found.lines.append(f"room left: {free / _GB:.1f} of {room.f_blocks * room.f_frsize / _GB:.1f} GB{left}")
    if name != "inbox" and (free < LITTLE_BYTES or (inodes is not None and inodes < LITTLE_INODES)):
        found.wrong.append(
            f"The disk of the {name} is nearly full ({path}: {free / _GB:.1f} GB{left}). Make room there."
        )
    return found


def _mount(point: Path) -> str:
    """Return the line of a mount as the kernel lists it: source, type, options."""
    for line in reversed(Path("/proc/self/mounts").read_text(errors="replace").splitlines()):
        source, at, _, options, *_ = line.split(" ")
        if at.replace("\\040", " ") == str(point):
            return f"{plain(source, 100)} on {at}, {plain(options, 160)}"
    return f"on {point}"


def access(settings: Settings) -> Found:
    """Return whether the daemon could start on these folders."""
    if settings.state.exists():
        become_owner_of(settings.state)
    problems = fences.problems(settings, make=False)
    told = f"tried as {owner(os.geteuid())}"
    return Found(
        [f"{told}: {len(problems)} problems" if problems else f"{told}: all may be used as they should"],
        [f"The daemon would not start: {problem}." for problem in problems],
    )


def cluster(settings: Settings) -> Found:
    """Return whether the scheduler answers, and how many voices can be in work there."""
    become_owner_of(settings.state)  # whose keys they are
    from voicekiln.cluster.crew import line_to  # noqa: PLC0415 - thirty megabytes, for those who have a cluster

    line, until = line_to(settings, "doctor", lambda: None, 0), time.monotonic() + CLUSTER_S
    while (line.unsure or not line.connected) and time.monotonic() < until:
        time.sleep(0.05)
    found = Found([f"{line.scheduler}; places: {line.places}; dashboard: {line.dashboard or 'none'}"])
    if line.trouble is not None:
        what = "Not all of the cluster can" if line.places else "The cluster cannot"
        found = Found([f"{line.scheduler}; places: {line.places}"], [f"{what} be used: {line.trouble}."])
    elif not line.places:
        found.wrong.append("The cluster has no workers. Start some: dask worker with the address of the scheduler.")
    line.close(patience_s=0.5)  # this process ends, too
    return found


def events(settings: Settings) -> Found:
    """Return whether the inbox can be watched."""
    if not settings.inbox.exists():
        return Found(["the inbox is not there"])
    where, scan, found = file_system(settings.inbox), settings.scan, Found()
    if not where.has_events(scan.events):
        why = "a network drive does not report" if where.is_network else "switched off (scan.events)"
        found.lines.append(f"not used, the inbox is looked through instead: {why}")
        return found
    if where.is_network:
        found.wrong.append(
            f"scan.events is on, but {where.type} does not report what others change. Write scan.events: auto."
        )
    become_owner_of(settings.state if settings.state.exists() else settings.inbox)
    trouble = _watch(settings.inbox)
    found.lines.append(f"cannot be had: {os.strerror(trouble)}" if trouble else "a watch on the inbox can be set")
    limits = {errno.ENOSPC: "max_user_watches", errno.EMFILE: "max_user_instances"}
    if trouble in limits:
        key = f"fs.inotify.{limits[trouble]}"
        found.wrong.append(
            f"The system's limit {key} is reached, so new voices are found later than need be. Raise it: "
            f"echo {key}=1048576 | sudo tee /etc/sysctl.d/50-voicekiln.conf && sudo sysctl --system"
        )
    return found


def _watch(path: Path) -> int:
    """Set up one watch and give it up again; return the number of the error, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return ctypes.get_errno()
    try:
        watch = libc.inotify_add_watch(descriptor, os.fsencode(path), IN_CREATE)
        return ctypes.get_errno() if watch < 0 else 0
    finally:
        os.close(descriptor)


def watches(settings: Settings) -> Found:
    """Return how many watches the system allows, and how many the daemon's user has."""
    whose = settings.state.stat().st_uid if settings.state.exists() else os.geteuid()
    limits = ", ".join(
        f"{name} {(INOTIFY / name).read_text().strip()}" for name in ("max_user_watches", "max_user_instances")
    )
    open_files = (fd for process in Path("/proc").glob("[0-9]*") if _is_of(process, whose) for fd in _infos(process))
    used = [count for fd in open_files if (count := _count(fd)) is not None]
    return Found([f"{limits} (fs.inotify); {owner(whose)} has {sum(used)} in {len(used)} that can be seen"])


def _is_of(process: Path, uid: int) -> bool:
    with suppress(OSError):
        return process.stat().st_uid == uid
    return False


def _infos(process: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (process / "fdinfo").iterdir()


def _count(fdinfo: Path) -> int | None:
    """Return how many watches an inotify instance has; None for any other descriptor."""
    with suppress(OSError):
        if str((fdinfo.parents[1] / "fd" / fdinfo.name).readlink()) == "anon_inode:inotify":
            return fdinfo.read_text().count("inotify wd:")
    return None


def daemon(settings: Settings, config: Path) -> Found:
    """Return whether it runs, and what it and the ledger say."""
    if not settings.state.exists() or not (settings.state / loop.LEDGER).exists():
        return Found([f"has never run with the state folder {settings.state}"])
    become_owner_of(settings.state)
    running = loop.is_running(settings.state)
    try:
        found = _ledger(settings.state / loop.LEDGER, running=running)
    except LedgerError as error:
        found = Found(
            [f"{'runs' if running else 'does not run'}; its ledger cannot be read"],
            [f"The ledger cannot be used: {error}. A damaged one is kept aside and replaced at the next start."],
        )
    found.lines += [f"set aside: {path.name}" for path in sorted(settings.state.glob(f"{loop.LEDGER}.aside*"))]
    if not running:
        found.wrong.append(
            f"The daemon does not run. Start it: systemctl start voicekiln, or voicekiln run --config {config}"
        )
    return found


def _ledger(path: Path, *, running: bool) -> Found:
    with Census(path) as census:
        counts = ", ".join(f"{count} {state}" for state, count in census.counts().items() if count) or "empty"
        size = path.stat().st_size
        found = Found(
            [f"{'runs' if running else 'does not run'}; it last said: {plain(census.fact('status') or 'nothing')}"]
        )
        end = "" if running else f", clean end: {'yes' if census.fact(loop.CLOSED) else 'no'}"
        found.lines.append(f"ledger: {counts}; {size / 1e6:.1f} MB{end}")
        found.lines += [f"refused: {line}" for line in _refusals(census)]
        put_off = list(census.put_off(LATEST))
        found.lines += [f"{'waits' if voice.state in ARRIVING else 'trouble'}: {_waiting(voice)}" for voice in put_off]
        trouble = census.fact(TROUBLE)
    if any(voice.state not in ARRIVING for voice in put_off):
        found.wrong.append("Files could not be done yet and are tried again; see the trouble of the daemon below.")
    if running and trouble:
        found.wrong.append(f"The daemon is kept from its work: {plain(trouble, 300)}.")
    return found


def _refusals(census: Census) -> Iterator[str]:
    """Yield what was refused last: an answer that somebody has, and nothing that is wrong here."""
    for voice in census.newest(State.REFUSED, LATEST):
        if isinstance(voice.ending, Refused):
            refusal = voice.ending.refusal
            yield f"{_when(voice.finished)} {shown(voice.relpath)} ({refusal.code}): {refusal.text}"


def _waiting(voice: Voice) -> str:
    """Return when a voice is looked at again, and why not now."""
    return f"{shown(voice.relpath)} until {_when(voice.next_try)}: {plain(voice.reason, 200)}"


def _when(wall: float | None) -> str:
    return "?" if wall is None else local(wall)
