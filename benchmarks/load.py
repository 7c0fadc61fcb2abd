"""Figures 9 to 12: many files at the start, many results to sweep, many rows in the ledger, many files within a minute.

The last one also reads the configuration anew a thousand times.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

import torch

from benchmarks.harness import Figure, Room, Target
from benchmarks.running import GROWTH_MB, HASTY, MB, NO_FILES, Daemon, memory_mb, open_files
from voicekiln.families.sample import V2_40K, checkpoint
from voicekiln.folders.inbox import scan
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.sweep import Ground, Lives, Plan, carry_out, note
from voicekiln.folders.voices import WORKING, Published
from voicekiln.job import Conversion, Converted, Fidelity, FileStamp, OnnxFile, Port, Recipe
from voicekiln.supervisor.sweeping import PIECE, PIECE_S, enough_after

FILES = 50_000
ROWS = 1_000_000
BATCH = 50_000
RECIPE = Recipe("default")
LIVES = Lives(sources=None, results=7 * 86400.0, refusals=7 * 86400.0)
WALL = 1_800_000_000.0

FLOOD = 5000
FLOOD_S = 60.0
RELOADS = 1000

START_MB = Target("<=", 200)
FLOOD_MB = Target("<=", 60)
LINES = Target("<=", 5)
SWEEP_S = Target("<=", 60)
TICK_MS = Target("<=", 10)


def start(room: Room) -> list[Figure]:
    """Figure 9: a daemon that finds all of them, until it has published ten."""
    files = FILES // 10 if room.quick else FILES
    with room.scratch() as folder:
        voice = folder / "voice.pth"
        torch.save(_small_voice(), voice)
        content = voice.read_bytes()
        (folder / "inbox").mkdir()
        for number in range(files):
            (folder / "inbox" / f"{number}.pth").write_bytes(content)
        looks = [_seconds(lambda: scan(folder / "inbox")) for _ in range(room.rounds)]
        began = time.perf_counter()
        with Daemon(folder, HASTY) as daemon:
            daemon.until_published(10)
            first = time.perf_counter() - began
            peak = memory_mb(daemon.process.pid, "VmHWM")
    return [
        Figure(9, f"{files} files at the start: a look at them", looks, "s"),
        Figure(9, f"{files} files at the start: until ten are published", [first], "s"),
        Figure(9, f"{files} files at the start: supervisor's peak memory", [peak], "MB", START_MB),
    ]


def sweep(room: Room) -> list[Figure]:
    """Figure 10: all results due at once, each two small files; whole, and the longest that anybody waits for it."""
    count = FILES // 10 if room.quick else FILES
    seconds, pieces = [], []
    for _ in range(min(3, room.rounds)):
        with room.scratch() as folder, Ledger(folder / "ledger") as ledger:
            ground = Ground(folder / "outbox", inodes=True)
            ground.root.mkdir()
            _enter(ledger, count, ground.root)
            os.sync()
            began = time.perf_counter()
            plan = Plan(ledger, LIVES, 1.0, WALL)
            while items := plan.next(PIECE):
                at = time.perf_counter()
                swept = carry_out(items, ground, ground, enough_after(PIECE_S))
                pieces.append(time.perf_counter() - at)
                plan.passed([done.item for done in swept])
                note(ledger, swept)
            seconds.append(time.perf_counter() - began)
            if left := sum(1 for _ in ground.root.iterdir()):
                raise RuntimeError(f"{left} files were not swept")
    return [
        Figure(10, f"{count} results swept", seconds, "s", SWEEP_S),
        Figure(10, f"{count} results swept: a piece", pieces, "s"),
    ]


def flood(room: Room) -> list[Figure]:
    """Figure 12: copies of one small voice, dropped one by one; the daemon publishes them without converting again."""
    files, reloads = (FLOOD // 10, RELOADS // 10) if room.quick else (FLOOD, RELOADS)
    with room.scratch() as folder, Daemon(folder, HASTY) as daemon:
        voice = folder / "voice.pth"
        torch.save(_small_voice(), voice)
        began = time.monotonic()
        for number in range(files):
            daemon.drop(Path(shutil.copyfile(voice, folder / "copy.pth")), f"{number}.pth")
            (folder / "copy.pth").unlink()
            time.sleep(max(0.0, began + FLOOD_S * number / FLOOD - time.monotonic()))
        daemon.until_published(files)
        seconds = time.monotonic() - began
        peak = memory_mb(daemon.process.pid, "VmHWM")
        lines = len(daemon.events()) / files
        daemon.reload(reloads // 10)
        before = _held(daemon)
        daemon.reload(reloads)
        grown = [after - was for after, was in zip(_held(daemon), before, strict=True)]
    what = ("memory", "MB", GROWTH_MB), ("open files", "files", NO_FILES), ("threads", "threads", NO_FILES)
    return [
        Figure(12, f"{files} files within a minute: until all are published", [seconds], "s"),
        Figure(12, f"{files} files within a minute: supervisor's peak memory", [peak], "MB", FLOOD_MB),
        Figure(12, f"{files} files within a minute: lines of the log for each", [lines], "lines", LINES),
        *(
            Figure(12, f"{reloads} configurations: growth in {w}", [g], u, t)
            for g, (w, u, t) in zip(grown, what, strict=True)
        ),
    ]


def _held(daemon: Daemon) -> tuple[float, float, float]:
    """Return the supervisor's memory in MB, its open files, and its threads."""
    process = daemon.process.pid
    threads = sum(1 for _ in Path(f"/proc/{process}/task").iterdir())
    return memory_mb(process, "VmRSS"), float(open_files(process)), float(threads)


