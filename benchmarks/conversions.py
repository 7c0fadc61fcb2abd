"""Figures 1, 2 and 3: a conversion in a warm process beside `cp`, and beside what exporters usually do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from functools import cache
from pathlib import Path

from benchmarks import ordinary
from benchmarks.harness import Contestant, Figure, Room, Seat, Target, ratios, take_turns
from voicekiln.convert.cache import Cache
from voicekiln.convert.pipeline import Pipeline
from voicekiln.job import PRECISIONS, Precision, Recipe, Stage, Verify

TO_CP = Target("<=", 2.5)
USUAL_TO_OURS = {"fp32": Target(">=", 40), "fp16": Target(">=", 80)}
USUAL_TO_VERIFIED = Target(">=", 6)

KILN = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What the daemon sets for its workers."""
EXPORTER = {"OMP_NUM_THREADS": "1"}
"""Two are no quicker, and on a busy machine wait so busily that the exporter seems to cost twice as much."""
CHUNK = 1 << 20


def beside_cp(room: Room) -> list[Figure]:
    """Figure 1: a conversion without verification, beside copying the bytes that it makes."""
    voice, made = room.voice(0), room.folder / "made"
    made.mkdir()
    with Seat(**KILN) as kiln, Seat() as copier:
        contestants: dict[str, Contestant] = {}
        for precision in PRECISIONS:
            kiln.ask(convert, made, voice, room.templates, precision, "off")
            contestants |= {
                f"{precision} convert": Contestant(kiln, convert, (voice, room.templates, precision, "off")),
                f"{precision} cp": Contestant(copier, cp, (made / f"{precision}.onnx",)),
                f"{precision} copy": Contestant(copier, copy, (made / f"{precision}.onnx",)),
            }
        costs = take_turns(room, contestants, 3 * room.rounds)
    figures = []
    for precision in PRECISIONS:
        ours = costs[f"{precision} convert"]
        figures += ratios(1, f"{precision}, conversion / cp", ours, costs[f"{precision} cp"], TO_CP)
        figures += ratios(1, f"{precision}, conversion / copy loop", ours, costs[f"{precision} copy"], None)
    return figures


def beside_usual(room: Room, numbers: Collection[int]) -> list[Figure]:
    """Figures 2 and 3: what exporters usually do for every voice, beside a conversion without and with verification."""
    voice = room.voice(0)
    both: dict[int, Verify] = {2: "off", 3: "quick"}
    ways = {number: way for number, way in both.items() if number in numbers}
    with Seat(**EXPORTER) as exporter, Seat(**KILN) as unverified, Seat(**KILN) as verified:
        kiln = {"off": unverified, "quick": verified}
        contestants = {}
        for precision in PRECISIONS:
            contestants[f"{precision} usual"] = Contestant(exporter, ordinary.usual, (voice, precision))
            for way in ways.values():
                arguments = (voice, room.templates, precision, way)
                contestants[f"{precision} {way}"] = Contestant(kiln[way], convert, arguments)
        costs = take_turns(room, contestants, room.rounds)
    figures = []
    for number, way in ways.items():
        for precision in PRECISIONS:
            target = USUAL_TO_OURS[precision] if way == "off" else USUAL_TO_VERIFIED
            what = f"{precision}, usual pipeline / conversion, verify={way}"
            figures += ratios(number, what, costs[f"{precision} usual"], costs[f"{precision} {way}"], target)
    return figures


@cache
def pipeline(templates: Path) -> Pipeline:
    """Return this process's own, as warm as its last conversion left it."""
    return Pipeline(Cache(templates))


def convert(staging: Path, source: Path, templates: Path, precision: Precision, verify: Verify) -> None:
    """Convert as the worker does, into `staging`."""
    stages: list[Stage] = []
    recipe = Recipe("benchmark", (precision,), verify=verify)
    pipeline(templates).convert(source, "0" * 64, recipe, staging, stages.append)


def cp(folder: Path, source: Path) -> None:
    """Copy with the command, and sync; the bytes themselves also where a file system could share them."""
    command = ["cp", "--reflink=never", str(source), str(folder / "copy")]
    subprocess.run(command, check=True)  # noqa: S603 - `cp` as the system has it
    with (folder / "copy").open("rb") as file:
        os.fsync(file.fileno())


def copy(folder: Path, source: Path) -> None:
    """Copy without a process to start, and sync."""
    with source.open("rb", buffering=0) as reading, (folder / "copy").open("wb", buffering=0) as writing:
        while chunk := reading.read(CHUNK):
            writing.write(chunk)
        os.fsync(writing.fileno())
