"""Rows of the ledger as values, and back. Paths are kept as bytes, because names may hold what is no text."""

from __future__ import annotations

import json
import os
from dataclasses import astuple
from pathlib import PurePosixPath

from voicekiln.folders.database import Row, decoded
from voicekiln.folders.voices import Known, Published, State, Voice, read_beside, read_ending, read_recipe
from voicekiln.job import FileStamp


def path_of(raw: bytes) -> PurePosixPath:
    """Return the path that `os.fsencode` made bytes of."""
    return PurePosixPath(os.fsdecode(raw))


def text_of(stamp: FileStamp) -> str:
    """Return the form in which a stamp is kept; `turn` in the tables looks into it. Without companions, it is short."""
    return json.dumps(astuple(stamp) if stamp.beside else astuple(stamp)[:-1])


@decoded
def stamp_in(text: str) -> FileStamp:
    """Return what `text_of` wrote."""
    return FileStamp(*json.loads(text))


@decoded
def file_in(row: Row) -> Published:
    """Return a row of `files`."""
    stamp = None if row["stamp"] is None else stamp_in(row["stamp"])
    return Published(path_of(row["path"]), row["kind"], row["sha256"], row["bytes"], stamp)


@decoded
def known_in(row: Row) -> Known:
    """Return the part of a row of `voices` that a scan is compared with."""
    return Known(row["id"], stamp_in(row["stamp"]), State(row["state"]), row["source"], row["job"])


@decoded
def voice_in(row: Row) -> Voice:
    """Return a row of `voices`."""
    return Voice(
        id=row["id"],
        relpath=path_of(row["relpath"]),
        recipe=row["recipe"],
        taken=read_recipe(row["taken"]),
        stamp=stamp_in(row["stamp"]),
        state=State(row["state"]),
        reason=row["reason"],
        next_try=row["next_try"],
        first_seen=row["first_seen"],
        finished=row["finished"],
        sha256=row["sha256"],
        key=row["key"],
        job=row["job"],
        attempts=row["attempts"],
        ending=read_ending(row["ending"]),
        base=None if row["base"] is None else path_of(row["base"]),
        source=row["source"],
        beside=read_beside(row["beside"]),
    )
