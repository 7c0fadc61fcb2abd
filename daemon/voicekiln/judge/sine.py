"""Is the sine that the pitch drives at fault, and how? Trials with and without it, steady and gliding.

A voice that is right while nothing is voiced, and wrong when something is, has a wrong source and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from voicekiln.convert.verify import difference
from voicekiln.judge.client import Floats
from voicekiln.judge.comparison import EQUAL_DB, Pair, Run
from voicekiln.judge.original import say_to

STEADY_HZ: Final = 222.5
"""Whose frames end in the midst of a turn."""
RATES: Final = (16_000, 22_050, 24_000, 32_000, 40_000, 44_100, 48_000)
PROVEN_DB: Final = 60.0
"""From here on a voice made wrong counts as wrong in the file's own way."""
FALLS_DB: Final = 6.0
"""From the first quarter of a steady sound to the last: its phase runs away."""
GAP_DB: Final = 15.0
"""What a gap costs a file that loses its phase in it."""
LONG: Final = 300
"""Frames in which a phase that runs away shows."""
SUMS: Final = ("CumSum", "Loop", "Scan")

Facts = tuple[str, str, str]
"""Of a finding: code, words, evidence."""


def faults(pair: Pair, frames: int, wanted_db: float) -> list[Facts]:
    """Return what is wrong with the sine; nothing if it is not at fault, or not alone."""
    unvoiced = _try(pair, np.zeros(frames, np.float32))
    steady, gliding = _try(pair, _steady(frames)), _try(pair, _glide(frames))
    gap = _try(pair, _with_gap(_steady(frames)))
    if not unvoiced.snr_db >= wanted_db or min(steady.snr_db, gliding.snr_db, gap.snr_db) >= wanted_db:
        return []
    silent = f"without a pitch it agrees at {unvoiced.snr_db:.1f} dB"
    if (deaf := _deaf(pair, frames)) is not None:
        return [deaf]
    sung = f"{silent}, with a steady one at {steady.snr_db:.1f} dB, with a gliding one at {gliding.snr_db:.1f} dB"
    found = [*_wrong_turns(pair, gliding, sung), *_half(pair, sung)]
    if not found:
        found = [*_gap(steady, gap, silent), *_drift(pair, sung)]
    if not found and not _sums(pair):
        no_sum = f"{sung}; its graph has no running sum ({', '.join(SUMS)})"
        found.append(("no-phase-accumulation", "Its sine source has no phase accumulation.", no_sum))
    unknown = ("sine-differs", "Its sine source is wrong, in a way that is not known.", sung)
    return found or [unknown]


def _try(pair: Pair, f0: Floats) -> Run:
    return pair.quietly(say_to(pair.voice, f0))


def _steady(frames: int) -> Floats:
    return np.full(frames, STEADY_HZ, np.float32)


def _glide(frames: int) -> Floats:
    return np.geomspace(110, 880, frames).astype(np.float32)


def _with_gap(f0: Floats) -> Floats:
    f0 = f0.copy()
    f0[len(f0) // 3 : len(f0) // 2] = 0
    return f0


def _deaf(pair: Pair, frames: int) -> Facts | None:
    """Find a file that takes an f0 and does not care; the coarse pitch stays the same."""
    said = say_to(pair.voice, _steady(frames))
    low, high = (pair.silent.run(heard).audio for heard in (said, replace(said, f0=said.f0 * np.float32(1.5))))
    same = difference(low, high).snr_db
    if not same >= EQUAL_DB:
        return None
    says = "Its sine source does not care which f0 it is told."
    return "f0-ignored", says, f"222.5 Hz and 333.75 Hz sound the same, at {same:.1f} dB"


def _wrong_turns(pair: Pair, gliding: Run, sung: str) -> Iterator[Facts]:
    """Make the voice's phase wrong in known ways until it agrees with the file."""
    said = say_to(pair.voice, _glide(gliding.frames))
    sums = "" if _sums(pair) else f"; its graph has no running sum ({', '.join(SUMS)})"
    for words, turns in pair.voice.wrong_turns().items():
        agreed = pair.quietly(said, turns).snr_db
        if agreed >= max(PROVEN_DB, gliding.snr_db):
            says = f"Its sine source has no phase accumulation: {words}."
            yield (
                "no-phase-accumulation",
                says,
                f"{sung}, with the voice made wrong in this way at {agreed:.1f} dB{sums}",
            )
            return
    for rate in RATES:
        if rate == pair.voice.settings.sample_rate:
            continue
        agreed = pair.quietly(said, pair.voice.turns_at(rate)).snr_db
        if agreed >= max(PROVEN_DB, gliding.snr_db):
            says = f"Its sine source counts with a sample rate of {rate} Hz: its pitch is wrong."
            yield "other-rate-in-source", says, f"{sung}, with the voice made wrong in this way at {agreed:.1f} dB"
            return


def _half(pair: Pair, sung: str) -> Iterator[Facts]:
    """Find a phase that is kept in half precision, by the types in the graph."""
    try:
        model = onnx.shape_inference.infer_shapes(pair.client.model)
    except (ValueError, RuntimeError, onnx.shape_inference.InferenceError):
        return
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    half = [
        n.op_type for n in graph.node if n.op_type in ("CumSum", "Sin") and types.get(n.input[0]) == TensorProto.FLOAT16
    ]
    if half:
        says = "Its sine source keeps the phase in half precision, which has too few digits for it."
        yield "half-phase", says, f"{sung}; {' and '.join(sorted(set(half)))} work on float16 in its graph"


def _gap(steady: Run, gap: Run, silent: str) -> Iterator[Facts]:
    """Find a phase that does not survive an unvoiced gap."""
    if steady.snr_db - gap.snr_db >= GAP_DB:
        before, after = gap.part_db(0, 0.3), gap.part_db(0.6, 1)
        evidence = (
            f"{silent}, with a steady pitch at {steady.snr_db:.1f} dB, with a gap in it at {gap.snr_db:.1f} dB "
            f"({before:.1f} dB before the gap, {after:.1f} dB after it)"
        )
        yield "phase-lost-in-gaps", "Its sine source loses the phase in unvoiced gaps.", evidence


def _drift(pair: Pair, sung: str) -> Iterator[Facts]:
    """Find a phase that runs away."""
    run = _try(pair, _steady(LONG))
    if run.trouble:
        return
    first, last = run.part_db(0, 0.25), run.part_db(0.75, 1)
    if first - last >= FALLS_DB:
        says = "The phase of its sine source drifts: the longer the sound, the further it is off."
        yield (
            "phase-drifts",
            says,
            f"{sung}; of a steady one of 3 s the first quarter agrees at {first:.1f} dB, the last at {last:.1f} dB",
        )


def _sums(pair: Pair) -> bool:
    """Say whether anything in the graph can sum up frame after frame."""
    functions = pair.client.model.functions
    nodes = [*pair.client.model.graph.node, *(node for function in functions for node in function.node)]
    return any(node.op_type in SUMS for node in nodes)
