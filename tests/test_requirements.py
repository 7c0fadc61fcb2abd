"""What voicekiln promises of the folders it works on, and that each promise has a test which bears its number."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROMISES = {
    1: "No input is lost or altered.",
    2: "No half file is converted.",
    3: "The scan is the truth; events are hints.",
    4: "An absent share is not an empty one.",
    5: "Results appear whole, the sidecar last.",
    6: "Ages come from the ledger; only what is ours is swept.",
    7: "No crash loses a file, and no file can crash us for ever.",
    8: "The worker is a process of its own that can be got rid of.",
    9: "What passes by itself is waited out; what does not is told once.",
    10: "Nothing feeds itself: the folders do not overlap.",
    11: "One content is converted once.",
    12: "Every name is safe, and no two sources share a result.",
    13: "Of two daemons on one outbox, one works.",
    14: "Every sync tool's way of delivering a file is served.",
    15: "Where events cannot be had, the scan does without.",
    16: "A full inbox costs little memory a file, and few lines.",
    17: "Published files have the right owner and mode.",
    18: "Whoever asks is told how things stand.",
    19: "The service unit is closed, and a hung share is no reason to kill it.",
    20: "Whoever may write to the inbox can do no harm.",
}


def marks(source: str) -> Iterator[int]:
    """Give the numbers in `pytest.mark.requirement(...)`, wherever it stands in code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="requirement"), args=[ast.Constant(value=int(number))]):
                yield number


@pytest.mark.parametrize("number", PROMISES)
def test_each_promise_has_a_test(number: int) -> None:
    """Somewhere among the tests."""
    found = {path.name for path in Path(__file__).parent.rglob("test_*.py") if number in marks(path.read_text())}
    assert found, PROMISES[number]


def test_each_mark_is_a_promise() -> None:
    """No test claims to prove what nobody has promised."""
    marked = {n for path in Path(__file__).parent.rglob("test_*.py") for n in marks(path.read_text())}
    assert marked <= PROMISES.keys()


def test_a_mark_in_words_does_not_count() -> None:
    """Only a decorator, or a module's own mark."""
    assert list(marks('"""pytest.mark.requirement(3)"""')) == []
    assert list(marks("@pytest.mark.requirement(3)\ndef test(): ...")) == [3]
    assert list(marks("pytestmark = pytest.mark.requirement(4)")) == [4]
