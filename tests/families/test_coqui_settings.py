"""What a VITS voice is made of is found in its tensors; its config and tables fit, or it is said what to do."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference_voices
import tiny_coqui
from families.spoiling import values
from outlines import outline
from voicekiln.convert.data import plain_data
from voicekiln.errors import Contradiction, NoCompanion, Refusal, WrongCompanion
from voicekiln.families.base import DVectors, Outline, TensorInfo, exact
from voicekiln.families.coqui_network import Settings
from voicekiln.families.coqui_settings import Reading, read
from voicekiln.families.coqui_usual import VCTK, YOURTTS
from voicekiln.families.coqui_usual import outline as usual

LANGUAGES = {"en": 0, "fr-fr": 1, "pt-br": 2}
REFERENCES: Mapping[str, Mapping[str, Any]] = {
    "coqui-yourtts": {"speakers.json": DVectors(("a",), (1,), 512, "speakers.json"), "language_ids.json": LANGUAGES},
    "coqui-vits-single": {},
    "coqui-vits-multispeaker": {"speaker_ids.json": {f"p{row}": row for row in range(10)}},
}


def voice(variant: str = "yourtts", **overrides: Any) -> Outline:
    """Return a tiny voice with its config inside and the tables that it wants beside it."""
    made = tiny_coqui.settings(variant, **overrides)
    beside: dict[str, Any] = {}
    if made.languages:
        beside["language_ids.json"] = LANGUAGES
    if made.speaker == "d_vector":
        beside["speakers.json"] = DVectors(("a", "b"), (1, 2), made.gin_channels, "speakers.json")
    if made.speaker == "speaker_id":
        beside["speaker_ids.json"] = {name: row for row, name in enumerate("abcde")}
    return replace(outline(tiny_coqui.tiny(variant, **overrides)), beside=beside)


def outside(seen: Outline, name: str = "config.json") -> Outline:
    """Return the voice with its config beside it instead of within."""
    return replace(seen, rest={}, beside={name: seen.rest["config"], **seen.beside})


def original(variant: str = "single", **overrides: Any) -> Outline:
    """Return a voice of the original VITS with its config beside it."""
    beside = {"config.json": tiny_coqui.original_config(variant, **overrides)}
    return replace(outline(tiny_coqui.original(variant, **overrides)), beside=beside)


def beside(seen: Outline, **tables: Any) -> Outline:
    """Return the voice with other files beside it; two underscores stand for a point, None takes one away."""
    named = {name.replace("__", "."): raw for name, raw in tables.items()}
    return replace(seen, beside={name: raw for name, raw in {**seen.beside, **named}.items() if raw is not None})


def config(seen: Outline) -> dict[str, Any]:
    """Return a copy of a voice's config, to be changed."""
    raw: dict[str, Any] = copy.deepcopy(seen.rest.get("config") or seen.beside["config.json"])
    return raw


def why(seen: Outline) -> str:
    """Return why a voice is refused."""
    with pytest.raises(Contradiction) as refusal:
        read(seen)
    return str(refusal.value.found["what"])


def unfit(seen: Outline, name: str = "config.json") -> str:
    """Return why the companion of that name is refused."""
    with pytest.raises(WrongCompanion) as refusal:
        read(seen)
    assert refusal.value.found["name"] == name
    return str(refusal.value.found["what"])


def lack(seen: Outline) -> str:
    """Return why there is no config that could be used."""
    with pytest.raises(NoCompanion) as refusal:
        read(seen)
    assert refusal.value.found["name"] == "config.json"
    return str(refusal.value.found["what"])


def used(made: Settings) -> Settings:
    """Return the settings as they are read: dilations that residual blocks of kind 2 do not use are none."""
    return replace(made, dilations=tuple(steps[:2] if made.block == 2 else steps for steps in made.dilations))


@pytest.mark.parametrize("name", REFERENCES)
def test_references_are_read_without_a_remark(name: str) -> None:
    """With their tables beside them nothing has to be said; rates and symbols are those of their config."""
    seen = replace(reference_voices.outline(name), beside=REFERENCES[name])
    found, told = read(seen), reference_voices.spec(name)["rest"]["config"]
    assert found.notes == ()
    assert found.companions == (*REFERENCES[name],)
    assert found.settings.sample_rate == found.settings.encoder_rate == told["audio"]["sample_rate"]
    assert found.settings.rates == (8, 8, 2, 2)
    assert found.config.blank == found.settings.symbols - 1
    assert (found.config.cleaner, found.config.phonemizer) == (told["text_cleaner"], told["phonemizer"])
    assert (found.config.noise_scale, found.config.noise_scale_dp, found.config.length_scale) == (0.667, 1.0, 1.0)


