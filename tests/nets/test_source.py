"""The source's phase is right after half a minute as after one frame, and its noise is as loud as it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from voicekiln.nets.source import SineGen, SourceModuleHnNSF, _sum_before

RATE, HOP = 40_000, 400


def sines(f0: NDArray[np.float32], overtones: int = 0) -> NDArray[np.float64]:
    """Return what the source makes of f0 (frames,), without noise: (samples, 1 + overtones)."""
    source = SineGen(RATE, HOP, overtones)
    source.noise.replay = torch.zeros(len(f0), HOP, overtones + 1)
    made: NDArray[np.float64] = source(torch.from_numpy(f0)[None]).flatten(0, 1).double().numpy()
    return made


def exact(f0: NDArray[np.float32], overtones: int = 0) -> NDArray[np.float64]:
    """Return the same, with the phase summed up sample by sample in float64."""
    per_sample = np.repeat(f0.astype(np.float64), HOP)
    phase = np.cumsum(per_sample / RATE)[:, None] * np.arange(1, overtones + 2)
    found: NDArray[np.float64] = 0.1 * np.sin(2 * np.pi * phase) * (per_sample > 0)[:, None]
    return found


def snr_db(want: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    """Return the signal-to-noise ratio of `got`."""
    return float(10 * np.log10((want**2).mean() / ((want - got) ** 2).mean()))


def contour(frames: int) -> NDArray[np.float32]:
    """Return a glide with an unvoiced gap."""
    f0 = np.geomspace(110, 880, frames).astype(np.float32)
    f0[frames // 3 : frames // 2] = 0
    return f0


@pytest.mark.parametrize("frames", [1, 2, 60, 3000])
def test_follows_the_pitch_through_an_unvoiced_gap(frames: int) -> None:
    """Up to 30 s. What is lost is what float32 loses within a frame."""
    assert snr_db(exact(contour(frames)), sines(contour(frames))) > 60


def in_float32(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Return a running sum as ONNX Runtime makes it: one after the other, rounded to float32 each time."""
    return torch.from_numpy(np.cumsum(values.numpy(), axis=dim, dtype=np.float32))


def test_the_sum_over_frames_is_the_same_in_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute of one note, where a plain sum in float32 has lost the fourth digit of a turn."""
    added = torch.full((3000, 1, 1), 0.4321, dtype=torch.float32)
    want = torch.fmod(torch.cumsum(added.double(), dim=0) - added.double(), 1.0)
    assert (torch.fmod(in_float32(added, 0) - added, 1.0) - want).abs().max() > 1e-4
    for add_up in (torch.cumsum, in_float32):
        monkeypatch.setattr(torch, "cumsum", add_up)
        off = (_sum_before(added).double() - want + 0.5) % 1 - 0.5
        assert off.abs().max() < 1e-6


def test_a_half_precision_pitch_would_be_noticed() -> None:
    """The bars above are far from what a phase in half precision leaves."""
    f0 = contour(3000)
    rounded = f0.astype(np.float16).astype(np.float32)
    assert snr_db(exact(f0), sines(rounded)) < 20


def test_overtones_are_multiples() -> None:
    """In phase with the fundamental."""
    f0 = contour(40)
    assert snr_db(exact(f0, 2), sines(f0, 2)) > 60


def test_noise_is_soft_under_a_voice_and_louder_without() -> None:
    """0.003 where voiced, a third of the sine's amplitude where not."""
    source = SineGen(RATE, HOP, 0)
    f0 = torch.tensor([[200.0, 0.0]])
    source.noise.replay = torch.ones(2, HOP, 1)
    loud = source(f0)
    source.noise.replay = torch.zeros(2, HOP, 1)
    added = (loud - source(f0)).flatten()
    torch.testing.assert_close(added[:HOP], torch.full((HOP,), 0.003), atol=1e-6, rtol=0)
    torch.testing.assert_close(added[HOP:], torch.full((HOP,), 0.1 / 3))


def test_the_excitation_is_bounded() -> None:
    """One channel of samples, within -1 .. 1."""
    source = SourceModuleHnNSF(RATE, HOP)
    torch.nn.init.constant_(source.l_linear.weight, 100.0)
    made = source(torch.tensor([[220.0, 330.0, 0.0]]))
    assert made.shape == (1, 1, 3 * HOP)
    assert made.abs().max() <= 1
    assert not math.isclose(float(made.detach().std()), 0)
