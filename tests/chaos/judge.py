"""What must be true when all is quiet: every voice that stayed has its result, and nothing else was touched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import onnx

import voicekiln
from chaos.contents import WAS_HERE, Content
from chaos.ground import Ground
from voicekiln.folders.inbox import stamp_of
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.owner import FILES
from voicekiln.folders.voices import AT_REST, State, Voice
from voicekiln.loop import LEDGER
from voicekiln.settings import Status

IN_THE_WAY = PurePosixPath("taken.onnx")
"""A person's file, under the name of a result."""
WAITS = PurePosixPath("taken.pth")
"""The voice whose result that is."""

FOREIGN: Mapping[str, Mapping[PurePosixPath, bytes]] = {
    "inbox": {
        PurePosixPath("notes.txt"): b"mine",
        PurePosixPath("desktop.ini"): b"Windows'",
        PurePosixPath("both/model.safetensors"): b"not a voice of ours",
        PurePosixPath("~half.pth"): b"somebody is writing this",
        PurePosixPath("#recycle/old.pth"): b"thrown away",
    },
    "outbox": {
        PurePosixPath("README.txt"): b"mine",
        PurePosixPath("list.json"): b"[1, 2, 3]",
        PurePosixPath("other.onnx"): b"another program's",
        PurePosixPath("other.json"): b'{"onnx": "another program tells of its own"}',
        PurePosixPath(".~other.onnx.0123456789a.part"): b"another daemon is writing this",
        IN_THE_WAY: b"a person's own",
    },
}

BOARDS = {PurePosixPath(str(path)) for path in (Status().page, Status().json)}
"""Where the status page and its JSON lie."""

_SCHEMA = json.loads((Path(voicekiln.__file__).parent / "folders/sidecar.schema.json").read_text())


def lay_foreign(ground: Ground) -> None:
    for share, files in FOREIGN.items():
        for path, data in files.items():
            real = ground.hold / share / path
            real.parent.mkdir(parents=True, exist_ok=True)
            real.write_bytes(data)


def unsettled(ground: Ground, left: Mapping[PurePosixPath, Content]) -> list[str]:
    """Return what the daemon still has to do, a line each; none if it has seen everything and all is at rest."""
    with Ledger(ground.at / "state" / LEDGER) as ledger:
        rows = {voice.relpath: voice for voice in ledger.voices()}
    found = [f"{path} is not in the ledger" for path in left.keys() - rows.keys()]
    for path, voice in rows.items():
        if path not in left:
            found += [f"{path} is gone, says nobody"] if voice.source == "there" else []
        elif voice.stamp != stamp_of((ground.inbox / path).stat(), inodes=voice.stamp.ino != 0):
            found.append(f"{path} has changed, says nobody")
        elif voice.state not in AT_REST and not (path == WAITS and voice.state is State.CONVERTED and voice.reason):
            found.append(f"{path} is {voice.state}: {voice.reason}")
    return found


def verdict(ground: Ground, left: Mapping[PurePosixPath, Content]) -> Iterator[str]:
    """Give what is wrong, a line each; for the end, when no daemon runs."""
    with Ledger(ground.at / "state" / LEDGER) as ledger:
        rows = {voice.relpath: voice for voice in ledger.voices()}
        files = {file.path: file for voice in rows.values() for _, file in ledger.files(voice.id)}
        jobs = ledger.jobs()
    yield from _inputs(ground, left)
    yield from _results(ground, left)
    yield from _board(ground, rows)
    yield from _rows(left, rows)
    for path, file in files.items():
        real = ground.outbox / path
        if not real.is_file():
            yield f"the ledger tells of {path}, which is not there"
        elif _sha256(real) != file.sha256 or real.stat().st_size != file.bytes:
            yield f"the ledger tells of another {path}"
    known = files.keys() | FOREIGN["outbox"].keys() | {PurePosixPath(name) for name in FILES} | BOARDS
    yield from (f"{path} lies in the outbox and is nobody's" for path in _below(ground.outbox) if path not in known)
    waiting = rows.get(WAITS)
    allowed = set() if waiting is None else {waiting.job}
    for folder in ("spool", "staging"):
        litter = {path.name.partition(".")[0] for path in (ground.at / "state" / folder).iterdir()} - allowed
        yield from (f"{name} is left in {folder}" for name in sorted(map(str, litter)))
    if jobs - allowed:
        yield f"the ledger still holds jobs: {jobs - allowed}"
    yield from (f"{path} was written beneath the mount point" for path in ground.beneath())
    if WAS_HERE.exists():
        yield "a program in a file was run"


