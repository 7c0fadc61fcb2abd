"""The cage of the worker, from inside: what a process that was taken over tries, and how far it gets.

Each attempt is made four times: in the whole cage, behind each of its two walls alone, and without any, where it has to
succeed; so no refusal is owed to the surroundings. The process is the real one but for the work (see `prisoner`).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import prisoner
from stub_worker import Bench, convert, ending
from voicekiln.families.sample import write_sample
from voicekiln.job import Converted, Recipe
from voicekiln.worker import cage, landlock, seccomp
from voicekiln.worker.rooms import Rooms, environment
from voicekiln.worker.wire import Inspect, Looked, Ready

SECRETS = ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "CUDA_API_KEY", "DATABASE_URL", "SSH_AUTH_SOCK", "NOTIFY_SOCKET")

ROOT_ONLY = "powers of root"


@dataclass(frozen=True)
class Bar:
    """Which wall keeps an attempt from succeeding; the name of a wall is what `prisoner` calls it."""

    files: int | None = None
    """`cage.enter` does, from this ABI of Landlock on; 0 for the limits; None where it does not."""
    calls: bool = False
    """`cage.lock` does."""


BARS = {
    "fork": Bar(calls=True),
    "exec": Bar(1, calls=True),
    "subprocess": Bar(1, calls=True),
    "posix_spawn": Bar(1, calls=True),
    "system": Bar(1, calls=True),
    "exec from memory": Bar(calls=True),
    "exec its own file": Bar(1, calls=True),
    "tcp": Bar(4, calls=True),
    "bind": Bar(4, calls=True),
    "udp": Bar(calls=True),
    "unix socket": Bar(calls=True),
    "abstract socket": Bar(6, calls=True),
    "netlink": Bar(calls=True),
    "io_uring": Bar(calls=True),
    "write into the inbox": Bar(1),
    "write into the outbox": Bar(1),
    "write into the ledger": Bar(1),
    "write where the copies lie": Bar(1),
    "read the inbox": Bar(1),
    "read the ledger": Bar(1),
    "list the inbox": Bar(1),
    "remove from the inbox": Bar(1),
    "rename in the inbox": Bar(1),
    "take from the inbox": Bar(1),
    "a folder in the inbox": Bar(1),
    "a link in staging": Bar(1),
    "a pipe in staging": Bar(1),
    "a hard link": Bar(1),
    "truncate by name": Bar(3, calls=True),
    "chmod by name": Bar(calls=True),
    "touch by name": Bar(calls=True),
    "chown by name": Bar(calls=True),
    "an attribute by name": Bar(calls=True),
    "ptrace": Bar(1, calls=True),
    "read another's memory": Bar(1, calls=True),
    "open another's memory": Bar(1),
    "another's environment": Bar(1),
    "signal the daemon": Bar(6, calls=True),
    "signal through a descriptor": Bar(6, calls=True),
    "limits of the daemon": Bar(calls=True),
    "slow the daemon": Bar(calls=True),
    "raise a limit": Bar(calls=True),
    "a namespace": Bar(calls=True),
    "much memory": Bar(calls=True),
    "uncounted memory": Bar(calls=True),
    "a huge file": Bar(0),
    "a core dump": Bar(0),
    "powers of root": Bar(0),
}


def abi() -> int:
    """Return the version of Landlock here; 0 for none."""
    try:
        return landlock.abi()
    except OSError:
        return 0


def no_seccomp() -> str:
    """Return why system calls cannot be refused here, if they cannot."""
    try:
        ctypes.CDLL(seccomp.LIBRARY)
    except OSError:
        return "libseccomp.so.2 is not installed (apt install libseccomp2)"
    return ""


ABI = abi()
NO_SECCOMP = no_seccomp()
needs_landlock = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(bool(NO_SECCOMP), reason=NO_SECCOMP)


def furnished(folder: Path) -> Path:
    """Make what a daemon has: inbox, outbox, state, with files in them."""
    for name in ("inbox", "outbox", "spool", "staging", "templates"):
        (folder / name).mkdir()
    for name in ("secret", "remove", "rename", "take"):
        (folder / "inbox" / f"{name}.pth").write_bytes(b"secret")
    (folder / "spool" / "j1.pth").write_bytes(b"a copy")
    (folder / "ledger").write_bytes(b"a ledger")
    return folder


@dataclass(frozen=True)
class Report:
    """What a prisoner got done."""

    tried: dict[str, str]
    sees: list[str]
    threads: list[list[str]]
    cage: list[str]


def locked_in(walls: str, folder: Path) -> Report:
    """Run a prisoner behind these walls, kept as the daemon keeps its workers."""
    rooms = Rooms(folder / "templates", folder / "spool", folder / "staging")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as by_name,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as daemon,
    ):
        by_path.bind(str(folder / "socket"))
        by_path.listen()
        by_name.bind(f"\0voicekiln-{os.getpid()}".encode())
        by_name.listen()
        facts = json.dumps({"folder": str(folder), "port": server.getsockname()[1], "daemon": daemon.pid})
        own = ["--memory", str(10**9), "--parent", str(os.getpid()), "--device", "cpu"]
        own += ["--templates", str(rooms.templates), "--sources", str(rooms.sources), "--staging", str(rooms.staging)]
        command = [sys.executable, str(Path(prisoner.__file__)), walls, facts, *own]
        bench = Bench(command, rooms, start_s=60.0, stage_s=60.0, memory_bytes=10**10)
        events = bench.run(Inspect("break out", folder / "spool" / "j1.pth"))
        got = ending(events)
        assert isinstance(got, Looked), events
        bench.worker.close(5.0)
        daemon.kill()
    ready = next(event for event in events if isinstance(event, Ready))
    return Report(got.model["tried"], got.model["sees"], got.model["threads"], ready.device["cage"])


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """Return what a prisoner got done behind which walls; each is run once."""
    made: dict[str, Report] = {}

    def report(walls: str) -> Report:
        if walls not in made:
            with pytest.MonkeyPatch.context() as patch:
                for name in SECRETS:
                    patch.setenv(name, "secret")
                patch.setenv("OMP_NUM_THREADS", "2")
                made[walls] = locked_in(walls, furnished(tmp_path_factory.mktemp(walls)))
        return made[walls]

    return report


def behind(walls: str, name: str, reports: Callable[[str], Report]) -> str:
    """Return how an attempt ended; skip where what would have to refuse it is not there."""
    bar = BARS[name]
    by_files = bar.files is not None and bar.files <= ABI and walls in {"files", "whole"}
    by_calls = bar.calls and not NO_SECCOMP and walls in {"calls", "whole"}
    if not by_files and not by_calls:
        pytest.skip(f"this kernel has Landlock {ABI}, {bar.files} is needed" if bar.files else NO_SECCOMP)
    return reports(walls).tried[name]


@pytest.mark.parametrize("name", BARS)
def test_without_a_cage_it_succeeds(name: str, reports: Callable[[str], Report]) -> None:
    """Or the refusals below would prove nothing."""
    if name == ROOT_ONLY and os.geteuid() != 0:
        pytest.skip("only root has powers to lose")
    done = reports("none").tried[name]
    if name == "a namespace" and done != "done":
        pytest.skip("this machine lets nobody make user namespaces")
    if name == "io_uring" and done != "done":
        pytest.skip("this machine has io_uring switched off")
    assert done == "done"


@pytest.mark.requirement(8)
@pytest.mark.parametrize("name", BARS)
def test_the_cage_refuses(name: str, reports: Callable[[str], Report]) -> None:
    """As the daemon's workers have it."""
    assert behind("whole", name, reports) != "done"


