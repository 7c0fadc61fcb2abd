"""Each frame has the prior of the token in whose stretch it lies: Glow-TTS' path matrix, read as it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from voicekiln.nets.alignment import MAX_TOKEN_FRAMES, align, whole_frames

CHANNELS = 3


def path(durations: Sequence[int], frames: int) -> torch.Tensor:
    """Return the matrix of Kim et al. 2020, (tokens, frames): 1 where a token is spoken, token after token."""
    matrix = torch.zeros(len(durations), frames, dtype=torch.float64)
    frame = 0
    for token, duration in enumerate(durations):
        for _ in range(max(0, min(duration, MAX_TOKEN_FRAMES))):
            if frame < frames:
                matrix[token, frame] = 1
            frame += 1
    return matrix


LASTING = st.one_of(st.integers(0, 4), st.just(0), st.sampled_from([-(2**63), -1, 1000, 1001, 2**40, 2**63 - 1]))


@given(durations=st.lists(LASTING, min_size=1, max_size=12), frames=st.integers(1, 40))
@example(durations=[0, 0, 0], frames=1)
@example(durations=[0, 2, 0, 0, 3, 0], frames=5)
@example(durations=[3, 3], frames=4)
@example(durations=[2, 1], frames=9)
@example(durations=[1001, 1], frames=1002)
def test_is_the_product_with_the_path(durations: list[int], frames: int) -> None:
    """With tokens that last no time, with more frames than are spoken and with fewer, and with what cannot be."""
    rng = torch.Generator().manual_seed(0)
    mean, log_deviation = torch.randn(2, 1, CHANNELS, len(durations), generator=rng, dtype=torch.float64)
    got = align(mean, log_deviation, torch.tensor([durations]), torch.arange(frames))
    matrix = path(durations, frames)
    assert torch.equal(got.mask, matrix.sum(0))
    assert torch.equal(got.mean * got.mask, mean @ matrix)
    assert torch.equal(got.log_deviation * got.mask, log_deviation @ matrix)


@pytest.mark.parametrize(
    ("w", "frames"),
    [
        (0.0, 0),
        (1e-30, 1),
        (1.0, 1),
        (1.0001, 2),
        (998.5, 999),
        (MAX_TOKEN_FRAMES + 0.5, MAX_TOKEN_FRAMES),
        (3e38, MAX_TOKEN_FRAMES),
        (math.inf, MAX_TOKEN_FRAMES),
        (-0.5, 0),
        (-math.inf, 0),
        (math.nan, 0),
    ],
)
def test_any_prediction_is_a_number_of_frames(w: float, frames: int) -> None:
    """Rounded up, and bounded before it is a whole number."""
    assert whole_frames(torch.tensor([w])).tolist() == [frames]
