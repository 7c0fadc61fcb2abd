"""The flow, run backwards, undoes the flow run forwards."""

from __future__ import annotations

import torch

from voicekiln.nets.flow import ResidualCouplingBlock, ResidualCouplingLayer


def block() -> ResidualCouplingBlock:
    """Return one with random weights."""
    torch.manual_seed(0)
    return ResidualCouplingBlock(channels=6, hidden=8, layers=3, gin_channels=4, steps=3).double()


def forwards(flow: ResidualCouplingBlock, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Run it as in training: couplings add the mean, flips turn the channels over, first step first."""
    for step in flow.flows:
        if isinstance(step, ResidualCouplingLayer):
            kept, moved = x.chunk(2, dim=1)
            x = torch.cat([kept, moved + step.post(step.enc(step.pre(kept) * mask, mask, g)) * mask], dim=1)
        else:
            x = x.flip(1)
    return x


def test_backwards_undoes_forwards() -> None:
    """For every frame within the mask; beyond it is nothing."""
    x, g = torch.randn(1, 6, 9, dtype=torch.float64), torch.randn(1, 4, 1, dtype=torch.float64)
    mask = (torch.arange(9) < 7).double()
    flow = block()
    there = forwards(flow, x * mask, mask, g)
    torch.testing.assert_close(flow(there, mask, g), x * mask)
    assert not torch.allclose(there, x * mask, atol=1e-2)


def test_the_speaker_matters() -> None:
    """The flow is conditioned."""
    flow, x, mask = block(), torch.randn(1, 6, 9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    one, other = (flow(x, mask, torch.full((1, 4, 1), level, dtype=torch.float64)) for level in (0.0, 1.0))
    assert not torch.allclose(one, other, atol=1e-3)
