"""Relative attention does what its definition says, offset by offset, and a mask hides what lies behind it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from voicekiln.nets.attention import MASKED, Encoder, LayerNorm, MultiHeadAttention, look

HEADS, SIZE, WINDOW = 2, 3, 4


def attention() -> MultiHeadAttention:
    """Return one with random weights."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(HEADS * SIZE, HEADS, WINDOW)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.double().requires_grad_(requires_grad=False)


def by_definition(layer: MultiHeadAttention, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the same with a loop over all pairs of frames (Shaw et al. 2018)."""
    frames = x.shape[-1]
    found = torch.zeros_like(x)
    query, key, value = (conv(x) for conv in (layer.conv_q, layer.conv_k, layer.conv_v))
    for head in range(HEADS):
        part = slice(head * SIZE, (head + 1) * SIZE)
        for i in range(frames):
            scores = torch.empty(frames, dtype=x.dtype)
            for j in range(frames):
                near = abs(j - i) <= WINDOW
                relative = layer.emb_rel_k[0, j - i + WINDOW] if near else torch.zeros(SIZE, dtype=x.dtype)
                scores[j] = query[0, part, i] @ (key[0, part, j] + relative) / math.sqrt(SIZE)
            weights = (scores + (1 - mask) * MASKED).softmax(0)
            for j in range(frames):
                near = abs(j - i) <= WINDOW
                relative = layer.emb_rel_v[0, j - i + WINDOW] if near else torch.zeros(SIZE, dtype=x.dtype)
                found[0, part, i] += weights[j] * (value[0, part, j] + relative)
    return layer.conv_o(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize("frames", [1, 2, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 13])
def test_is_what_the_definition_says(frames: int) -> None:
    """At lengths below, at and above the window, the last frames masked."""
    layer = attention()
    x = torch.randn(1, HEADS * SIZE, frames, dtype=torch.float64)
    mask = (torch.arange(frames) <= frames // 2).double()
    torch.testing.assert_close(layer(x, look(mask, HEADS, WINDOW)), by_definition(layer, x, mask))


Plant = Callable[[MultiHeadAttention], object]


@pytest.mark.parametrize(
    "plant",
    [
        lambda layer: setattr(layer, "emb_rel_k", torch.nn.Parameter(layer.emb_rel_k.roll(1, dims=1))),
        lambda layer: setattr(layer, "emb_rel_v", torch.nn.Parameter(layer.emb_rel_v.flip(1))),
    ],
)
def test_the_comparison_can_fail(plant: Plant) -> None:
    """Embeddings one offset off, or mirrored, are noticed."""
    right, wrong = attention(), attention()
    plant(wrong)
    x, mask = torch.randn(1, HEADS * SIZE, 9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    assert not torch.allclose(wrong(x, look(mask, HEADS, WINDOW)), by_definition(right, x, mask), atol=1e-3)


def test_frames_beyond_the_mask_change_nothing() -> None:
    """Whatever lies behind the end, the encoder hears the same, and says nothing there."""
    torch.manual_seed(1)
    encoder = Encoder(6, 8, heads=2, layers=2, kernel=3, window=WINDOW)
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0])
    x = torch.randn(1, 6, 6)
    other = torch.where(mask > 0, x, 1e6 * torch.randn(1, 6, 6))
    torch.testing.assert_close(encoder(x, mask), encoder(other, mask))
    assert not encoder(other, mask)[..., mask == 0].any()


def test_layer_norm_is_over_channels() -> None:
    """Each frame of its own."""
    x = torch.randn(1, 5, 3)
    got = LayerNorm(5)(x)
    torch.testing.assert_close(got.mean(1), torch.zeros(1, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.var(1, unbiased=False), torch.ones(1, 3), atol=1e-4, rtol=0)
