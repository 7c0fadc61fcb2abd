"""The running daemon: real processes, real signals, real voices (small ones)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import onnx
import pytest

import voicekiln
from arrivals import in_own_namespace
from running import CONFIG, Daemon
from tiny_voices import write_tiny
from voicekiln.families.sample import write_sample
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import temp_name
from voicekiln.loop import LEDGER
from voicekiln.page.board import PAGE_BEGINNING
from voicekiln.steps import Step
from voicekiln.supervisor.noticeboard import BOARDS

SCHEMAS = Path(voicekiln.__file__).parent / "folders"
SIDECAR, REFUSAL = (json.loads((SCHEMAS / f"{name}.schema.json").read_text()) for name in ("sidecar", "refusal"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("voices") / "tiny.pth")


def test_a_voice_comes_out_verified_with_a_sidecar_that_fits_its_schema(tmp_path: Path, tiny: Path) -> None:
    """The whole way once, as a person sees it."""
    with Daemon(tmp_path) as daemon:
        daemon.until(daemon.inbox.is_dir)
        source = daemon.drop(tiny, "both/singers/tiny.pth")
        daemon.until_there("both/singers/tiny.json")
        sidecar = daemon.read("both/singers/tiny.json")
        jsonschema.validate(sidecar, SIDECAR)
        assert sidecar["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert [file["name"] for file in sidecar["onnx"]] == ["tiny.onnx", "tiny.fp16.onnx"]
        for file in sidecar["onnx"]:
            path = daemon.outbox / "both/singers" / file["name"]
            assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            model = onnx.load(path)
            assert [port.name for port in model.graph.input] == [port["name"] for port in file["inputs"]]
            assert {p.key: p.value for p in model.metadata_props}["source_sha256"] == sidecar["source"]["sha256"]
        daemon.until(lambda: daemon.litter() == [])
        assert {path.name for path in (daemon.outbox / "both/singers").iterdir()} == {
            "tiny.onnx",
            "tiny.fp16.onnx",
            "tiny.json",
        }
        assert len(daemon.events("job.finished")) == 1
    assert daemon.process.returncode == 0


def test_a_refusal_fits_its_schema(tmp_path: Path) -> None:
    """What is no voice gets its answer in the outbox."""
    page = tmp_path / "page"
    page.write_text("<!DOCTYPE html><html>Not found</html>")
    with Daemon(tmp_path) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(page, "voice.pth")
        daemon.until_there("voice.error.json")
        refusal = daemon.read("voice.error.json")
        jsonschema.validate(refusal, REFUSAL)
        assert refusal["code"] == "web-page"


@pytest.mark.requirement(8)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda n: n.name)
def test_a_worker_that_is_killed_is_replaced_and_the_job_done(
    tmp_path: Path, tiny: Path, number: signal.Signals
) -> None:
    """The daemon says so, tries again, and the voice comes out."""
    with Daemon(tmp_path) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(tiny, "a.pth")
        daemon.until(lambda: daemon.events("stage.entered") != [])
        daemon.kill_worker(number)
        daemon.until_there("a.json")
        [lost] = daemon.events("worker.lost")
        assert number.name in lost["reason"]
        daemon.until(lambda: daemon.events("job.finished") != [])  # the line comes after the file
        assert daemon.events("job.finished")[0]["attempt"] == 2


@pytest.mark.requirement(8)
@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        ("device: cpu, attempts: 2, memory: 350MB", "memory"),
        ("device: cpu, attempts: 2, deadlines: {template: 0.01s}", "longer"),
    ],
    ids=["out of memory", "too slow"],
)
def test_a_job_that_never_ends_is_given_up_with_words(tmp_path: Path, worker: str, reason: str) -> None:
    """Too much memory and too much time are lost attempts; after the last one a person is told."""
    write_sample(tmp_path / "large.pth", seed=1)  # a voice of the usual size, which takes 700 MB to convert
    with Daemon(tmp_path, CONFIG.replace("device: cpu", worker)) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(tmp_path / "large.pth", "a.pth")
        daemon.until_there("a.error.json")
        refusal = daemon.read("a.error.json")
        jsonschema.validate(refusal, REFUSAL)
        assert refusal["code"] == "worker-lost"
        assert reason in refusal["message"]
        daemon.until(lambda: daemon.litter() == [])


@pytest.mark.requirement(8)
def test_a_worker_that_hangs_is_ended_and_other_files_keep_flowing(tmp_path: Path, tiny: Path) -> None:
    """Frozen in the middle of a job it is killed after the deadline; both voices come out, the frozen one second."""
    other = write_tiny(tmp_path / "other.pth", seed=7)
    config = CONFIG.replace("device: cpu", "device: cpu, deadlines: {load: 20s, template: 20s, fill: 20s, verify: 20s}")
    with Daemon(tmp_path, config) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(tiny, "frozen.pth")
        daemon.until(lambda: daemon.events("stage.entered") != [])
        daemon.kill_worker(signal.SIGSTOP)
        daemon.drop(other, "other.pth")
        daemon.until_there("frozen.json", "other.json")
        assert "longer" in daemon.events("worker.lost")[0]["reason"]
        daemon.until(lambda: len(daemon.events("job.finished")) == 2)  # the lines come after the files
        assert [line["file"] for line in daemon.events("job.finished")] == ["other.pth", "frozen.pth"]


@pytest.mark.requirement(19)
def test_systemd_is_told_of_ready_progress_and_the_queue(tmp_path: Path, tiny: Path) -> None:
    """READY after the first look, STATUS with what is in work, WATCHDOG while the loop turns, STOPPING at the end."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(0)

        def hear(word: str) -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(ear.recv(4096).decode())
            return any(word in message for message in heard)

        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with Daemon(tmp_path, env=env) as daemon:
            daemon.until(lambda: hear("READY=1"))
            daemon.drop(tiny, "a.pth")
            daemon.until(lambda: hear("converting a.pth"))
            daemon.until_there("a.json")
            count = len(heard)
            daemon.until(lambda: hear("1 done") and any("WATCHDOG=1" in message for message in heard[count:]))
        assert hear("STOPPING=1")
    assert heard.index("READY=1") < next(i for i, message in enumerate(heard) if "converting" in message)


