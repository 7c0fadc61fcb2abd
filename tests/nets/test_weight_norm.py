"""Weight norm folds to what PyTorch computes from it, for plain and transposed convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from voicekiln.nets.weight_norm import norm_scale, older_spelling


@pytest.mark.parametrize("conv", [nn.Conv1d(6, 4, 5), nn.ConvTranspose1d(6, 4, 5), nn.Conv2d(3, 4, (5, 1))])
def test_folds_to_what_pytorch_computes(conv: nn.Module) -> None:
    """Over all axes but the first."""
    normed = parametrizations.weight_norm(conv)
    g, v = (getattr(normed.parametrizations["weight"], f"original{i}").detach() for i in range(2))
    g *= 1.7
    assert norm_scale(g, v).shape == g.shape
    torch.testing.assert_close(v * norm_scale(g, v), normed.weight.detach(), atol=1e-7, rtol=1e-6)


def test_half_weights_are_folded_in_full_precision() -> None:
    """Nothing is lost beyond what the file itself has lost."""
    g, v = torch.rand(4, 1, 1).half(), torch.randn(4, 3, 5).half()
    scale = norm_scale(g, v)
    norm = v.double().square().sum((1, 2), keepdim=True).sqrt()
    assert scale.dtype == torch.float32
    assert torch.equal(scale, (g.double() / norm).float())


def test_a_row_of_zeros_gives_no_number() -> None:
    """As in the original, and in its own row alone."""
    g, v = torch.tensor([2.0, 0.0, 3.0]).view(3, 1, 1), torch.ones(3, 2, 2)
    v[:2] = 0
    assert norm_scale(g, v).flatten().isfinite().tolist() == [False, False, True]


def test_spellings() -> None:
    """Only the newer names change."""
    assert older_spelling("dec.ups.0.parametrizations.weight.original0") == "dec.ups.0.weight_g"
    assert older_spelling("dec.ups.0.parametrizations.weight.original1") == "dec.ups.0.weight_v"
    assert older_spelling("parametrizations.weight.original1.bias") == "parametrizations.weight.original1.bias"
