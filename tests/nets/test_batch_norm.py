"""Batch norm in use is a factor and a summand, and comes to what PyTorch's own makes of the same four tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voicekiln.nets.batch_norm import BatchNorm, affine


def drawn(norm: nn.Module) -> nn.Module:
    """Give PyTorch's batch norm numbers, variances of four orders of magnitude among them."""
    rng = torch.Generator().manual_seed(3)
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).data.normal_(generator=rng)
    norm.get_buffer("running_var").copy_(torch.logspace(-3, 1, 7))
    return norm.eval()


@pytest.mark.parametrize(("whole", "shape"), [(nn.BatchNorm1d(7), (2, 7, 9)), (nn.BatchNorm2d(7), (2, 7, 3, 4))])
def test_is_pytorchs(whole: nn.Module, shape: tuple[int, ...]) -> None:
    """With one axis behind the channels, and with two."""
    norm = drawn(whole)
    folded = BatchNorm(7, len(shape) - 2)
    numbers = affine(*(norm.state_dict()[name] for name in ("weight", "bias", "running_mean", "running_var")))
    assert (numbers.dtype, numbers.shape) == (torch.float32, (2, 7))
    with torch.no_grad():
        folded.affine.copy_(numbers.reshape(folded.affine.shape))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(folded(x), norm(x), atol=1e-5, rtol=1e-5)


def test_a_variance_below_zero_is_not_a_number() -> None:
    """It is left to the reader of weights to refuse it."""
    ones = torch.ones(2)
    assert affine(ones, ones, ones, torch.tensor([1.0, -1.0])).isnan().tolist() == [[False, True], [False, True]]
