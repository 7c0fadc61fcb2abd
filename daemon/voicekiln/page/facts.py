"""Writes `status.json`: the facts of the status page for programs, as `status.schema.json` tells.

Keys and codes stay as they are; texts are in the language of the page. The pictures are left out, because a program
finds them in the sidecars and they would double what is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from voicekiln.folders.names import shown
from voicekiln.folders.sidecar import utc
from voicekiln.page.board import JSON_BEGINNING, Board, DoneVoice, Made, RefusedVoice, VoiceInWork, WaitingVoice
from voicekiln.words import Words

SCHEMA = 1


def as_json(board: Board, words: Words, outbox: str = "") -> Iterator[str]:
    """Give the text of `status.json` in pieces; `outbox` is as for `render.render`."""
    head = {
        "schema": SCHEMA,
        "version": board.version,
        "language": words.language,
        "written": utc(board.written),
        "promised": None if board.stopped else utc(board.promised),
        "stopped": board.stopped,
        "device": board.device or None,
        "cluster": None if board.cluster is None else asdict(board.cluster),
        "last_scan": _utc(board.last_scan),
        "troubles": [words.reason(trouble) for trouble in board.troubles],
        "totals": asdict(board.totals),
        "left_out": board.left_out,
    }
    yield JSON_BEGINNING
    for name, value in head.items():
        yield f"  {json.dumps(name)}: {_text(value)},\n"
    yield from _list("in_work", map(_in_work, board.in_work))
    yield ",\n"
    yield from _list("waiting", (_waiting(voice, words) for voice in board.waiting))
    yield ",\n"
    yield from _list("refused", (_refused(voice, words, outbox) for voice in board.refused))
    yield ",\n"
    yield from _list("done", (_done(voice, words, outbox) for voice in board.done))
    yield "\n}\n"


def link(path: str, outbox: str = "") -> str:
    """Return the relative URL of a path below the outbox; every byte that is special in a URL is encoded."""
    return quote(os.fsencode(f"{outbox}/{path}" if outbox else path), safe="/")


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _utc(at: float | None) -> str | None:
    return None if at is None else utc(at)


def _list(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Give a list with a line for each row."""
    between = f"  {json.dumps(name)}: [\n    "
    for row in rows:
        yield between + _text(row)
        between = ",\n    "
    yield f"  {json.dumps(name)}: []" if between.endswith("[\n    ") else "\n  ]"


def _in_work(voice: VoiceInWork) -> dict[str, Any]:
    return asdict(voice) | {"since": utc(voice.since)}


def _waiting(voice: WaitingVoice, words: Words) -> dict[str, Any]:
    reason = words.reason(voice.reason) if voice.reason else None
    times = {"next_try": _utc(voice.next_try), "first_seen": utc(voice.first_seen)}
    return asdict(voice) | {"reason": reason} | times


def _refused(voice: RefusedVoice, words: Words, outbox: str) -> dict[str, Any]:
    message, hint = words.refusal(voice.refusal)
    return {
        "file": voice.file,
        "code": voice.refusal.code,
        "message": message,
        "hint": hint,
        "at": utc(voice.at),
        "error_file": _file(voice.error_file, outbox),
        "swept_at": _utc(voice.swept_at),
    }


def _done(voice: DoneVoice, words: Words, outbox: str) -> dict[str, Any]:
    facts = asdict(voice)
    del facts["picture"]
    return facts | {
        "at": utc(voice.at),
        "files": [_made(file, outbox) for file in voice.files],
        "data": [_file(path, outbox) for path in voice.data],
        "sidecar": _file(voice.sidecar, outbox),
        "swept_at": _utc(voice.swept_at),
        "notes": [words.reason(note) for note in voice.notes],
    }


def _made(file: Made, outbox: str) -> dict[str, Any]:
    facts = asdict(file)
    del facts["path"]
    return {"path": shown(PurePosixPath(file.path)), "url": link(file.path, outbox)} | facts


def _file(path: str | None, outbox: str) -> dict[str, str] | None:
    return None if path is None else {"path": shown(PurePosixPath(path)), "url": link(path, outbox)}
