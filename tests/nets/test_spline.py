"""The spline's inverse is what the paper says, for whatever a network may say of its knots, and in float32 as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voicekiln.nets import spline

TAIL, LEAST = 5.0, 1e-3
LOST = 1e-5
"""What float32 may lose, in y and in x."""

STEADY = settings(max_examples=200, deadline=None, derandomize=True)
"""The same splines in every run, however busy the machine is; more of them belong into a longer run by hand."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A spline in the paper's words (Durkan et al. 2019, section 3.1), number by number in float64."""

    x: Numbers
    """Of the knots; the next two as well."""
    y: Numbers
    derivatives: Numbers

    def forward(self, x: float) -> float:
        """Equation 4."""
        if not -TAIL <= x <= TAIL:
            return x
        k, width, height, s = self._bin(self.x, x)
        xi = (x - self.x[k]) / width
        before, after = self.derivatives[k : k + 2]
        above = height * (s * xi**2 + before * xi * (1 - xi))
        return float(self.y[k] + above / (s + (after + before - 2 * s) * xi * (1 - xi)))

    def inverse(self, y: float) -> float:
        """Equations 6 to 8."""
        if not -TAIL <= y <= TAIL:
            return y
        k, width, height, s = self._bin(self.y, y)
        before, after = self.derivatives[k : k + 2]
        above = y - self.y[k]
        a = height * (s - before) + above * (after + before - 2 * s)
        b = height * before - above * (after + before - 2 * s)
        c = -s * above
        return float(2 * c / (-b - np.sqrt(b * b - 4 * a * c)) * width + self.x[k])

    def _bin(self, knots: Numbers, place: float) -> tuple[int, float, float, float]:
        """Return which bin it is, its width and height, and their quotient."""
        k = int(np.clip(np.searchsorted(knots, place, side="right") - 1, 0, len(knots) - 2))
        width, height = self.x[k + 1] - self.x[k], self.y[k + 1] - self.y[k]
        return k, width, height, height / width


@dataclass(frozen=True, slots=True)
class Said:
    """What a network says of one spline."""

    widths: Numbers
    heights: Numbers
    derivatives: Numbers

    def curve(self) -> Curve:
        """Return the spline as the paper has it, its ends as steep as the tails."""
        inner = LEAST + np.logaddexp(0, self.derivatives)
        return Curve(_knots(self.widths), _knots(self.heights), np.concatenate([[1], inner, [1]]))

    def ours(self, y: Numbers, dtype: torch.dtype = torch.float64) -> Numbers:
        """Return what our inverse makes of (tokens,), each token on this spline."""
        tables = (self.widths, self.heights, self.derivatives)
        widths, heights, derivatives = (
            torch.from_numpy(table).to(dtype)[None, :, None].repeat(1, 1, len(y)) for table in tables
        )
        places = torch.from_numpy(y).to(dtype)[None, None]
        got = spline.inverse(places, widths, heights, derivatives, len(self.widths))
        assert (got.shape, got.dtype) == ((1, 1, len(y)), dtype)
        return got[0, 0].double().numpy()


def _knots(said: Numbers) -> Numbers:
    """Return the knots from -TAIL to TAIL, no two nearer than they may be."""
    shares = np.exp(said - said.max())
    shares = LEAST + (1 - LEAST * len(said)) * shares / shares.sum()
    return np.concatenate([[-TAIL], 2 * TAIL * np.cumsum(shares)[:-1] - TAIL, [TAIL]])


def drawn(seed: int, bins: int, scale: float) -> Said:
    """Return numbers of that size, rounded to float32."""
    rng = np.random.default_rng(seed)
    sizes = (bins, bins, bins - 1)
    return Said(*((scale * rng.standard_normal(size, np.float32)).astype(np.float32).astype(float) for size in sizes))


def splines(*scales: float) -> st.SearchStrategy[Said]:
    """Draw from what a network may say, equal bins and one that takes nearly all of the room included."""
    return st.builds(drawn, st.integers(0, 2**32), st.integers(2, 12), st.sampled_from(scales))


def everywhere(said: Said) -> Numbers:
    """Return y in order: evenly over spline and tails, on every knot, and around the ends."""
    ends = [side * np.nextafter(TAIL, away) for side in (-1, 1) for away in (0, TAIL, 9)]
    return np.sort(np.concatenate([np.linspace(-8, 8, 97), said.curve().y, ends, [-1e6, 1e6]]))


