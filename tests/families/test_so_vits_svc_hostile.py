"""Whatever stands in a so-vits-svc voice's outline or beside it, looking ends in a claim or in a refusal in words."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_sovits
from families.spoiling import OF_TENSORS, spoil_tensors, values
from outlines import outline
from voicekiln.errors import Contradiction, OtherFamily, Refusal
from voicekiln.families import choose
from voicekiln.families.base import PLAIN, Claim, Outline
from voicekiln.families.so_vits_svc import V41, SoVitsSvc
from voicekiln.families.so_vits_svc import outline as usual
from voicekiln.job import Recipe

VOICES = [
    replace(outline(tiny_sovits.tiny(variant)), beside={"config.json": tiny_sovits.config(variant)})
    for variant in ("default", "vol", "snake", "tiny", "shared-transformer", "no-f0-decoder", "fork")
]
MEASURED = (
    "emb_g.weight",
    "pre.weight",
    "enc_p.proj.weight",
    "enc_p.enc_.ffn_layers.0.conv_1.weight",
    "enc_p.enc_.attn_layers.0.emb_rel_k",
    "dec.conv_pre.weight_v",
    "dec.ups.0.weight_v",
    "dec.noise_convs.0.weight",
    "dec.noise_convs.4.weight",
    "flow.flows.0.pre.weight",
    "flow.flows.0.enc.ffn_layers.0.conv_1.weight",
)
"""Tensors that settings are read from."""
NEW = (
    "f0_decoder.",
    "f0_decoder.decoder.self_attn_layers.99999.conv_q.weight",
    "flow.wn.in_layers.63.weight_v",
    "flow.wn.",
    "flow.flows.63.pre.weight",
    "flow.flows.0.enc.self_attn_layers.0.conv_q.weight",
    "flow.flows.0.enc.in_layers.0.depth_conv.weight",
    "enc_p.enc_.attn_layers.99999999999999999999.conv_q.weight",
    "dec.snakes.0.act.alpha",
    "dec.ups.63.weight_v",
    "dec.ups.-1.weight",
    "emb_vol.weight",
    "weight_g",
    "enc_q.x",
)
"""Names that say that there is more."""

names = st.one_of(st.sampled_from(NEW), st.text(max_size=12))


@st.composite
def outlines(draw: st.DrawFn) -> Outline:
    """Return the outline of a voice with a little of it spoilt, so that looking gets far."""
    voice = draw(st.sampled_from(VOICES))
    tensors, beside = dict(voice.tensors), json.loads(json.dumps(voice.beside))
    name = draw(st.one_of(st.sampled_from(sorted(tensors)), st.sampled_from(MEASURED)))
    for spoil in draw(st.lists(st.sampled_from([*OF_TENSORS, "config", "own"]), max_size=3)):
        if spoil_tensors(draw, spoil, tensors, name, names):
            continue
        match spoil:
            case "config":
                _spoil(draw, beside)
            case _:
                beside["voice.json"] = draw(values) if draw(st.booleans()) else beside.get("config.json")
    return Outline(tensors, {"iteration": draw(values)}, voice.tensor_key, voice.keys, beside)


def _spoil(draw: st.DrawFn, beside: dict[str, Any]) -> None:
    """Spoil one value of the config, or a whole part, or all of it."""
    config = beside["config.json"]
    part = draw(st.sampled_from(["model", "model", "data", "spk"]))
    if isinstance(config, dict) and isinstance(config.get(part), dict) and config[part] and draw(st.integers(0, 5)):
        config[part][draw(st.sampled_from(sorted(config[part])))] = draw(values)
    elif isinstance(config, dict) and draw(st.booleans()):
        config[part] = draw(values)
    else:
        beside["config.json"] = draw(values)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(outlines())
def test_a_hostile_outline_ends_in_words(hostile: Outline) -> None:
    """Never in another exception; what is claimed can be written as JSON, and each of its parts be described."""
    with suppress(Refusal):
        family, claim = choose(hostile)
        json.dumps({"model": claim.model, "notes": claim.notes}, allow_nan=False)
        if isinstance(family, SoVitsSvc):
            for part in family.parts(claim, PLAIN):
                for recipe in (PLAIN, Recipe("mix", speaker_mix=True)):
                    built = family.build(claim, hostile, part, recipe)
                    json.dumps({"feed": built.feed, "metadata": built.metadata}, allow_nan=False)


def test_no_spoiling_is_a_claim() -> None:
    """What the other test spoils is whole before: it would pass as well on voices that nobody claims."""
    for voice in VOICES:
        family, claim = choose(voice)
        assert isinstance(family, SoVitsSvc)
        assert claim.notes == ()


def test_what_no_onnx_file_can_hold_is_refused_and_not_tried() -> None:
    """Neither 2 GB of weights nor an attention that sees minutes: the first as too large, the second as no voice's."""
    with pytest.raises(OtherFamily, match="more than one ONNX file can hold"):
        choose(usual(replace(V41, filter_channels=65_536, layers=12), ("a",), "vec768l12"))
    with pytest.raises(Contradiction, match="2000 frames to each side"):
        choose(usual(replace(V41, window=2000), ("a",), "vec768l12"))


@pytest.mark.parametrize("hop", [8192, 65_536])
def test_a_frame_that_fills_the_memory_is_refused(hop: int) -> None:
    """No tensor tells the first rate where kernels allow many: the config could ask for any memory."""
    made = replace(V41, rates=(hop // 64, 8, 2, 2, 2), up_kernels=(2 * hop // 64, 16, 4, 4, 4))
    seen = usual(made, ("a",), "vec768l12")
    answer = SoVitsSvc().recognise
    with pytest.raises(Contradiction):
        answer(replace(seen, beside={"voice.json": seen.beside["config.json"]}))


def test_a_speaker_for_each_row_and_no_more() -> None:
    """Two hundred names are taken; a list of a million is no voice's."""
    made = replace(V41, speakers=200)
    seen = usual(made, tuple(map(str, range(200))), "vec768l12")
    claim = SoVitsSvc().recognise(seen)
    assert isinstance(claim, Claim)
    assert claim.model["speakers"] == 200
    many = dict(seen.beside["config.json"]) | {"spk": {str(number): number for number in range(100_000)}}
    with pytest.raises(Contradiction, match="speakers"):
        SoVitsSvc().recognise(replace(seen, beside={"voice.json": many}))
