"""Boards to look at: one with everything on it, and long ones."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Sequence
from pathlib import PurePosixPath

from voicekiln.errors import Damaged, NotACheckpoint, TooLarge, UnsafePickle
from voicekiln.folders.names import shown
from voicekiln.page.board import Board, DoneVoice, Made, RefusedVoice, Totals, VoiceInWork, WaitingVoice

NOW = 1_795_262_102.0
"""2026-11-21T11:55:02Z."""

HOSTILE = (
    "<img src=x onerror=alert(1)>.pth",
    "\"quotes' & <b>markup<!-- --></summary></table>.pth",
    "evil\u202egnp.pth",
    "音色模型/初音未来测试 第二版.pth",
    "😀 emoji 👩🏽‍🎤 and  spaces .pth",
    "صوت عربي.pth",
    "x" * 196 + ".pth",
    "{{ 7 * 7 }} {% raw %} {0} {name}.pth",
    "100% # ? & + ; = @ : ~ \\.pth",
    "</script><script>alert(2)</script>.pth",
    "javascript:alert(3).pth",
    "caf\udce9 in Latin-1.pth",
)
"""As the file system has them."""


def picture(seed: int = 0, below_db: float = 100.0, drift: float = 0.0) -> str:
    """Return a picture of a voice that says something; `drift` moves the ONNX file's wave away from the original's."""
    draw = random.Random(seed)  # noqa: S311 - to look at
    swing, start = draw.uniform(0.05, 0.2), draw.uniform(0, 6)
    loud = [
        abs(math.sin(start + swing * c)) ** 0.7 * draw.uniform(0.6, 1.0) * (0.02 if 60 < c < 68 else 1)
        for c in range(100)
    ]
    peak = max(loud)
    tops = [value / peak for value in loud]
    lows = [-top * draw.uniform(0.7, 1.0) for top in tops]
    moved = [min(1.0, top * (1 + drift)) for top in tops]
    level = [20 * math.log10(top * 0.4 + 1e-6) for top in tops]
    rest = [-below_db - 12 + draw.uniform(-4, 4) + value / 4 for value in level]
    tracks = [*map(_wave, (lows, tops, lows, moved)), *map(_level, (level, rest))]
    return base64.urlsafe_b64encode(bytes(b for track in tracks for b in track)).decode().rstrip("=")


def _wave(values: Sequence[float]) -> list[int]:
    return [round((value + 1) * 127.5) for value in values]


def _level(values: Sequence[float]) -> list[int]:
    return [max(0, min(255, round((value + 200) * 255 / 200))) for value in values]


def done(number: int, file: str | None = None, *, notes: tuple[str, ...] = (), swept: bool = False) -> DoneVoice:
    """Return a finished voice; numbers vary what it is."""
    name = file or f"artists/{number % 40:02}/voice {number:04}.pth"
    base = name.removesuffix(".pth")
    snr = 96.0 + number % 17
    files = [Made(f"{base}.onnx", "rvc", "fp32", 55_021_345 + number, snr)]
    if number % 3 == 1:
        files.append(Made(f"{base}.fp16.onnx", "w-okada", "fp16", 27_801_345 + number, 61.5))
    at = NOW - 400 - 613.0 * number
    return DoneVoice(
        file=shown(PurePosixPath(name)),
        recipe="both" if number % 3 == 1 else "default",
        family="rvc" if number % 5 else "so-vits-svc",
        version="v1" if number % 4 == 0 else "v2",
        sample_rate=(40000, 48000, 32000)[number % 3],
        f0=number % 6 != 5,
        speakers=109 if number % 7 == 3 else 1,
        bytes=55_230_000 + number,
        at=at,
        seconds=3.2 + number % 13 / 4,
        files=() if swept else tuple(files),
        sidecar=None if swept else f"{base}.json",
        swept_at=None if swept else at + 30 * 86400,
        notes=notes,
        picture=picture(number, min(file.snr_db or snr for file in files)),
        data=(f"{base}.KMeans.npy",) if number % 11 == 10 and not swept else (),
    )


NOTES = (
    "The file says nothing of its speech features; they were taken for HuBERT's, as with most voices of this kind.",
)


def full() -> Board:
    """Return a board with something of each kind and names that want to break out."""
    voices = [done(number, HOSTILE[number] if number < len(HOSTILE) else None) for number in range(24)]
    voices[1:1] = [done(31, "Miku/miku_v2_final.pth", notes=NOTES)]
    voices.append(done(30, "old/swept.pth", swept=True))
    return board(
        voices,
        in_work=(
            VoiceInWork("choir/alto.pth", "default", 1, 55_230_000, "verify", 0.72, NOW - 3),
            VoiceInWork("fp16/G_48000.pth", "fp16", 2, 452_000_000, "template", 0.2, NOW - 14),
        ),
        waiting=(
            WaitingVoice("choir/tenor.pth", "queued", "", None, 55_100_000, NOW - 60),
            WaitingVoice("<b>new</b>.pth", "settling", "", NOW + 8, 12_000_000, NOW - 4),
            WaitingVoice("upload/slow.pth", "incomplete", "its end is missing", NOW + 125, 31_000_000, NOW - 700),
        ),
        refused=(
            RefusedVoice(
                HOSTILE[0],
                Damaged(what="its end is missing"),
                NOW - 900,
                "<img src=x onerror=alert(1)>.error.json",
                NOW + 9e5,
            ),
            RefusedVoice(
                "free voices/click me.pth",
                UnsafePickle(wants="posix.system"),
                NOW - 5000,
                "free voices/click me.error.json",
                None,
            ),
            RefusedVoice("notes.pth", NotACheckpoint(what="it is plain text"), NOW - 90000, None, None),
            RefusedVoice("full.pth", TooLarge(size_mb=5200, limit_mb=4000), NOW - 190000, "full.error.json", NOW + 4e5),
        ),
    )


def long(count: int) -> Board:
    """Return a board of so many finished voices, each with its picture."""
    return board([done(number) for number in range(count)])


def board(
    voices: Sequence[DoneVoice],
    *,
    in_work: tuple[VoiceInWork, ...] = (),
    waiting: tuple[WaitingVoice, ...] = (),
    refused: tuple[RefusedVoice, ...] = (),
    troubles: tuple[str, ...] = (),
) -> Board:
    """Return a board with these voices, and totals to match."""
    totals = Totals(
        waiting=len(waiting),
        in_work=len(in_work),
        done=len(voices),
        refused=len(refused),
        bytes_in=sum(voice.bytes for voice in voices),
        bytes_out=sum(file.bytes for voice in voices for file in voice.files),
        mean_seconds=4.6 if voices else None,
        free_bytes=1_204_000_000_000,
    )
    return Board(
        written=NOW,
        promised=NOW + 300,
        stopped=False,
        version="0.1.0",
        device="NVIDIA GeForce RTX 3060",
        cluster=None,
        last_scan=NOW - 2,
        troubles=troubles,
        totals=totals,
        in_work=in_work,
        waiting=waiting,
        refused=refused,
        done=tuple(voices),
        left_out=0,
    )
