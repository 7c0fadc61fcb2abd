"""The worker process itself: what it answers, and how it makes itself harmless first."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stub_worker import Bench, convert, ending, exists, has, one_room, vanishes
from tiny_voices import write_tiny
from voicekiln.errors import Empty
from voicekiln.job import STAGES, Converted, Recipe, Refused, Stage
from voicekiln.worker.child import serve, show_gpu
from voicekiln.worker.keeper import At, Ended, Left
from voicekiln.worker.wire import (
    MAX_LINE,
    Answer,
    Declined,
    Entered,
    Inspect,
    Looked,
    Ready,
    Request,
    Sample,
    Troubled,
    decode_answer,
    encode,
)

LOOK = Inspect("look", Path("/nowhere"))
SEEN = Looked("look", {"family": "rvc"}, ())


class Wire:
    """Takes answers as the real one does: only what fits into a line."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def __call__(self, answer: Answer) -> None:
        encode(answer)
        self.answers.append(answer)


def served(result: Answer | Exception, *requests: Request) -> tuple[int, list[Answer]]:
    """Serve the requests with work that returns or raises `result`; return exit status and answers."""

    def work(request: Request, entered: Callable[[Stage], None]) -> Answer:
        del request
        entered("load")
        if isinstance(result, Exception):
            raise result
        return result

    wire = Wire()
    return serve(iter(requests or (LOOK,)), work, wire), wire.answers


def test_stages_and_result_are_answered() -> None:
    """In the order in which they happen."""
    assert served(SEEN) == (0, [Entered("look", "load"), SEEN])


def test_a_refusal_is_no_trouble() -> None:
    """The process goes on with the next request."""
    status, answers = served(Empty(), LOOK, Inspect("two", Path("/nowhere")))
    assert status == 0
    assert [(type(a), a.id) for a in answers if isinstance(a, Declined)] == [(Declined, "look"), (Declined, "two")]


def graphics_memory() -> Exception:
    """Return what torch raises when a GPU is full."""
    kind = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
    error = kind("CUDA out of memory. Tried ...")
    assert isinstance(error, RuntimeError)
    return error


TROUBLES = {
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), True, "No space left on device"),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), True, "Disk quota exceeded"),
    "a bad disk": (OSError(errno.EIO, "Input/output error"), True, "Input/output error"),
    "no such file": (OSError(errno.ENOENT, "No such file or directory"), False, "No such file"),
    "memory": (MemoryError(), False, "the worker ran out of memory"),
    "graphics memory": (graphics_memory(), True, "CUDA out of memory"),
    "a defect": (ZeroDivisionError("division by zero\nsecond line"), False, "(ZeroDivisionError: division by zero)"),
    "words that play tricks": (ValueError("\x1b[2J\u202e" + "x" * 9000), False, "ValueError"),
    "nesting": (RecursionError("too deep"), False, "RecursionError"),
}


