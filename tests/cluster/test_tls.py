"""A cluster as the README sets it up: its certificates, its configuration, and the command lines of the units."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
import yaml

from cluster_running import ENV, until
from kiln import voice_bytes
from running import CONFIG, Daemon
from unit_files import SCHEDULER, WORKER, last, run, under_the_rules, why_not
from voicekiln.cluster.crew import AWAY_S, MARGIN
from voicekiln.cluster.line import CALL_S, LAST_PAUSE_S
from voicekiln.cluster.place import SILENCE_S

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TLS = "/etc/voicekiln/tls"
STAND_IN = ENV | {"DASK_DISTRIBUTED__WORKER__PRELOAD": "cluster_stand_in"}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def block(mark: str, end: str = "") -> str:
    """Return the lines in the README's block below a mark."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)\n```\n{end}", README, re.DOTALL)
    assert found is not None
    return found[1]


def certificates(at: Path) -> Path:
    """Make the README's certificates; return the folder of `kiln`, as it is installed there, beside that of `gpu1`."""
    at.mkdir()
    done = run("sh", "-e", "-c", f"cd {at}\n{block('command: certificates')}")
    assert done.returncode == 0, done.stderr
    for host in ("kiln", "gpu1"):
        (at / host).mkdir()
        shutil.copy(at / "ca.pem", at / host)
        for kind in ("pem", "key"):
            shutil.copy(at / f"{host}.{kind}", at / host / f"host.{kind}")
    return at / "kiln"


def exec_start(unit: Path, tls: Path, **changes: str) -> list[str]:
    """Return what a unit starts, with its system calls where systemd can name them, on this machine's folders."""
    words = last(unit, "ExecStart").replace(TLS, str(tls)).split()
    program, *arguments = [word for given in words for word in changes.get(given, given).split()]
    assert program == "/opt/voicekiln/bin/dask"
    return [*([] if why_not() else under_the_rules(unit)), sys.executable, "-m", "dask", *arguments]


class Hosts:
    """The scheduler on `kiln` and a worker on `gpu1`, both of them here. Use it as a context."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.kiln = certificates(at / "certificates")
        self.scheduler = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Return when the worker is registered with the scheduler."""
        changes = {"8786": "0 --host 127.0.0.1", "127.0.0.1:8787": "127.0.0.1:0"}
        self._start("scheduler", exec_start(SCHEDULER, self.kiln, **changes))
        until(lambda: "Scheduler at:" in self.log("scheduler"))
        found = re.search(r"Scheduler at: +(tls://[\d.:]+)", self.log("scheduler"))
        assert found is not None
        self.scheduler = found[1]
        changes = {
            "$SCHEDULER": self.scheduler,
            "$PLACES": "--resources GPU=1",
            "8788": "0",
            "%C/voicekiln": str(self.at),
        }
        self._start("worker", exec_start(WORKER, self.kiln.with_name("gpu1"), **changes))
        until(lambda: "Registered to:" in self.log("worker"))

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.at / f"{name}.log").read_text()

    def daemon(self, at: Path, tls: Path, scheduler: str = "") -> Daemon:
        """Return a daemon with the README's configuration and the certificates in a folder."""
        at.mkdir()
        workers = block("cluster", "<!-- /cluster -->").replace(TLS, str(tls))
        return Daemon(at, f"{workers.replace('tls://kiln:8786', scheduler or self.scheduler)}\n{CONFIG}", "", STAND_IN)

    def _start(self, name: str, command: list[str]) -> None:
        with (self.at / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=STAND_IN)
            )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Return the two hosts."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        hosts.start()
        yield hosts


def test_what_the_readme_sets_up_converts(hosts: Hosts, tmp_path: Path) -> None:
    """With its certificates, though none has the name 127.0.0.1, its configuration and the units' command lines."""
    daemon = hosts.daemon(tmp_path / "d", hosts.kiln)
    daemon.inbox.mkdir()
    (daemon.inbox / "v.pth").write_bytes(voice_bytes("v"))
    with daemon:
        daemon.until_there("v.json")
        daemon.until(lambda: "scheduler" not in daemon.status()["daemon"])
    assert (hosts.at / "dask-scratch-space" / "voicekiln-templates").is_dir()


