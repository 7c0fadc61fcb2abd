"""Which frames speak which token: the durations made whole, and what is known of tokens laid out over frames.

The monotonic alignment of Glow-TTS (Kim et al. 2020), of which only what speaking needs is here: its path matrix is
never made, frames look up their token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MAX_TOKEN_FRAMES = 1000
"""That one token may last, ten seconds or so: a predictor gone astray asks for more than any memory holds."""


class Prior(NamedTuple):
    """Of each frame."""

    mean: torch.Tensor
    """(1, channels, frames)."""
    log_deviation: torch.Tensor
    """(1, channels, frames)."""
    mask: torch.Tensor
    """1, or 0 where no token is spoken any more, (frames,)."""


def whole_frames(w: torch.Tensor) -> torch.Tensor:
    """Return how many frames each token lasts, int64, for any numbers: `MAX_TOKEN_FRAMES` at most, NaN for none."""
    # All of them are small before the cast: what infinity or NaN is as a whole number depends on the processor.
    counted = torch.where(w > 0, torch.clamp(torch.ceil(w), max=MAX_TOKEN_FRAMES), torch.zeros_like(w))
    return counted.long()


def align(mean: torch.Tensor, log_deviation: torch.Tensor, durations: torch.Tensor, places: torch.Tensor) -> Prior:
    """Return the prior of each frame: that of the token in whose stretch it lies.

    It is the product with the path matrix of Kim et al. 2020 (Glow-TTS), looked up.

    Args:
        mean: Of each token, (1, channels, tokens).
        log_deviation: As `mean`.
        durations: Frames of each token, int64, (1, tokens); as if they were within 0 .. `MAX_TOKEN_FRAMES`.
        places: The frames that are wanted, counted from 0, (frames,).
    """
    ends = torch.cumsum(torch.clamp(durations, 0, MAX_TOKEN_FRAMES).reshape(-1), dim=0)
    over = (ends.unsqueeze(1) <= places).long()  # (tokens, frames): 1 where a token has been spoken
    token = torch.clamp(over.sum(0), max=ends.shape[0] - 1)
    mask = (places < ends[-1]).to(mean.dtype)
    return Prior(torch.index_select(mean, 2, token), torch.index_select(log_deviation, 2, token), mask)