@pytest.mark.parametrize("variant", tiny_coqui.VARIANTS)
def test_all_settings_are_read(variant: str) -> None:
    """What a voice was made of is found again, wherever its config is."""
    seen = voice(variant)
    for each in (seen, outside(seen), outside(seen, "own.json")):
        assert read(each).settings == used(tiny_coqui.settings(variant))
        assert read(each).notes == ()


@pytest.mark.parametrize("variant", ["single", "speakers", "hearing-speakers"])
def test_all_settings_of_the_original_are_read(variant: str) -> None:
    """The same of a voice of the original VITS; all its tensors have names of ours."""
    seen = original(variant)
    found = read(seen)
    assert found.settings == replace(tiny_coqui.settings(variant, block=1), glow_norm=False)
    assert set(found.names) == set(seen.tensors)
    assert (found.config.blank, found.config.pad, found.config.add_blank) == (0, 0, True)
    assert (found.config.cleaner, found.config.noise_scale_dp) == ("english_cleaners2", 0.8)


@pytest.mark.parametrize("made", [YOURTTS, VCTK])
def test_usual_voices_are_read(made: Settings) -> None:
    """Those for which templates are kept."""
    assert read(usual(made)).settings == used(made)


def test_the_duration_predictor_may_not_be_told_who_speaks() -> None:
    """Coqui makes a plain one's tensors for it all the same, and they are not used."""
    seen = voice("speakers")
    raw = config(seen)
    raw["model_args"]["condition_dp_on_speaker"] = False
    found = read(replace(seen, rest={"config": raw}))
    assert not found.settings.duration_by_speaker
    assert set(seen.tensors) - set(found.names) == {f"duration_predictor.cond.{it}" for it in ("weight", "bias")}
    wrong = spoilt("condition_dp_on_speaker", wrong=False, variant="speakers-stochastic")
    assert "condition_dp_on_speaker False" in why(replace(voice("speakers-stochastic"), rest={"config": wrong}))


WRONG: Mapping[str, Any] = {
    "hidden_channels": 18,
    "hidden_channels_ffn_text_encoder": 25,
    "num_heads_text_encoder": 4,
    "num_layers_text_encoder": 3,
    "kernel_size_text_encoder": 5,
    "kernel_size_flow": 3,
    "num_layers_flow": 4,
    "kernel_size_posterior_encoder": 3,
    "num_layers_posterior_encoder": 16,
    "out_channels": 513,
    "upsample_initial_channel_decoder": 64,
    "d_vector_dim": 256,
    "embedded_language_dim": 8,
    "resblock_kernel_sizes_decoder": [3, 7],
    "upsample_kernel_sizes_decoder": [8, 8, 2, 2],
    "resblock_type_decoder": "1",
    "resblock_dilation_sizes_decoder": [[1], [1]],
    "upsample_rates_decoder": [4, 4, 4, 2],
    "use_sdp": False,
    "condition_dp_on_speaker": False,
    "use_language_embedding": False,
    "use_speaker_embedding": True,
    "use_d_vector_file": False,
    "encoder_sample_rate": 1,
    "interpolate_z": False,
    "length_scale": 1000,
    "inference_noise_scale": -1,
    "inference_noise_scale_dp": "loud",
}
"""Values under `model_args` that are not those of the voice that hears, and would be another's or nobody's."""
SILENT = ("interpolate_z", "use_speaker_embedding")
"""Without another rate the one says nothing; with the other way of telling who speaks, tensors know which it is."""


def spoilt(key: str, wrong: object, part: str = "model_args", variant: str = "hearing") -> dict[str, Any]:
    """Return the voice's config with a value replaced."""
    raw = config(voice(variant))
    raw[part][key] = wrong
    return raw


@pytest.mark.parametrize("key", [key for key in WRONG if key not in SILENT])
def test_a_config_that_contradicts_the_weights_is_refused(key: str) -> None:
    """For each of its keys: within the checkpoint, under the voice's name, and in its folder even if one fits."""
    seen, raw = voice("hearing"), spoilt(key, WRONG[key])
    assert "its own config" in why(replace(seen, rest={"config": raw})) or key == "upsample_rates_decoder"
    assert unfit(beside(seen, own__json=raw), "own.json")
    for each in (seen, replace(seen, rest={})):
        assert unfit(beside(each, config__json=raw))


