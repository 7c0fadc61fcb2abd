"""Notices: a command a refusal, whatever its file is called, and never so many that they are the trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiln import HeldHands, Kiln, PromptHands, good, voice_bytes
from voicekiln.errors import BadNumbers
from voicekiln.job import Ending, Lost, Refused
from voicekiln.settings import Notify, Worker
from voicekiln.supervisor.notices import AGAIN_S, AT_ONCE, QUEUE, Notices
from voicekiln.supervisor.program import Outcome
from voicekiln.worker.wire import Request

COMMAND = ("/bin/tell", "--to", "me")


def refuse(request: Request) -> Ending:
    del request
    return Refused(BadNumbers(count=3, tensor="emb_g.weight"))


class Telling(Kiln):
    """A daemon whose command is a note in a list."""

    def start(self) -> None:
        super().start()
        self.ran: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.status: int | OSError = 0
        self.hurry: threading.Event | None = None
        self.notices = Notices(self.service.common, self.runner(), self.command)
        self.service.attendants.append(self.notices)

    def runner(self) -> PromptHands:
        return PromptHands()

    def command(
        self, words: Sequence[str], env: Mapping[str, str], timeout_s: float, hurry: threading.Event
    ) -> Outcome:
        assert timeout_s == self.service.common.settings.notify.timeout
        self.hurry = hurry
        self.ran.append((words, env))
        if isinstance(self.status, OSError):
            raise self.status
        return Outcome(self.status, 0.1, ("hello",), "by itself")


class Holding(Telling):
    """The same with commands that take until the test says so."""

    def runner(self) -> PromptHands:
        self.held = HeldHands()
        return self.held


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    built: list[Kiln] = []

    def make(answer: Any = refuse, kind: type[Telling] = Telling, **changes: Any) -> Telling:
        built.append(kind(tmp_path, answer, **({"notify": Notify(COMMAND)} | changes)))
        return built[-1]  # type: ignore[return-value]  # of that kind

    yield make
    for kiln in built:
        kiln.close()


@pytest.mark.requirement(18)
def test_a_refusal_is_told_of_once(build: Callable[..., Telling]) -> None:
    """The command gets the path of the answer as its last word, and the facts as variables; the answer lies there."""
    kiln = build()
    kiln.drop("sub/a.pth")
    kiln.run(300)
    [(words, env)] = kiln.ran
    assert words == [*COMMAND, str(kiln.outbox / "sub/a.error.json")]
    assert Path(words[-1]).is_file()
    told = {name: value for name, value in env.items() if name.startswith("VOICEKILN_")}
    assert told == {
        "VOICEKILN_EVENT": "refused",
        "VOICEKILN_FILE": "sub/a.pth",
        "VOICEKILN_CODE": "bad-numbers",
        "VOICEKILN_ERROR_FILE": words[-1],
        "VOICEKILN_MORE": "0",
    }
    [line] = kiln.log.of("notice.finished")
    assert (line["file"], line["status"], line["said"]) == ("sub/a.pth", 0, ("hello",))


def test_a_conversion_is_not_told_of(build: Callable[..., Telling]) -> None:
    """Good news lies in the outbox."""
    kiln = build(good)
    kiln.drop("a.pth")
    kiln.run()
    assert (kiln.results(), kiln.ran) == ({"a.onnx", "a.json"}, [])


def test_without_a_command_nothing_is_run(build: Callable[..., Telling]) -> None:
    """It is off by default, and a reload may switch it on and off."""
    kiln = build(notify=Notify())
    kiln.drop("a.pth")
    kiln.run()
    assert kiln.ran == []
    kiln.service.common.settings = replace(kiln.settings, notify=Notify(COMMAND, 5.0))
    kiln.drop("b.pth")
    kiln.run()
    assert [env["VOICEKILN_FILE"] for _, env in kiln.ran] == ["b.pth"]


def test_what_waits_for_a_command_that_was_taken_away_is_forgotten(build: Callable[..., Any]) -> None:
    """A reload without a command is the last word."""
    kiln = build(kind=Holding)
    for name in "abc":
        kiln.drop(f"{name}.pth")
    kiln.run()
    kiln.service.common.settings = replace(kiln.settings, notify=Notify())
    kiln.held.let_go()
    kiln.run()
    assert len(kiln.ran) == 1
    assert not kiln.held.held


def test_a_worker_is_lost_for_good_before_it_is_told_of(build: Callable[..., Telling]) -> None:
    """Attempts that will be made again mend themselves; the last one is a refusal, and told of as `lost`."""
    kiln = build(lambda _: Lost("it was killed"), worker=Worker(attempts=3))
    kiln.drop("a.pth")
    kiln.run(6)
    assert (len(kiln.log.of("worker.lost")), kiln.ran) == (1, [])
    kiln.run(120)
    assert len(kiln.log.of("worker.lost")) == 3
    [(words, env)] = kiln.ran
    assert (env["VOICEKILN_EVENT"], env["VOICEKILN_CODE"]) == ("lost", "worker-lost")
    assert Path(words[-1]).is_file()


def test_a_result_that_waits_for_its_name_is_told_of(build: Callable[..., Telling]) -> None:
    """Somebody has to move the file that lies in the way."""
    kiln = build(good)
    (kiln.outbox / "a.onnx").write_bytes(b"mine")
    kiln.drop("a.pth")
    kiln.run(120)
    [(words, env)] = kiln.ran
    assert env["VOICEKILN_CODE"] == "name-taken"
    assert words[-1] == str(kiln.outbox / "a.error.json")


@pytest.mark.parametrize("name", ["-rf.pth", "--help .pth", "$(reboot).pth", "new\nline.pth", "b\udcff.pth", "'\".pth"])
def test_a_name_is_no_option_and_no_command(build: Callable[..., Telling], name: str) -> None:
    """What comes from a file's name is one word, a whole path, whatever stands in it."""
    kiln = build()
    kiln.drop(name, voice_bytes())
    kiln.run()
    [(words, env)] = kiln.ran
    assert words[:-1] == [*COMMAND]
    assert words[-1].startswith("/")
    assert Path(words[-1]).is_file()
    assert env["VOICEKILN_FILE"].isprintable()


