"""Mel spectrograms are what the formula says, and the comparison can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from voicekiln.nets.mel import Dft, LogMel, dft_weights, mel_weights, windowed

RATE, N_FFT, HOP, MELS, LOW, HIGH = 44_100, 2048, 512, 128, 40.0, 16_000.0

Numbers = NDArray[np.float64]


def slaney(hz: float) -> float:
    """Return the mel of the Auditory Toolbox: 15 linear mels up to 1000 Hz, 27 for each factor of 6.4 above."""
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000, 6.4)


def htk(hz: float) -> float:
    """Return the other usual mel."""
    return 2595 * math.log10(1 + hz / 700)


def hertz(mel: float, scale: Callable[[float], float]) -> float:
    """Return the frequency of a mel, by halving."""
    low, high = 0.0, 100_000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if scale(middle) < mel else (low, middle)
    return low


def basis(scale: Callable[[float], float] = slaney, mels: int = MELS) -> Numbers:
    """Return the bands, (mels, bins), number by number."""
    ends = scale(LOW), scale(HIGH)
    corners = [hertz(ends[0] + (ends[1] - ends[0]) * i / (mels + 1), scale) for i in range(mels + 2)]
    bands = np.zeros((mels, N_FFT // 2 + 1))
    for band, (left, middle, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for at in range(bands.shape[1]):
            hz = at * RATE / N_FFT
            height = (hz - left) / (middle - left) if hz < middle else (right - hz) / (right - middle)
            bands[band, at] = max(0.0, height) * 2 / (right - left)
    return bands


BASIS = basis()
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)


def exact(audio: Numbers, window: Numbers = HANN, bands: Numbers = BASIS, mode: Any = "reflect") -> Numbers:
    """Return the logarithm of the mel spectrogram, (mels, frames), of audio (samples,)."""
    padded = np.pad(audio, (N_FFT - HOP) // 2, mode)
    stretches = np.stack([padded[at : at + N_FFT] for at in range(0, len(padded) - N_FFT + 1, HOP)])
    spectrum = np.fft.rfft(stretches * window)
    made: Numbers = np.log(np.maximum(bands @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9).T, 1e-5))
    return made


def network(n_fft: int = N_FFT, window: int = N_FFT, hop: int = HOP) -> LogMel:
    """Return the network with its numbers."""
    made = LogMel(n_fft, window, hop, MELS)
    weights = {
        "dft.conv.weight": dft_weights(n_fft, window),
        "basis.weight": mel_weights(RATE, n_fft, MELS, LOW, HIGH),
    }
    made.load_state_dict(weights)
    return made.eval().requires_grad_(requires_grad=False)


NETWORK = network()


def made(audio: Numbers) -> Numbers:
    """Return what the network makes of the same audio."""
    mel: Numbers = NETWORK(torch.from_numpy(audio).float()[None])[0].double().numpy()
    return mel


def voice(samples: int, loudness: float = 0.5) -> Numbers:
    """Return a gliding tone with overtones, a silent gap and some noise."""
    rng = np.random.default_rng(samples)
    turns = np.cumsum(np.geomspace(110, 880, samples)) / RATE
    overtones = np.arange(1, 30)[:, None]
    tone = (np.sin(2 * np.pi * overtones * turns) / overtones).sum(axis=0)
    tone[samples // 3 : samples // 2] = 0
    sound = loudness * (0.4 * tone + 0.01 * rng.standard_normal(samples))
    exact_in_float32: Numbers = sound.astype(np.float32).astype(np.float64)
    return exact_in_float32


def worst(got: Numbers, want: Numbers) -> float:
    """Return the largest difference in the logarithm, but for what is within float32's reach of nothing at all."""
    assert got.shape == want.shape
    loud = want > math.log(1e-5) + 0.1
    assert loud.mean() > 0.5
    return float(np.abs(got - want)[loud].max())


@pytest.mark.parametrize("samples", [769, 1024, 10_000, 44_101, 130_000])
def test_is_the_formula(samples: int) -> None:
    """In float64 and with a fast transform it comes to the same, at any length."""
    audio = voice(samples)
    assert worst(made(audio), exact(audio)) < 1e-3


