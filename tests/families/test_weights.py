"""Each weight of a network is got from the checkpoint's tensors by its rule, one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from voicekiln.errors import BadNumbers
from voicekiln.families.weights import AsIs, Computed, Folded, Joined, read, rules
from voicekiln.nets.batch_norm import affine
from voicekiln.nets.weight_norm import older_spelling

FOLDED = Folded("up.weight_g", "up.weight_v")


def test_a_pair_becomes_one_weight_and_the_rest_stays() -> None:
    """A layer with weight norm has one weight in the network; whatever else there is, is read as it is."""
    names = ["up.weight_g", "up.weight_v", "up.bias", "emb.weight", "emb_rel_k"]
    assert rules(names) == {
        "up.weight": FOLDED,
        "up.bias": AsIs("up.bias"),
        "emb.weight": AsIs("emb.weight"),
        "emb_rel_k": AsIs("emb_rel_k"),
    }


def test_names_that_only_look_like_a_pair_stay() -> None:
    """Weight norm is what ends so, dot included."""
    names = ["weight_v", "weight_g", "up.my_weight_v", "up.weight_v.bias"]
    assert rules(names) == {name: AsIs(name) for name in names}


def test_the_newer_spelling_comes_to_the_same_rules() -> None:
    """A checkpoint's tensors are handed out under the older one."""
    newer = parametrizations.weight_norm(nn.Conv1d(2, 3, 5)).state_dict()
    assert rules(older_spelling(f"up.{name}") for name in newer) == {"up.weight": FOLDED, "up.bias": AsIs("up.bias")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_weight_as_it_is_is_not_touched(dtype: torch.dtype) -> None:
    """Neither copied nor converted: it may be as large as a file, and mapped from it."""
    tensor = torch.ones(2, 3, dtype=dtype)
    assert read(AsIs("a"), {"a": tensor}) is tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_folding_is_done_in_full_precision(dtype: torch.dtype) -> None:
    """The result is float32 and as exact as that is; the file's own tensors are left as they are."""
    rng = torch.Generator().manual_seed(5)
    g, v = torch.rand(4, 1, 1, generator=rng).to(dtype), torch.randn(4, 3, 5, generator=rng).to(dtype)
    before = v.clone()
    weight = read(FOLDED, {FOLDED.g: g, FOLDED.v: v})
    exact = g.double() * v.double() / v.double().square().sum((1, 2), keepdim=True).sqrt()
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.double(), exact, atol=0, rtol=2**-22)
    assert torch.equal(v, before)


def test_tables_are_joined_one_after_the_other() -> None:
    """They may have unequally many rows, each table by a rule of its own."""
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(1, 3)}
    assert read(Joined((AsIs("b"), AsIs("a"))), tensors).tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]


def test_a_computed_weight_needs_no_tensor() -> None:
    """It follows from its arguments; two rules are equal if these are."""
    rule = Computed(torch.arange, arguments=(2, 5))
    assert read(rule, {}).tolist() == [2, 3, 4]
    assert rule == Computed(torch.arange, arguments=(2, 5)) != Computed(torch.arange, arguments=(2, 6))


def test_a_weight_can_be_computed_from_tensors() -> None:
    """From several of them, in their order, and from settings."""
    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert read(Computed(torch.sub, ("b", "a")), tensors).tolist() == [-1, -1]
    assert read(Computed(torch.roll, ("a",), (1,)), {"a": torch.arange(3)}).tolist() == [2, 0, 1]


def test_a_batch_norm_that_cannot_be_is_bad_numbers() -> None:
    """A variance below zero, factor and summand of each such channel counted."""
    tensors = {name: torch.ones(3) for name in ("w", "b", "m")} | {"v": torch.tensor([1.0, -1.0, 4.0])}
    with pytest.raises(BadNumbers) as caught:
        read(Computed(affine, ("w", "b", "m", "v")), tensors)
    assert caught.value.found == {"count": 2, "tensor": "v"}


@pytest.mark.parametrize("g", [0.0, 1.0])
def test_rows_of_zeros_are_bad_numbers(g: float) -> None:
    """They are counted, and the tensor is named: every program would play NaN."""
    v = torch.ones(5, 2, 3)
    v[1], v[4] = 0, 0
    with pytest.raises(BadNumbers) as caught:
        read(FOLDED, {FOLDED.g: torch.full((5, 1, 1), g), FOLDED.v: v})
    assert caught.value.found == {"count": 2, "tensor": "up.weight_v"}


def test_numbers_that_grow_beyond_float32_are_bad() -> None:
    """Rows so small that the scale is infinite."""
    with pytest.raises(BadNumbers):
        read(FOLDED, {FOLDED.g: torch.ones(1, 1, 1), FOLDED.v: torch.full((1, 2, 3), 1e-40)})


@pytest.mark.parametrize("missing", ["up.weight_g", "up.weight_v"])
def test_half_a_pair_is_an_error(missing: str) -> None:
    """It is never guessed."""
    tensors = {FOLDED.g: torch.ones(2, 1, 1), FOLDED.v: torch.ones(2, 3, 1)}
    del tensors[missing]
    with pytest.raises(KeyError):
        read(FOLDED, tensors)
