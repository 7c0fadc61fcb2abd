"""What the commands tell a person at a terminal, as lines of text; `status` also as JSON values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.sidecar import local, utc
from voicekiln.folders.voices import Item, Voice
from voicekiln.folders.watch import file_system
from voicekiln.job import Conversion, Converted, OnnxFile, Refused
from voicekiln.settings import Settings, span
from voicekiln.worker.wire import Ready

_MB = 1e6
NAME_WIDTH = 32
"""Characters of a name beside its reason, which a longer one moves; nobody knows the longest of a million."""


def settings(understood: Settings) -> Iterator[str]:
    """Yield what was understood of the configuration, and where its folders lie."""
    for name in ("inbox", "outbox", "state"):
        path = getattr(understood, name)
        where = file_system(path)
        yield f"{name:<8}{path}  ({where.type}{', network' if where.is_network else ''})"
    events = file_system(understood.inbox).has_events(understood.scan.events)
    every = understood.scan.rescan if events else understood.scan.poll
    yield f"watch   {'by events, and' if events else 'without events,'} by a full scan every {span(every)}"
    for recipe in understood.recipes.values():
        what = " and ".join(recipe.precisions)
        folder = "" if recipe.name == "default" else f", for the folder {recipe.name}/"
        faces = " and ".join(recipe.interfaces)
        mix = ", speaker_mix true" if recipe.speaker_mix else ""
        made = f"opset {recipe.opset}, interface {faces}, verify {recipe.verify}{mix}"
        yield f"recipe  {recipe.name}: {what}, {made}{folder}"
    status = understood.status
    places = [str(understood.outbox / path) for path in (status.page, status.json) if path is not None]
    yield f"status  {' and '.join(places) or 'no page'}"
    sweep = understood.sweep
    yield (
        f"sweep   every {span(sweep.every)}; lifetimes: sources {span(sweep.sources)}, "
        f"results {span(sweep.results)}, refusals {span(sweep.refusals)}"
    )


def machine(ready: Ready) -> Iterator[str]:
    """Yield what the worker runs on."""
    yield f"device  {ready.device.get('name')} ({ready.device.get('kind')})"
    if why := ready.device.get("why_cpu"):
        yield f"        no GPU is used: {why}"
    yield f"cage    {'; '.join(map(str, ready.device.get('cage', ())))}"
    yield f"onnx    execution providers: {', '.join(map(str, ready.device.get('providers', ())))}"
    yield "with    " + ", ".join(f"{name} {version}" for name, version in ready.versions.items())


def templates(folder: Path, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the templates that are kept, or how many were removed."""
    if (removed := found.get("removed")) is not None:
        yield f"{folder}: {removed} removed; each is made again when a voice needs it"
        return
    order = ("title", "interface", "opset", "precision", "arithmetic")
    kept = sorted(found.get("templates", ()), key=lambda facts: [str(facts.get(key, "")) for key in order])
    yield f"{folder}: {len(kept)} kept, {sum(facts['bytes'] for facts in kept) / _MB:.1f} MB"
    for facts in kept:
        what = f"{facts.get('title', facts['file'])}"
        if "precision" in facts:
            what += f", {facts['interface']} {facts['precision']} (computes in {facts['arithmetic']})"
            what += f", opset {facts['opset']}"
        yield f"  {facts['state']:<9} {what}"


def model(path: Path, facts: Mapping[str, Any], notes: Sequence[str]) -> Iterator[str]:
    """Yield what a file is."""
    yield f"{path}"
    width = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        yield f"  {key.replace('_', ' '):<{width}}  {_plainly(value)}"
    for note in notes:
        yield f"  note: {note}"


def conversion(path: Path, done: Conversion, files: Sequence[Path]) -> Iterator[str]:
    """Yield what became of a file."""
    seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in done.seconds.items())
    yield f"{path}: converted ({seconds})"
    for file in done.files:
        yield f"  {file.interface} {file.precision}: {file.bytes / _MB:.1f} MB, {_fidelity(file)}"
    for note in done.notes:
        yield f"  note: {note}"
    for file_path in files:
        yield f"  -> {file_path}"


def _fidelity(file: OnnxFile) -> str:
    if not file.fidelity:
        return "not verified"
    return f"{min(f.snr_db for f in file.fidelity):.1f} dB from the original network"


def status(ledger: Ledger, *, running: bool) -> Iterator[str]:
    """Yield a line for the daemon and one for every known file."""
    yield ledger.fact("status") or "nothing yet" if running else "The daemon does not run; this is how it left things."
    for voice in ledger.each():
        told = " - ".join(part for part in (_why(voice), _next(voice)) if part)
        yield f"{voice.state:<11}{shown(voice.relpath):<{NAME_WIDTH}}  {told}".rstrip()


def status_json(ledger: Ledger, *, running: bool) -> Iterator[str]:
    """Yield the same as the lines of one JSON object; of a million files, one at a time is in memory."""
    facts = {
        "running": running,
        "daemon": ledger.fact("status") if running else None,
        "device": ledger.fact("device"),
    }
    yield "{"
    for name, value in facts.items():
        yield f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},"
    yield '  "files": ['
    before = None
    for voice in ledger.each():
        if before is not None:
            yield f"{before},"
        before = f"    {json.dumps(_row(voice), ensure_ascii=False)}"
    if before is not None:
        yield before
    yield "  ]"
    yield "}"


def swept(path: PurePosixPath, item: Item, age_s: float, *, dry_run: bool) -> str:
    """Return the line for a file that goes, or would go."""
    verb, folder = "would remove" if dry_run else "removed", "inbox" if item.of == "sources" else "outbox"
    return f"{verb} {folder}/{shown(path)} ({item.of}, {span(age_s)} old)"


def _row(voice: Voice) -> dict[str, Any]:
    return {
        "file": shown(voice.relpath),
        "state": str(voice.state),
        "recipe": voice.recipe,
        "reason": _why(voice) or None,
        "code": voice.ending.refusal.code if isinstance(voice.ending, Refused) else None,
        "attempts": voice.attempts,
        "source": voice.source,
        "sha256": voice.sha256,
        "first_seen": utc(voice.first_seen),
        "published": None if voice.finished is None else utc(voice.finished),
        "next_try": None if voice.next_try is None else utc(voice.next_try),
    }


def _why(voice: Voice) -> str:
    if voice.reason:
        return voice.reason
    match voice.ending:
        case Refused(refusal):
            return refusal.text
        case Converted(done):
            found = [f.snr_db for file in done.files for f in file.fidelity]
            verified = f"verified ({min(found):.0f} dB)" if found else "not verified"
            return f"{done.model.get('family')} {done.model.get('version')}, {verified}"
        case None:
            return ""


def _next(voice: Voice) -> str:
    """Return when it is tried again, by this machine's clock on the wall."""
    return "" if voice.next_try is None else f"next try {local(voice.next_try)}"


def _plainly(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "unknown"
        case list() | tuple():
            return ", ".join(map(_plainly, value)) or "none"
        case dict():
            return ", ".join(f"{key} {_plainly(inner)}" for key, inner in value.items())
        case _:
            return str(value)