def test_every_key_that_is_compared_is_planted() -> None:
    """No claim of a config goes untested."""
    for variant in ("hearing", "speakers"):
        keys = {key for key, _, _ in read(voice(variant)).config.claims}
        assert keys - set(WRONG) <= {"speaker_embedding_channels", "fft_size", "num_chars"}


@pytest.mark.parametrize(
    ("key", "wrong", "part", "variant"),
    [
        ("speaker_embedding_channels", 256, "model_args", "speakers"),
        ("use_speaker_embedding", False, "model_args", "speakers"),
        ("use_d_vector_file", True, "model_args", "single"),
        ("use_speaker_embedding", True, "model_args", "single"),
        ("use_language_embedding", True, "model_args", "single"),
        ("fft_size", 1024, "audio", "hearing"),
        ("hop_length", 128, "audio", "hearing"),
        ("sample_rate", 7, "audio", "hearing"),
    ],
)
def test_other_contradictions_are_refused(key: str, wrong: object, part: str, variant: str) -> None:
    """Those of other voices and of the sound; what to do is said."""
    assert unfit(beside(voice(variant), config__json=spoilt(key, wrong, part, variant)))


@pytest.mark.parametrize(
    ("key", "wrong", "part"),
    [
        *(("inter_channels", 10, "model"), ("hidden_channels", 18, "model"), ("filter_channels", 9, "model")),
        *(("n_heads", 4, "model"), ("n_layers", 6, "model"), ("kernel_size", 5, "model"), ("resblock", "2", "model")),
        *(("resblock_kernel_sizes", [3, 7], "model"), ("upsample_initial_channel", 64, "model")),
        *(("upsample_kernel_sizes", [8, 8, 2, 2], "model"), ("upsample_rates", [4, 4, 4, 2], "model")),
        *(("gin_channels", 256, "model"), ("use_sdp", True, "model"), ("n_speakers", 7, "data")),
        *(("hop_length", 256, "data"), ("sampling_rate", None, "data"), ("filter_length", 1024, "data")),
    ],
)
def test_a_config_of_the_original_that_contradicts_the_weights_is_refused(key: str, wrong: object, part: str) -> None:
    """For each of its keys."""
    seen = original("hearing-speakers")
    raw = config(seen)
    raw[part][key] = wrong
    assert unfit(beside(seen, config__json=raw))


def test_other_symbols_are_a_contradiction_with_both_numbers() -> None:
    """Whatever num_chars says; that counts only where the symbols cannot be told."""
    raw = config(seen := voice())
    raw["characters"]["characters"] += "x"
    assert "symbols 13, the weights have 12" in why(beside(seen, config__json=raw))
    raw = config(seen)
    raw["model_args"]["num_chars"] = 5
    assert read(replace(seen, rest={"config": raw})).config.tokens
    raw["characters"] = None
    assert "num_chars 5, the weights have 12" in why(replace(seen, rest={"config": raw}))
    raw["model_args"]["num_chars"] = 12
    found = read(replace(seen, rest={"config": raw}))
    assert found.config.tokens is None
    assert "no token map" in found.notes[0]


def test_mms_keeps_its_symbols_elsewhere() -> None:
    """Its config has none; that the first of them goes between all is known."""
    raw = config(seen := original())
    del raw["symbols"]
    found = read(beside(seen, config__json=raw))
    assert (found.config.tokens, found.config.blank) == (None, 0)
    assert "vocab.txt" in found.notes[0]


def test_without_a_config_there_is_no_voice_yet() -> None:
    """Neither rate nor symbols are known; with one beside it all is well."""
    for seen in (voice("single"), original()):
        bare = replace(seen, rest={}, beside={})
        assert lack(bare).startswith("there is none beside it, and its tensors")
        assert lack(beside(bare, own__json={})).startswith("the one beside it is no config of a VITS voice")
        assert lack(replace(bare, beside={"config.json": None})).startswith("the one beside it cannot be read")
        assert read(beside(bare, config__json=config(seen))).companions == ("config.json",)


