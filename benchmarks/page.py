"""Figure 13: the status page with as many voices as it lists, each with a picture, in a real browser.

Debian's Chromium opens it from a file, as people do; every round in a fresh context, nothing of it in any cache.
"""

from __future__ import annotations

import base64
import random
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.harness import Figure, Room, Target
from voicekiln import words
from voicekiln.page.board import Board, DoneVoice, Made, Totals
from voicekiln.page.facts import as_json
from voicekiln.page.render import render

VOICES = 5000
OPEN_S = Target("<=", 2)
WALL = 1_800_000_000.0

OPENED = """() => {
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [performance.getEntriesByType("navigation")[0].loadEventEnd / 1000, paint.startTime / 1000];
}"""
SEARCH = """() => new Promise((painted) => {
  const search = document.querySelector("#q"), began = performance.now();
  search.value = "4321";
  search.dispatchEvent(new Event("input", { bubbles: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => painted((performance.now() - began) / 1000)));
})"""


def opening(room: Room) -> list[Figure]:
    """Figure 13: from the double click until all of it is there, and from a letter in the search box to its effect."""
    board = _board()
    path = room.folder / "status.html"
    written, facts = [], []
    for _ in range(room.rounds):
        began = time.process_time()
        path.write_text("".join(render(board, words.of("en"))))
        written.append(time.process_time() - began)
        began = time.process_time()
        json_bytes = sum(len(piece) for piece in as_json(board, words.of("en")))
        facts.append(time.process_time() - began)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        loads, paints, searches = zip(*(_open(browser, path) for _ in range(room.rounds)), strict=True)
    return [
        Figure(13, f"page of {VOICES} voices: until it has loaded", loads, "s", OPEN_S),
        Figure(13, f"page of {VOICES} voices: until the first paint", paints, "s"),
        Figure(13, f"page of {VOICES} voices: a search", searches, "s"),
        Figure(13, f"page of {VOICES} voices: made, CPU", written, "s"),
        Figure(13, f"page of {VOICES} voices: a row", [path.stat().st_size / VOICES], "bytes"),
        Figure(13, f"status.json of {VOICES} voices: made, CPU", facts, "s"),
        Figure(13, f"status.json of {VOICES} voices: a row", [json_bytes / VOICES], "bytes"),
    ]


def _open(browser: Browser, path: Path) -> tuple[float, float, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        page.goto(path.as_uri())
        loaded, painted = page.evaluate(OPENED)
        return loaded, painted, page.evaluate(SEARCH)
    finally:
        context.close()


def _board() -> Board:
    voices = tuple(_voice(number) for number in range(VOICES))
    totals = Totals(0, 0, VOICES, 0, 55_000_000 * VOICES, 55_000_000 * VOICES, 4.5, 10**12)
    return Board(WALL, WALL + 300, False, "0", "CPU", None, WALL, (), totals, (), (), (), voices, 0)  # noqa: FBT003 - a row


def _voice(number: int) -> DoneVoice:
    name = f"artists/{number % 100:02}/voice {number:04}"
    files = (
        Made(f"{name}.onnx", "rvc", "fp32", 55_000_000, 110.0),
        Made(f"{name}.fp16.onnx", "rvc", "fp16", 28_000_000, 62.0),
    )
    at = WALL - 60.0 * number
    return DoneVoice(
        file=f"{name}.pth",
        recipe="both",
        family="rvc",
        version="v2",
        sample_rate=40000,
        f0=True,
        speakers=1,
        bytes=55_000_000,
        at=at,
        seconds=4.5,
        files=files,
        sidecar=f"{name}.json",
        swept_at=at + 30 * 86400,
        notes=(),
        picture=_picture(number),
    )


def _picture(seed: int) -> str:
    """Return one with lines as restless as any."""
    draw = random.Random(seed)  # noqa: S311 - anything will do
    greatest = [draw.randrange(128, 256) for _ in range(100)]
    least = [255 - value for value in greatest]
    level = [draw.randrange(200, 255) for _ in range(100)]
    rest = [draw.randrange(90, 130) for _ in range(100)]
    return base64.urlsafe_b64encode(bytes([*least, *greatest, *least, *greatest, *level, *rest])).decode()