def test_the_readmes_certificates_are_of_those_who_sign_nothing(hosts: Hosts) -> None:
    """A host's certificate cannot make others members, and no key can be read by anybody else."""
    folder = hosts.kiln.parent
    said = run("openssl", "verify", "-x509_strict", "-CAfile", f"{folder}/ca.pem", f"{folder}/kiln.pem")
    assert said.returncode == 0, said.stderr
    text = run("openssl", "x509", "-in", f"{folder}/gpu1.pem", "-noout", "-text").stdout
    assert "CA:TRUE" not in text
    assert "DNS:gpu1" in text
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificates of another cluster."""
    return certificates(tmp_path_factory.mktemp("strangers") / "certificates")


def until_turned_away(daemon: Daemon, why: str) -> None:
    """Wait until the status says so."""
    with daemon:
        daemon.until(lambda: daemon.events("service.started") != [] and why in (daemon.status()["daemon"] or ""))
        assert "cannot be reached" in daemon.status()["daemon"]


def test_another_clusters_certificates_are_turned_away(hosts: Hosts, strangers: Path, tmp_path: Path) -> None:
    """The daemon itself does not believe the scheduler, and says what does not fit."""
    until_turned_away(hosts.daemon(tmp_path / "d", strangers), "TLS certificate does not match")


def test_who_believes_the_scheduler_is_not_believed_for_that(hosts: Hosts, strangers: Path, tmp_path: Path) -> None:
    """The scheduler turns away a daemon whose own certificate another one has signed."""
    mixed = shutil.copytree(strangers, tmp_path / "mixed")
    shutil.copy(hosts.kiln / "ca.pem", mixed)
    until_turned_away(hosts.daemon(tmp_path / "d", mixed), "TLS (closed)")
    until(lambda: "certificate verify failed" in hosts.log("scheduler"))


def test_plain_tcp_is_turned_away(hosts: Hosts, tmp_path: Path) -> None:
    """A scheduler of the README speaks TLS only."""
    plain = hosts.scheduler.replace("tls:", "tcp:")
    until_turned_away(hosts.daemon(tmp_path / "d", hosts.kiln, plain), plain)


def first_byte(address: str, port: str, tls: Path, *, known: bool) -> bytes:
    """Return the first byte that a host sends, or none if it hangs up; with a certificate of ours, or without one."""
    context = ssl.create_default_context(cafile=tls / "ca.pem")
    context.check_hostname = False
    if known:
        context.load_cert_chain(tls / "host.pem", tls / "host.key")
    with (
        suppress(OSError),  # by chance its alert or the end of the connection is seen first
        socket.create_connection((address, int(port)), timeout=30) as bare,
        context.wrap_socket(bare) as closed,
    ):
        return closed.recv(1)
    return b""


@pytest.mark.parametrize("who", ["scheduler", "worker"])
def test_nobody_speaks_to_a_host_without_a_certificate(hosts: Hosts, who: str) -> None:
    """Neither to the scheduler nor to a worker, where the daemon's bytes go."""
    found = re.search(r"(?:Scheduler at|Listening to): +tls://([\d.]+):(\d+)", hosts.log(who))
    assert found is not None
    assert first_byte(found[1], found[2], hosts.kiln, known=True)
    assert not first_byte(found[1], found[2], hosts.kiln, known=False)
    until(lambda: "peer did not return a certificate" in hosts.log(who))


def test_the_readme_says_what_the_units_do() -> None:
    """Ports, names of files and variables are the same in both."""
    assert yaml.safe_load(block("cluster", "<!-- /cluster -->"))["workers"]["ca"] == f"{TLS}/ca.pem"
    for port in re.findall(r"--(?:worker-)?port (\d+)", last(SCHEDULER, "ExecStart") + last(WORKER, "ExecStart")):
        assert re.search(rf"^\| [a-z ]+ \| {port} \|", README, re.MULTILINE)
    for variable in ("SCHEDULER", "PLACES"):
        assert f"'{variable}=" in README
        assert f" ${variable} " in last(WORKER, "ExecStart")
    for path in set(re.findall(rf"{TLS}/[\w.]+", last(WORKER, "ExecStart"))):
        assert f" {path}\n" in README


def test_the_readme_has_the_times_of_the_code() -> None:
    """What is said of how long daemon, worker and fallback wait is what they wait."""
    flat = " ".join(README.split())
    assert f"converts them after {AWAY_S:.0f} s" in flat
    assert f"after {CALL_S:.0f} s the daemon lets the voice begin again elsewhere" in flat
    assert f"after {SILENCE_S:.0f} s the worker gives it up" in flat
    assert (LAST_PAUSE_S, MARGIN) == (60.0, 2)
    assert "every minute at the latest" in flat
    assert "two voices more than it has places" in flat
