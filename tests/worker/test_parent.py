"""The keeper of the worker process, against processes that do everything wrong that a process can."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from endings import converted
from stub_worker import Bench, convert, ending, exists, has, one_room, stub, vanishes
from voicekiln.errors import Damaged
from voicekiln.job import Converted, Lost, Part, Precision, Recipe, Refused
from voicekiln.worker.keeper import Abandoned, At, Ended, Event, Left, Said, Started
from voicekiln.worker.parent import _is_asked_for
from voicekiln.worker.process import Patience
from voicekiln.worker.wire import Finished, Inspect, Looked, Ready, Templates

MakeBench = Callable[..., Bench]

GOOD = """
    ready()
    while True:
        job = hear()
        say("entered", id=job, stage="load")
        say("entered", id=job, stage="fill")
        finish(job)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MakeBench]:
    """Return a maker of benches; their processes are gone after the test."""
    made: list[Bench] = []

    def make(body: str, **settings: Any) -> Bench:
        made.append(Bench(stub(tmp_path, body), one_room(tmp_path), **settings))
        return made[-1]

    yield make
    for each in made:
        each.worker.close(1.0)


def pid_of(events: list[Event]) -> int:
    """Return the number of the process that was started."""
    return next(event.pid for event in events if isinstance(event, Started))


