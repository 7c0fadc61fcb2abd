"""Weight norm folds to what PyTorch computes from it, for plain and transposed convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from voicekiln.nets.weight_norm import fold, older_spelling


@pytest.mark.parametrize("conv", [nn.Conv1d(6, 4, 5), nn.ConvTranspose1d(6, 4, 5), nn.Conv2d(3, 4, (5, 1))])
def test_folds_to_what_pytorch_computes(conv: nn.Module) -> None:
    """Over all axes but the first."""
    normed = parametrizations.weight_norm(conv)
    normed.parametrizations["weight"].original0.data *= 1.7
    folded = fold({f"up.{name}": tensor for name, tensor in normed.state_dict().items()})
    assert folded.keys() == {"up.weight", "up.bias"}
    torch.testing.assert_close(folded["up.weight"], normed.weight.detach(), atol=1e-7, rtol=1e-6)


def test_half_weights_are_folded_in_full_precision() -> None:
    """Nothing is lost beyond what the file itself has lost."""
    g, v = torch.rand(4, 1, 1).half(), torch.randn(4, 3, 5).half()
    folded = fold({"up.weight_g": g, "up.weight_v": v})["up.weight"]
    norm = v.double().square().sum((1, 2), keepdim=True).sqrt()
    assert folded.dtype == torch.float32
    torch.testing.assert_close(folded.double(), g.double() * v.double() / norm, atol=1e-8, rtol=3e-7)


def test_leaves_the_rest_as_it_is_but_for_precision() -> None:
    """Order included."""
    rest = {"b.bias": torch.ones(2).half(), "a.weight": torch.ones(2, 2)}
    folded = fold(rest)
    assert list(folded) == ["b.bias", "a.weight"]
    assert {tensor.dtype for tensor in folded.values()} == {torch.float32}


@pytest.mark.parametrize("alone", ["x.weight_g", "x.weight_v"])
def test_half_a_pair_is_an_error(alone: str) -> None:
    """It is never guessed."""
    with pytest.raises(KeyError):
        fold({alone: torch.ones(2, 1, 1)})


def test_spellings() -> None:
    """Only the newer names change."""
    assert older_spelling("dec.ups.0.parametrizations.weight.original0") == "dec.ups.0.weight_g"
    assert older_spelling("dec.ups.0.parametrizations.weight.original1") == "dec.ups.0.weight_v"
    assert older_spelling("parametrizations.weight.original1.bias") == "parametrizations.weight.original1.bias"