def _small_voice() -> dict[str, object]:
    small = replace(V2_40K, channels=4, hidden=4, filter_channels=4, layers=1, flows=1, flow_layers=1, initial=16)
    return checkpoint(replace(small, speakers=1, gin_channels=4), seed=0)


def ledger(room: Room) -> list[Figure]:
    """Figure 11: what is asked of a ledger in which nearly everything is over, at each tick, scan and sweep."""
    rows = ROWS // 20 if room.quick else ROWS
    there = rows // 20
    with room.scratch() as folder, Ledger(folder / "ledger") as made:
        _enter(made, rows, None, keep=there)
        gc.collect()
        before = memory_mb(os.getpid(), "VmRSS")
        asked: dict[str, Callable[[], object]] = {
            "what a tick asks": lambda: (made.counts(), made.voices(*WORKING), made.first(lambda _: True, *WORKING)),
            f"a scan's comparison with {there} files": lambda: sum(1 for _ in made.known()),
            "a sweep's plan and first piece": lambda: Plan(made, LIVES, 0.25, WALL).next(PIECE),
            "a look for what was collected": lambda: made.left(rows // 2, PIECE),
            "the first thousand lines of a status": lambda: sum(1 for _ in islice(made.each(), 1000)),
            "a look at every page, as after a crash": made.must_be_sound,
        }
        found = [
            Figure(11, f"{rows} rows: {what}", [1000 * _seconds(ask) for _ in range(room.rounds)], "ms", target)
            for (what, ask), target in zip(asked.items(), (TICK_MS, *[None] * (len(asked) - 1)), strict=True)
        ]
        grown = memory_mb(os.getpid(), "VmRSS") - before
        size = (folder / "ledger").stat().st_size / MB
    return [
        *found,
        Figure(11, f"{rows} rows: memory that all of this takes", [grown], "MB"),
        Figure(11, f"{rows} rows: the file", [size], "MB"),
    ]


def _enter(ledger: Ledger, count: int, outbox: Path | None, keep: int = 0) -> None:
    """Enter so many converted voices of long ago, with their files if there is an outbox; `keep` sources are there."""
    ending = Converted(_conversion())
    for batch in _batches(count):
        with ledger.together():
            for number in batch:
                name = PurePosixPath(f"{number // 1000}/voice {number}.pth")
                stamp = FileStamp(number + 1, 55_000_000, 10**18 + number, 10**18 + number)
                voice = ledger.sight(name, "default", stamp, number).id
                ledger.spooled(voice, stamp, f"{number:064x}", RECIPE, f"{number:064x}.0.0", f"job{number}")
                ledger.ended(voice, ending)
                base = name.with_suffix("")
                ledger.claim_base(voice, base, [f"{base}.onnx", f"{base}.json"])
                files = [_published(outbox, base.with_suffix(suffix)) for suffix in (".onnx", ".json")]
                ledger.published(voice, files, [], number)
                if number < count - keep:
                    ledger.vanished(voice)


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(count, first + BATCH))


def _published(outbox: Path | None, path: PurePosixPath) -> Published:
    stamp = FileStamp(1, 2, 3, 4)
    if outbox is not None:
        (outbox / path.name).write_bytes(b"result")
        stamp = FileStamp.of((outbox / path.name).stat())
    flat = path if outbox is None else PurePosixPath(path.name)
    return Published(flat, "onnx" if path.suffix == ".onnx" else "sidecar", f"{hash(path):064x}", 6, stamp)


def _conversion() -> Conversion:
    ports = tuple(Port(name, "float32", (1, "frames", 768)) for name in ("phone", "pitchf", "rnd"))
    fidelity = (Fidelity("CPUExecutionProvider", (40, 97, 211), 123.4, 1e-6, 100.0),)
    file = OnnxFile("rvc.fp32.onnx", "fp32", "0" * 64, 55_000_000, 17, ports, ports[:1], fidelity)
    seconds = {"load": 0.1, "template": 0.2, "fill": 0.3, "verify": 0.4}
    return Conversion((file,), {"family": "rvc", "version": "v2"}, {"hop": 400}, (), seconds, {"kind": "cpu"}, {})


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
