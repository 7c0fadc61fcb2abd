"""Whatever stands in a VITS voice's outline or beside it, looking ends in a claim or in a refusal in words."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_coqui
from families.spoiling import OF_TENSORS, spoil_tensors, values
from outlines import outline
from voicekiln.convert.data import NotPlainError, plain_data
from voicekiln.errors import Contradiction, OtherFamily, Refusal
from voicekiln.families import choose
from voicekiln.families.base import DVectors, Outline
from voicekiln.families.coqui import CoquiVits
from voicekiln.families.coqui_usual import VCTK, YOURTTS
from voicekiln.families.coqui_usual import outline as usual
from voicekiln.folders.sidecar import MAX_VALUES, _must_be_plain
from voicekiln.job import Recipe

ALL = Recipe("all", precisions=("fp32", "fp16"), interfaces=("rvc", "single", "voice-conversion"))
LANGUAGES = {"en": 0, "fr-fr": 1, "pt-br": 2}


def _voice(variant: str) -> Outline:
    beside: dict[str, Any] = {}
    made = tiny_coqui.settings(variant)
    if made.languages:
        beside["language_ids.json"] = LANGUAGES
    if made.speaker == "d_vector":
        beside["speakers.json"] = DVectors(("a", "b\n"), (1, 2), made.gin_channels, "\nvectors")
    if made.speaker == "speaker_id":
        beside["speaker_ids.json"] = {"a": 0, "b\n": 3}
    return replace(outline(tiny_coqui.tiny(variant)), beside=beside)


def _unreadable() -> Outline:
    """Return a voice of whose symbols some cannot be shown."""
    voice = tiny_coqui.tiny("single")
    letters = voice["config"]["characters"]
    letters["characters"] = "\u00a0\u200d" + letters["characters"][2:]
    return outline(voice)


def _original(variant: str) -> Outline:
    beside = {"config.json": tiny_coqui.original_config(variant)}
    return replace(outline(tiny_coqui.original(variant)), beside=beside)


VOICES = [
    *map(_voice, ("yourtts", "single", "speakers", "untold-durations", "odd-stretch", "hearing")),
    *map(_original, ("single", "speakers")),
    _unreadable(),
]
MEASURED = (
    "text_encoder.emb.weight",
    "text_encoder.proj.weight",
    "text_encoder.encoder.ffn_layers.0.conv_1.weight",
    "text_encoder.encoder.attn_layers.0.emb_rel_k",
    "emb_l.weight",
    "emb_g.weight",
    "duration_predictor.conv_1.weight",
    "duration_predictor.convs.convs_sep.0.weight",
    "duration_predictor.flows.1.proj.weight",
    "duration_predictor.norm_1.gamma",
    "flow.flows.0.enc.in_layers.0.weight_v",
    "waveform_decoder.conv_pre.weight",
    "waveform_decoder.cond_layer.weight",
    "waveform_decoder.ups.0.weight_v",
    "posterior_encoder.pre.weight",
)
"""Tensors that settings are read from."""
NEW = (
    "duration_predictor.flows.99.pre.weight",
    "duration_predictor.convs.convs_sep.63.weight",
    "duration_predictor.cond.weight",
    "flow.flows.63.pre.weight",
    "flow.flows.0.enc.in_layers.63.weight_v",
    "flow.flows.99999999999999999999.pre.weight",
    "text_encoder.encoder.attn_layers.99999999999999999999.conv_q.weight",
    "waveform_decoder.ups.63.weight_v",
    "waveform_decoder.resblocks.0.convs.0.weight",
    "waveform_decoder.cond_layer.weight",
    "waveform_decoder.cond.weight",
    "posterior_encoder.enc.in_layers.63.weight",
    "emb_g.weight",
    "emb_l.weight",
    "disc.nets.0.bias",
    "weight_g",
)
"""Names that say that there is more."""
BESIDE = ("config.json", "voice.json", "speakers.json", "speaker_ids.json", "language_ids.json")

names = st.one_of(st.sampled_from(NEW), st.text(max_size=12))
vectors = st.builds(
    lambda texts, width: DVectors(tuple(texts), (1,) * len(texts), width, "\nvectors"),
    st.lists(st.text(max_size=80), min_size=1, max_size=5, unique=True),
    st.one_of(st.just(tiny_coqui.TINY.gin_channels), st.integers(1, 600)),
)


@st.composite
def outlines(draw: st.DrawFn) -> Outline:
    """Return the outline of a voice with a little of it spoilt, so that looking gets far."""
    voice = draw(st.sampled_from(VOICES))
    tensors, beside, rest = dict(voice.tensors), dict(voice.beside), copy.deepcopy(dict(voice.rest))
    name = draw(st.one_of(st.sampled_from(sorted(tensors)), st.sampled_from(MEASURED)))
    for spoil in draw(st.lists(st.sampled_from([*OF_TENSORS, "config", "beside"]), max_size=3)):
        if spoil_tensors(draw, spoil, tensors, name, names):
            continue
        match spoil:
            case "config":
                _spoil(draw, rest["config"] if isinstance(rest.get("config"), dict) else beside)
            case _:
                known = st.sampled_from([LANGUAGES, {"a": 0}, {"a\u202e": 1, "b": 1}, {}])
                beside[draw(st.sampled_from(BESIDE))] = draw(st.one_of(values, known, vectors))
    rest, beside = ({key: _cleaned(value) for key, value in every.items()} for every in (rest, beside))
    return Outline(tensors, rest, voice.tensor_key, voice.keys, beside)


def _cleaned(value: Any) -> Any:
    """Return plain data as a file's, its texts cleaned; what is none counts as unreadable."""
    try:
        return value if isinstance(value, DVectors) else plain_data(value)
    except NotPlainError:
        return None


