"""How a speaker encoder is fed, and what clients have to know beside the ONNX file.

A clip's d-vector is the mean over ten windows, which are spread evenly over it and overlap or leave gaps as it is short
or long; the file makes the d-vector of each window, and the windows are cut by whoever feeds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families.speaker_encoder_settings import Network, Settings

WINDOWS = 10
WINDOW_FRAMES = 250
"""Of one window, however long the clip."""
LOUDNESS = "clip * 10^({rms_db:g} / 20) / sqrt(mean(clip^2)), of the whole clip, before windows are cut"
SAMPLED = 2
"""Windows in a drawn sample: enough to show that they do not mix."""

Arrays = dict[str, NDArray[Any]]


def sound(settings: Settings, frames: int, rng: np.random.Generator) -> Arrays:
    """Draw windows of gliding tones, one up and one down, and some noise; long enough to be mirrored."""
    made = settings.network
    samples = max(frames * made.hop + int(rng.integers(made.hop)), shortest(made))
    f0 = np.geomspace(110, 880, samples)
    turns = np.cumsum(np.stack([f0, f0[::-1]]), axis=1) / settings.sample_rate
    tones = sum(np.sin(2 * np.pi * overtone * turns) / overtone for overtone in range(1, 6)) / 6
    return {"waveform": (tones + 0.01 * rng.standard_normal((SAMPLED, samples))).astype(np.float32)}


def shortest(made: Network) -> int:
    """Return the fewest samples that can be mirrored at their ends."""
    return made.n_fft // 2 + 1


def feed(settings: Settings) -> dict[str, Any]:
    """Return what the sidecar says on how to feed the file."""
    made = settings.network
    samples = WINDOW_FRAMES * made.hop
    return {
        "sample_rate": settings.sample_rate,
        "hop": made.hop,
        "waveform": {"range": "-1 .. 1", "channels": 1, "shortest_samples": shortest(made)},
        **_loudness(settings.rms_db),
        "windows": {
            "count": WINDOWS,
            "frames": WINDOW_FRAMES,
            "samples": samples,
            "starts": f"floor(i * (clip_samples - {samples}) / {WINDOWS - 1}) for i = 0 .. {WINDOWS - 1}",
            "shorter": f"a clip of at most {samples} samples is one window, all of it",
        },
        "d_vector": {
            "width": made.width,
            "of_a_window": "of length 1, as the file makes it",
            "of_a_clip": "the mean over its windows, not brought back to length 1",
        },
    }


def _loudness(rms_db: float | None) -> dict[str, Any]:
    return {} if rms_db is None else {"loudness": {"rms_db": rms_db, "rule": LOUDNESS.format(rms_db=rms_db)}}


def metadata(family: str, settings: Settings) -> dict[str, str]:
    """Return what a client needs, for the ONNX file itself."""
    made = settings.network
    facts = {"family": family, "sample_rate": settings.sample_rate, "hop": made.hop, "d_vector_width": made.width}
    facts |= {} if settings.rms_db is None else {"rms_db": settings.rms_db}
    facts |= {"windows": WINDOWS, "window_samples": WINDOW_FRAMES * made.hop}
    return {key: str(value) for key, value in facts.items()}
