"""What a verification looks like: both waves and their difference, small enough for a sidecar and a status page.

Drawn once, in the worker, from what it has at hand anyway. Six tracks of 100 bytes, one byte a column of the run: least
and greatest value of the network's wave and of the ONNX file's, as parts of the network's peak, and the levels of the
network's wave and of the difference in decibels below that peak.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COLUMNS: Final = 100
FLOOR_DB: Final = -200.0
"""Byte 0 of a level; 255 is 0 dB, and what is quieter than the floor counts as the floor."""

Wave = NDArray[Any]


def draw(reference: Wave, got: Wave) -> str:
    """Return the picture of two outputs of equal size, as `Conversion.picture` has it; both are finite."""
    wanted, found = (_at_least(COLUMNS, wave.astype(np.float64).ravel()) for wave in (reference, got))
    peak = float(np.max(np.abs(wanted))) or 1.0
    wanted, found = wanted / peak, found / peak
    starts = np.arange(COLUMNS) * len(wanted) // COLUMNS
    tracks = [
        *(_height(pick.reduceat(wave, starts)) for wave in (wanted, found) for pick in (np.minimum, np.maximum)),
        *(_level(wave, starts) for wave in (wanted, found - wanted)),
    ]
    return base64.urlsafe_b64encode(np.concatenate(tracks).tobytes()).decode()


def _at_least(samples: int, wave: Wave) -> Wave:
    """Return the wave with each sample repeated if there are fewer than columns."""
    repeated: Wave = np.repeat(wave, -(-samples // len(wave)))
    return repeated


def _height(values: Wave) -> Wave:
    """Return -1 .. 1 as 0 .. 255."""
    heights: Wave = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    return heights


def _level(wave: Wave, starts: Wave) -> Wave:
    """Return the mean power of each column in decibels, the floor as 0 and 0 dB as 255."""
    power = np.add.reduceat(wave**2, starts) / np.diff(starts, append=len(wave))
    level_db = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    levels: Wave = np.rint((np.minimum(level_db, 0) / -FLOOR_DB + 1) * 255).astype(np.uint8)
    return levels
