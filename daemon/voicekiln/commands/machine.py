"""What `doctor` asks of the computer: versions, the system, the user, clocks, the graphics card."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from voicekiln import __version__
from voicekiln.commands.aside import Found
from voicekiln.errors import plain
from voicekiln.supervisor.hiring import HERE, WORKER_BYTES

PACKAGES = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxconverter-common", "numpy", "watchdog", "structlog"),
    "distributed",
)
"""Without which nothing works, or because of which something may not."""

ANSWER_S = 4.0
"""For a program of the system that is asked."""

FIRST_YEAR = 2025
"""An earlier date was never set."""

_GB = 1e9


def software() -> Found:
    """Return the versions of what takes part, and what of it is missing or too much."""
    there = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            there[name] = metadata.version(name)
    found = Found([f"voicekiln {__version__}, Python {platform.python_version()} in {sys.prefix}"])
    found.lines.append(", ".join(f"{name} {version}" for name, version in there.items()))
    runtimes = [name for name in there if name.startswith("onnxruntime")]
    if len(runtimes) > 1:
        found.wrong.append(
            "The packages onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the other. "
            f"Remove both ({sys.executable} -m pip uninstall onnxruntime onnxruntime-gpu) and install voicekiln again."
        )
    missing = {"torch", "onnx", "numpy", "watchdog"} - there.keys() or (not runtimes and {"onnxruntime"})
    if missing:
        found.wrong.append(f"{', '.join(sorted(missing))} is not installed. Install voicekiln again.")
    return found


def system() -> Found:
    """Return what runs below us."""
    name = "an unknown system"
    with suppress(OSError):  # not every one names itself
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    libc = " ".join(platform.libc_ver())
    free = HERE.free_bytes()
    found = Found(
        [
            f"{plain(name, 100)}, kernel {platform.release()} {platform.machine()}, {libc}",
            f"{HERE.cores()} cores to use, {free / _GB:.1f} GB of memory free",
        ]
    )
    if inside := [path for path in ("/.dockerenv", "/run/.containerenv") if os.path.exists(path)]:  # noqa: PTH110 - never raises
        found.lines.append(f"in a container ({inside[0]})")
    if free < WORKER_BYTES:
        found.wrong.append(
            f"Only {free / _GB:.1f} GB of memory are free; a conversion needs {WORKER_BYTES / _GB:.1f} GB. "
            "End other programs, or give this machine or container more."
        )
    return found


def user() -> Found:
    """Return who asks, with which groups and umask."""
    mask = os.umask(0o077)
    os.umask(mask)
    groups = ", ".join(_group(gid) for gid in sorted({os.getegid(), *os.getgroups()}))
    return Found([f"{owner(os.geteuid())}, groups {groups}, umask {mask:04o}"])


def owner(uid: int) -> str:
    """Return a user as name and number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def clock() -> Found:
    """Return the time, and whether the system says that it is right."""
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    synced = _said("timedatectl", "show", "--property=NTPSynchronized", "--value") or "unknown"
    now = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime())
    found = Found([f"{now}, up {up / 3600:.1f} h, set by a time server: {synced}"])
    if time.localtime().tm_year < FIRST_YEAR:
        found.wrong.append(f"The clock says {now}. Set it; sync tools compare times.")
    return found


def graphics() -> Found:
    """Return what the system knows of NVIDIA."""
    driver = Path("/proc/driver/nvidia/version")
    lines = []
    if driver.exists():
        lines.append(plain(driver.read_text().partition("\n")[0], 200))
    else:
        lines.append("no NVIDIA driver in the kernel")
    query = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    cards = _said("nvidia-smi", *query).splitlines()
    lines += [f"nvidia-smi: {plain(card, 200)}" for card in cards] or ["nvidia-smi: not there, or knows of no card"]
    return Found(lines)


def service() -> Found:
    """Return what systemd says of the unit."""
    wanted = ("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
    said = _said("systemctl", "show", "voicekiln.service", f"--property={','.join(wanted)}")
    facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if not facts:
        return Found(["no systemd here"])
    if facts.get("LoadState") == "not-found":
        return Found(["voicekiln.service is not installed"])
    found = Found([", ".join(f"{name} {plain(facts[name], 60)}" for name in wanted if facts.get(name))])
    if facts.get("ActiveState") == "failed":
        status = facts.get("ExecMainStatus", "?")
        found.wrong.append(
            f"The service has failed (exit status {status}). journalctl -u voicekiln says why; after it is put right: "
            "systemctl restart voicekiln."
        )
    return found


def _said(program: str, *arguments: str) -> str:
    """Return what a program of the system answers; nothing if it is missing, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, timeout=ANSWER_S, check=True)  # noqa: S603 - ours
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()