@STEADY
@given(splines(0, 1, 4, 15))
def test_is_what_the_paper_says(said: Said) -> None:
    """Between the knots, on them, at both ends and in the tails."""
    y, curve = everywhere(said), said.curve()
    np.testing.assert_allclose(said.ours(y), [curve.inverse(each) for each in y], rtol=0, atol=1e-9)


@STEADY
@given(splines(0, 1, 4, 15))
def test_the_spline_undoes_it(said: Said) -> None:
    """What went backwards comes forwards to where it began."""
    y, curve = everywhere(said), said.curve()
    np.testing.assert_allclose([curve.forward(x) for x in said.ours(y)], y, rtol=0, atol=1e-9)


@STEADY
@given(splines(1, 15, 100, 1e4, 1e6))
def test_float32_loses_little(said: Said) -> None:
    """Not even on curves that no voice has: x is that of a y nearby."""
    y, curve = everywhere(said), said.curve()
    y = y.astype(np.float32).astype(float)
    got = said.ours(y, torch.float32)
    least, most = (np.array([curve.inverse(each + side * LOST) + side * LOST for each in y]) for side in (-1, 1))
    assert ((least <= got) & (got <= most)).all()


@STEADY
@given(splines(0, 1, 15, 100, 1e4, 1e6), st.sampled_from([torch.float32, torch.float64]))
def test_rises_and_stays_in_its_place(said: Said, dtype: torch.dtype) -> None:
    """A larger y has no smaller x but by rounding, and what is between the tails stays there."""
    y = everywhere(said)
    got = said.ours(y, dtype)
    assert (np.diff(got) >= -2e-6).all()
    assert (np.abs(got[np.abs(y) <= TAIL]) <= TAIL + 2e-6).all()


@STEADY
@given(splines(0, 1, 15))
def test_goes_over_into_the_tails(said: Said) -> None:
    """Without a step, as steep as they are; in them nothing is moved by a single bit."""
    out = np.array([-1e30, -7.0, -6.5, np.nextafter(-TAIL, -9), np.nextafter(TAIL, 9), 6.5, 7.0, np.inf])
    assert np.array_equal(said.ours(out), out)
    ends = np.array([-TAIL, TAIL])
    np.testing.assert_allclose(said.ours(ends), ends, rtol=0, atol=1e-12)
    near = 1e-9
    rise = (said.ours(ends) - said.ours(ends * (1 - near))) / (ends * near)
    np.testing.assert_allclose(rise, 1, atol=2e-2)


def test_equal_bins_move_nothing() -> None:
    """With derivatives of 1 between them the spline is a line."""
    level = np.log(np.expm1(1 - LEAST))
    y = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(Said(np.zeros(10), np.zeros(10), np.full(9, level)).ours(y), y, atol=1e-12)


def test_what_is_not_chosen_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of every choice, in float32 and far out in the tails as well."""
    where, choices = torch.where, list[bool]()

    def choose(which: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        choices.extend(bool(side.isfinite().all()) for side in (one, other))
        return where(which, one, other)

    monkeypatch.setattr(torch, "where", choose)
    for scale in (0, 1, 100, 1e6):
        for seed in range(20):
            said = drawn(seed, 10, scale)
            said.ours(everywhere(said), torch.float32)
    assert len(choices) == 4 * 4 * 20
    assert all(choices)


Plant = Callable[[Said], Said]
PLANTS: dict[str, Plant] = {
    "widths for heights": lambda said: Said(said.heights, said.widths, said.derivatives),
    "derivatives one knot off": lambda said: Said(said.widths, said.heights, np.roll(said.derivatives, 1)),
    "widths that are not scaled": lambda said: Said(said.widths * 14, said.heights, said.derivatives),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_the_comparison_can_fail(plant: Plant) -> None:
    """Tables that are mixed up are noticed."""
    said = drawn(0, 10, 1)
    y, curve = everywhere(said), said.curve()
    want = np.array([curve.inverse(each) for each in y])
    assert np.abs(said.ours(y) - want).max() < 1e-9
    assert np.abs(plant(said).ours(y) - want).max() > 1e-2
