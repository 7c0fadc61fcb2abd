"""A worker that was taken over: the real `main` with its cage, and in place of the work attempts to break out.

Run as a program by `worker/test_cage.py`. Each attempt is a function that returns when it has done what it must not be
able to do and raises when it was refused. The first argument leaves out a part of the cage, or all of it, so that each
wall is tried alone and each attempt is known to succeed without one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from voicekiln.job import Stage
from voicekiln.worker import cage, child
from voicekiln.worker.wire import Answer, Inspect, Looked, Ready, Request

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
CLONE_NEWUSER = 0x10000000
IO_URING_SETUP = 425
FOUR_GB = 4 * 10**9

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class World:
    """What there is to attack."""

    folder: Path
    port: int
    daemon: int
    """A process of the same user, in place of the one that started this one: some attempts would stop it."""

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


def checked(result: int) -> None:
    """Raise what the C library says."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_child(act: Callable[[], object]) -> None:
    """Do it in a process of its own, or in this one if none can be had; raise what it raised."""
    try:
        pid = os.fork()
    except OSError:
        act()
        return
    if pid == 0:
        try:
            act()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def fork(_: World) -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def a_shell(_: World) -> None:
    if libc.system(b"true") != 0:
        raise OSError(errno.EPERM, "no shell")


def spawn(_: World) -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def exec_from_memory(_: World) -> None:
    def act() -> None:
        program = os.memfd_create("true")
        os.write(program, Path("/bin/true").read_bytes())
        os.execve(program, ["true"], {})  # noqa: S606 - the attempt

    in_child(act)


def exec_own_file(world: World) -> None:
    """A program that it wrote itself."""
    path = world.staging / "program"
    path.write_bytes(Path("/bin/true").read_bytes())
    descriptor = os.open(path, os.O_RDONLY)
    os.fchmod(descriptor, 0o700)
    os.close(descriptor)
    in_child(lambda: os.execv(path, ["true"]))  # noqa: S606 - the attempt


def udp(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.sendto(b"secret", ("127.0.0.1", world.port))


def bind(_: World) -> None:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))


def unix(address: Callable[[World], str | bytes]) -> Callable[[World], None]:
    def act(world: World) -> None:
        with socket.socket(socket.AF_UNIX) as it:
            it.connect(address(world))

    return act


def netlink(_: World) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


def io_uring(_: World) -> None:
    parameters = ctypes.create_string_buffer(120)
    checked(libc.syscall(IO_URING_SETUP, 1, parameters))


def link_out(world: World) -> None:
    (world.staging / "link").symlink_to("/etc/shadow")


def into_templates(world: World) -> None:
    """A foreign file under a name that the worker may read."""
    (world.templates / "stolen").hardlink_to(world.inbox / "secret.pth")


def ptrace(world: World) -> None:
    checked(libc.ptrace(PTRACE_SEIZE, world.daemon, None, None))
    libc.ptrace(PTRACE_DETACH, world.daemon, None, None)


def process_vm(world: World) -> None:
    local = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(local), 8)
    remote = (ctypes.c_size_t * 2)(_some_address(world.daemon), 8)
    checked(libc.process_vm_readv(world.daemon, vector, 1, remote, 1, 0))


def _some_address(pid: int) -> int:
    """Where Python itself is mapped; in ourselves if we may not look, since a cage refuses before it looks."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="ascii", errors="replace")
    except OSError:
        maps = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace")
    return int(maps.partition("-")[0], 16)


def limits_of_the_daemon(world: World) -> None:
    now = resource.prlimit(world.daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(world.daemon, resource.RLIMIT_NOFILE, now)


def raise_a_limit(_: World) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def namespace(_: World) -> None:
    in_child(lambda: checked(libc.unshare(CLONE_NEWUSER)))


def much_memory(_: World) -> None:
    mmap.mmap(-1, FOUR_GB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def uncounted_memory(_: World) -> None:
    os.close(os.memfd_create("hoard"))


def huge_file(world: World) -> None:
    path = world.staging / "huge"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    path.unlink()


def core_dump(_: World) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        raise OSError(errno.EPERM, "no core dumps")


def power(_: World) -> None:
    """Over the system, if this is root: powers beyond those over files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    if not int(status.partition("CapEff:\t")[2].partition("\n")[0], 16) & ~cage.KEPT_BY_ROOT:
        raise OSError(errno.EPERM, "no powers")


def foul(world: World) -> None:
    with (world.ledger).open("ab") as file:
        file.write(b"x")


