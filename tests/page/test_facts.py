"""`status.json`: what programs read of the same board."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import boards
from voicekiln import words
from voicekiln.page import facts
from voicekiln.page.board import JSON_BEGINNING, Board, Cluster

SCHEMA: dict[str, Any] = json.loads(Path(facts.__file__).with_name("status.schema.json").read_text())


def read(board: Board, language: words.Language = "en") -> dict[str, Any]:
    text = "".join(facts.as_json(board, words.of(language)))
    assert text.startswith(JSON_BEGINNING)
    found: dict[str, Any] = json.loads(text.encode())
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "board",
    [
        boards.full(),
        boards.board([]),
        boards.long(3),
        replace(boards.full(), stopped=True, device="", last_scan=None),
        replace(boards.full(), cluster=Cluster("tls://gpu1.example:8786", 12, "http://gpu1.example:8787/status")),
        replace(boards.full(), cluster=Cluster("tls://gpu1.example:8786", 0, None)),
    ],
    ids=["full", "empty", "done", "stopped", "cluster", "cluster away"],
)
def test_it_keeps_to_its_schema(board: Board, language: words.Language) -> None:
    """In both languages, and with nothing to tell."""
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(read(board, language))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"written": "2026-11-21 11:55"}, ()),
        ({"news": 1}, ()),
        ({"stage": "thinking"}, ("in_work", 0)),
        ({"swept_at": 1.5}, ("done", 0)),
        ({"url": "a b.onnx"}, ("done", 0, "files", 0)),
        ({"hint": ""}, ("refused", 0)),
    ],
)
def test_its_schema_can_fail(change: dict[str, Any], where: tuple[str | int, ...]) -> None:
    """Each of these is something that must never be written."""
    found = read(boards.full())
    inner: Any = found
    for step in where:
        inner = inner[step]
    inner.update(change)
    assert len(list(Draft202012Validator(SCHEMA).iter_errors(found))) == 1


def test_it_tells_what_the_page_tells() -> None:
    """Every voice and every file of the board is in it, with refusals in words and times in UTC."""
    board = boards.full()
    found = read(board)
    for kind in ("in_work", "waiting", "refused", "done"):
        assert [row["file"] for row in found[kind]] == [voice.file for voice in getattr(board, kind)]
    assert [len(row["files"]) for row in found["done"]] == [len(voice.files) for voice in board.done]
    assert found["promised"] == "2026-11-21T12:00:02Z"
    assert found["totals"]["done"] == len(board.done)
    refused = found["refused"][1]
    assert refused["code"] == "unsafe-pickle"
    assert "posix.system" in refused["message"]
    assert refused["hint"].startswith("Do not open this file")


def test_a_stopped_daemon_promises_nothing() -> None:
    """A monitor need not know more than this key."""
    assert read(replace(boards.full(), stopped=True))["promised"] is None


def test_names_that_are_no_utf_8_can_be_read_and_found() -> None:
    """The path is text for people, the URL has the bytes."""
    (file,) = read(boards.board([boards.done(0, "caf\udce9.pth")]))["done"][0]["files"]
    assert (file["path"], file["url"]) == ("caf\\xe9.onnx", "caf%E9.onnx")


def test_what_json_has_no_word_for_is_never_written() -> None:
    """A defect is told; a reader never finds `NaN` or `Infinity`."""
    board = boards.full()
    with pytest.raises(ValueError, match="JSON"):
        list(facts.as_json(replace(board, totals=replace(board.totals, mean_seconds=float("inf"))), words.of("en")))