@pytest.mark.parametrize("raw", [{"model": {"ssl_dim": 768}, "data": {}, "spk": {"a": 0}}, {"model": "xtts"}, [], 7])
def test_what_is_no_config_of_such_a_voice_is_left_aside(raw: object) -> None:
    """A singing voice's, or anything: with a note where there is another, and refused where there is none."""
    found = read(beside(voice("single"), config__json=raw))
    assert found.notes == (
        "config.json, which lies beside it, is no config of a VITS voice that reads text and was left aside.",
    )
    assert found.companions == ()
    for seen in (voice("single"), original()):
        assert "is no config" in lack(beside(replace(seen, rest={}), config__json=raw))


def test_the_config_of_another_model_is_left_aside() -> None:
    """Coqui's other models have configs with the same parts."""
    seen = outside(voice("single"))
    for model, right in (("tacotron2", False), ("glow_tts", False), ("vits", True), ("VITS", True)):
        other = beside(seen, config__json=config(seen) | {"model": model})
        assert read(other).companions == ("config.json",) if right else "is no config" in lack(other)
    beside_it = read(beside(voice("single"), config__json=config(seen) | {"model": "tacotron2"}))
    assert "is no config of a VITS voice" in beside_it.notes[0]


def test_an_unreadable_config_is_told() -> None:
    """The one in the checkpoint is used."""
    seen = voice("single")
    found = read(replace(seen, beside={"config.json": None}))
    assert found.notes == ("config.json, which lies beside it, cannot be read and was left aside.",)


def test_the_config_under_the_voices_name_is_believed_first() -> None:
    """Then the one in the checkpoint, with a note if one beside it that would fit says something else."""
    seen, raw = voice("single"), config(voice("single"))
    raw["audio"]["sample_rate"] = 48_000
    for name, rate, companions, notes in (("own.json", 48_000, ("own.json",), 0), ("config.json", 16_000, (), 1)):
        found = read(replace(seen, beside={name: raw}))
        assert (found.settings.sample_rate, found.companions, len(found.notes)) == (rate, companions, notes)
    assert "other symbols or rates than the config in the checkpoint" in found.notes[0]
    assert read(beside(seen, config__json=config(seen))).notes == ()
    wrong = spoilt("hidden_channels", 18, variant="single")
    assert read(beside(seen, own__json=raw, config__json=wrong)).settings.sample_rate == 48_000


@pytest.mark.parametrize(
    ("interpolates", "rates", "encoder_rate"), [(True, [4, 4, 2, 2], 16_000), (False, [4, 4, 4, 2], 32_000)]
)
def test_two_rates(interpolates: bool, rates: list[int], encoder_rate: int) -> None:  # noqa: FBT001 - parametrised
    """The latent sound is stretched, or the decoder does it all; frames and samples have to come out even."""
    kernels = tuple(2 * rate for rate in rates)
    seen = voice("single", rates=tuple(rates), up_kernels=kernels, sample_rate=32_000, encoder_rate=16_000)
    raw = config(seen)
    raw["model_args"] |= {"encoder_sample_rate": 16_000, "interpolate_z": interpolates}
    raw["audio"]["hop_length"] = 64
    found = read(replace(seen, rest={"config": raw}))
    assert (found.settings.sample_rate, found.settings.encoder_rate) == (32_000, encoder_rate)
    assert found.config.encoder_rate == 16_000
    raw["model_args"]["interpolate_z"] = not interpolates
    made = math.prod(rates)
    told = f"hop_length 64 and the upsampling {', '.join(map(str, rates))}, which makes {made} samples a frame"
    assert told in why(replace(seen, rest={"config": raw}))


def test_the_latent_sound_is_not_faster_than_what_is_heard() -> None:
    """Of a short text nothing would be left."""
    seen = voice("single")
    raw = config(seen)
    raw["model_args"]["encoder_sample_rate"] = raw["audio"]["sample_rate"] + 1
    assert "encoder_sample_rate 16001, which cannot be" in why(replace(seen, rest={"config": raw}))


def test_d_vectors_have_to_be_as_wide_as_the_weights() -> None:
    """One of another width is refused wherever it lies; the voice's own goes before the folder's."""
    right, wrong = (DVectors(("a", "b\n"), (1, 2), width, name) for width, name in ((12, "own"), (256, "other")))
    found = read(beside(voice(), own__speakers__json=right, speakers__json=wrong))
    assert (found.d_vectors, found.companions) == (right, ("own.speakers.json", "language_ids.json"))
    told = unfit(beside(voice(), speakers__json=wrong), "speakers.json")
    assert told == "speakers.json has d-vectors of 256 numbers, the weights take 12"
    assert unfit(beside(voice(), own__speakers__json=wrong), "own.speakers.json")