@pytest.mark.parametrize(("error", "outside", "words"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_is_told_and_the_process_goes(
    error: Exception,
    outside: bool,  # noqa: FBT001 - a column of the table
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a reason for people on the wire, and a traceback for us on standard error."""
    status, answers = served(error, LOOK, LOOK)
    assert status == 1
    (trouble,) = [answer for answer in answers if not isinstance(answer, Entered)]
    assert isinstance(trouble, Troubled)
    assert trouble.outside is outside
    assert words in trouble.reason
    assert trouble.reason.isprintable()
    assert len(trouble.reason) <= 300
    assert "Traceback" in capsys.readouterr().err


def test_an_answer_that_does_not_fit_is_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told instead of being written and killed for."""
    status, answers = served(Looked("look", {"x": "y" * MAX_LINE}, ()))
    assert status == 1
    assert isinstance(answers[-1], Troubled)
    assert "WireError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "seen", "then"),
    [
        ("auto", None, None),
        ("auto", "3,5", "3,5"),
        ("cpu", None, ""),
        ("cpu", "3,5", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "3,5", "5"),
        ("cuda:2", "3,5", ""),
        ("cuda", "GPU-12ab", "GPU-12ab"),
    ],
)
def test_the_device_decides_which_gpu_is_seen(
    device: str, seen: str | None, then: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers count within what the surroundings let us see."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    show_gpu(device)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == then


def python(body: str, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a process that imports the child's parts, but no torch."""
    code = "import json, os, sys, time\nfrom voicekiln.worker.child import *\n" + textwrap.dedent(body)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **settings)


def test_prints_do_not_get_between_the_answers() -> None:
    """Neither those of Python nor those of C code or of processes that are started."""
    body = """
        wire = guard_wire()
        print("noise", flush=True)
        os.write(1, b"noise")
        os.system("echo noise")
        Mouth(wire)(Ready({"kind": "cpu"}, {}))
    """
    with python(body, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=20)
    assert decode_answer(out) == Ready({"kind": "cpu"}, {})
    assert err.count(b"noise") == 3


def test_the_end_of_requests_ends_it_in_the_midst_of_a_job() -> None:
    """The parent is dead or wants it gone; nothing has to be cleaned up."""
    body = """
        requests = hear_requests()
        print(next(requests).id, flush=True)
        while True:
            pass
    """
    with python(body, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode(LOOK))
        process.stdin.flush()
        assert process.stdout.readline() == b"look\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_it_takes_little_and_gives_way() -> None:
    """Files for nobody else; the kernel kills it first; Ctrl-C is not for it."""
    body = """
        humble(None)
        import signal
        print(json.dumps({
            "umask": os.umask(0),
            "kill": int(open("/proc/self/oom_score_adj").read()),
            "ctrl_c": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        }))
    """
    with python(body) as process:
        facts = json.loads(process.communicate(timeout=20)[0])
    assert facts == {
        "umask": 0o077,
        "kill": 500,
        "ctrl_c": True,
    }


def test_it_dies_with_its_parent() -> None:
    """The kernel sees to it, even where nothing is closed and nobody can say anything any more."""
    body = """
        if (child := os.fork()) == 0:
            humble(os.getppid())
            print(os.getpid(), flush=True)
        time.sleep(60)
    """
    with python(body) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert exists(child)
        parent.send_signal(signal.SIGKILL)
        assert vanishes(child)


def test_it_does_not_start_for_a_parent_that_is_gone() -> None:
    """Which would otherwise never be noticed."""
    with python("humble(int(sys.argv[1]))\nprint('started')\n", str(os.getpid() + 1)) as process:
        assert process.communicate(timeout=20)[0] == b""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench with the real worker; its process is gone after the test."""
    bench = Bench(None, one_room(tmp_path), start_s=120, stage_s=120, memory_bytes=8 * 10**9)
    yield bench
    bench.worker.close(5.0)


@pytest.mark.parametrize(("limit", "used"), [(None, [3, 1, 4]), ("2", [2, 1, 2])])
def test_it_uses_as_many_cores_as_it_is_given(tmp_path: Path, limit: str | None, used: list[int]) -> None:
    """Anew with each job; OMP_NUM_THREADS, which a person may have set, caps it."""
    body = """
        from contextlib import suppress
        import torch
        from voicekiln.errors import Refusal
        from voicekiln.job import Job, Recipe
        from voicekiln.worker.child import _workshop

        work, _ = _workshop(Path(sys.argv[1]))
        Path(sys.argv[1], "empty.pth").touch()
        for threads in (3, 1, 4):
            job = Job("j", Path(sys.argv[1], "empty.pth"), Path(sys.argv[1]), "0" * 64, Recipe("default"))
            with suppress(Refusal):
                work(Convert(job, threads), lambda _: None)
            print(torch.get_num_threads())
    """
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env |= {} if limit is None else {"OMP_NUM_THREADS": limit}
    with python(body, str(tmp_path), env=env) as process:
        assert [int(line) for line in process.communicate(timeout=120)[0].split()] == used


class TestRealWorker:
    """The real process, with all that it imports."""

    def test_it_gets_ready_refuses_what_is_no_voice_and_leaves_when_asked(self, bench: Bench, tmp_path: Path) -> None:
        """From start to end, as the daemon uses it."""
        (tmp_path / "voice.pth").write_bytes(b"")
        bench.worker.begin(Inspect("look", tmp_path / "voice.pth"), time.monotonic())
        events = bench.until(has(Ended), 120)
        facts = next(event for event in events if isinstance(event, Ready))
        assert facts.device["kind"] == "cpu"
        assert [said.partition(":")[0] for said in facts.device["cage"]] == ["files", "system calls"]
        assert facts.versions["torch"]
        got = ending(events)
        assert isinstance(got, Refused)
        assert got.refusal.code == "empty"
        (left,) = [event for event in bench.worker.close(5.0) if isinstance(event, Left)]
        assert left.wanted

    def test_it_converts_a_voice_at_both_precisions(self, bench: Bench, tmp_path: Path) -> None:
        """The files lie in the staging folder as it says, for nobody else to read."""
        source = write_tiny(tmp_path / "voice.pth")
        request = convert(tmp_path, recipe=Recipe("both", ("fp32", "fp16")))
        request = replace(request, job=replace(request.job, source=source))
        bench.worker.begin(request, time.monotonic())
        events = bench.until(has(Ended), 120)
        got = ending(events)
        assert isinstance(got, Converted), events
        for file in got.conversion.files:
            path = request.job.staging / file.name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(path.name for path in request.job.staging.iterdir()) == ["rvc.fp16.onnx", "rvc.fp32.onnx"]
        assert {event.stage for event in events if isinstance(event, At)} == set(STAGES)

    def test_it_writes_a_sample(self, bench: Bench, tmp_path: Path) -> None:
        """Which it then knows as a voice."""
        bench.worker.begin(Sample("s", tmp_path / "sample.pth"), time.monotonic())
        assert isinstance(ending(bench.until(has(Ended), 120)), Looked)
        bench.worker.begin(Inspect("i", tmp_path / "sample.pth"), time.monotonic())
        got = ending(bench.until(has(Ended), 120))
        assert isinstance(got, Looked)
        assert got.model["family"] == "rvc"

    def test_a_daemon_that_is_killed_leaves_no_worker_behind(self, tmp_path: Path) -> None:
        """Not even one that has not got ready yet."""
        body = f"""
            import threading
            from pathlib import Path
            from voicekiln.worker.parent import Worker
            from voicekiln.worker.rooms import Rooms
            folder = Path({str(tmp_path)!r})
            worker = Worker(device="cpu", deadlines={{"start": 60, "load": 60}}, idle_s=60, memory_bytes=8 * 10**9,
                            rooms=Rooms(folder, folder, folder), wake=lambda: None)
            worker.begin(Inspect("look", folder), time.monotonic())
            print(worker.poll(time.monotonic())[0].pid, flush=True)
            time.sleep(60)
        """
        with python(body) as daemon:
            assert daemon.stdout is not None
            worker = int(daemon.stdout.readline())
            assert exists(worker)
            daemon.send_signal(signal.SIGKILL)
            assert vanishes(worker)
