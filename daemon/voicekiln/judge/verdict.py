"""Is an ONNX file the voice that it is said to be? The judgement on any export of an RVC voice, and its grounds.

The file runs beside the PyTorch network with the checkpoint's weights, through the face it shows, at lengths that
no exporter traces. The measure is that of our own files. What is said of a file that fails was measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from voicekiln.errors import plain
from voicekiln.families.rvc_feed import glide
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.job import Enter, Precision
from voicekiln.judge.client import Client, RunError, Said, open_client
from voicekiln.judge.comparison import Pair, Run
from voicekiln.judge.diagnosis import Finding, diagnose, noise_level
from voicekiln.judge.face import shown
from voicekiln.judge.label import contradictions
from voicekiln.judge.original import Voice, open_voice, say_to

LENGTHS: Final = (40, 97)
"""Frames: as when our own files are verified."""
OPSETS: Final = range(1, 1000)
"""That there can be; the file's own number is only told."""
LONG: Final = 1000
"""Frames, 10 s: what drifts has drifted by then."""
HALF: Final = ("float16", "bfloat16")
"""Types of weights that are measured by the mark for half precision."""
COLUMNS: Final = 72
"""Of the drawing of levels."""
SILENCE_DB: Final = -200
QUIET_NOTE: Final = (
    "It draws random numbers whose use could not be told, so it was compared with all its noise switched off: "
    "of its noise only the strength was judged."
)


def judge(model: Path, checkpoint: Path, entered: Enter, *, long: bool) -> dict[str, Any]:
    """Return the judgement (JSON values): `faithful`, `summary`, `runs`, `findings`, `notes`, `levels`, facts on both.

    Raises:
        Refusal: if the checkpoint is no voice that can be converted.
        UnfitError: if the file is no ONNX file with a face that is known, or the voice is none of RVC's.
        OSError, MemoryError: if the machine fails.
    """
    entered("load")
    client, voice = open_client(model), open_voice(checkpoint)
    facts = {"file": _file(client), "voice": _voice(voice), "metadata": _metadata(client, voice)}
    precision: Precision = "fp16" if client.weight_type in HALF else "fp32"
    wanted_db = voice.wanted_db[precision]
    pair = Pair(client, voice)
    if (unlike := _unlike(client, voice)) is not None:
        return facts | _verdict([], [unlike], wanted_db, precision)
    runs, notes = _runs(pair, (*LENGTHS, LONG) if long else LENGTHS, entered)
    if not all(is_faithful(run, wanted_db) for run in runs):
        entered("verify")  # the same again, without a number: to find out why
        findings = diagnose(pair, runs, wanted_db)
    else:
        findings = noise_level(pair, runs[-1].frames) if QUIET_NOTE in notes else []
    return facts | _verdict(runs, findings, wanted_db, precision) | {"notes": notes, "levels": _levels(runs)}


def is_faithful(run: Run, wanted_db: float) -> bool:
    """Say whether a run is close enough to the voice."""
    return run.snr_db >= wanted_db and run.max_abs < math.inf  # so written, NaN is not


def _unlike(client: Client, voice: Voice) -> Finding | None:
    """Return why the two cannot be compared at all."""
    if voice.settings.f0 and not client.face.has("f0"):
        return Finding("no-pitch", "The file takes no pitch, but the voice has f0.", "its inputs")
    width, channels = client.face.width("features"), client.face.width("noise")
    for has, wants, what in (
        (width, voice.settings.features, "features"),
        (channels, voice.settings.channels, "noise channels"),
    ):
        if has is not None and has != wants:
            return Finding(
                "other-voice", f"It takes {has} {what} a frame, the voice {wants}: it is another voice.", "its inputs"
            )
    return None


def _runs(pair: Pair, lengths: Sequence[int], entered: Enter) -> tuple[list[Run], list[str]]:
    """Run at each length, each with another speaker; where only one length is taken, at that one as well."""
    last = pair.voice.settings.speakers - 1
    sayings = [
        say_to(pair.voice, glide(frames), speaker=0 if at % 2 == 0 or not pair.client.face.has("speaker") else last)
        for at, frames in enumerate(lengths)
    ]
    notes = [] if pair.client.face.has("speaker") or not last else ["It takes no speaker; speaker 0 was compared."]
    compare: Callable[[Said], Run] = pair.beside
    if not _is_replayable(pair, lengths[0]):
        notes.append(QUIET_NOTE)
        compare = partial(pair.quietly, noise=True)
    runs = []
    for at, said in enumerate(sayings, start=1):
        entered("verify", at, len(sayings))
        runs.append(compare(said))
    if any(run.stopped for run in runs) and (only := pair.only_length):
        runs.append(compare(say_to(pair.voice, glide(only))))
    return runs, notes