FULL = """
import os, shutil, sys, tempfile
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from arrivals import in_own_namespace
from running import CONFIG, Daemon

top = Path(sys.argv[3])
with Daemon(top, CONFIG) as daemon:
    daemon.until(lambda: daemon.events("service.ready") != [])
    filler = daemon.state / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"x" * 65536)
                file.flush()
        except OSError:
            pass
    daemon.drop(Path(sys.argv[1]), "a.pth")
    daemon.until(lambda: daemon.events("ledger.stuck") != [])
    filler.unlink()
    daemon.until_there("a.json")
    assert daemon.process.poll() is None
print("came out")
"""


@pytest.mark.requirement(9)
def test_a_full_state_disk_is_waited_out(tmp_path: Path, tiny: Path) -> None:
    """The ledger cannot be written: the daemon says so and stays; with room again the voice comes out."""
    (tmp_path / "state").mkdir()
    mount = f"mount -t tmpfs -o size=160m none {tmp_path}/state"
    assert "came out" in in_own_namespace(mount, FULL, tiny, Path(__file__).parent, tmp_path)


KILL = """
import os, signal
from voicekiln import steps

def kill(step):
    if step == {step!r}:
        os.kill(os.getpid(), signal.SIGKILL)

steps.on_passed = kill
"""