def _inputs(ground: Ground, left: Mapping[PurePosixPath, Content]) -> Iterator[str]:
    for share, files in FOREIGN.items():
        for path, data in files.items():
            real = ground.hold / share / path
            if not real.is_file() or real.read_bytes() != data:
                yield f"{path} in the {share}, which is none of ours, was touched"
    for path, content in left.items():
        if not (ground.inbox / path).is_file():
            yield f"the input {path} is gone"
        elif _sha256(ground.inbox / path) != content.sha256:
            yield f"the input {path} was changed"


def _results(ground: Ground, left: Mapping[PurePosixPath, Content]) -> Iterator[str]:
    told: dict[str, list[tuple[PurePosixPath, dict[str, Any]]]] = {}
    for path in _below(ground.outbox):
        if path.suffix == ".json" and path not in FOREIGN["outbox"].keys() | BOARDS and not path.name.startswith("."):
            body = json.loads((ground.outbox / path).read_text())
            told.setdefault(body["source"]["path"], []).append((path, body))
    for path, content in left.items():
        sidecars = [(at, body) for at, body in told.get(shown(path), []) if "onnx" in body]
        refusals = [body for _, body in told.get(shown(path), []) if "code" in body]
        if path == WAITS:
            if sidecars or [body["code"] for body in refusals] != ["name-taken"]:
                yield f"{path} has not waited: {sidecars} {refusals}"
        elif not content.good:
            if len(refusals) != 1 or refusals[0]["code"] in {"worker-lost", "name-taken"}:
                yield f"{path} ({content.kind}) has the refusals {[body['code'] for body in refusals]}"
        elif len(sidecars) != 1 or refusals:
            codes = [body["code"] for body in refusals]
            yield f"{path} has {len(sidecars)} results and the refusals {codes}"
        else:
            yield from (f"{path}: {what}" for what in _result(ground, *sidecars[0], path, content))


def _result(
    ground: Ground, at: PurePosixPath, body: dict[str, Any], path: PurePosixPath, content: Content
) -> Iterator[str]:
    jsonschema.validate(body, _SCHEMA)
    if body["source"]["sha256"] != content.sha256:
        yield f"{at} was made from other bytes"
    wanted = {"both": ["fp32", "fp16"], "fp16": ["fp16"]}.get(path.parts[0], ["fp32"])
    if [file["precision"] for file in body["onnx"]] != wanted:
        yield f"{at} has {[file['precision'] for file in body['onnx']]}, not {wanted}"
    for file in body["onnx"]:
        real = ground.outbox / at.with_name(file["name"])
        if not real.is_file() or _sha256(real) != file["sha256"]:
            yield f"{real.name} is not what {at} tells"
            continue
        model = onnx.load(real)
        onnx.checker.check_model(model)
        inside = {entry.key: entry.value for entry in model.metadata_props}
        if inside["source_sha256"] != content.sha256:
            yield f"{real.name} holds another voice"


def _board(ground: Ground, rows: Mapping[PurePosixPath, Voice]) -> Iterator[str]:
    told = json.loads((ground.outbox / "status.json").read_text())
    if not told["stopped"]:
        yield "the status page does not say that the daemon has stopped"
    for key, state in (("done", State.DONE), ("refused", State.REFUSED)):
        known = {shown(path) for path, voice in rows.items() if voice.state is state and voice.ending is not None}
        if {voice["file"] for voice in told[key]} != known:
            yield f"{len(told[key])} are {key} on the status page, {len(known)} in the ledger"


def _rows(left: Mapping[PurePosixPath, Content], rows: Mapping[PurePosixPath, Voice]) -> Iterator[str]:
    for path, content in left.items():
        voice = rows.get(path)
        if voice is None:
            yield f"{path} is not in the ledger"
            continue
        if voice.sha256 != content.sha256 and content.good:
            yield f"the ledger holds another sha256 of {path}"
        state = State.CONVERTED if path == WAITS else State.DONE if content.good else State.REFUSED
        if voice.state is not state:
            yield f"{path} is {voice.state}, not {state}"


def _below(folder: Path) -> Iterator[PurePosixPath]:
    for top, _, names in os.walk(folder):
        yield from (PurePosixPath(Path(top, name).relative_to(folder)) for name in names)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
