"""What stands in systemd's unit files, and a process under the system calls that they leave it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNIT = SYSTEMD / "voicekiln.service"
DROP_INS = SYSTEMD / "voicekiln.service.d"
WORKER = SYSTEMD / "voicekiln-worker.service"
SCHEDULER = SYSTEMD / "voicekiln-scheduler.service"

OLDEST = 250
"""The systemd whose `systemd-analyze security` first knew `--offline`."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def why_not() -> str:
    """Return why units cannot be looked at here; empty if they can."""
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze is not installed (apt install systemd)"
    version = int(run("systemd-analyze", "--version").stdout.split()[1])
    return f"systemd {version} is older than {OLDEST}, which first checked units offline" if version < OLDEST else ""


def entries(path: Path) -> list[tuple[str, str]]:
    """The settings of a unit file, in their order."""
    lines = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8")).splitlines()
    return [
        (key, value) for key, sign, value in (line.partition("=") for line in lines) if sign and not key.startswith("#")
    ]


def last(path: Path, key: str) -> str:
    return [value for name, value in entries(path) if name == key][-1]


def _members(name: str) -> set[str]:
    """The system calls of a group, or the one of that name."""
    if not name.startswith("@"):
        return {name}
    lines = run("systemd-analyze", "syscall-filter", "--no-pager", name).stdout.splitlines()[1:]
    return set().union(*(_members(line.strip()) for line in lines if line.strip() and line.strip()[0] != "#"))


def allowed(*files: Path) -> set[str]:
    """What the lines SystemCallFilter leave, in their order."""
    left: set[str] = set()
    for value in (value for path in files for key, value in entries(path) if key == "SystemCallFilter"):
        named = set().union(*map(_members, value.removeprefix("~").split()))
        left = left - named if value.startswith("~") else left | named
    return left


_UNDER_THE_RULES = """
import ctypes, os, sys
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
rules = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(0x00050001)))  # all is EPERM
for name in sys.argv[1].split():
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert library.seccomp_rule_add_array(rules, ctypes.c_uint32(0x7FFF0000), number, 0, None) == 0
assert library.seccomp_load(rules) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A program that takes only the system calls that it is told, and becomes another one."""


def under_the_rules(*files: Path) -> list[str]:
    """Return what to put in front of a command so that it runs with the system calls of these files alone."""
    return [sys.executable, "-c", _UNDER_THE_RULES, " ".join(sorted(allowed(*files)))]
