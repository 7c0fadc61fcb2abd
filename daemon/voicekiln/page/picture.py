"""Draws the picture that a worker took of a verification, as lines of an SVG.

Above, the wave of the original network and that of the ONNX file, each in a lane of its own; below, on a scale in
decibels, the level of the original and the level of the difference between the two. The text comes from a worker or
from a sidecar, so nothing of it is believed: what is no picture is left out, and only numbers reach the page.
"""

from __future__ import annotations

import base64
import math
import operator
from dataclasses import dataclass
from itertools import pairwise

from voicekiln.job import PICTURE

COLUMNS = 100
LEFT, STEP = 46, 3
"""Pixels: where the first column lies, and how far the next is from it. The labels stand left of them."""
LANE_TOP, LANE = 2, 38
"""Pixels; where the original's lane begins, and how high a wave can be."""
NEXT_LANE = 42
"""Pixels by which the page moves the ONNX file's wave down."""
SCALE_TOP, SCALE = 104, 60
"""Pixels; where 0 dB lies, and how far below it the floor of -200 dB."""

_HEIGHT = bytes(round((255 - b) * LANE / 255) for b in range(256))
_DEPTH = bytes(round((255 - b) * SCALE / 255) for b in range(256))
_POWER = [10 ** ((b * 200 / 255 - 200) / 10) for b in range(256)]
# A number below zero counts from the end of a list, so that a difference is looked up as it is.
_DIFFERENCES = [*range(SCALE + 1), *range(-SCALE, 0)]
_THERE = [f" {STEP}{d}" if d < 0 else f" {STEP} {d}" for d in _DIFFERENCES]
_BACK = [f"-{STEP}{d}" if d < 0 else f"-{STEP} {d}" for d in _DIFFERENCES]


@dataclass(frozen=True, slots=True)
class Drawing:
    """The lines of a picture, each the `d` of an SVG path."""

    original: str
    """The wave, in the first lane."""
    onnx: str
    """The wave, in the same place. Equal waves are equal texts, and the page then writes them once."""
    level: str
    difference: str
    """An area down to the floor."""
    top: int
    """Pixels; the mean power of the original on the scale."""
    bottom: int
    """The same for the difference; the way between the two is the signal-to-noise ratio of what is drawn."""


def drawing(picture: str) -> Drawing | None:
    """Return the lines of a picture (see `job.PICTURE`), None if this is none."""
    if not PICTURE.fullmatch(picture):
        return None
    data = base64.urlsafe_b64decode(picture)
    low, high, onnx_low, onnx_high, level, difference = (data[i : i + COLUMNS] for i in range(0, len(data), COLUMNS))
    if any(map(operator.gt, low + onnx_low, high + onnx_high)):
        return None
    floor = SCALE_TOP + SCALE
    return Drawing(
        original=_wave(low, high),
        onnx=_wave(onnx_low, onnx_high),
        level=_curve(level),
        difference=f"{_curve(difference)}V{floor}H{LEFT}z",
        top=_mean(level),
        bottom=_mean(difference),
    )


def _wave(low: bytes, high: bytes) -> str:
    """Return the outline: along the greatest values and back along the least."""
    top, bottom = high.translate(_HEIGHT), low.translate(_HEIGHT)[::-1]
    there = "".join([_THERE[b - a] for a, b in pairwise(top)])
    back = "".join([_BACK[b - a] for a, b in pairwise(bottom)])
    return f"M{LEFT} {LANE_TOP + top[0]}l{there[1:]}V{LANE_TOP + bottom[0]}l{back}z"


def _curve(level: bytes) -> str:
    depth = level.translate(_DEPTH)
    return f"M{LEFT} {SCALE_TOP + depth[0]}l" + "".join([_THERE[b - a] for a, b in pairwise(depth)])[1:]


def _mean(level: bytes) -> int:
    mean_db = 10 * math.log10(sum([_POWER[b] for b in level]) / COLUMNS)
    return SCALE_TOP + round(-mean_db * SCALE / 200)
