"""Whatever stands in a file's outline, looking at it ends in a claim, in "not mine", or in a refusal."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_voices
from families.spoiling import OF_TENSORS, spoil_tensors, values
from outlines import outline
from voicekiln.errors import Contradiction, OtherFamily, Refusal
from voicekiln.families import choose, sample
from voicekiln.families.base import Outline

VOICES = [
    outline(voice)
    for voice in (
        tiny_voices.tiny(),
        tiny_voices.tiny("v1", f0=False, sr=48_000),
        tiny_voices.tiny_training(),
        tiny_voices.tiny_training("v1", f0=False, sr=32_000),
    )
]

MEASURED = (
    "emb_g.weight",
    "enc_p.emb_phone.weight",
    "enc_p.proj.weight",
    "enc_p.encoder.ffn_layers.0.conv_1.weight",
    "enc_p.encoder.attn_layers.0.emb_rel_k",
    "dec.conv_pre.weight",
    "dec.ups.0.weight_v",
    "flow.flows.0.pre.weight",
)
"""Tensors that settings are read from."""

names = st.one_of(
    st.sampled_from(
        [
            "enc_p.emb_phone.weight",
            "enc_p.encoder.attn_layers.999.conv_q.weight",
            "enc_p.encoder.attn_layers.99999999999999999999.conv_q.weight",
            "dec.ups.63.weight_v",
            "dec.ups.-1.weight",
            "flow.flows.1.pre.weight",
            "weight_g",
            ".weight_g",
            "_v",
            "dec.resblocks.²",
        ]
    ),
    st.text(max_size=12),
)


WORDS = st.sampled_from(["sr", "f0", "version", "vocoder", "embedder_model", "embedder_output_layer", "x", "info"])


@st.composite
def outlines(draw: st.DrawFn) -> Outline:
    """Return the outline of a voice with a little of it spoilt, so that looking gets far."""
    voice = draw(st.sampled_from(VOICES))
    tensors, rest = dict(voice.tensors), dict(voice.rest)
    name = draw(st.one_of(st.sampled_from(sorted(tensors)), st.sampled_from(MEASURED)))
    for spoil in draw(st.lists(st.sampled_from([*OF_TENSORS, "config", "words"]), max_size=2)):
        if spoil_tensors(draw, spoil, tensors, name, names):
            continue
        match spoil:
            case "config":
                _spoil_config(draw, rest)
            case _:
                rest[draw(WORDS)] = draw(values)
    return Outline(tensors, rest, voice.tensor_key, voice.keys)


def _spoil_config(draw: st.DrawFn, rest: dict[str, Any]) -> None:
    """Spoil one value, or replace or drop the whole."""
    if isinstance(rest.get("config"), list) and rest["config"] and draw(st.integers(0, 4)):
        config = list(rest["config"])
        config[draw(st.integers(0, len(config) - 1))] = draw(values)
        rest["config"] = config
    elif draw(st.booleans()):
        rest["config"] = draw(values)
    else:
        rest.pop("config", None)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(outlines())
def test_a_hostile_outline_ends_in_words(hostile: Outline) -> None:
    """Never in another exception; and what is claimed can be written as JSON."""
    with suppress(Refusal):
        _, claim = choose(hostile)
        json.dumps({"model": claim.model, "notes": claim.notes}, allow_nan=False)


def test_what_no_onnx_file_can_hold_is_refused_and_not_tried() -> None:
    """Neither 2 GB of weights nor an attention that sees minutes: the first as too large, the second as no voice's."""
    with pytest.raises(OtherFamily, match="more than one ONNX file can hold"):
        choose(sample.outline(replace(sample.V2_40K, filter_channels=65_536, layers=12)))
    with pytest.raises(Contradiction, match="2000 frames to each side"):
        choose(sample.outline(replace(sample.V2_40K, window=2000)))
