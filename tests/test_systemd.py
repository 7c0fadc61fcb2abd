"""The units, their drop-ins and the files that make user and folders: right, strict, and agreeing with each other.

`systemd-analyze` needs no running systemd for any of this; where it is not installed, those tests are skipped.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stub_worker import Bench, convert, ending, one_room
from tiny_voices import write_tiny
from unit_files import (
    DROP_INS,
    SCHEDULER,
    SYSTEMD,
    UNIT,
    WORKER,
    allowed,
    entries,
    last,
    run,
    under_the_rules,
    why_not,
)
from voicekiln import cli, config
from voicekiln.cluster.host import TOLD_S
from voicekiln.job import Converted
from voicekiln.worker.parent import _child_command
from voicekiln.worker.wire import Ready

EXECUTABLE = "/opt/voicekiln/bin/voicekiln"
DASK = "/opt/voicekiln/bin/dask"
TLS = ["/etc/voicekiln/tls/ca.pem", "/etc/voicekiln/tls/host.pem", "/etc/voicekiln/tls/host.key"]
FOR_DASK = [WORKER, SCHEDULER]

needs_systemd = pytest.mark.skipif(bool(why_not()), reason=why_not())


def installed(folder: Path, *drop_ins: str, unit: Path = UNIT, change: tuple[str, str] = ("", "")) -> str:
    """Copy a unit as on a machine where the executable exists; return its path."""
    text = unit.read_text(encoding="utf-8").replace(EXECUTABLE, "/bin/sh").replace(DASK, "/bin/sh")
    assert change[0] in text
    (folder / unit.name).write_text(text.replace(*change) if change[0] else text, encoding="utf-8")
    (folder / f"{unit.name}.d").mkdir()
    for name in drop_ins:
        shutil.copy(DROP_INS / name, folder / f"{unit.name}.d")
    return str(folder / unit.name)


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
        *((), ("cpu-only.conf",), ("network-mount.conf",), ("metrics.conf",), ("notify.conf",), ("cluster.conf",)),
        ("cpu-only.conf", "network-mount.conf", "metrics.conf", "notify.conf", "cluster.conf"),
    ],
)
def test_the_unit_is_clean(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    """Alone and with each drop-in, systemd has nothing to say about it."""
    done = verified(installed(tmp_path, *drop_ins))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", FOR_DASK, ids=lambda unit: unit.stem)
def test_the_units_of_a_cluster_are_clean_and_closed(tmp_path: Path, unit: Path) -> None:
    """They need the network; all else is as closed as in the daemon's unit, so at most 1.5."""
    path = installed(tmp_path, unit=unit)
    done = verified(path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert exposure_is_at_most(15, path)


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
    assert not exposure_is_at_most(15, installed(tmp_path, unit=WORKER, change=("CapabilityBoundingSet=\n", "")))


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


def test_only_the_drop_ins_for_notices_and_for_a_cluster_open_the_network() -> None:
    """They take back what the unit closes, each of it by its name."""
    keys = {"PrivateNetwork", "RestrictAddressFamilies", "IPAddressDeny"}
    opening = [DROP_INS / "notify.conf", DROP_INS / "cluster.conf"]
    opened = [{key: value for key, value in entries(path) if key in keys} for path in opening]
    assert opened == 2 * [{"PrivateNetwork": "no", "RestrictAddressFamilies": "AF_INET AF_INET6", "IPAddressDeny": ""}]
    assert [last(UNIT, key) for key in sorted(keys)] == ["any", "yes", "AF_UNIX"]
    others = [path for path in DROP_INS.iterdir() if path not in opening]
    assert not keys & {key for path in others for key, _ in entries(path)}


def test_the_unit_starts_the_command_with_its_default_configuration() -> None:
    """What stands in ExecStart is a command that exists, on the file that other commands look for."""
    assert last(UNIT, "ExecStart") == f"{EXECUTABLE} run --config {cli.DEFAULT_CONFIG}"
    assert last(UNIT, "RestartPreventExitStatus") == str(cli.BAD_CONFIG)
    assert last(UNIT, "ExecReload") == "/bin/kill -HUP $MAINPID"


def test_what_breaks_the_work_stays_out_of_the_unit() -> None:
    """Directives that break torch or CUDA, or that stop all for one worker, are not there, nor in the drop-ins."""
    every = [pair for path in (UNIT, WORKER, *DROP_INS.iterdir()) for pair in entries(path)]
    keys = {key for key, _ in every}
    assert not keys & {"MemoryDenyWriteExecute", "ProcSubset"}
    for unit in (UNIT, WORKER):
        assert "PrivateDevices" not in {key for key, _ in entries(unit)}
        assert last(unit, "OOMPolicy") == "continue"
        devices = {value for key, value in entries(unit) if key == "DeviceAllow"}
        assert devices >= {"char-nvidia rw", "char-nvidia-uvm rw"}
    assert not [value for key, value in every if key == "SystemCallFilter" and "@resources" in value]


def test_no_value_is_followed_by_a_comment() -> None:
    """systemd knows no comments behind a value; it would take them for part of it."""  # noqa: D403 - so it is spelt
    assert [
        value for path in (UNIT, *FOR_DASK, *DROP_INS.iterdir()) for _, value in entries(path) if " #" in value
    ] == []


def test_a_worker_of_a_cluster_is_closed_as_the_daemon_is() -> None:
    """What the daemon's unit closes, the worker's closes, but the network; it gives files to no group of a share."""
    walls = ("Protect", "Private", "RestrictAddress", "RestrictN", "RestrictR", "RestrictS", "SystemCall", "Capability")
    closed = {pair for pair in entries(UNIT) if pair[0].startswith((*walls, "NoNew", "Lock", "Remove", "Device"))}
    network = {("PrivateNetwork", "yes"), ("RestrictAddressFamilies", "AF_UNIX")}
    assert closed - {*entries(WORKER)} == network | {("SystemCallFilter", "@chown")}


def test_a_worker_of_a_cluster_may_say_goodbye() -> None:
    """The signal goes to the Dask worker alone, which comes back also when it went without an error."""
    assert "--no-nanny" in last(WORKER, "ExecStart").split()
    assert (last(WORKER, "KillMode"), last(WORKER, "Restart")) == ("mixed", "always")
    assert float(last(WORKER, "TimeoutStopSec")) > 2 * TOLD_S


def test_the_units_of_a_cluster_fit_the_others() -> None:
    """One user on all hosts, one place for certificates, one environment; what a worker writes lies in its cache."""
    for unit in FOR_DASK:
        assert (last(unit, "User"), last(unit, "Group")) == (last(UNIT, "User"), last(UNIT, "Group"))
        assert last(unit, "ExecStart").startswith(f"{DASK} {unit.stem.removeprefix('voicekiln-')} ")
        assert re.findall("/etc/voicekiln/tls/[a-z.]+", last(unit, "ExecStart")) == TLS
    assert f"--local-directory %C/{last(WORKER, 'CacheDirectory')} " in last(WORKER, "ExecStart")
    assert (
        last(DROP_INS / "cluster.conf", "Environment") == f"DASK_TEMPORARY_DIRECTORY=%C/{last(UNIT, 'CacheDirectory')}"
    )


@pytest.mark.requirement(19)
@needs_systemd
@pytest.mark.parametrize("files", [(UNIT,), (UNIT, DROP_INS / "cpu-only.conf"), (WORKER,)])
def test_a_worker_works_and_is_caged_under_the_rules_of_the_unit(tmp_path: Path, files: tuple[Path, ...]) -> None:
    """With its filter of system calls, a voice is converted, and the worker's own cage closes as it does without."""
    rooms = one_room(tmp_path)
    child = _child_command("cpu", rooms, 8 * 10**9)
    bench = Bench([*under_the_rules(*files), *child], rooms, start_s=120, stage_s=120)
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
    assert needed <= allowed(WORKER)