def _is_replayable(pair: Pair, frames: int) -> bool:
    said = say_to(pair.voice, glide(frames))
    try:
        return pair.is_replayable(said, pair.client.run(said))
    except RunError:
        if only := pair.only_length:
            return _is_replayable(pair, only)
    return not pair.client.hidden_noise  # it does not run at all, which the runs will say


def _verdict(
    runs: Sequence[Run], findings: Sequence[Finding], wanted_db: float, precision: Precision
) -> dict[str, Any]:
    faithful = bool(runs) and all(is_faithful(run, wanted_db) for run in runs) and not findings
    worst = round(min((_rank(run.snr_db) for run in runs if not run.trouble), default=math.nan), 2)
    wanted = f"{wanted_db:g} dB is wanted of {precision}"
    if faithful:
        summary = f"Faithful: {worst:.1f} dB at worst, {wanted}."
    else:
        where = "where it runs" if any(run.trouble for run in runs) else "at worst"
        measured = f"{worst:.1f} dB {where}" if math.isfinite(worst) else "no sound that could be measured"
        why = findings[0].says if findings else "Nothing that is known to go wrong in exports explains it."
        summary = f"Not faithful: {measured if runs else 'not compared'}, {wanted}. {why}"
    return {
        "faithful": faithful,
        "summary": summary,
        "wanted_db": wanted_db,
        "precision": precision,
        "runs": [_row(run, wanted_db) for run in runs],
        "findings": [{"code": f.code, "says": f.says, "evidence": f.evidence} for f in findings],
        "notes": [],
        "levels": {},
    }


def _rank(snr_db: float) -> float:
    return -math.inf if math.isnan(snr_db) else snr_db


def _row(run: Run, wanted_db: float) -> dict[str, Any]:
    return {
        "frames": run.frames,
        "seconds": run.frames / FRAMES_PER_S,
        "speaker": run.speaker,
        "snr_db": round(run.snr_db, 2) if math.isfinite(run.snr_db) else None,
        "max_abs": float(f"{run.max_abs:.3g}") if math.isfinite(run.max_abs) else None,
        "faithful": is_faithful(run, wanted_db),
        "trouble": plain(run.trouble, 300),
    }


def _file(client: Client) -> dict[str, Any]:
    model = client.model
    return {
        "face": client.face.title,
        "inputs": [shown(port) for port in client.face.roles.values()],
        "made_by": plain(f"{model.producer_name} {model.producer_version}".strip(), 80) or "unknown",
        "opset": next(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx") and o.version in OPSETS), 0
        ),
        "weights": client.weight_type,
    }


def _voice(voice: Voice) -> dict[str, Any]:
    return {"title": voice.title, "sample_rate": voice.settings.sample_rate, "speakers": voice.settings.speakers}


def _metadata(client: Client, voice: Voice) -> list[str]:
    """Return what the file says wrongly of itself, cut to what a person reads and a line of the wire holds."""
    return contradictions(client.metadata, voice.model, client.face.title)[:20]


def _levels(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the levels of signal and error over time, in dB, of the longest run that could be compared."""
    compared = [run for run in runs if not run.trouble]
    if not compared:
        return {}
    run = max(compared, key=lambda run: run.frames)
    with np.errstate(invalid="ignore", over="ignore"):
        error = run.got - run.wanted
    return {
        "seconds": run.frames / FRAMES_PER_S,
        "signal_db": [_level(part) for part in np.array_split(run.wanted, COLUMNS)],
        "error_db": [_level(part) for part in np.array_split(error, COLUMNS)],
    }


def _level(part: np.ndarray[Any, Any]) -> int | None:
    """Return the level in dB below full scale; None where it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        power = float(np.mean(part.astype(np.float64) ** 2)) if part.size else 0.0
    if not math.isfinite(power):
        return None
    return max(SILENCE_DB, round(10 * math.log10(power))) if power > 0 else SILENCE_DB
