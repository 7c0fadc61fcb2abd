"""The unit, its drop-ins and the files that make its user and folders: right, strict, and agreeing with each other.

`systemd-analyze` needs no running systemd for any of this; where it is not installed, those tests are skipped.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stub_worker import Bench, convert, ending, one_room
from tiny_voices import write_tiny
from voicekiln import cli, config
from voicekiln.job import Converted
from voicekiln.worker.parent import _child_command
from voicekiln.worker.wire import Ready

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNIT = SYSTEMD / "voicekiln.service"
DROP_INS = SYSTEMD / "voicekiln.service.d"
EXECUTABLE = "/opt/voicekiln/bin/voicekiln"
ANALYZE = shutil.which("systemd-analyze")
OLDEST = 250
"""The systemd whose `systemd-analyze security` first knew `--offline`."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def why_not() -> str:
    if ANALYZE is None:
        return "systemd-analyze is not installed (apt install systemd)"
    version = int(run(ANALYZE, "--version").stdout.split()[1])
    return f"systemd {version} is older than {OLDEST}, which first checked units offline" if version < OLDEST else ""


needs_systemd = pytest.mark.skipif(bool(why_not()), reason=why_not())


def entries(path: Path) -> list[tuple[str, str]]:
    """The settings of a unit file, in their order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        (key, value) for key, sign, value in (line.partition("=") for line in lines) if sign and not key.startswith("#")
    ]


def last(path: Path, key: str) -> str:
    return [value for name, value in entries(path) if name == key][-1]


def installed(folder: Path, *drop_ins: str, change: tuple[str, str] = ("", "")) -> str:
    """Copy the unit as on a machine where the executable exists; return its path."""
    unit = UNIT.read_text(encoding="utf-8").replace(EXECUTABLE, "/bin/sh")
    assert change[0] in unit
    (folder / "voicekiln.service").write_text(unit.replace(*change) if change[0] else unit, encoding="utf-8")
    (folder / "voicekiln.service.d").mkdir()
    for name in drop_ins:
        shutil.copy(DROP_INS / name, folder / "voicekiln.service.d")
    return str(folder / "voicekiln.service")


def verified(unit: str) -> subprocess.CompletedProcess[str]:
    return run("systemd-analyze", "verify", "--man=no", unit)


def exposure_is_at_most(threshold: int, unit: str) -> bool:
    """Ask systemd; `threshold` is ten times the figure that it prints."""
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={threshold}", unit)
    assert "Overall exposure level" in done.stdout, done.stderr
    return done.returncode == 0


@pytest.mark.requirement(19)
@needs_systemd
@pytest.mark.parametrize(
    "drop_ins",
    [
        *((), ("cpu-only.conf",), ("network-mount.conf",), ("metrics.conf",), ("notify.conf",)),
        ("cpu-only.conf", "network-mount.conf", "metrics.conf", "notify.conf"),
    ],
)
def test_the_unit_is_clean(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    """Alone and with each drop-in, systemd has nothing to say about it."""
    done = verified(installed(tmp_path, *drop_ins))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(
    "change",
    [("WatchdogSec=", "WatchdogSecs="), ("KillMode=mixed", "KillMode=gently"), ("/bin/sh run", "/no/such/file run")],
)
def test_a_slip_in_the_unit_is_noticed(tmp_path: Path, change: tuple[str, str]) -> None:
    """The check can fail: a misspelt key, a value that does not exist, a missing program."""
    done = verified(installed(tmp_path, change=change))
    assert (done.returncode, done.stdout + done.stderr) != (0, "")


@pytest.mark.requirement(19)
@needs_systemd
@pytest.mark.parametrize(
    ("threshold", "drop_ins"),
    [(10, ()), (10, ("network-mount.conf", "metrics.conf")), (3, ("cpu-only.conf", "metrics.conf"))],
)
def test_the_unit_is_closed(tmp_path: Path, threshold: int, drop_ins: tuple[str, ...]) -> None:
    """At most 1.0 with access to a GPU, at most 0.3 without."""
    assert exposure_is_at_most(threshold, installed(tmp_path, *drop_ins))


@needs_systemd
def test_an_open_unit_is_noticed(tmp_path: Path) -> None:
    """The check can fail: one closed door less is over the limit, and the drop-in is what makes the CPU unit tight."""
    (tmp_path / "gpu").mkdir()
    assert not exposure_is_at_most(3, installed(tmp_path / "gpu"))
    assert not exposure_is_at_most(10, installed(tmp_path, change=("CapabilityBoundingSet=\n", "")))


@needs_systemd
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_and_the_folders_can_be_made(tmp_path: Path) -> None:
    """systemd itself reads both files, below another root."""  # noqa: D403 - so it is spelt
    (tmp_path / "etc").mkdir()
    assert run("systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / "voicekiln.sysusers.conf")).returncode == 0
    assert re.search(r"^voicekiln:x:\d+:\d+:voicekiln:/var/lib/voicekiln:", (tmp_path / "etc/passwd").read_text())


def folders() -> Iterator[tuple[str, str, str, str, str]]:
    """Type, path, mode, owner and age of each line for a folder in the tmpfiles configuration."""
    for line in (SYSTEMD / "voicekiln.tmpfiles.conf").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#a":  # comments and access lists
            kind, path, mode, user, group, age = line.split()
            yield kind, path, mode, f"{user}:{group}", age


def test_no_folder_has_an_age() -> None:
    """systemd would count it from dates that sync tools set back."""  # noqa: D403 - so it is spelt
    assert {(kind, age) for kind, _, _, _, age in folders()} == {("d", "-")}


def test_unit_and_folders_name_the_same_paths() -> None:
    """What the unit may write is what tmpfiles makes, owned by the unit's user."""
    made = {path: (mode, owner) for _, path, mode, owner, _ in folders()}
    writable = [path.removeprefix("-") for path in last(UNIT, "ReadWritePaths").split()]
    state = f"/var/lib/{last(UNIT, 'StateDirectory')}"
    assert set(made) == {*writable, state, str(Path(writable[0]).parent)}
    user = f"{last(UNIT, 'User')}:{last(UNIT, 'Group')}"
    assert {made[path][1] for path in (*writable, state)} == {user}
    assert made[state][0] == last(UNIT, "StateDirectoryMode")
    assert {made[path][0] for path in writable} == {"2770"}