ATTEMPTS: dict[str, Callable[[World], object]] = {
    # programs
    "fork": fork,
    "exec": lambda _: in_child(lambda: os.execv("/bin/true", ["true"])),  # noqa: S606 - the attempt
    "subprocess": lambda _: subprocess.run(["/bin/true"], check=True),
    "posix_spawn": spawn,
    "system": a_shell,
    "exec from memory": exec_from_memory,
    "exec its own file": exec_own_file,
    # network
    "tcp": lambda world: socket.create_connection(("127.0.0.1", world.port)).close(),
    "bind": bind,
    "udp": udp,
    "unix socket": unix(lambda world: str(world.folder / "socket")),
    "abstract socket": unix(lambda _: f"\0voicekiln-{os.getppid()}".encode()),
    "netlink": netlink,
    "io_uring": io_uring,
    # files
    "write into the inbox": lambda world: (world.inbox / "mine.pth").write_bytes(b""),
    "write into the outbox": lambda world: (world.outbox / "mine.onnx").write_bytes(b""),
    "write into the ledger": foul,
    "write where the copies lie": lambda world: (world.spool / "j1.pth").write_bytes(b""),
    "read the inbox": lambda world: (world.inbox / "secret.pth").read_bytes(),
    "read the ledger": lambda world: world.ledger.read_bytes(),
    "list the inbox": lambda world: list(world.inbox.iterdir()),
    "remove from the inbox": lambda world: (world.inbox / "remove.pth").unlink(),
    "rename in the inbox": lambda world: (world.inbox / "rename.pth").rename(world.inbox / "renamed.pth"),
    "take from the inbox": lambda world: (world.inbox / "take.pth").rename(world.staging / "taken.pth"),
    "a folder in the inbox": lambda world: (world.inbox / "folder").mkdir(),
    "a link in staging": link_out,
    "a pipe in staging": lambda world: os.mkfifo(world.staging / "pipe"),
    "a hard link": into_templates,
    "truncate by name": lambda world: os.truncate(world.inbox / "secret.pth", 3),
    "chmod by name": lambda world: (world.inbox / "secret.pth").chmod(0o644),
    "touch by name": lambda world: os.utime(world.inbox / "secret.pth", (1, 1)),
    "chown by name": lambda world: os.chown(world.inbox / "secret.pth", os.getuid(), -1),
    "an attribute by name": lambda world: os.setxattr(world.inbox / "secret.pth", b"user.x", b"y"),
    # others
    "ptrace": ptrace,
    "read another's memory": process_vm,
    "open another's memory": lambda world: Path(f"/proc/{world.daemon}/mem").open("r+b").close(),
    "another's environment": lambda world: Path(f"/proc/{world.daemon}/environ").read_bytes(),
    "signal the daemon": lambda world: os.kill(world.daemon, signal.SIGCONT),
    "signal through a descriptor": lambda world: signal.pidfd_send_signal(os.pidfd_open(world.daemon), signal.SIGCONT),
    "limits of the daemon": limits_of_the_daemon,
    "slow the daemon": lambda world: os.setpriority(os.PRIO_PROCESS, world.daemon, 19),
    # itself
    "raise a limit": raise_a_limit,
    "a namespace": namespace,
    "much memory": much_memory,
    "uncounted memory": uncounted_memory,
    "a huge file": huge_file,
    "a core dump": core_dump,
    "powers of root": power,
}


PERMITTED: dict[str, Callable[[World], object]] = {
    "a thread": lambda _: threading.Thread(target=lambda: None).start(),
    "a file in staging": lambda world: (world.staging / "a.onnx").write_bytes(b"x"),
    "replace in staging": lambda world: (world.staging / "a.onnx").replace(world.staging / "b.onnx"),
    "a template": lambda world: (world.templates / "x.template").write_bytes(b"x"),
    "a copy": lambda world: (world.spool / "j1.pth").read_bytes(),
    "nothing": lambda _: Path(os.devnull).write_bytes(b"x"),
    "chance": lambda _: os.close(os.open("/dev/urandom", os.O_RDONLY)),
    "a temporary file": lambda _: (Path(os.environ["TMPDIR"]) / "t").write_bytes(b""),
    "a signal to itself": lambda _: os.kill(os.getpid(), 0),
}
"""What the work needs."""


def outcome(attempt: Callable[[World], object], world: World) -> str:
    """Return `done`, or the name of the error by which it was refused."""
    try:
        attempt(world)
    except (OSError, ValueError) as error:
        return errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
    return "done"


def pledges() -> list[list[str]]:
    """Of each thread, whether it has given up privileges (one that began before the cage has not) and is filtered."""
    states = [(task / "status").read_text(encoding="ascii") for task in Path("/proc/self/task").iterdir()]
    return [[state.partition(f"{name}:\t")[2][:1] for name in ("NoNewPrivs", "Seccomp")] for state in states]


def prison(walls: str, world: World) -> None:
    """Put attempts in place of the work, and leave `files`, `calls`, both or none of the cage."""

    def work(request: Request, _: Callable[[Stage], None]) -> Answer:
        assert isinstance(request, Inspect)
        tried = {name: outcome(attempt, world) for name, attempt in (PERMITTED | ATTEMPTS).items()}
        return Looked(request.id, {"tried": tried, "sees": sorted(os.environ), "threads": pledges()}, ())

    def workshop(_: Path) -> tuple[child.Work, Ready]:
        return work, Ready({"kind": "cpu"}, {})

    patch = pytest.MonkeyPatch()  # never undone: the process is given over to it
    patch.setattr(child, "_workshop", workshop)
    if walls in ("none", "calls"):
        patch.setattr(cage, "enter", lambda *_, **__: "left out")
    if walls in ("none", "files"):
        patch.setattr(cage, "lock", lambda *_, **__: "left out")


if __name__ == "__main__":
    facts = json.loads(sys.argv[2])
    prison(sys.argv[1], World(Path(facts["folder"]), facts["port"], facts["daemon"]))
    sys.exit(child.main(sys.argv[3:]))