def test_a_table_for_other_voices_is_left_aside() -> None:
    """Ids for a voice of d-vectors and the other way round; the next one is looked at."""
    vectors, ids = DVectors(("a",), (1,), 12, "speakers.json"), {"a": 0, "b": 1}
    found = read(beside(voice(), speaker_ids__json=ids))
    assert found.d_vectors is not None
    assert "speaker_ids.json, which lies beside it, has no d-vectors" in found.notes[0]
    found = read(beside(voice("speakers"), own__speakers__json=vectors, speaker_ids__json=None, speakers__json=ids))
    assert found.speakers == {0: "a", 1: "b"}
    assert found.companions == ("speakers.json",)
    assert "own.speakers.json, which lies beside it, has d-vectors" in found.notes[0]
    found = read(beside(voice("single"), speakers__json=vectors, language_ids__json=LANGUAGES))
    assert (found.d_vectors, found.languages, found.companions, len(found.notes)) == (None, None, (), 2)


def test_what_nothing_names_has_numbers() -> None:
    """And the person learns how to name it."""
    found = read(replace(voice(), beside={}))
    assert "speakers.json" in found.notes[0]
    assert "Nothing names its 3 languages" in found.notes[1]
    assert "language_ids.json" in found.notes[1]
    assert "speaker_ids.json" in read(replace(voice("speakers"), beside={})).notes[0]


@pytest.mark.parametrize("variant", ["yourtts", "speakers-languages"])
def test_a_table_that_cannot_be_read_is_not_asked_for_again(variant: str) -> None:
    """That it cannot be read is all that is said."""
    seen = voice(variant)
    assert read(replace(seen, beside=dict.fromkeys(seen.beside))).notes == tuple(
        f"{name}, which lies beside it, cannot be read and was left aside."
        for name in sorted(seen.beside, reverse=True)
    )


def test_speakers_are_unique_and_below_the_rows() -> None:
    """Fewer names than rows are fine; what is no table of numbers is refused."""
    found = read(beside(voice("speakers"), speaker_ids__json={"b": 4, "a": 0}))
    assert list(found.speakers or ()) == [0, 4]
    assert "the number 5, the weights have 5, counted from 0" in why(
        beside(voice("speakers"), speaker_ids__json={"a": 5})
    )
    for raw in ({"a": 0, "b": 0}, {"a": -1}, {"a": True}, {"a": "0"}, {"a": [0]}, {}, 7, [1]):
        assert unfit(beside(voice("speakers"), speaker_ids__json=raw), "speaker_ids.json")


def test_names_are_kept_as_they_are() -> None:
    """A line's end in one is shown as a space and remembered; a very long one is cut."""
    raw = plain_data({"a\n": 0, "b" * 100: 1, "c" * 201: 2})
    found = read(beside(voice("speakers"), speaker_ids__json=raw)).speakers or {}
    assert (found[0], exact(found[0])) == ("a ", "a\n")
    assert found[1] == "b" * 100
    assert found[2] == exact(found[2]) == "c" * 59 + "…"


def test_the_original_names_its_speakers_in_its_config() -> None:
    """In a list or in a table; a table beside it knows better."""
    raw = config(seen := original("speakers"))
    for said in (["x", "y"], {"y": 1, "x": 0}):
        assert read(beside(seen, config__json=raw | {"speakers": said})).speakers == {0: "x", 1: "y"}
    both = beside(seen, config__json=raw | {"speakers": ["x"]}, speaker_ids__json={"z": 3})
    assert read(both).speakers == {3: "z"}
    assert unfit(beside(seen, config__json=raw | {"speakers": ["x"] * 6}))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"en": 0, "fr-fr": 1}, "language_ids.json names 2 languages, the weights have 3"),
        (LANGUAGES | {"de": 3}, "language_ids.json names 4 languages, the weights have 3"),
        ({"en": 0, "fr-fr": 1, "pt-br": 1}, "without a number of their own"),
        ({"en": 1, "fr-fr": 2, "pt-br": 3}, "the number 3, the weights have 3"),
        ({"en": "0", "fr-fr": "1", "pt-br": "2"}, "without a number of their own"),
        (7, "names 0 languages"),
    ],
)
def test_every_language_has_to_have_its_name(raw: object, told: str) -> None:
    """A table that leaves one out, or has one too many, is refused with what to do."""
    for seen in (voice(), voice("speakers-languages")):
        assert told in unfit(beside(seen, language_ids__json=raw), "language_ids.json")
        assert unfit(beside(seen, own__language_ids__json=raw), "own.language_ids.json")
        assert read(beside(seen, language_ids__json=raw, own__language_ids__json=LANGUAGES)).languages


