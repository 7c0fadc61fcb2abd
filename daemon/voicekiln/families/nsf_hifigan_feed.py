"""How a vocoder and its mel spectrograms are fed, and what clients have to know beside the ONNX files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicekiln.families.nsf_hifigan_settings import Analysis, Network, Settings
from voicekiln.families.rvc_feed import glide
from voicekiln.nets.mel import QUIETEST

LOG10 = 0.434294
"""By this the natural logarithm is multiplied for vocoders that were trained with decimal ones."""

Arrays = dict[str, NDArray[Any]]


def spectrogram(made: Network, frames: int, rng: np.random.Generator) -> Arrays:
    """Draw the logarithm of a mel spectrogram, the higher the quieter, and an f0 glide."""
    tilt = np.linspace(-3, -7, made.mels, dtype=np.float32)[:, None]
    mel = tilt + rng.standard_normal((made.mels, frames), dtype=np.float32)
    return {"c": np.clip(mel, np.log(np.float32(QUIETEST)), 2)[None], "f0": glide(frames)[None]}


def recording(made: Network, how: Analysis, frames: int, rng: np.random.Generator) -> Arrays:
    """Draw a gliding tone and some noise, of no whole number of frames and long enough to be mirrored."""
    samples = max(frames * made.hop + int(rng.integers(made.hop)), shortest(made, how))
    turns = np.cumsum(np.geomspace(110, 880, samples)) / made.sample_rate
    tone = sum(np.sin(2 * np.pi * overtone * turns) / overtone for overtone in range(1, 6)) / 6
    return {"audio": (tone + 0.01 * rng.standard_normal(samples)).astype(np.float32)[None]}


def shortest(made: Network, how: Analysis) -> int:
    """Return the fewest samples that can be mirrored at their ends and give a frame."""
    mirrored = (how.window - made.hop + 1) // 2
    return max(mirrored + 1, how.n_fft - how.window + made.hop)


def feed(settings: Settings) -> dict[str, Any]:
    """Return what the sidecar says on how to feed both files."""
    made, how = settings.network, settings.analysis
    return {
        "sample_rate": made.sample_rate,
        "hop": made.hop,
        "mel": {
            "bands": made.mels,
            "n_fft": how.n_fft,
            "window": how.window,
            "low_hz": how.low_hz,
            "high_hz": how.high_hz,
            "scale": "slaney",
            "formula": "ln(max(1e-5, basis * sqrt(re^2 + im^2 + 1e-9))), Hann window",
            "padding": "mirrored by (window - hop) / 2 at each end",
            "shortest_samples": shortest(made, how),
            "decimal": f"a vocoder of the type nsf-hifigan-log10 wants the logarithm times {LOG10}",
            "from": "the part mel, or a diffusion model for the same mel spectrograms",
        },
        "f0": {"unit": "Hz", "unvoiced": 0},
        "noise": {"distribution": "standard normal", "drawn": "by the file itself, in its source"},
    }


def metadata(family: str, settings: Settings) -> dict[str, str]:
    """Return what a client needs, for the ONNX files themselves."""
    made, how = settings.network, settings.analysis
    facts = {"family": family, "sample_rate": made.sample_rate, "hop": made.hop, "f0": 1, "mels": made.mels}
    facts |= {**asdict(how), "mel_scale": "slaney", "logarithm": "natural"}
    return {key: f"{value:.10g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