@pytest.mark.parametrize("name", [name for name, bar in BARS.items() if bar.files is not None])
def test_the_wall_around_files_refuses_alone(name: str, reports: Callable[[str], Report]) -> None:
    """Where libseccomp is missing, or what it forbids can be got round."""
    assert behind("files", name, reports) != "done"


@pytest.mark.parametrize("name", [name for name, bar in BARS.items() if bar.calls])
def test_the_wall_of_calls_refuses_alone(name: str, reports: Callable[[str], Report]) -> None:
    """Where the kernel has no Landlock, or an old one."""
    assert behind("calls", name, reports) != "done"


def test_no_thread_was_there_before_the_cage(reports: Callable[[str], Report]) -> None:
    """Landlock holds only for those that start later; the thread that reads requests is one of them."""
    assert [pledged for pledged, _ in reports("files").threads] == ["1", "1"]


@needs_seccomp
def test_the_wall_of_calls_is_around_all_threads(reports: Callable[[str], Report]) -> None:
    """Also around those that were there before it was put up."""
    assert [filtered for _, filtered in reports("calls").threads] == ["2", "2"]


def test_every_attempt_has_its_bar() -> None:
    """None is made and not judged."""
    assert set(BARS) == set(prisoner.ATTEMPTS)


@pytest.mark.parametrize("name", prisoner.PERMITTED)
def test_the_cage_lets_the_work_be_done(name: str, reports: Callable[[str], Report]) -> None:
    """It does not refuse everything."""
    assert reports("whole").tried[name] == "done"