def test_unit_and_sysusers_name_the_same_user() -> None:
    """The user that the unit runs as is the one that sysusers makes, at home in the state folder."""
    [line] = [
        line
        for line in (SYSTEMD / "voicekiln.sysusers.conf").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    kind, name, _, _, home, _ = line.split()
    assert (kind, name, name) == ("u", last(UNIT, "User"), last(UNIT, "Group"))
    assert home == f"/var/lib/{last(UNIT, 'StateDirectory')}"


def test_the_example_configuration_names_the_folders_of_the_unit(tmp_path: Path) -> None:
    """The block «As a service» fits the unit, word for word."""
    text = (SYSTEMD.parent / "config.example.yaml").read_text(encoding="utf-8")
    block = text.partition("# As a service")[2].partition("# On a NAS")[0].splitlines()[1:]
    (tmp_path / "c.yaml").write_text("\n".join(line.removeprefix("#").strip() for line in block), encoding="utf-8")
    settings = config.load(tmp_path / "c.yaml")
    assert last(UNIT, "ReadWritePaths").split() == [f"-{settings.inbox}", f"-{settings.outbox}"]
    assert str(settings.state) == f"/var/lib/{last(UNIT, 'StateDirectory')}"


def test_the_network_drop_in_fits_the_example_configuration(tmp_path: Path) -> None:
    """The paths of the NAS example are those that the drop-in opens, below the mount that it waits for."""
    text = (SYSTEMD.parent / "config.example.yaml").read_text(encoding="utf-8")
    block = text.partition("# On a NAS")[2].splitlines()[1:4]
    (tmp_path / "c.yaml").write_text("\n".join(line.removeprefix("#").strip() for line in block), encoding="utf-8")
    settings = config.load(tmp_path / "c.yaml")
    drop_in = DROP_INS / "network-mount.conf"
    assert last(drop_in, "ReadWritePaths").split() == [f"-{settings.inbox}", f"-{settings.outbox}"]
    assert settings.inbox.is_relative_to(last(drop_in, "RequiresMountsFor"))


def test_the_metrics_drop_in_fits_the_example_configuration() -> None:
    """The folder that it opens is that of the example's text file; the example's socket lies in the unit's own."""
    text = (SYSTEMD.parent / "config.example.yaml").read_text(encoding="utf-8")
    textfile, socket = (
        Path(found) for found in re.findall(r"^  (?:textfile|socket): null .*: (/\S+)$", text, re.MULTILINE)
    )
    assert last(DROP_INS / "metrics.conf", "ReadWritePaths") == f"-{textfile.parent}"
    assert textfile.suffix == ".prom"
    assert str(socket.parent) == f"/run/{last(UNIT, 'RuntimeDirectory')}"
    assert "AF_UNIX" in last(UNIT, "RestrictAddressFamilies").split()


def test_only_the_drop_in_for_notices_opens_the_network() -> None:
    """It takes back what the unit closes, each of it by its name."""
    keys = {"PrivateNetwork", "RestrictAddressFamilies", "IPAddressDeny"}
    assert {key for key, _ in entries(DROP_INS / "notify.conf")} == keys
    assert [last(UNIT, key) for key in sorted(keys)] == ["any", "yes", "AF_UNIX"]
    others = [path for path in DROP_INS.iterdir() if path.name != "notify.conf"]
    assert not keys & {key for path in others for key, _ in entries(path)}


def test_the_unit_starts_the_command_with_its_default_configuration() -> None:
    """What stands in ExecStart is a command that exists, on the file that other commands look for."""
    assert last(UNIT, "ExecStart") == f"{EXECUTABLE} run --config {cli.DEFAULT_CONFIG}"
    assert last(UNIT, "RestartPreventExitStatus") == str(cli.BAD_CONFIG)
    assert last(UNIT, "ExecReload") == "/bin/kill -HUP $MAINPID"


def test_what_breaks_the_work_stays_out_of_the_unit() -> None:
    """Directives that break torch or CUDA, or that stop all for one worker, are not there, nor in the drop-ins."""
    every = [pair for path in (UNIT, *DROP_INS.iterdir()) for pair in entries(path)]
    keys = {key for key, _ in every}
    assert not keys & {"MemoryDenyWriteExecute", "ProcSubset"}
    assert "PrivateDevices" not in {key for key, _ in entries(UNIT)}
    assert last(UNIT, "OOMPolicy") == "continue"
    assert {value for key, value in entries(UNIT) if key == "DeviceAllow"} >= {"char-nvidia rw", "char-nvidia-uvm rw"}
    assert not [value for key, value in every if key == "SystemCallFilter" and "@resources" in value]


def test_no_value_is_followed_by_a_comment() -> None:
    """systemd knows no comments behind a value; it would take them for part of it."""  # noqa: D403 - so it is spelt
    assert [value for path in (UNIT, *DROP_INS.iterdir()) for _, value in entries(path) if " #" in value] == []


UNDER_THE_RULES = """
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


def members(name: str) -> set[str]:
    """The system calls of a group, or the one of that name."""
    if not name.startswith("@"):
        return {name}
    lines = run("systemd-analyze", "syscall-filter", "--no-pager", name).stdout.splitlines()[1:]
    return set().union(*(members(line.strip()) for line in lines if line.strip() and line.strip()[0] != "#"))


def allowed(*files: Path) -> set[str]:
    """What the lines SystemCallFilter leave, in their order."""
    left: set[str] = set()
    for value in (value for path in files for key, value in entries(path) if key == "SystemCallFilter"):
        named = set().union(*map(members, value.removeprefix("~").split()))
        left = left - named if value.startswith("~") else left | named
    return left


@pytest.mark.requirement(19)
@needs_systemd
@pytest.mark.parametrize("drop_ins", [(), ("cpu-only.conf",)])
def test_a_worker_works_and_is_caged_under_the_rules_of_the_unit(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    """With its filter of system calls, a voice is converted, and the worker's own cage closes as it does without."""
    rooms = one_room(tmp_path)
    calls = " ".join(sorted(allowed(UNIT, *(DROP_INS / name for name in drop_ins))))
    child = _child_command("cpu", rooms, 8 * 10**9)
    bench = Bench([sys.executable, "-c", UNDER_THE_RULES, calls, *child], rooms, start_s=120, stage_s=120)
    request = convert(tmp_path)
    source = write_tiny(tmp_path / "voice.pth")
    events = bench.run(replace(request, job=replace(request.job, source=source)), 120)
    bench.worker.close(5.0)
    assert isinstance(ending(events), Converted), events
    (ready,) = [event for event in events if isinstance(event, Ready)]
    assert not [means for means in ready.device["cage"] if "open" in means]


@needs_systemd
def test_the_unit_lets_the_worker_close_its_cage() -> None:
    """They belong to no group of older systemd, so they are named."""
    needed = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp", "prctl", "prlimit64"}
    assert needed <= allowed(UNIT)
    assert needed <= allowed(UNIT, DROP_INS / "cpu-only.conf")
