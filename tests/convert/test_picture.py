"""The picture of a verification shows the waves and their difference as they are."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from voicekiln.convert.picture import COLUMNS, draw
from voicekiln.job import PICTURE

Track = NDArray[np.uint8]


def tracks(picture: str) -> list[Track]:
    """Return the six tracks of a picture."""
    assert PICTURE.fullmatch(picture)
    return list(np.frombuffer(base64.urlsafe_b64decode(picture), np.uint8).reshape(6, COLUMNS))


def glide(samples: int = 38_800) -> NDArray[np.float32]:
    """Return a tone that swells from nothing to half of full scale."""
    at = np.linspace(0, 1, samples)
    return (0.5 * at * np.sin(2 * np.pi * 200 * at)).astype(np.float32).reshape(1, 1, -1)


def test_equal_waves_have_equal_tracks_and_no_difference() -> None:
    """Both waves look the same, and the level of the difference lies on the floor."""
    low, high, onnx_low, onnx_high, level, difference = tracks(draw(glide(), glide()))
    assert np.array_equal(low, onnx_low)
    assert np.array_equal(high, onnx_high)
    assert not difference.any()
    assert level[0] < level[50] < level[99]


def test_the_peak_fills_the_height() -> None:
    """Whatever the loudness, the original's largest value is at one end of the scale, and silence in the middle."""
    low, high, *_ = tracks(draw(glide() * 1e-3, glide() * 1e-3))
    assert max(high.max(), 255 - low.min()) == 255
    assert {low[0], high[0]} <= set(range(125, 131))


def test_a_column_shows_what_happens_in_it_and_in_no_other() -> None:
    """A click is in one column of the wave, and in the same one of the difference."""
    clicked = glide()
    clicked[0, 0, 25 * 388 + 100] = -0.5
    _, _, onnx_low, _, _, difference = tracks(draw(glide(), clicked))
    assert onnx_low[25] == 0
    assert np.flatnonzero(difference).tolist() == [25]


@pytest.mark.parametrize("distance_db", [20.0, 55.0, 100.0, 140.0])
def test_the_levels_are_a_distance_in_decibels(distance_db: float) -> None:
    """An error that is so much weaker than the original lies as far below it, as exactly as a byte can say."""
    exact = np.ones((1, 1, 38_800))
    *_, level, difference = tracks(draw(exact, exact * (1 + 10 ** (-distance_db / 20))))
    assert level.tolist() == [255] * COLUMNS
    assert np.all(np.abs((255 - difference.astype(float)) * 200 / 255 - distance_db) <= 200 / 255 / 2 + 1e-6)


def test_what_is_louder_than_the_original_stays_on_the_scale() -> None:
    """Nothing wraps around."""
    low, high, onnx_low, onnx_high, _, difference = tracks(draw(glide(), -3 * glide()))
    assert onnx_high[99] == 255 >= high[99]
    assert onnx_low[99] == 0 <= low[99]
    assert difference[99] == 255


@pytest.mark.parametrize("samples", [1, 7, 99, 100, 101, 250])
def test_any_number_of_samples_makes_a_hundred_columns(samples: int) -> None:
    """A run that is shorter than the picture is wide, too."""
    wave = np.linspace(-1, 1, samples, dtype=np.float32)
    low, high, *_ = tracks(draw(wave, wave))
    assert low[0] == 0
    assert high[-1] == 255 or samples == 1


@given(
    waves=arrays.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 400)), elements=st.floats(-1e6, 1e6, width=32))
)
def test_least_is_never_above_greatest(waves: NDArray[np.float32]) -> None:
    """Of any two waves a picture is made that the page takes."""
    low, high, onnx_low, onnx_high, _, _ = tracks(draw(waves[0], waves[1]))
    assert np.all(low <= high)
    assert np.all(onnx_low <= onnx_high)