def test_secrets_of_the_surroundings_are_not_seen(reports: Callable[[str], Report]) -> None:
    """What steers threads and libraries is."""
    seen = reports("whole").sees
    assert not set(SECRETS) & set(seen)
    assert "OMP_NUM_THREADS" in seen


@pytest.mark.parametrize(
    ("around", "inside"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}, {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C.UTF-8"}),
        ({"PATH": "/bin", "HOME": "/root", "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/c"}, {}),  # noqa: S108 - not used
        ({"NVIDIA_API_KEY": "s", "PYTHON_KEYRING_BACKEND": "s", "ORT_TOKEN": "s", "TORCH_PASSWORD": "s"}, {}),
        ({"MY_CUDA_HOME": "s", "ALANG": "s", "": "s"}, {}),
        ({"ORT_DISABLE_TELEMETRY": "0"}, {}),
    ],
)
def test_only_what_the_work_needs_is_let_in(around: dict[str, str], inside: dict[str, str]) -> None:
    """No home, no path, nothing that sounds like a secret; and ONNX Runtime tells nobody what it does."""
    always = {"HOME": "/nonexistent", "ORT_DISABLE_TELEMETRY": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    assert environment(around) == always | inside


def test_the_worker_says_what_confines_it(reports: Callable[[str], Report]) -> None:
    """To the log and to `voicekiln check`."""
    files = f"files: Landlock {ABI}" if ABI else "files: open ("
    calls = "system calls: open (" if NO_SECCOMP else "system calls: libseccomp.so.2"
    said = reports("whole").cage
    assert [one.startswith(two) for one, two in zip(said, (files, calls), strict=True)] == [True, True]


def test_a_machine_without_means_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither an old kernel nor a missing library keeps the worker from its work."""
    rooms = Rooms(tmp_path, tmp_path, tmp_path)

    def missing() -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(cage, "lower", lambda *_: None)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(landlock, "abi", missing)
    monkeypatch.setattr(seccomp, "LIBRARY", "libnothing.so")
    assert in_thread(lambda: cage.enter(rooms, gpu=False)) == "files: open (Function not implemented)"
    assert in_thread(lambda: cage.lock(10**9, gpu=False)).startswith("system calls: open (libnothing.so: cannot open")


@needs_landlock
@pytest.mark.parametrize("version", range(1, ABI + 1))
def test_an_older_kernel_is_asked_for_what_it_knows(version: int, tmp_path: Path) -> None:
    """Reading and writing where nothing is allowed is refused by every one of them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    def act() -> None:
        cage._libc.prctl(cage.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        landlock.restrict({tmp_path / "in": landlock.WRITE, tmp_path / "missing": landlock.READ}, version)
        (tmp_path / "in" / "file").write_bytes(b"x")
        assert (tmp_path / "in" / "file").read_bytes() == b"x"
        for shut in (lambda: (tmp_path / "out" / "file").write_bytes(b""), lambda: list((tmp_path / "out").iterdir())):
            with pytest.raises(PermissionError):
                shut()

    in_thread(act)
    (tmp_path / "out" / "file").write_bytes(b"")


@needs_landlock
def test_what_cannot_be_restricted_is_an_error(tmp_path: Path) -> None:
    """Sixteen cages in each other are the most; the seventeenth is not entered in silence."""

    def act() -> None:
        cage._libc.prctl(cage.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for _ in range(20):
            landlock.restrict({tmp_path: landlock.READ}, ABI)

    with pytest.raises(OSError, match="Argument list too long"):
        in_thread(act)


def test_a_worker_on_a_gpu_keeps_what_its_driver_needs() -> None:
    """Local sockets, memory files and the device nodes; no program, no network, no other process even there."""
    kept = {rule.name for rule in seccomp.rules(gpu=False)} - {rule.name for rule in seccomp.rules(gpu=True)}
    assert kept == {"memfd_create"}
    (sockets,) = [rule for rule in seccomp.rules(gpu=True) if rule.name == "socket"]
    assert (sockets.compare, sockets.value) == (seccomp.NOT_EQUAL, socket.AF_UNIX)


@pytest.mark.parametrize(("seen", "nodes", "gpu"), [(None, 1, True), ("0", 1, True), ("", 1, False), (None, 0, False)])
def test_a_gpu_is_guessed_from_its_device_nodes(
    seen: str | None,
    nodes: int,
    gpu: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Before anything is loaded that could ask; a worker for the processor is not given any."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    monkeypatch.setattr(cage, "DEVICES", tmp_path)
    for number in range(nodes):
        (tmp_path / f"nvidia{number}").touch()
    assert cage.has_gpu() is gpu


@pytest.mark.parametrize(
    ("gpu", "set_to", "then"), [(True, None, "deep/templates/nv"), (True, "c", "c"), (False, None, None)]
)
def test_what_a_gpu_compiles_is_kept_among_the_templates(
    gpu: bool,  # noqa: FBT001 - a column of the table
    set_to: str | None,
    then: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Unless the unit says otherwise; there is no home in which the driver could keep it."""
    monkeypatch.setattr(os, "environ", {} if set_to is None else {"CUDA_CACHE_PATH": str(tmp_path / set_to)})
    rooms = Rooms(tmp_path / "deep" / "templates", tmp_path, tmp_path)
    cage.furnish(rooms, gpu=gpu)
    assert rooms.templates.is_dir()
    assert os.environ["TMPDIR"] == str(tmp_path)
    assert os.environ.get("CUDA_CACHE_PATH") == (str(tmp_path / then) if then else None)
    assert then is None or (tmp_path / then).is_dir()  # or the cage would not open to it


def test_a_machine_with_a_gpu_opens_its_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the places where CUDA names its threads and keeps its cache; nobody else gets at them."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(cage, "DEVICES", tmp_path)
    monkeypatch.setenv("CUDA_CACHE_PATH", "/var/cache/nv")
    rooms = Rooms(tmp_path / "t", tmp_path / "in", tmp_path / "out")
    more = dict(cage._open_to(rooms, gpu=True)).keys() - dict(cage._open_to(rooms, gpu=False)).keys()
    assert more == {tmp_path / "nvidia0", cage.THREADS, Path("/var/cache/nv")}


@pytest.mark.requirement(8)
def test_a_voice_of_full_size_is_converted_inside(tmp_path: Path) -> None:
    """At both precisions, from an empty folder of templates on, with nothing written anywhere else."""
    home = furnished(tmp_path)
    source = home / "spool" / "j2.pth"
    write_sample(source, seed=0)
    before = sorted(path for path in home.rglob("*") if "templates" not in path.parts and "staging" not in path.parts)
    rooms = Rooms(home / "templates", home / "spool", home / "staging")
    bench = Bench(None, rooms, start_s=120, stage_s=300, memory_bytes=8 * 10**9)
    request = convert(home / "staging", "j2", Recipe("both", ("fp32", "fp16")))
    events = bench.run(replace(request, job=replace(request.job, source=source)), 600)
    bench.worker.close(5.0)
    got = ending(events)
    assert isinstance(got, Converted), events
    assert all(file.fidelity for file in got.conversion.files)
    assert len(list(rooms.templates.iterdir())) == 2
    assert [path.name for path in rooms.staging.iterdir()] == ["staging-j2"]
    assert before == sorted(
        path for path in home.rglob("*") if "templates" not in path.parts and "staging" not in path.parts
    )


def in_thread(act: Callable[[], Any]) -> Any:
    """Do it in a thread of its own, for the rest of whose life a cage may hold; return or raise what it does."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(act).result()