def _spoil(draw: st.DrawFn, config: dict[str, Any]) -> None:
    """Spoil one value of a config, or of a table in it."""
    key = draw(st.sampled_from(sorted(config))) if config else "audio"
    if isinstance(config.get(key), dict) and config[key] and draw(st.integers(0, 5)):
        config[key] = dict(config[key])
        config[key][draw(st.sampled_from(sorted(config[key])))] = draw(values)
    else:
        config[key] = draw(values)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(outlines())
def test_a_hostile_outline_ends_in_words(hostile: Outline) -> None:
    """Never in another exception; what is claimed is fit for a sidecar, and each of its parts can be described."""
    with suppress(Refusal):
        family, claim = choose(hostile)
        json.dumps({"model": claim.model, "notes": claim.notes}, allow_nan=False)
        if isinstance(family, CoquiVits):
            for part in family.parts(claim, ALL):
                with suppress(Refusal):
                    built = family.build(claim, hostile, part, ALL)
                    told = {"feed": built.feed, "model": dict(claim.model), "notes": [*claim.notes], "is": built.title}
                    _must_be_plain(json.loads(json.dumps(told, allow_nan=False)), [MAX_VALUES])
                    assert all(isinstance(value, str) for value in built.metadata.values())


def test_no_spoiling_is_a_claim() -> None:
    """What the other test spoils is whole before: it would pass as well on voices that nobody claims."""
    for voice in VOICES:
        family, claim = choose(voice)
        assert isinstance(family, CoquiVits)
        assert [note for note in claim.notes if "its text cleaner" not in note] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"window": 2000},
        {"duration_layers": 12},
        {"duration_bins": 1000},
        {"flow_dilation": 9, "flow_layers": 16},
        {"posterior_dilation": 3},
        {"languages": 2000},
        {"rates": (65_536, 8, 2, 2)},
        {"encoder_rate": 8_000, "sample_rate": 192_000, "rates": (16, 16, 8, 2)},
    ],
)
def test_what_would_fill_the_memory_is_refused_and_not_tried(changed: dict[str, Any]) -> None:
    """Dilations, bins and rates leave little or no trace in the weights: a small file could ask for anything."""
    made = replace(YOURTTS, **changed)
    made = replace(made, up_kernels=tuple(2 * rate for rate in made.rates))
    with pytest.raises(Contradiction):
        choose(usual(made))


def test_what_no_onnx_file_can_hold_is_refused() -> None:
    """2 GB of weights."""
    with pytest.raises(OtherFamily, match="more than one ONNX file can hold"):
        choose(usual(replace(VCTK, filter_channels=65_536, layers=24)))
