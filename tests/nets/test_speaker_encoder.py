"""The speaker encoder makes of the reference's clips what the original makes of them, and the comparison can fail.

In float64 the original's vectors differ by 0.000002, its mel spectrograms by 0.0001 in the quietest bands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reference_voices
from outlines import outline, tensors
from plain_export import network
from reference_voices import Arrays
from voicekiln.families.base import Claim
from voicekiln.families.speaker_encoder import SpeakerEncoder
from voicekiln.nets.mel import dft_weights
from voicekiln.nets.speaker_encoder import Block, rows

NAME = "coqui-speaker-encoder"
BAR, BAR_LOG_MEL = 1e-5, 3e-4
WINDOW = 40_000
"""Samples."""


@cache
def encoder() -> nn.Module:
    """Return the reference encoder, built as the converter does."""
    checkpoint = reference_voices.checkpoint(NAME)
    claim = SpeakerEncoder().recognise(seen := outline(checkpoint))
    assert isinstance(claim, Claim)
    assert claim.notes == ()
    return network(SpeakerEncoder().build(claim, seen), tensors(checkpoint))


@cache
def clips() -> list[Arrays]:
    """Return the three clips: of one window, longer, shorter."""
    with np.load(reference_voices.FOLDER / f"{NAME}.npz") as arrays:
        return [{key[2:]: arrays[key] for key in arrays if key.startswith(f"{i}.")} for i in range(3)]


def windows(clip: Arrays) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the clip's ten windows, as the reference says where they begin."""
    return np.concatenate([clip["waveform"][:, start : start + WINDOW] for start in clip["window_starts"]])


def d_vectors(module: nn.Module, waveform: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what the network makes of windows."""
    with torch.no_grad():
        made: np.ndarray[Any, Any] = module(torch.from_numpy(waveform)).numpy()
    return made


def worst(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """Return the largest difference."""
    assert got.shape == want.shape
    return float(np.abs(got - want).max())


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_clip_is_the_originals(at: int) -> None:
    """In one pass over all of it."""
    clip = clips()[at]
    assert worst(d_vectors(encoder(), clip["waveform"]), clip["d_vector"]) <= BAR


@pytest.mark.parametrize("at", [0, 1, 2])
def test_windows_and_their_mean_are_the_originals(at: int) -> None:
    """All ten in one batch, and the mean, which is not brought back to length 1."""
    clip = clips()[at]
    made = d_vectors(encoder(), windows(clip))
    assert worst(made, clip["windows"]) <= BAR
    assert worst(made.mean(axis=0, keepdims=True), clip["d_vector_mean"]) <= BAR
    assert np.abs(np.linalg.norm(made, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_mel_spectrogram_is_the_originals(at: int) -> None:
    """Before it is normalised over time."""
    assert worst(log_mel(encoder(), clips()[at]["waveform"]), clips()[at]["log_mel"]) <= BAR_LOG_MEL


def log_mel(module: Any, waveform: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what is about to be normalised."""
    heard: list[torch.Tensor] = []
    hook = module.instancenorm.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0]))
    d_vectors(module, waveform)
    hook.remove()
    return heard[0].numpy()


def test_windows_do_not_mix() -> None:
    """A batch is its windows one by one, but for what is rounded otherwise."""
    exact = copy.deepcopy(encoder()).double()
    four = windows(clips()[1])[::3].astype(np.float64)
    one_by_one = np.concatenate([d_vectors(exact, four[at : at + 1]) for at in range(4)])
    assert worst(d_vectors(exact, four), one_by_one) <= 1e-12
    assert np.abs(one_by_one[0] - one_by_one[1]).max() > 0.01


def test_rows_are_rounded_up() -> None:
    """As a convolution of three with a border of one does."""
    assert [rows(mels) for mels in (64, 80, 65, 1)] == [8, 10, 9, 1]


def _emphasis(module: Any) -> None:
    module.torch_spec[0].filter[..., 0] = -0.95


def _mirrored_twice(module: Any) -> None:  # zeros in front of the first sample, as a filter without a border has them
    emphasis = module.torch_spec[0]
    emphasis.forward = lambda audio: torch.nn.functional.conv1d(
        torch.nn.functional.pad(audio, (1, 0)).unsqueeze(1), emphasis.filter
    )


def _hann(module: Any) -> None:
    module.torch_spec[1].spectrogram.conv.weight.copy_(dft_weights(512, 400))


def _shifted(module: Any) -> None:
    weight = module.torch_spec[1].spectrogram.conv.weight
    weight.copy_(weight.roll(56, 2))  # the window at the end of the transform


def _magnitudes(module: Any) -> None:
    module.torch_spec[1].spectrogram.register_forward_hook(lambda _m, _x, power: power.sqrt())


def _unbiased(module: Any) -> None:
    module.instancenorm.forward = lambda x: (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True) + 1e-5).sqrt()


def _as_usual(module: Any) -> None:  # the batch norm before the ReLU, as in other residual networks
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        made = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.se(made) + self.downsample(x))

    _replace(module, forward)


def _late_excitation(module: Any) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        made = self.bn2(self.conv2(self.bn1(torch.relu(self.conv1(x)))))
        excited: torch.Tensor = self.se(torch.relu(made + self.downsample(x)))
        return excited

    _replace(module, forward)


def _replace(module: Any, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    for block in [each for each in module.modules() if isinstance(each, Block)]:
        block.forward = MethodType(forward, block)  # type: ignore[method-assign]


def _keener_attention(module: Any) -> None:
    module.attention[0].weight.mul_(1.02)


def _plain_mean(module: Any) -> None:
    module.attention[4] = nn.Softmax(dim=1)


@pytest.mark.parametrize(
    "plant",
    [
        *(_emphasis, _mirrored_twice, _hann, _shifted, _magnitudes, _unbiased),
        *(_as_usual, _late_excitation, _keener_attention, _plain_mean),
    ],
)
def test_a_planted_mistake_is_seen(plant: Callable[[Any], object]) -> None:
    """Each of the mistakes that are easily made goes far beyond the bar."""
    module = copy.deepcopy(encoder())
    with torch.no_grad():
        plant(module)
    clip = clips()[2]
    assert worst(d_vectors(module, clip["waveform"]), clip["d_vector"]) > 3 * BAR
