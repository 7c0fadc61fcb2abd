"""A verifier can learn what noise a network draws, and draw it for it."""

from __future__ import annotations

import torch

from voicekiln.nets.noise import Noise


def test_draws_anew_each_time() -> None:
    """Standard normal numbers."""
    noise, like = Noise(), torch.zeros(1, 20_000)
    first, second = noise(like), noise(like)
    assert not torch.equal(first, second)
    assert abs(float(first.std()) - 1) < 0.05


def test_replays_what_was_set() -> None:
    """What was set is what comes, until it is taken away."""
    noise, like = Noise(), torch.zeros(2, 3)
    noise.replay = torch.ones(2, 3)
    assert torch.equal(noise(like), torch.ones(2, 3))
    noise.replay = None
    assert not torch.equal(noise(like), torch.ones(2, 3))


def test_leaves_no_trace_among_the_weights() -> None:
    """A replay is no parameter and no buffer."""
    noise = Noise()
    noise.replay = torch.ones(2)
    assert not noise.state_dict()