def changed(seen: Outline, name: str, shape: tuple[int, ...] | None, dtype: str = "float32") -> Outline:
    """Return the voice with another tensor of that name, or none."""
    tensors = {**seen.tensors, name: TensorInfo(shape or (), dtype)}
    return replace(seen, tensors={key: info for key, info in tensors.items() if key != name or shape})


@pytest.mark.parametrize("variant", ["hearing", "hearing-speakers"])
def test_each_missing_tensor_is_told(variant: str) -> None:
    """No tensor of a voice is left to chance."""
    seen = voice(variant)
    for name in seen.tensors:
        if "resblocks" in name and ".0." not in name:
            continue
        assert why(changed(seen, name, None))


def test_a_tensor_too_many_is_told() -> None:
    """As is one under the names of two tools, one that holds no numbers of a weight, and a flip's."""
    seen = voice("hearing")
    assert "does not belong into such a voice" in why(changed(seen, "emb_x.weight", (3, 3)))
    both = changed(seen, "waveform_decoder.cond.weight", seen.tensors["waveform_decoder.cond_layer.weight"].shape)
    assert "are two names of one tensor" in why(both)
    assert "int64" in why(changed(seen, "emb_l.weight", (3, 4), "int64"))
    assert "does not belong" in why(changed(original(), "dp.flows.2.pre.weight", (3, 3, 3)))


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("text_encoder.proj.weight", (16, 21, 1), "16 x 21 x 1 and should have 16 x 20 x 1"),
        ("text_encoder.encoder.ffn_layers.0.conv_1.weight", (24, 21, 3), "24 x 21 x 3 and should have 24 x 20 x 3"),
        ("flow.flows.0.pre.weight", (16, 5, 1), "16 x 5 x 1 and should have 16 x 4 x 1"),
    ],
)
def test_one_wrong_tensor_is_found_among_those_that_are_measured(name: str, shape: tuple[int, ...], told: str) -> None:
    """It is named, and none of those that are right."""
    assert why(changed(voice(), name, shape)) == f"{name} has the shape {told}"


@pytest.mark.parametrize(
    ("variant", "overrides", "told"),
    [
        ("yourtts", {"languages": 1001}, "1001 languages, 1000 at most"),
        ("yourtts", {"duration_bins": 101}, "101 bins"),
        ("yourtts", {"duration_layers": 12}, "duration predictor sees 177147 frames"),
        ("yourtts", {"duration_kernel": 4}, "cannot be halved or centred"),
        ("hearing", {"flow_dilation": 65_536}, "of its flow sees 131072 frames"),
        ("hearing", {"posterior_dilation": 200}, "of its posterior encoder sees 80000 frames"),
        ("yourtts", {"dilations": ((1, 9_000),) * 2}, "a convolution of its decoder sees"),
        ("yourtts", {"rates": (32, 16, 8, 2), "up_kernels": (32, 16, 8, 2)}, "its upsampling is 32, 16, 8, 2"),
        ("yourtts", {"window": 1001}, "1001 frames to each side"),
    ],
)
def test_what_would_fill_any_memory_is_refused(variant: str, overrides: dict[str, Any], told: str) -> None:
    """A small file, or a line in a config, cannot ask for gigabytes."""
    assert told in why(usual(tiny_coqui.settings(variant, **overrides)))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_hostile_config_or_table_ends_in_words(data: st.DataObject) -> None:
    """A value of it replaced or gone, whichever voice it is: a reading, or a refusal."""
    seen = data.draw(
        st.sampled_from([voice("hearing"), voice("speakers"), outside(voice()), original("hearing-speakers")])
    )
    whole = {"config": seen.rest.get("config"), **seen.beside}
    name = data.draw(st.sampled_from([name for name, raw in whole.items() if isinstance(raw, dict)]))
    made = copy.deepcopy(whole[name])
    table = data.draw(st.sampled_from([made, *(value for value in made.values() if value and isinstance(value, dict))]))
    key = data.draw(st.sampled_from(sorted(table)))
    table[key] = data.draw(values)
    hostile = (
        replace(seen, rest={"config": made}) if name == "config" else beside(seen, **{name.replace(".", "__"): made})
    )
    with suppress(Refusal):
        assert isinstance(read(hostile), Reading)
