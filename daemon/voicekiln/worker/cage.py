"""The cage: what this process gives up before it reads a byte of a stranger's file, and says that it has.

`enter` comes before any other thread and any heavy import: Landlock holds only for threads that start later. After it
no file of the user's can be read but the copies of voices, none written but in staging and among the templates, no
program started, no TCP; nor can another process be traced. `lock` comes when all is imported: seccomp takes all threads
in, and a GPU's driver has opened by then what it opens only once. Where the kernel lacks a means, or the surroundings
forbid it, the worker works without and says so: a cage with a missing wall is better than none, and a folder that
converts nothing helps nobody. SECURITY.md tells what then stands open.

Processor time is limited by the parent, which measures it: a limit of the kernel's counts for a whole life and can
only be lowered, but a worker lives long, and one that catches SIGXCPU goes on. Nor RLIMIT_NPROC, which counts all
threads of the user, or RLIMIT_AS, which CUDA's address space exceeds at once; RLIMIT_DATA takes its place.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from voicekiln.worker import landlock, seccomp
from voicekiln.worker.landlock import DEVICE, READ, WRITE, Files
from voicekiln.worker.rooms import Rooms

MAX_FILE_BYTES: Final = 8 * 2**30
"""No file that this process writes may be longer; the largest ONNX file has 2 GiB."""

MAX_DESCRIPTORS: Final = 1024

SYSTEM: Final = (
    *("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *(
        "/run/opengl-driver",
        "/run/nvidia",
        "/etc/alternatives",
        "/etc/nvidia",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
    ),
    *("/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"),
    *("/dev/zero", "/dev/random", "/dev/urandom"),
)
"""Where programs, libraries and facts about the machine lie. The rest of /etc, and /home, /root, /run, /srv, /tmp and
/var stay shut."""

DEVICES: Final = Path("/dev")
NVIDIA: Final = "nvidia*"
"""Device nodes; and nvidia-caps, a folder of them."""

THREADS: Final = Path("/proc/self/task")
"""CUDA names its threads in here and does not start where it cannot."""

KEPT_BY_ROOT: Final = 1 << 0 | 1 << 1 | 1 << 3
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER: templates that root makes belong to the daemon."""
CAPABILITIES: Final = 0x20080522
"""The version of the kernel's structure, from <linux/capability.h>."""

PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


def enter(rooms: Rooms, *, gpu: bool) -> str:
    """Give up files, programs and privileges; return what confines the process to its files, or why nothing does.

    The folders of `rooms` have to be there: one that is made later stays shut.
    """
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    lower(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
    _drop_privileges()
    try:
        version = landlock.abi()
        landlock.restrict(dict(_open_to(rooms, gpu=gpu)), version)
    except OSError as error:
        return f"files: open ({error.strerror})"
    return f"files: Landlock {version}"


def lock(memory_bytes: int, *, gpu: bool) -> str:
    """Give up the network, other processes and more, in all threads; return as `enter` does.

    The parent sees to `memory_bytes`; the kernel here to what comes too fast for it.
    """
    if not gpu:  # CUDA maps address space far beyond what it uses
        lower(resource.RLIMIT_DATA, 2 * memory_bytes)
    try:
        return f"system calls: {seccomp.refuse(gpu=gpu)}"
    except OSError as error:
        return f"system calls: open ({error.strerror or error})"


def has_gpu() -> bool:
    """Say whether there may be a GPU for this process; nothing of it is asked."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(DEVICES.glob(NVIDIA))


def furnish(rooms: Rooms, *, gpu: bool) -> None:
    """Make the folder for templates if it is missing, and tell libraries where they may put what they must."""
    with suppress(OSError):  # without it the work is done all the same
        if not rooms.templates.is_dir():
            rooms.templates.mkdir(parents=True, exist_ok=True)
            around = rooms.templates.parent.stat()
            os.chown(rooms.templates, around.st_uid, around.st_gid)  # what root makes by a command is the daemon's
    os.environ["TMPDIR"] = str(rooms.staging)
    if gpu:
        cache = os.environ.setdefault("CUDA_CACHE_PATH", str(rooms.templates / "nv"))
        with suppress(OSError):  # without it, what the driver compiles is compiled anew by each worker
            Path(cache).mkdir(mode=0o700, parents=True, exist_ok=True)


def lower(kind: int, limit: int) -> None:
    """Lower a resource limit, never raise it."""
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _open_to(rooms: Rooms, *, gpu: bool) -> Iterator[tuple[Path, Files]]:
    """Give what the worker may do with which files, and all beneath them; the last word on a path counts."""
    yield from ((Path(path), READ) for path in SYSTEM)
    yield from ((path, READ) for path in Path("/etc").glob("python3*"))  # Debian's sitecustomize
    for path in (*sys.path, sys.prefix, sys.base_prefix, *os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        if Path(path).is_absolute():
            yield Path(path), READ
    yield Path("/dev/null"), Files.READ_FILE | Files.WRITE_FILE
    if gpu:
        yield from ((path, DEVICE | Files.READ_DIR) for path in DEVICES.glob(NVIDIA))
        yield THREADS, READ | Files.WRITE_FILE
        yield Path(os.environ.get("CUDA_CACHE_PATH", os.devnull)), WRITE
    yield rooms.sources, READ
    yield rooms.staging, WRITE & ~Files.MAKE_DIR  # the jobs' folders are there
    yield rooms.templates, WRITE


def _drop_privileges() -> None:
    """Give up root's powers, where there are any, but for those over the files that Landlock leaves."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for the higher half
    _libc.capget(header, sets)
    _libc.capset(header, (ctypes.c_uint32 * 6)(sets[0] & KEPT_BY_ROOT, sets[1] & KEPT_BY_ROOT, 0, 0, 0, 0))
