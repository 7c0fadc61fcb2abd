"""The networks make of the reference voices what RVC's original code made of them, and the comparison can fail.

The bar is 100 dB; two right implementations in float32 agree to 110 dB and more, one mistake leaves 3 to 60.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reference_voices
from families.contract import Built, run
from outlines import outline, tensors
from plain_export import network
from voicekiln.families import choose
from voicekiln.families.rvc_feed import coarse

BAR_DB = 100


@lru_cache(maxsize=1)
def voice(name: str) -> Built:
    """Return the reference voice, built as the converter does."""
    checkpoint = reference_voices.checkpoint(name)
    seen = outline(checkpoint)
    family, claim = choose(seen)
    assert claim.notes == ()
    exportable = family.build(claim, seen)
    return Built(exportable, network(exportable, tensors(checkpoint)))


def agreement_db(built: Built, run_: dict[str, Any]) -> float:
    """Return how well the network's audio agrees with the original's."""
    return reference_voices.ac_snr_db(run_["audio"], run(built, run_))


@pytest.mark.parametrize("name", reference_voices.names())
def test_sounds_like_the_original(name: str) -> None:
    """At both lengths, with an unvoiced gap in each."""
    for one in reference_voices.runs(name):
        assert agreement_db(voice(name), one) > BAR_DB


def test_coarse_pitch_is_the_originals() -> None:
    """The formula in the sidecar gives the reference's own `pitch`."""
    for one in reference_voices.runs("rvc-v2-40k-f0"):
        assert np.array_equal(coarse(one["pitchf"]), one["pitch"])


Plant = Callable[[nn.Module, dict[str, Any]], object]


def _forwards(module: Any, _run: dict[str, Any]) -> None:
    module.flow.flows = nn.ModuleList(reversed(module.flow.flows))


def _no_flow(module: Any, _run: dict[str, Any]) -> None:
    module.flow.flows = nn.ModuleList()


def _no_flips(module: Any, _run: dict[str, Any]) -> None:
    module.flow.flows = nn.ModuleList(list(module.flow.flows)[::2])


def _padding(module: Any, _run: dict[str, Any]) -> None:
    conv = module.dec.resblocks[0].convs1[2]  # as if the dilation had been forgotten; the length stays
    conv.padding, conv.dilation = (0, 1), (1, 1)


def _window(module: Any, _run: dict[str, Any]) -> None:
    for layer in module.enc_p.encoder.attn_layers:
        layer.emb_rel_k = nn.Parameter(layer.emb_rel_k.flip(1), requires_grad=False)


def _slope(module: Any, _run: dict[str, Any]) -> None:
    module.dec.conv_post.register_forward_pre_hook(lambda _, x: torch.where(x[0] < 0, x[0] * 10, x[0]))


def _speaker(_module: Any, run_: dict[str, Any]) -> None:
    run_["ds"] = run_["ds"] + 1


def _unscaled_noise(_module: Any, run_: dict[str, Any]) -> None:
    run_["rnd"] = run_["rnd"] / np.float32(reference_voices.RND_SCALE)


def _pitch_step(_module: Any, run_: dict[str, Any]) -> None:
    run_["pitch"] = run_["pitch"] + 1


def _detuned(_module: Any, run_: dict[str, Any]) -> None:
    run_["pitchf"] = run_["pitchf"] * np.float32(1.0005)


PLANTS = [_forwards, _no_flow, _no_flips, _padding, _window, _slope, _speaker, _unscaled_noise, _pitch_step, _detuned]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_mistake_is_heard(plant: Plant) -> None:
    """Each of the mistakes that are easily made falls far below the bar, so that the bar means something."""
    built = copy.deepcopy(voice("rvc-v2-40k-f0"))
    one = reference_voices.runs("rvc-v2-40k-f0")[1]
    plant(built.network, one)
    assert agreement_db(built, one) < BAR_DB - 20