class TestGoodWorker:
    """What a worker that behaves is used for."""

    def test_a_conversion_is_told_from_start_to_end(self, bench: MakeBench, tmp_path: Path) -> None:
        """Process, readiness, stages and the ending come as events, in that order."""
        events = bench(GOOD).run(convert(tmp_path))
        kinds = [type(event) for event in events]
        assert kinds == [Started, Ready, At, At, Ended]
        assert [event.stage for event in events if isinstance(event, At)] == ["load", "fill"]
        assert isinstance(ending(events), Converted)

    def test_the_process_is_kept_warm(self, bench: MakeBench, tmp_path: Path) -> None:
        """The second request goes to the process that did the first."""
        worker = bench(GOOD)
        worker.run(convert(tmp_path, "j1"))
        events = worker.run(convert(tmp_path, "j2"))
        assert not any(isinstance(event, Started) for event in events)

    def test_no_deadline_runs_against_an_idle_process(self, bench: MakeBench, tmp_path: Path) -> None:
        """That of the last stage ended with its job."""
        worker = bench(GOOD, stage_s=1.0)
        worker.run(convert(tmp_path, "j1"))
        worker.worker.poll(time.monotonic() + 10)  # a loop that was late
        assert not any(isinstance(event, Started) for event in worker.run(convert(tmp_path, "j2")))

    def test_an_idle_process_leaves_and_the_next_request_starts_another(self, bench: MakeBench, tmp_path: Path) -> None:
        """Graphics memory is free while nobody drops a voice."""
        worker = bench(GOOD, idle_s=0.1)
        first = pid_of(worker.run(convert(tmp_path, "j1")))
        (left,) = worker.gone()
        assert isinstance(left, Left)
        assert left.wanted
        assert not exists(first)
        assert worker.worker.ready is None
        assert worker.worker.next_due(time.monotonic()) == float("inf")
        assert pid_of(worker.run(convert(tmp_path, "j2"))) != first

    def test_a_refusal_is_told_in_our_own_words(self, bench: MakeBench, tmp_path: Path) -> None:
        """Only code and values cross; the process is kept."""
        worker = bench("""
            ready()
            while True:
                say("declined", id=hear(), code="damaged", found={"what": "it is\\u202e cut off"})
        """)
        got = ending(worker.run(convert(tmp_path)))
        assert isinstance(got, Refused)
        assert isinstance(got.refusal, Damaged)
        assert "\u202e" not in got.refusal.text
        assert isinstance(ending(worker.run(convert(tmp_path, "j2"))), Refused)

    def test_a_look_gives_what_the_file_is(self, bench: MakeBench, tmp_path: Path) -> None:
        """Inspect ends with what the worker saw."""
        worker = bench("""
            ready()
            say("looked", id=hear(), model={"family": "rvc"}, notes=["a note"])
            hear()
        """)
        worker.worker.begin(Inspect("look", tmp_path / "voice.pth"), time.monotonic())
        got = ending(worker.until(has(Ended)))
        assert got == Looked("look", {"family": "rvc"}, ("a note",))

    def test_a_request_waits_for_the_one_that_is_leaving(self, bench: MakeBench, tmp_path: Path) -> None:
        """Never two processes at once; the newer starts when the older is gone."""
        worker = bench(
            """
            ready()
            finish(hear())
            sys.stdin.readline()
            time.sleep(0.1)
            """,
            idle_s=0.0,
        )
        first = pid_of(worker.run(convert(tmp_path, "j1")))
        worker.worker.poll(time.monotonic())
        events = worker.run(convert(tmp_path, "j2"))
        assert [type(event) for event in events] == [Left, Started, Ready, Ended]
        assert not exists(first)
        assert isinstance(ending(events), Converted)

    def test_a_second_request_at_once_is_a_mistake_of_the_caller(self, bench: MakeBench, tmp_path: Path) -> None:
        """One at a time."""
        worker = bench(GOOD)
        worker.worker.begin(convert(tmp_path, "j1"), time.monotonic())
        with pytest.raises(RuntimeError, match="busy"):
            worker.worker.begin(convert(tmp_path, "j2"), time.monotonic())

    def test_it_knows_nothing_of_systemd_and_stands_alone(
        self, bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No notify socket, no watchdog, a session of its own, no folder of ours."""
        for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
            monkeypatch.setenv(name, "1")
        worker = bench("""
            ready()
            job = hear()
            names = [name for name in os.environ if "NOTIFY" in name or "WATCHDOG" in name]
            own = os.getsid(0) == os.getpid()
            say("looked", id=job, model={"names": names, "cwd": os.getcwd(), "own": own}, notes=[])
            hear()
        """)
        worker.worker.begin(Inspect("look", tmp_path / "voice.pth"), time.monotonic())
        got = ending(worker.until(has(Ended)))
        assert isinstance(got, Looked)
        assert got.model == {"names": [], "cwd": "/", "own": True}


DEATHS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "the worker was killed (SIGKILL), often for want of memory",
    "os.kill(os.getpid(), signal.SIGSEGV)": "the worker crashed (SIGSEGV)",
    "os.kill(os.getpid(), signal.SIGTERM)": "the worker was stopped (SIGTERM)",
    "os._exit(1)": "the worker ended with status 1",
    "os._exit(0)": "the worker ended without an answer",
}

OUT_OF_TURN = {
    "for another job": 'hear(); finish("other")',
    "with a stage of another job": 'hear(); say("entered", id="other", stage="load")',
    "with a look": 'say("looked", id=hear(), model={}, notes=[])',
    "with files that nobody wanted": 'finish(hear(), files=FINISHED["files"] * 2)',
    "with no files": "finish(hear(), files=[])",
    "ready again": "hear(); ready()",
}

NO_ANSWERS = {
    "prose": 'write(b"hello\\n")',
    "nothing": 'write(b"\\n")',
    "no object": 'write(b"[]\\n")',
    "no text": 'write(b"\\xff\\xfe\\n")',
    "no such message": 'say("shutdown")',
    "no such stage": 'say("entered", id=job, stage="root")',
    "no such refusal": 'say("declined", id=job, code="made-up", found={})',
    "a refusal without its values": 'say("declined", id=job, code="damaged", found={})',
    "a path for a name": 'finish(job, files=[FINISHED["files"][0] | {"name": "../../x.onnx"}])',
    "no number": 'finish(job, seconds={"load": float("nan")})',
    "a pit": 'write(b"[" * 60000 + b"\\n")',
}


class TestBadWorker:
    """A worker that fails costs its job one attempt, and nothing else."""

    @pytest.mark.parametrize(("deed", "words"), DEATHS.items(), ids=["SIGKILL", "SIGSEGV", "SIGTERM", "1", "0"])
    def test_a_death_is_a_loss_that_says_how(self, bench: MakeBench, tmp_path: Path, deed: str, words: str) -> None:
        """A dead worker is never success."""
        worker = bench(f"ready()\nhear()\n{deed}\n")
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost(words, counts=True)
        assert any(isinstance(event, Left) and event.reason == words and not event.wanted for event in events)
        assert not exists(pid_of(events))

    def test_a_stage_that_hangs_is_ended_by_its_deadline(self, bench: MakeBench, tmp_path: Path) -> None:
        """The stage and its limit are named."""
        worker = bench(
            'ready()\njob = hear()\nsay("entered", id=job, stage="fill")\nhang()\n',
            stage_s=2.5,
        )
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost("stage fill took longer than 2.5 s")
        assert not exists(pid_of(events))

    def test_a_request_that_is_never_taken_up_has_a_deadline_too(self, bench: MakeBench, tmp_path: Path) -> None:
        """The first stage counts from the request, not from the worker's word."""
        assert ending(bench("ready()\nhear()\nhang()\n", stage_s=0.2).run(convert(tmp_path))) == Lost(
            "stage load took longer than 0.2 s"
        )

    def test_sigterm_can_be_ignored_but_sigkill_comes(self, bench: MakeBench, tmp_path: Path) -> None:
        """The ladder goes on when a rung does not help."""
        worker = bench("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nhear()\nhang()\n", stage_s=0.2)
        begun = time.monotonic()
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost("stage load took longer than 0.2 s")
        assert not exists(pid_of(events))
        assert time.monotonic() - begun < 8  # a loaded machine; the process would live for ever

    def test_sigterm_comes_before_sigkill(self, bench: MakeBench, tmp_path: Path) -> None:
        """A worker whose stage took too long may still say where it was."""
        body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit('in the loop'))\nready()\nhear()\nhang()\n"
        events = bench(body, stage_s=0.2, patience=Patience(terminate_s=60)).run(convert(tmp_path))
        assert ending(events) == Lost("stage load took longer than 0.2 s")
        assert Said("in the loop") in events

    @pytest.mark.parametrize("deed", OUT_OF_TURN.values(), ids=OUT_OF_TURN)
    def test_an_answer_that_is_not_due_kills(self, bench: MakeBench, tmp_path: Path, deed: str) -> None:
        """Only what was asked is believed."""
        events = bench(f"ready()\n{deed}\nhang()\n").run(convert(tmp_path))
        got = ending(events)
        assert isinstance(got, Lost)
        assert got.counts
        assert got.reason in {"the worker spoke out of turn", "the worker answered what it was not asked"}
        assert not exists(pid_of(events))

    @pytest.mark.parametrize("deed", NO_ANSWERS.values(), ids=NO_ANSWERS)
    def test_a_line_that_is_no_answer_kills(self, bench: MakeBench, tmp_path: Path, deed: str) -> None:
        """It is not even looked at further."""
        events = bench(f"ready()\njob = hear()\n{deed}\nfinish(job)\nhang()\n").run(convert(tmp_path))
        got = ending(events)
        assert isinstance(got, Lost)
        assert got.reason.startswith("the worker wrote what is no answer (")
        assert not exists(pid_of(events))

    @pytest.mark.parametrize(
        "deed",
        ['write(b"x" * 10_000_000)', 'write(b"\\n" * 1_000_000)', 'write(b"{}\\n" * 1_000_000)'],
        ids=["a line without end", "empty lines", "short lines"],
    )
    def test_a_flood_kills(self, bench: MakeBench, tmp_path: Path, deed: str) -> None:
        """Lines and their number are limited while they are read."""
        events = bench(f"ready()\nhear()\n{deed}\nhang()\n").run(convert(tmp_path))
        got = ending(events)
        assert isinstance(got, Lost)
        assert got.reason.startswith("the worker wrote ")
        assert not exists(pid_of(events))

    def test_stages_without_end_kill(self, bench: MakeBench, tmp_path: Path) -> None:
        """A worker cannot put off its deadline for ever by entering stages."""
        worker = bench("""
            ready()
            job = hear()
            while True:
                say("entered", id=job, stage="load")
                time.sleep(0.005)
        """)
        assert ending(worker.run(convert(tmp_path))) == Lost("the worker answered what it was not asked")

    def test_a_worker_that_closes_its_output_and_lives_on_is_killed(self, bench: MakeBench, tmp_path: Path) -> None:
        """It could never answer; nobody waits for the deadline."""
        events = bench("ready()\nhear()\nos.close(1)\nhang()\n").run(convert(tmp_path))
        assert ending(events) == Lost("the worker closed its output and lived on")
        assert not exists(pid_of(events))

    def test_what_a_dead_worker_leaves_running_is_killed(self, bench: MakeBench, tmp_path: Path) -> None:
        """A grandchild that holds the pipes keeps nobody waiting and does not live on."""
        worker = bench("""
            ready()
            hear()
            if (child := os.fork()) == 0:
                hang()
            print(child, file=sys.stderr, flush=True)
            os._exit(1)
        """)
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost("the worker ended with status 1")
        assert vanishes(int(next(event.text for event in events if isinstance(event, Said))))

    def test_a_grandchild_that_escapes_with_the_pipes_keeps_nobody_waiting(
        self, bench: MakeBench, tmp_path: Path
    ) -> None:
        """The end of a pipe is waited for only so long."""
        worker = bench("""
            ready()
            hear()
            if (child := os.fork()) == 0:
                os.setsid()
                time.sleep(5)
                os._exit(0)
            print(child, file=sys.stderr, flush=True)
            time.sleep(0.1)
            os._exit(1)
        """)
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost("the worker ended with status 1")
        os.kill(int(next(event.text for event in events if isinstance(event, Said))), signal.SIGKILL)

    def test_a_second_answer_kills_but_the_first_counts(self, bench: MakeBench, tmp_path: Path) -> None:
        """One ending for each request; the next request is not touched by it."""
        worker = bench("""
            ready()
            job = hear()
            finish(job)
            time.sleep(0.05)
            finish(job)
            hang()
        """)
        assert isinstance(ending(worker.run(convert(tmp_path, "j1"))), Converted)
        (left,) = worker.gone()
        assert isinstance(left, Left)
        assert (left.reason, left.wanted) == ("the worker spoke out of turn", False)
        assert isinstance(ending(worker.run(convert(tmp_path, "j2"))), Converted)

    def test_a_late_answer_never_counts_for_another_request(self, bench: MakeBench, tmp_path: Path) -> None:
        """The id of the old job is not the id of the new one."""
        worker = bench(
            'ready()\nold = hear()\nsay("declined", id=old, code="empty", found={})\nhear()\nfinish(old)\nhang()'
        )
        assert isinstance(ending(worker.run(convert(tmp_path, "j1"))), Refused)
        assert ending(worker.run(convert(tmp_path, "j2"))) == Lost("the worker spoke out of turn")

    def test_memory_beyond_the_allowance_kills(self, bench: MakeBench, tmp_path: Path) -> None:
        """Memory that is really held, not address space."""
        worker = bench(
            "ready()\nhear()\nhog = bytearray(os.urandom(1000)) * 300_000\nhang()\n", memory_bytes=200_000_000
        )
        events = worker.run(convert(tmp_path))
        assert ending(events) == Lost("the worker used more memory than 0.2 GB")
        assert not exists(pid_of(events))

    @pytest.mark.requirement(8)
    @pytest.mark.parametrize(("processor_s", "reason"), [(0.2, "more processor time than 0.2 s"), (None, "longer")])
    def test_processor_time_beyond_the_allowance_kills(
        self, bench: MakeBench, tmp_path: Path, processor_s: float | None, reason: str
    ) -> None:
        """Also of one that says in time that it is in a new stage, and lets signals pass; without it, the deadline."""
        body = """
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
            ready()
            job = hear()
            for stage in ("load", "template", "fill"):
                say("entered", id=job, stage=stage)
                by = time.monotonic() + 0.6
                while time.monotonic() < by:
                    pass
            while True:
                pass
        """
        got = ending(bench(body, processor_s=processor_s, stage_s=1.5).run(convert(tmp_path)))
        assert isinstance(got, Lost)
        assert reason in got.reason

    def test_each_file_has_its_own_processor_time(self, bench: MakeBench, tmp_path: Path) -> None:
        """What a process took for the files before does not count."""
        worker = bench(
            """
            ready()
            while True:
                job = hear()
                by = time.process_time() + 0.4
                while time.process_time() < by:
                    pass
                time.sleep(0.6)
                finish(job)
            """,
            processor_s=0.7,
        )
        for name in ("j1", "j2", "j3"):
            assert isinstance(ending(worker.run(convert(tmp_path, name))), Converted)

    def test_memory_of_its_children_counts(self, bench: MakeBench, tmp_path: Path) -> None:
        """A worker cannot hide it in a process that it forks."""
        body = "ready()\nhear()\nif os.fork() == 0:\n    hog = bytearray(os.urandom(1000)) * 300_000\nhang()\n"
        got = ending(bench(body, memory_bytes=200_000_000).run(convert(tmp_path)))
        assert got == Lost("the worker used more memory than 0.2 GB")

    def test_trouble_replaces_the_process(self, bench: MakeBench, tmp_path: Path) -> None:
        """Nobody knows what state it is in; where the cause lies outside, no attempt is used up."""
        worker = bench("""
            ready()
            while True:
                say("troubled", id=hear(), reason="No space left on device", outside=True)
        """)
        first = worker.run(convert(tmp_path, "j1"))
        assert ending(first) == Lost("No space left on device", counts=False)
        second = worker.run(convert(tmp_path, "j2"))
        assert pid_of(first) != pid_of(second)

    def test_a_flood_on_standard_error_becomes_a_few_clean_lines(self, bench: MakeBench, tmp_path: Path) -> None:
        """The first and the last lines are told, without anything that could play tricks on a terminal."""
        worker = bench("""
            ready()
            job = hear()
            print("first", file=sys.stderr)
            for n in range(2_000):
                print(f"\\x1b[31m{n}\\x07\\u202e" + "x" * 5000, file=sys.stderr)
            print("last", file=sys.stderr, flush=True)
            finish(job)
            hear()
        """)
        events = worker.run(convert(tmp_path))
        said = [event.text for event in events if isinstance(event, Said)]
        assert isinstance(ending(events), Converted)
        assert len(said) < 500
        assert all(line.isprintable() and len(line) <= 600 for line in said)

    def test_the_last_words_of_a_dying_worker_are_told(self, bench: MakeBench, tmp_path: Path) -> None:
        """A traceback comes at the end, also after a flood, also without a line end."""
        worker = bench("""
            ready()
            hear()
            for n in range(1000):
                print(n, file=sys.stderr)
            os.write(2, b"the last word")
            os._exit(1)
        """)
        said = [event.text for event in worker.run(convert(tmp_path)) if isinstance(event, Said)]
        assert said[-1] == "the last word"


