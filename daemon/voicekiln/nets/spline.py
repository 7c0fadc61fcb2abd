"""The rational-quadratic spline of Durkan et al. 2019 ("Neural Spline Flows"), in its inverse direction: from y to x.

Between -5 and 5 a curve rises from knot to knot, in each bin as a quotient of two quadratics; in the tails x is y.
Every y goes through the curve, those in the tails as its ends, and which x is right is chosen afterwards: to pick out
elements by a condition would give a graph in which the numbers decide the lengths. What is not chosen is a number all
the same, as there are runtimes that choose by multiplication.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

TAIL = 5.0
"""Where the linear tails begin, on both sides; this and the next as in VITS."""
LEAST = 1e-3
"""Of a derivative, and of a bin's share of the whole width and height."""


def inverse(
    y: torch.Tensor, widths: torch.Tensor, heights: torch.Tensor, derivatives: torch.Tensor, bins: int
) -> torch.Tensor:
    """Return the x at which the spline is y, (1, 1, tokens), by the paper's equations 6 to 8.

    Args:
        y: (1, 1, tokens).
        widths: Of the bins, (1, bins, tokens), before the softmax that makes shares of them.
        heights: As the widths.
        derivatives: At the knots between the bins, (1, bins - 1, tokens), before the softplus that makes them positive.
        bins: How many; an exported graph would have to compute it.
    """
    within = torch.clamp(y, -TAIL, TAIL)
    across, up = _knots(widths, bins), _knots(heights, bins)
    first, last, level = torch.full_like(y, -TAIL), torch.full_like(y, TAIL), torch.ones_like(y)
    tables = torch.cat(
        [
            torch.cat([first, across, last], dim=1),
            torch.cat([first, up, last], dim=1),
            torch.cat([level, LEAST + F.softplus(derivatives), level], dim=1),  # at the ends that of the tails
        ]
    )
    left = (within >= up).sum(1, keepdim=True)
    x = _solve(within, *(tables.gather(1, torch.cat([knot] * 3)) for knot in (left, left + 1)))
    return torch.where(y.abs() <= TAIL, x, y)


def _knots(sizes: torch.Tensor, bins: int) -> torch.Tensor:
    """Return where the bins meet, (1, bins - 1, tokens)."""
    shares = LEAST + (1 - LEAST * bins) * torch.softmax(sizes, dim=1)
    return 2 * TAIL * torch.cumsum(shares[:, :-1], dim=1) - TAIL


def _solve(y: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return x for y between two knots, of each of which (3, 1, tokens) has x, y and derivative.

    It is the paper's root 2c / (-b - sqrt(b^2 - 4ac)), with d = b + 2c and the bin's slope s: b^2 - 4ac is
    d^2 + (2s)^2 * above * below. Computed as the paper writes it, float32 loses all digits where a bin is steep at one
    knot and flat at the other; here only d can, where it does not matter, and x stays in its bin.
    """
    start, bottom, derivative = torch.split(left, 1)
    end, top, next_derivative = torch.split(right, 1)
    above, below = y - bottom, top - y
    twice = 2 * (top - bottom) / (end - start)
    d = derivative * below - next_derivative * above
    rest = d.abs() + torch.sqrt(d * d + twice * above * twice * below)
    share = torch.where(d >= 0, twice * above / (twice * above + rest), rest / (rest + twice * below))
    return start + share * (end - start)