@pytest.mark.parametrize("loudness", [1e-3, 1.0])
def test_is_the_formula_at_any_loudness(loudness: float) -> None:
    """A whisper is as right as a shout."""
    audio = voice(20_000, loudness)
    assert worst(made(audio), exact(audio)) < 1e-3


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(lambda audio: exact(audio, np.hanning(N_FFT)), id="a symmetric window"),
        pytest.param(lambda audio: exact(audio, np.hamming(N_FFT)), id="another window"),
        pytest.param(lambda audio: exact(audio, np.ones(N_FFT)), id="no window"),
        pytest.param(lambda audio: exact(audio, mode="constant"), id="zeros at the ends"),
        pytest.param(lambda audio: exact(audio, mode="symmetric"), id="mirrored with the last sample doubled"),
        pytest.param(lambda audio: exact(audio, bands=basis(htk)), id="the other mel"),
        pytest.param(lambda audio: exact(audio, bands=BASIS * 1.002), id="bands that are a little too high"),
        pytest.param(lambda audio: exact(audio) / math.log(10), id="a decimal logarithm"),
    ],
)
def test_a_planted_mistake_is_seen(planted: Callable[[Numbers], Numbers]) -> None:
    """The bar is far below what the easy mistakes leave."""
    audio = voice(20_000)
    assert worst(made(audio), planted(audio)) > 1e-3


def test_silence_has_a_floor() -> None:
    """Nothing is quieter than the quietest, and nothing is not a number."""
    assert np.allclose(made(np.zeros(4096)), math.log(1e-5))


@pytest.mark.parametrize("samples", [1023, 1024, 1535, 1536])
def test_there_is_a_frame_for_every_whole_hop(samples: int) -> None:
    """What is left over at the end makes none."""
    assert made(voice(samples)).shape == (MELS, samples // HOP)


def test_the_weights_are_a_fourier_transform() -> None:
    """Cosines and sines under the window, to the last digit of float32."""
    rows = dft_weights(64, 64)[:, 0].double().numpy()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    want = np.fft.rfft(np.eye(64) * hann).T
    assert np.abs(rows - np.concatenate([want.real, want.imag])).max() < 1e-7


def test_a_shorter_window_stands_in_the_middle() -> None:
    """With as many zeros before it as after it."""
    heard = dft_weights(64, 40)[0, 0] != 0
    assert heard.nonzero().flatten().tolist() == list(range(13, 52))  # the window itself begins with a zero


@pytest.mark.parametrize("samples", [64, 40, 33])
def test_any_window_will_do(samples: int) -> None:
    """One of a checkpoint's, in its own precision, stands where a fast transform has it."""
    window = torch.hamming_window(samples)
    audio = torch.from_numpy(voice(500))
    want = torch.stft(audio, 64, 16, samples, window.double(), return_complex=True).abs().square()
    dft = Dft(64, 16).double()
    with torch.no_grad():
        dft.conv.weight.copy_(windowed(window, 64))
        got = dft(torch.nn.functional.pad(audio[None, None], (32, 32), "reflect"))[0]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


def test_a_shorter_window_is_mirrored_by_less() -> None:
    """The first frame's window begins where half of it lies before the sound."""
    audio = voice(9000)
    padded = np.pad(audio, (1200 - HOP) // 2, "reflect")
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1200) / 1200), (N_FFT - 1200) // 2)
    spectrum = np.fft.rfft(np.stack([padded[i : i + N_FFT] for i in range(0, len(padded) - N_FFT + 1, HOP)]) * window)
    want = np.log(np.maximum(BASIS @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9).T, 1e-5))
    got = network(window=1200)(torch.from_numpy(audio).float()[None])[0].double().numpy()
    assert worst(got, want) < 1e-3


def test_bands_are_slaneys() -> None:
    """Each number is right to float32's last digits, and each wide band has an area of 1 Hz."""
    got = mel_weights(RATE, N_FFT, MELS, LOW, HIGH)[..., 0].double().numpy()
    assert np.abs(got - BASIS).max() < 1e-8
    assert np.allclose(got[-20:].sum(axis=1) * RATE / N_FFT, 1, atol=1e-2)