class TestStart:
    """Before a worker has seen the file, the file cannot be at fault."""

    @pytest.mark.parametrize(
        ("body", "start_s", "words"),
        [
            ("hang()", 0.3, "the worker was not ready after 0.3 s"),
            ("os._exit(3)", 30.0, "the worker ended with status 3"),
            ("finish('j1')\nhang()", 30.0, "the worker spoke out of turn"),
        ],
        ids=["hangs", "dies", "answers first"],
    )
    def test_a_worker_that_never_gets_ready_is_a_loss_each_time(
        self, bench: MakeBench, tmp_path: Path, body: str, start_s: float, words: str
    ) -> None:
        """It uses up no attempt, and each request starts a new process."""
        worker = bench(body, start_s=start_s)
        pids = set()
        for name in ("j1", "j2"):
            events = worker.run(convert(tmp_path, name))
            assert ending(events) == Lost(words, counts=False)
            pids.add(pid_of(events))
        assert len(pids) == 2

    def test_a_command_that_is_not_there_is_a_loss(self, tmp_path: Path) -> None:
        """Nothing is raised in the loop."""
        events = Bench([str(tmp_path / "nothing")], one_room(tmp_path)).run(convert(tmp_path))
        assert ending(events) == Lost("the worker could not be started (No such file or directory)", counts=False)

    def test_one_that_died_while_idle_is_replaced_unnoticed(self, bench: MakeBench, tmp_path: Path) -> None:
        """The next request goes to a new process instead of into a broken pipe."""
        worker = bench("ready()\nfinish(hear())\nos._exit(1)\n")
        first = pid_of(worker.run(convert(tmp_path, "j1")))
        assert vanishes(first)
        events = worker.run(convert(tmp_path, "j2"))
        assert isinstance(ending(events), Converted)
        assert pid_of(events) != first

    def test_one_that_died_while_idle_is_noticed_though_its_pipes_are_open(
        self, bench: MakeBench, tmp_path: Path
    ) -> None:
        """A grandchild that escaped holds them, so no end of output tells of the death."""
        worker = bench("""
            ready()
            job = hear()
            if (child := os.fork()) == 0:
                os.setsid()
                time.sleep(15)
                os._exit(0)
            print(child, file=sys.stderr, flush=True)
            time.sleep(0.1)
            finish(job)
            time.sleep(0.3)
            os._exit(1)
        """)
        events = worker.run(convert(tmp_path, "j1"))
        assert vanishes(pid_of(events))
        now = time.monotonic()
        worker.worker.begin(convert(tmp_path, "j2"), now)
        assert worker.worker.next_due(now) <= now
        events += worker.until(has(Ended))
        assert all(isinstance(event.ending, Converted) for event in events if isinstance(event, Ended))
        for event in events:
            if isinstance(event, Said):
                os.kill(int(event.text), signal.SIGKILL)

    def test_one_that_is_ready_and_dies_is_not_started_for_ever(self, bench: MakeBench, tmp_path: Path) -> None:
        """A request is bound to the first process that is started for it."""
        worker = bench("ready()\nos._exit(1)\n")
        events = worker.run(convert(tmp_path))
        assert isinstance(ending(events), Lost)
        assert len([event for event in events if isinstance(event, Started)]) == 1


