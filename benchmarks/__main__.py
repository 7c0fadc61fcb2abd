"""`python -m benchmarks`: every figure beside its target, as a table, and in results.json with all that was measured.

To be run from the repository's root on a machine that has nothing else to do, with the extra `bench` and Chromium
installed. It takes about two hours, 4 GB of memory, and 10 GB below TMPDIR, which has to be on a real disk: much of
what is measured is writing. `--quick` measures fewer rounds with fewer voices and says so; numbers choose figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import cluster, conversions, graphs, load, ordinary, page, running, waiting
from benchmarks.harness import Figure, Room, Seat
from voicekiln.convert import device
from voicekiln.folders.watch import file_system

RESULTS = Path(__file__).with_name("results.json")
NUMBERS = range(1, 20)
AGAINST_ORDINARY = {2, 3, 8}
LIKE_DB = 80.0
"""Less, and the ordinary network is another one than ours."""
ROW = "{:>2}  {:56} {:>8} {:>8} {:>8} {:11} {:8} {:6} {}"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures how fast and small it is.")
    parser.add_argument("numbers", type=int, nargs="*", help="figures to take (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer voices")
    options = parser.parse_args()
    numbers = set(options.numbers) or set(NUMBERS)
    if unknown := numbers.difference(NUMBERS):
        parser.error(f"there is no figure {min(unknown)}")
    with tempfile.TemporaryDirectory(prefix="voicekiln-benchmark-") as folder:
        room = Room(Path(folder), quick=options.quick)
        results = _conditions(room)
        _say(ROW.format("", "figure", "median", "lowest", "highest", "unit", "target", "", ""))
        for figure in _measure(room, numbers, results):
            results["figures"].append(figure.as_json())
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
            _say(_row(figure))
    if room.quick:
        _say("A quick run: not to be quoted.")


def _measure(room: Room, numbers: set[int], results: dict[str, Any]) -> Iterator[Figure]:
    """Give the figures as they come; what there is to say of the whole goes into `results`."""
    if {1} & numbers:
        yield from conversions.beside_cp(room)
    if AGAINST_ORDINARY & numbers:
        with Seat() as seat:
            made = {who: room.folder / who for who in ("ours", "ordinary")}
            for folder in made.values():
                folder.mkdir()
            seat.ask(conversions.convert, made["ours"], room.voice(0), room.templates, "fp32", "off")
            seat.ask(ordinary.usual, made["ordinary"], room.voice(0), "fp32")
            graph = {who: folder / "fp32.onnx" for who, folder in made.items()}
            results["ordinary_like_ours_db"] = alike = seat.ask(ordinary.likeness_db, room.voice(0), graph["ours"])
        _say(f"    the ordinary network agrees with our file: {alike:.1f} dB")
        if not alike >= LIKE_DB:
            sys.exit("So it is no yardstick.")
        if {2, 3} & numbers:
            yield from conversions.beside_usual(room, numbers)
        if {8} & numbers:
            yield from graphs.beside_ordinary(room, graph["ours"], graph["ordinary"])
    for number, figures in {
        4: running.throughput,
        5: running.overhead,
        6: running.supervisor,
        7: running.worker,
        9: load.start,
        10: load.sweep,
        11: load.ledger,
        12: load.flood,
        13: page.opening,
        14: cluster.engine,
        15: cluster.flow,
        16: cluster.parcels,
        17: cluster.throughput,
        18: waiting.loop,
        19: waiting.hands,
    }.items():
        if number in numbers:
            yield from figures(room)


def _conditions(room: Room) -> dict[str, Any]:
    """Return what the figures hold for, and the list for them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "quick": room.quick,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "processor": device.device()["name"],
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory,
            "system": f"{platform.system()} {platform.release()}",
            "file_system": file_system(room.folder).type,
            "load_before": os.getloadavg()[0],
        },
        "versions": device.versions() | {"onnxsim": metadata.version("onnxsim")},
        "figures": [],
    }


def _row(figure: Figure) -> str:
    target = f"{figure.target.sign} {figure.target.value:g}" if figure.target else ""
    verdict = {True: "met", False: "missed", None: ""}[figure.met]
    numbers = [f"{value:.4g}" for value in (figure.median, min(figure.values), max(figure.values))]
    return ROW.format(figure.number, figure.what, *numbers, figure.unit, target, verdict, figure.behind).rstrip()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a table is what was asked for


if __name__ == "__main__":
    main()
