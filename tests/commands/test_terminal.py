"""Progress: bars where somebody watches, lines where nobody does, nothing in a pipe that is no answer."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

WORK = r"""
import os, signal, sys
from voicekiln.commands.terminal import progress, say
try:
    with progress("[b]\x1b[31mvoice.pth") as tell:
        tell("load")
        tell("template", 1, 3)
        tell("template", 2, 3)
        say("in their midst")
        if "stop" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
    say("answer")
except KeyboardInterrupt:
    sys.exit(130)
"""
ERASED = re.compile(r"(\r|\x1b\[1A|\x1b\[2K)*")


def run(*words: str, **env: str) -> tuple[int, str, str]:
    """Do the work with standard error on a terminal; return status, standard output and what the terminal got."""
    ours, theirs = pty.openpty()
    surroundings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-c", WORK, *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=surroundings | {"COLUMNS": "100", "LC_ALL": "C.UTF-8"} | env,
    ) as process:
        os.close(theirs)
        screen = b""
        try:
            while piece := os.read(ours, 65536):
                screen += piece
        except OSError:  # the way in which a terminal ends
            pass
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(ours)
    return process.returncode, out, screen.decode()


def test_a_terminal_gets_bars_and_a_pipe_the_answer_alone() -> None:
    """A bar for each stage, counted where the number of steps is known; in the end they are gone."""
    status, out, screen = run(TERM="xterm")
    assert (status, out) == (0, "in their midst\nanswer\n")
    for word in ("start", "load", "template", "2 of 3", "0:00:0"):
        assert word in screen
    assert ERASED.fullmatch(screen.rpartition("\x1b[?25h")[2])
    assert screen.endswith("\x1b[2K")


def test_a_name_is_only_text() -> None:
    """Neither markup nor control characters of a file name reach the terminal as such."""
    _, _, screen = run(TERM="xterm", NO_COLOR="1")
    assert "[b]\N{REPLACEMENT CHARACTER}[31mvoice.pth" in screen
    assert "\x1b[31m" not in screen


def test_no_color_means_no_colour() -> None:
    """The bars come without; what moves the cursor is all that is left of escape sequences."""
    assert re.search(r"\x1b\[[\d;]*[1-9]m", run(TERM="xterm-256color")[2])
    assert not re.search(r"\x1b\[[\d;]*m", run(TERM="xterm-256color", NO_COLOR="1")[2])


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_can_nothing_gets_lines(term: str) -> None:
    """The same as a log gets, and not one escape sequence."""
    status, out, screen = run(TERM=term)
    name = "[b]\N{REPLACEMENT CHARACTER}[31mvoice.pth"
    lines = ["load ...", "template 1 of 3 ...", "template 2 of 3 ..."]
    assert (status, out) == (0, "".join(f"{name}: {line}\n" for line in lines) + "in their midst\nanswer\n")
    assert screen == ""


def test_without_a_terminal_there_are_lines() -> None:
    """Nothing on standard error, nothing that only a terminal understands."""
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, check=True, env=os.environ | {"TERM": "xterm"}
    )
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert done.stdout.count(b"\n") == 5


def test_ctrl_c_leaves_a_clean_line() -> None:
    """The bars are wiped away and the cursor is back."""
    status, out, screen = run("stop", TERM="xterm")
    assert (status, out) == (130, "in their midst\n")
    assert "template" in screen
    assert "\x1b[?25l" in screen
    assert ERASED.fullmatch(screen.rpartition("\x1b[?25h")[2])
    assert screen.endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("encoding", "written"), [("utf-8", b"a\\udcff\xe5\xa3\xb0\n"), ("latin-1", b"a\\udcff\\u58f0\n")]
)
def test_a_name_that_cannot_be_written_is_spelled_out(encoding: str, written: bytes) -> None:
    """It does not end the command."""
    program = "from voicekiln.commands.terminal import say; say('a\\udcff\\u58f0')"
    env = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=env).stdout == written