def test_one_command_runs_at_a_time(build: Callable[..., Any]) -> None:
    """The next one begins when the last has ended; the work goes on meanwhile."""
    kiln = build(kind=Holding)
    for name in "abcd":
        kiln.drop(f"{name}.pth")
    kiln.run(60)
    assert len(kiln.results()) == 4
    for begun in range(1, 5):
        assert len(kiln.held.held) == 1
        kiln.held.let_go()
        kiln.run(6)
        assert len(kiln.ran) == begun
    assert not kiln.held.held


def test_a_flood_starts_few_commands_and_none_is_forgotten(build: Callable[..., Telling]) -> None:
    """Ten at once, some more over the minutes; what they do not tell of is counted for them."""
    kiln = build()
    for number in range(60):
        kiln.drop(f"{number}.pth")
    kiln.run(60)
    assert len(kiln.results()) == 60
    assert AT_ONCE <= len(kiln.ran) <= AT_ONCE + 2
    kiln.run(AGAIN_S * (QUEUE + 2))
    assert len(kiln.ran) <= AT_ONCE + QUEUE + 2
    assert len(kiln.ran) + sum(int(env["VOICEKILN_MORE"]) for _, env in kiln.ran) == 60
    assert sum(line["count"] for line in kiln.log.of("notices.dropped")) == 60 - len(kiln.ran)
    assert len(kiln.log.of("notices.dropped")) <= 3


def test_after_a_flood_ten_may_come_at_once_again(build: Callable[..., Telling]) -> None:
    """The limit is one of time."""
    kiln = build()
    for number in range(AT_ONCE):
        kiln.drop(f"{number}.pth")
    kiln.run(30)
    kiln.skip(AGAIN_S * AT_ONCE)
    for number in range(AT_ONCE):
        kiln.drop(f"again {number}.pth")
    kiln.run(30)
    assert len(kiln.ran) == 2 * AT_ONCE


@pytest.mark.parametrize("trouble", [1, -9, FileNotFoundError(2, "No such file or directory")])
def test_a_command_that_fails_is_logged_and_harms_nobody(build: Callable[..., Telling], trouble: Any) -> None:
    """Neither a bad status nor a program that has gone is more than a warning."""
    kiln = build()
    kiln.status = trouble
    kiln.drop("a.pth")
    kiln.drop("b.pth")
    kiln.run()
    assert len(kiln.ran) == 2
    assert {line["status"] for line in kiln.log.of("notice.finished")} == {
        trouble if isinstance(trouble, int) else None
    }
    assert len(kiln.results()) == 2


def test_a_stop_tells_what_it_leaves_out(build: Callable[..., Any]) -> None:
    """What waits is not run any more, and counted; what runs is let finish."""
    kiln = build(kind=Holding)
    for name in "abc":
        kiln.drop(f"{name}.pth")
    kiln.run()
    kiln.service.stop()
    assert [line["count"] for line in kiln.log.of("notices.dropped")] == [2]
    assert kiln.hurry is None


def test_a_stop_does_not_wait_for_a_command_that_hangs(build: Callable[..., Any]) -> None:
    """It is told to hurry, which ends it."""
    kiln = build(kind=Holding)
    kiln.drop("a.pth")
    kiln.run()
    kiln.held.ends = False
    kiln.service.stop()
    kiln.held.let_go()
    assert kiln.hurry is not None
    assert kiln.hurry.is_set()