@pytest.mark.requirement(1)
@pytest.mark.parametrize("step", list(Step), ids=lambda step: step.name)
def test_killed_at_any_step_the_daemon_goes_on_where_it_was(tmp_path: Path, tiny: Path, step: Step) -> None:
    """SIGKILL there, a new start: the voice is converted once, nothing lies around."""
    sweeps = step in (Step.FILE_SWEPT, Step.FOLDER_REMOVED)
    config = CONFIG.replace("results: never", "results: 0.1s, every: 1s, max_share: 100%") if sweeps else CONFIG
    config += "recipes: {default: {interface: 'rvc, moevs'}}\n" if step is Step.FOLDER_REMOVED else ""
    boards = step in (Step.BOARD_RENAMED, Step.BOARD_REMOVED)
    config += "" if boards else "status: {page: off, json: off}\n"  # so that it is the voice's file that is under way
    (tmp_path / "inbox").mkdir()
    if step is Step.BOARD_REMOVED:  # what one left that was configured in another way
        for name in ("outbox", "state"):
            (tmp_path / name).mkdir()
        with Ledger(tmp_path / "state" / LEDGER) as ledger:
            ledger.set_fact(BOARDS, '["old.html"]')
        (tmp_path / "outbox/old.html").write_text(PAGE_BEGINNING)
    if step is Step.LITTER_REMOVED:  # what one left that was killed before
        for name in ("outbox", "state"):
            (tmp_path / name).mkdir()
        with Ledger(tmp_path / "state" / LEDGER) as ledger:
            (tmp_path / "outbox" / temp_name("b.onnx", f"{ledger.instance}7")).touch()
    with Daemon(tmp_path, config, KILL.format(step=step.value)) as first:
        if step is Step.STALE_REMOVED:  # the refusal of an older file
            page = tmp_path / "page"
            page.write_text("<!DOCTYPE html><html>Not found</html>")
            first.drop(page, "sub/a.pth")
            first.until_there("sub/a.error.json")
        first.drop(tiny, "sub/a.pth")
        first.until(lambda: first.process.poll() is not None, alive=False)
        assert first.process.returncode == -signal.SIGKILL
    with Daemon(tmp_path, config) as second:
        if sweeps:
            second.until(lambda: list((second.outbox / "sub").iterdir()) == [])
        else:
            second.until_there("sub/a.json")
        second.until(lambda: second.litter() == [])
        second.until(lambda: second.events("service.ready") != [])
    assert (first.inbox / "sub/a.pth").read_bytes() == tiny.read_bytes()
    refused = step is Step.STALE_REMOVED  # by a worker
    assert len(second.events("job.started")) - refused <= 1 + (step in (Step.STARTED, Step.SENT))
    if not sweeps:
        jsonschema.validate(second.read("sub/a.json"), SIDECAR)
        assert {path.name for path in (second.outbox / "sub").iterdir()} == {"a.onnx", "a.json"}


def test_the_worker_dies_with_the_daemon(tmp_path: Path, tiny: Path) -> None:
    """No orphan holds a GPU after kill -9."""
    with Daemon(tmp_path) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(tiny, "a.pth")
        daemon.until(lambda: daemon.worker() is not None)
        pid = daemon.worker()
        daemon.process.kill()
        daemon.process.wait(10)
        daemon.until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), alive=False)


def _is_zombie(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_daemons_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """The second one leaves with status 75 and says why."""
    with Daemon(tmp_path) as daemon:
        daemon.until(lambda: daemon.events("service.ready") != [])
        command = [sys.executable, "-c", "import sys; from voicekiln.cli import main; sys.exit(main())"]
        second = subprocess.run(
            [*command, "run", "--config", str(daemon.config)], capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == os.EX_TEMPFAIL
    assert "another voicekiln" in second.stderr


@pytest.mark.requirement(18)
def test_sighup_reads_the_configuration_anew(tmp_path: Path) -> None:
    """A slip changes nothing and is told; the corrected file is taken."""
    with Daemon(tmp_path) as daemon:
        daemon.until(lambda: daemon.events("service.ready") != [])
        daemon.config.write_text(CONFIG + "unknown: 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.events("config.refused") != [])
        daemon.config.write_text(CONFIG.replace("legacy_quiet: 1s", "legacy_quiet: 2s"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.events("config.reloaded") != [])