class TestStop:
    """The supervisor wants to be rid of the worker."""

    def test_a_job_that_is_stopped_uses_up_no_attempt(self, bench: MakeBench, tmp_path: Path) -> None:
        """It is tried again after the restart as if nothing had been."""
        worker = bench("ready()\njob = hear()\nsay('entered', id=job, stage='load')\nhear()\n")
        worker.worker.begin(convert(tmp_path), time.monotonic())
        worker.until(has(At))
        worker.worker.stop(time.monotonic())
        events = worker.gone()
        assert ending(events) == Lost("the converter was stopped", counts=False)
        assert not worker.worker.busy

    def test_a_process_that_leaves_is_noticed_at_once(self, bench: MakeBench, tmp_path: Path) -> None:
        """It closes its output a while before it is dead, and of its death nobody is told."""
        worker = bench(
            "ready()\nfinish(hear())\nsys.stdin.readline()\nos.close(1)\nos.close(2)\ntime.sleep(0.2)\n",
            patience=Patience(ask_s=60),
        )
        worker.run(convert(tmp_path))
        worker.worker.stop(time.monotonic())
        assert worker.gone()

    def test_closing_is_bounded_whatever_the_worker_does(self, bench: MakeBench, tmp_path: Path) -> None:
        """A worker that ignores everything is killed when the grace is over, with its children."""
        worker = bench(
            """
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ready()
            hear()
            child = os.fork()
            print(child, file=sys.stderr, flush=True)
            hang()
            """,
            patience=Patience(ask_s=60, terminate_s=60, kill_s=2, drain_s=0.2),
        )
        worker.worker.begin(convert(tmp_path), time.monotonic())
        events = worker.until(has(Ready))
        time.sleep(0.1)
        begun = time.monotonic()
        events += worker.worker.close(0.2)
        assert time.monotonic() - begun < 8
        assert ending(events) == Lost("the converter was stopped", counts=False)
        assert vanishes(pid_of(events))
        assert all(vanishes(int(event.text)) for event in events if isinstance(event, Said) and event.text != "0")

    def test_closing_without_a_process_does_nothing(self, bench: MakeBench) -> None:
        """Nothing was started, nothing is told."""
        assert bench(GOOD).worker.close(1.0) == []

    def test_one_that_cannot_be_killed_is_left_behind_and_told(
        self, bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kernel that delivers no signal stands for a process that hangs in it; buried is it all the same later."""
        quick = Patience(ask_s=0.05, terminate_s=0.05, kill_s=0.05, drain_s=0.05)
        worker = bench("ready()\nhear()\nhang()\n", stage_s=0.1, patience=quick)
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", lambda *_: None)
            events = worker.run(convert(tmp_path, "j1"))
        pid = pid_of(events)
        assert ending(events) == Lost("stage load took longer than 0.1 s, and it could not be killed")
        assert Abandoned(pid) in events
        os.kill(pid, signal.SIGKILL)
        assert vanishes(pid)
        worker.worker.poll(time.monotonic())
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_nothing_is_left_over_after_many_workers(self, bench: MakeBench, tmp_path: Path) -> None:
        """Neither descriptors nor threads nor zombies pile up in a daemon that runs for months."""
        worker = bench("ready()\nhear()\nos._exit(1)\n")
        worker.run(convert(tmp_path))
        before = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - only counted
        for _ in range(5):
            worker.run(convert(tmp_path))
        assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before  # noqa: PTH208 - as above
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_what_a_process_said_before_it_died_is_heard(bench: MakeBench, tmp_path: Path) -> None:
    """An answer that still lies in the pipe when the death is seen counts."""
    go, read_on = tmp_path / "go", threading.Event()
    woken: list[None] = []

    def wake() -> None:
        woken.append(None)
        if len(woken) == 2:  # the stage was heard; the reading thread is held here while the rest is written
            go.touch()
            read_on.wait(5)

    body = f"""
        ready()
        job = hear()
        say("entered", id=job, stage="load")
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
        finish(job)
    """
    worker = bench(body, wake=wake, patience=Patience(drain_s=30)).worker
    worker.begin(convert(tmp_path), time.monotonic())
    events: list[Event] = []
    while not has(At)(events):
        events += worker.poll(time.monotonic())
    gone = vanishes(pid_of(events))
    for _ in range(3):
        events += worker.poll(time.monotonic())
    waits = worker.busy
    read_on.set()
    while worker.busy:
        events += worker.poll(time.monotonic())
    assert gone
    assert waits
    assert isinstance(ending(events), Converted)


def test_polling_never_blocks(bench: MakeBench, tmp_path: Path) -> None:
    """Whatever state the worker is in, a call returns at once."""
    worker = bench("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nhear()\nhang()\n", stage_s=0.1)
    worker.worker.begin(convert(tmp_path), time.monotonic())
    times = [time.monotonic()]
    while worker.worker.busy:
        worker.worker.poll(time.monotonic())
        times.append(time.monotonic())
        worker.woken.wait(0.01)
    assert max(b - a for a, b in pairwise(times)) < 2  # far above what a loaded machine adds, far below a deadline


def test_the_recipe_decides_which_files_are_due(bench: MakeBench, tmp_path: Path) -> None:
    """One file where two were asked for is no answer."""
    recipe = Recipe("both", ("fp32", "fp16"))
    got = ending(bench(GOOD).run(convert(tmp_path, recipe=recipe)))
    assert got == Lost("the worker answered what it was not asked")


@pytest.mark.parametrize(
    ("faces", "due"),
    [
        ([("rvc", "fp32"), ("rvc", "fp16"), ("w-okada", "fp32"), ("w-okada", "fp16")], True),
        ([("rvc", "fp32"), ("rvc", "fp16")], True),
        ([("rvc", "fp32"), ("rvc", "fp16"), ("w-okada", "fp32")], False),
        ([("rvc", "fp32"), ("rvc", "fp16"), ("moevs", "fp32"), ("moevs", "fp16")], False),
        ([("rvc", "fp32"), ("rvc", "fp32"), ("rvc", "fp16")], False),
        ([("moevs", "fp32"), ("moevs", "fp16")], False),
        ([("so-vits-svc", "fp32"), ("so-vits-svc", "fp16"), ("autof0", "fp32"), ("autof0", "fp16")], True),
        ([("kmeans", "fp32"), ("kmeans", "fp16")], True),
        ([("autof0", "fp32"), ("autof0", "fp16")], False),
        ([("so-vits-svc", "fp32"), ("so-vits-svc", "fp16"), ("autof0", "fp32")], False),
        ([("so-vits-svc", "fp32"), ("so-vits-svc", "fp16"), ("kmeans", "fp32"), ("kmeans", "fp16")], False),
        ([("so-vits-svc", "fp32"), ("so-vits-svc", "fp16"), ("rvc", "fp32"), ("rvc", "fp16")], False),
    ],
)
def test_a_face_comes_in_all_precisions_or_not_at_all(
    tmp_path: Path, faces: list[tuple[Part, Precision]], *, due: bool
) -> None:
    """A voice may lack one, as the worker's note says; none comes that was not asked for."""
    request = convert(tmp_path, recipe=Recipe("live", ("fp32", "fp16"), interfaces=("rvc", "w-okada")))
    [known] = converted(convert(tmp_path, "k", recipe=Recipe("r")).job).conversion.files
    files = tuple(replace(known, interface=interface, precision=precision) for interface, precision in faces)
    answer = Finished(request.id, replace(converted(request.job).conversion, files=files))
    assert _is_asked_for(answer, request) is due


def test_the_steps_of_templates_are_told(bench: MakeBench) -> None:
    """There may be more of them than a voice has stages."""
    script = """
        ready()
        job = hear()
        for step in range(1, 61):
            say("entered", id=job, stage="template", step=step, steps=60)
        say("looked", id=job, model={}, notes=[])
        hear()
    """
    events = bench(script).run(Templates("t", "build", ()))
    assert [event.step for event in events if isinstance(event, At)] == list(range(1, 61))
    assert isinstance(ending(bench(script).run(Templates("t", "build", ()))), Looked)
