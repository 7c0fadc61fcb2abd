"""Coqui's voices and their relatives keep the family contract, in each of the four networks that are made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference_voices
import tiny_coqui
import tiny_sovits
import tiny_voices
from families.contract import FamilyContract
from outlines import named, outline, tensors
from plain_export import network
from voicekiln.errors import Contradiction, NoSuchFace
from voicekiln.families import choose
from voicekiln.families.base import PLAIN, Claim, DVectors, Exportable, NotMine, Outline, TensorInfo
from voicekiln.families.coqui import CLEANED, IN_FLOAT32, LICENCE, YOURTTS_LICENCE, CoquiVits
from voicekiln.families.coqui_network import Settings
from voicekiln.families.coqui_settings import Reading
from voicekiln.families.coqui_usual import SINGLE, VCTK, YOURTTS
from voicekiln.families.weights import AsIs
from voicekiln.folders.sidecar import MAX_VALUES, _must_be_plain
from voicekiln.job import Part, Recipe
from voicekiln.worker.wire import MAX_LINE

FAMILY = CoquiVits()
REFERENCES = ("coqui-vits-multispeaker", "coqui-vits-single", "coqui-yourtts")
VECTORS = "\nvectors"
"""Under this name rules find the vectors of the speakers."""
LANGUAGES = {"en": 0, "fr-fr": 1, "pt-br": 2}
BOTH = Recipe("both", precisions=("fp32", "fp16"))
SPOKEN: tuple[Part, ...] = ("encoder", "decoder", "single")


def with_companions(checkpoint: dict[str, Any], **companions: object) -> Outline:
    """Return a checkpoint's outline with companions beside it, `.json` all of them."""
    return replace(outline(checkpoint), beside={f"{name}.json": values for name, values in companions.items()})


def tables(made: Settings) -> dict[str, object]:
    """Return the tables that such a voice wants beside it."""
    languages: dict[str, object] = {"language_ids": LANGUAGES} if made.languages else {}
    match made.speaker:
        case "d_vector":
            return languages | {"speakers": DVectors(("a", "b"), (2, 1), made.gin_channels, VECTORS)}
        case "speaker_id":
            return languages | {"speaker_ids": {f"VCTK_p{225 + row}": row for row in range(made.speakers)}}
        case _:
            return languages


def whole(variant: str = "yourtts", **overrides: Any) -> Outline:
    """Return the outline of a voice of which nothing has to be explained."""
    made = tiny_coqui.settings(variant, **overrides)
    return with_companions(tiny_coqui.tiny(variant, **overrides), **tables(made))


def reference(name: str) -> Outline:
    """Return a reference voice's outline, with what names its speakers and languages beside it."""
    made = {
        "coqui-yourtts": YOURTTS,
        "coqui-vits-multispeaker": replace(VCTK, speakers=10),
        "coqui-vits-single": SINGLE,
    }
    beside = {f"{table}.json": values for table, values in tables(made[name]).items()}
    return replace(reference_voices.outline(name), beside=beside)


def recognised(seen: Outline) -> Claim:
    """Return the family's claim."""
    answer = FAMILY.recognise(seen)
    assert isinstance(answer, Claim), answer
    return answer


def reading(seen: Outline) -> Reading:
    """Return what the family has found out."""
    found: Reading = recognised(seen).settings
    return found


def built(seen: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
    """Return one of the voice's networks."""
    return FAMILY.build(recognised(seen), seen, part, recipe)


def fed(seen: Outline, part: Part) -> list[str]:
    """Return the names of a part's inputs in their order."""
    return [port.name for port in built(seen, part).inputs]


def voices(first: str, *variants: str) -> list[dict[str, Any]]:
    """Return one voice twice, and the others."""
    return [*(tiny_coqui.tiny(first, seed=seed) for seed in (0, 1)), *map(tiny_coqui.tiny, variants)]


class TestDecoder(FamilyContract):
    """The contract for the main network."""

    family = FAMILY

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return YourTTS twice, one speaker, several, both ways to stretch the latent sound, and a training's file."""
        training = tiny_coqui.tiny_training("speakers", speakers=7)
        return [*voices("yourtts", "single", "speakers", "whole-stretch", "odd-stretch"), training]

    def common(self) -> Sequence[Outline]:
        """Return what Coqui has released as YourTTS."""
        return [reference("coqui-yourtts")]

    def others(self) -> Sequence[Outline]:
        """Return also voices that sing, whose tensors are called much the same."""
        singing = [tiny_voices.tiny(), tiny_voices.tiny_training("v1", f0=False), tiny_sovits.tiny()]
        return [*super().others(), *map(outline, singing), named("text_encoder.emb.weight")]


class TestEncoder(TestDecoder):
    """The contract for what reads the text."""

    part = "encoder"
    axis = "tokens"

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return YourTTS twice, and whatever can be told or not told to either duration predictor."""
        variants = ("one-language", "single", "single-languages", "speakers", "speakers-stochastic")
        return voices("yourtts", *variants, "speakers-languages", "untold-durations")


class TestSingle(TestDecoder):
    """The contract for both in one graph."""

    part = "single"
    axis = "tokens"

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return YourTTS twice, one speaker and several, and a stretched one."""
        return voices("yourtts", "single", "speakers-languages", "untold-durations", "odd-stretch")


class TestVoiceConversion(TestDecoder):
    """The contract for the change of a speaker."""

    part = "voice-conversion"

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return d-vectors twice, and a table of speakers."""
        return voices("hearing", "hearing-speakers")

    def common(self) -> Sequence[Outline]:
        """Return nothing: who trains keeps what listens, and of the usual voices only some can be another's."""
        return []

    def test_the_usual_networks_are_its_own_and_real(self) -> None:
        """Those that can be another's voice."""
        found = [recognised(seen).model["voice_conversion"] for seen in FAMILY.usual()]
        assert found == [True, False, True]


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_is_recognised_without_a_remark(name: str) -> None:
    """By this family alone; with names for its languages nothing has to be assumed."""
    family, claim = choose(reference(name))
    config = reference_voices.spec(name)["rest"]["config"]
    assert (family.name, claim.notes) == (FAMILY.name, ())
    settings, arguments = claim.settings.settings, config["model_args"]
    assert settings.sample_rate == config["audio"]["sample_rate"]
    assert settings.layers == arguments["num_layers_text_encoder"]
    assert settings.stochastic == arguments["use_sdp"]
    assert str(settings.block) == arguments["resblock_type_decoder"]
    assert claim.model["hop"] == config["audio"]["hop_length"]


@pytest.mark.parametrize("variant", tiny_coqui.VARIANTS)
def test_all_settings_are_read(variant: str) -> None:
    """What a voice was made of is found again."""
    assert reading(whole(variant)).settings == tiny_coqui.settings(variant)


@pytest.mark.parametrize(
    ("variant", "facts"),
    [
        (
            "yourtts",
            {"version": "YourTTS", "speaker": "d_vector", "languages": ["en", "fr-fr", "pt-br"], "speakers": 2},
        ),
        ("single", {"version": "VITS", "speaker": "none", "languages": [], "speakers": 1, "hop": 64}),
        ("speakers", {"speaker": "speaker_id", "speakers": 5, "stochastic_durations": False, "residual_blocks": 1}),
        ("odd-stretch", {"sample_rate": 24_000, "encoder_sample_rate": 16_000, "hop": 96}),
        ("hearing", {"voice_conversion": True, "residual_blocks": 2, "weights": "float", "weight_norm": True}),
        ("hearing-stretch", {"voice_conversion": False}),
    ],
)
def test_what_inspect_shows(variant: str, facts: dict[str, object]) -> None:
    """Speakers, languages and rates among it."""
    model = recognised(whole(variant)).model
    assert {key: model[key] for key in facts} == facts


def test_without_a_table_no_speaker_is_counted() -> None:
    """A voice that takes d-vectors can be anybody, and not one in particular."""
    model = recognised(replace(whole("yourtts"), beside={})).model
    assert (model["speaker"], model["speakers"]) == ("d_vector", 0)


@pytest.mark.parametrize("variant", ["single", "speakers", "speakers-stochastic", "hearing-speakers"])
def test_the_original_vits_has_the_same_networks(variant: str) -> None:
    """Its names are others, and its plain predictor has another norm; the numbers find their places."""
    theirs = with_companions(tiny_coqui.original(variant), config=tiny_coqui.original_config(variant))
    same: dict[str, Any] = {"glow_norm": False} | tiny_coqui.BLOCKS_1
    for part in SPOKEN:
        ours = whole(variant, **same)
        mine, other = built(ours, part), built(theirs, part)
        assert mine.graph_key == other.graph_key
        numbers = network(mine, tensors(tiny_coqui.tiny(variant, **same))).state_dict()
        others = network(other, tensors(tiny_coqui.original(variant))).state_dict()
        assert all(torch.equal(tensor, others[name]) for name, tensor in numbers.items())


def test_both_spellings_of_weight_norm_are_the_same_voice() -> None:
    """Torch's newer `parametrizations` load to equal numbers."""
    voice = tiny_coqui.tiny()
    newer = {
        name.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ): tensor
        for name, tensor in voice["model"].items()
    }
    assert newer.keys() != voice["model"].keys()
    other = voice | {"model": newer}
    mine, same = (network(built(outline(each), "single"), tensors(each)).state_dict() for each in (voice, other))
    assert all(torch.equal(tensor, same[name]) for name, tensor in mine.items())


def test_half_weights_and_training_checkpoints_are_the_voice() -> None:
    """They have the same graphs; what only training needs is left out."""
    half, training = tiny_coqui.tiny("hearing", half=True), tiny_coqui.tiny_training("hearing")
    for other in (half, training):
        for part in (*SPOKEN, "voice-conversion"):
            assert built(outline(other), part).graph_key == built(whole("hearing"), part).graph_key
            assert network(built(outline(other), part), tensors(other))
    assert recognised(outline(half)).model["weights"] == "half"
    assert recognised(outline(training)).model["checkpoint"] == "training"


def test_what_a_voice_has_and_does_not_use_is_in_no_file() -> None:
    """Coqui makes a plain predictor's tensors for the speaker even where it is not told who speaks."""
    seen = whole("speakers")
    config = tiny_coqui.config("speakers")
    config["model_args"]["condition_dp_on_speaker"] = False
    untold = replace(seen, rest={"config": config})
    assert fed(untold, "encoder") == ["tokens", "token_lengths"]
    assert not [name for name in built(untold, "encoder").weights if ".cond." in name]


@pytest.mark.parametrize(
    ("variant", "part", "names"),
    [
        ("yourtts", "encoder", ["tokens", "token_lengths", "d_vector", "language_id", "dp_noise"]),
        ("speakers", "encoder", ["tokens", "token_lengths", "speaker_id"]),
        ("single", "encoder", ["tokens", "token_lengths", "dp_noise"]),
        ("untold-durations", "encoder", ["tokens", "token_lengths", "language_id", "dp_noise"]),
        ("yourtts", "decoder", ["m_p", "logs_p", "durations", "d_vector", "noise"]),
        ("speakers", "decoder", ["m_p", "logs_p", "durations", "speaker_id", "noise"]),
        ("single", "decoder", ["m_p", "logs_p", "durations", "noise"]),
        ("yourtts", "single", ["input", "input_lengths", "scales", "d_vector", "langid"]),
        ("speakers-languages", "single", ["input", "input_lengths", "scales", "sid", "langid"]),
        ("single", "single", ["input", "input_lengths", "scales"]),
        ("hearing", "voice-conversion", ["spectrogram", "source_d_vector", "target_d_vector", "noise"]),
        ("hearing-speakers", "voice-conversion", ["spectrogram", "source_speaker_id", "target_speaker_id", "noise"]),
    ],
)
def test_what_each_file_is_fed_and_in_which_order(variant: str, part: Part, names: list[str]) -> None:
    """What a voice knows nothing of is no input; clients that feed by position rely on the order."""
    assert fed(whole(variant), part) == names
    told = built(whole(variant), part).names
    assert [name for name in told.values() if name is not None] == names


def test_the_encoder_gives_three_things_and_the_others_sound() -> None:
    """By the names that clients know."""
    seen = whole("hearing")
    outputs = {part: [port.name for port in built(seen, part).outputs] for part in (*SPOKEN, "voice-conversion")}
    sound = {"decoder": ["waveform"], "single": ["output"], "voice-conversion": ["waveform"]}
    assert outputs == {"encoder": ["m_p", "logs_p", "w"], **sound}


def test_graphs_are_shared_by_all_that_have_them() -> None:
    """A decoder knows nothing of symbols, an encoder nothing of rates; a posterior encoder is in one of four."""
    seen = whole()
    symbols, faster, hearing = whole(symbols=20), whole(sample_rate=22_050, encoder_rate=22_050), whole("hearing")
    keys = {part: built(seen, part).graph_key for part in SPOKEN}
    assert built(symbols, "decoder").graph_key == keys["decoder"]
    assert built(symbols, "encoder").graph_key != keys["encoder"]
    assert built(symbols, "single").graph_key != keys["single"]
    for other in (faster, hearing):
        assert {part: built(other, part).graph_key for part in SPOKEN} == keys
    stretched = {part: built(whole("odd-stretch"), part).graph_key for part in SPOKEN}
    assert [part for part in SPOKEN if stretched[part] == keys[part]] == ["encoder"]
    untold, told = whole("untold-durations"), whole("untold-durations", duration_by_speaker=True)
    assert [part for part in SPOKEN if built(untold, part).graph_key == built(told, part).graph_key] == ["decoder"]
    assert len({*keys.values(), built(hearing, "voice-conversion").graph_key}) == 4
    assert len({built(seen, part).title for part in SPOKEN}) == 3


def test_the_parts_that_a_recipe_wants() -> None:
    """Two files for the family's own face; the others as they are asked for, in their order."""
    claim = recognised(whole())
    assert FAMILY.parts(claim, PLAIN) == ("decoder", "encoder")
    faces = Recipe("r", interfaces=("single", "rvc", "voice-conversion"))
    assert FAMILY.parts(claim, faces) == ("single", "decoder", "encoder", "voice-conversion")
    assert built(whole()).interface == "decoder"


@pytest.mark.parametrize(
    ("part", "variant", "why"),
    [
        ("voice-conversion", "yourtts", "the posterior encoder, is not in the file"),
        ("voice-conversion", "hearing-alone", "it knows one speaker"),
        ("voice-conversion", "hearing-stretch", "at another sample rate"),
        ("w-okada", "yourtts", "w-okada's client converts voices"),
        ("moevs", "yourtts", "MoeVoiceStudio does not open"),
    ],
)
def test_a_part_that_cannot_be_is_told(part: Part, variant: str, why: str) -> None:
    """It is left out with a sentence."""
    with pytest.raises(NoSuchFace, match=why):
        built(whole(variant), part)


def test_what_is_half_in_half_precision() -> None:
    """Whatever decides how long the sound is stays as it is, and only who asks for half is told so."""
    seen = whole("hearing")
    halves = {part: built(seen, part).in_half for part in (*SPOKEN, "voice-conversion")}
    assert halves == {"encoder": "", **dict.fromkeys(("decoder", "single", "voice-conversion"), "waveform_decoder")}
    assert IN_FLOAT32 in built(seen, "encoder", BOTH).notes
    assert IN_FLOAT32 not in built(seen, "decoder", BOTH).notes + built(seen, "encoder").notes
    assert [part for part in (*SPOKEN, "voice-conversion") if built(seen, part).rounds] == ["single"]


def test_the_terms_of_the_voice_are_told() -> None:
    """Every time; those of the released weights to whoever may have them."""
    assert built(whole()).notes == (LICENCE, YOURTTS_LICENCE)
    assert built(whole("single")).notes == (LICENCE,)


def test_noise_is_drawn_in_one_file_alone() -> None:
    """And told to the sidecar as fed by nobody."""
    seen = whole()
    assert built(seen, "single").noises == ("dp_noise", "noise")
    assert built(whole("speakers"), "single").noises == ("noise",)
    assert built(seen, "single").names["noise"] is None
    assert built(seen).noises == built(seen, "encoder").noises == ()


@pytest.mark.parametrize("frames", [1, 2, 3, 24, 97])
def test_samples_are_plausible(frames: int) -> None:
    """Durations add up to the frames, blanks lie between symbols, d-vectors are of any length, noise is scaled."""
    seen = whole()
    drawn = {part: built(seen, part).sample(frames, np.random.default_rng(frames)) for part in SPOKEN}
    assert drawn["decoder"]["durations"].sum() == drawn["decoder"]["noise"].shape[2] == frames
    assert drawn["decoder"]["durations"].shape == drawn["decoder"]["m_p"].shape[::2]
    assert drawn["decoder"]["durations"].shape[1] != frames
    assert set(drawn["encoder"]["tokens"][0, ::2]) == {tiny_coqui.TINY.symbols - 1}
    assert drawn["encoder"]["token_lengths"] == drawn["single"]["input_lengths"] == frames
    assert abs(np.linalg.norm(drawn["encoder"]["d_vector"]) - 1) > 0.1
    assert drawn["single"]["scales"].tolist() == pytest.approx([0.667, 1, 1])
    spectrogram = built(whole("hearing"), "voice-conversion").sample(frames, np.random.default_rng(0))["spectrogram"]
    assert spectrogram.min() > 0
    assert np.log(spectrogram[0, 0]).mean() > np.log(spectrogram[0, -1]).mean() + 2


def with_vectors(names: tuple[str, ...], **changed: Any) -> Outline:
    """Return YourTTS with a table of d-vectors beside it."""
    seen = whole()
    width = tiny_coqui.TINY.gin_channels
    vectors = replace(DVectors(names, tuple(range(1, len(names) + 1)), width, VECTORS), **changed)
    return replace(seen, beside={**seen.beside, "speakers.json": vectors})


def test_the_speakers_vectors_are_published_in_their_order() -> None:
    """Names are made readable; what they were is told beside, if it was something else."""
    seen = with_vectors(("female-en-5", "female-en-5\n", "a\\b", "nul\u200c\u00a0c"))
    assert built(seen).feed["speakers"] == [
        {"row": 0, "name": "female-en-5", "clips": 1},
        {"row": 1, "name": "female-en-5", "raw": "female-en-5\\n", "clips": 2},
        {"row": 2, "name": "a\\b", "clips": 3},
        {"row": 3, "name": "nul\N{REPLACEMENT CHARACTER} c", "raw": "nul\\u200c\\xa0c", "clips": 4},
    ]
    long = built(with_vectors(tuple("a long name " * 10 + each for each in "xy"))).feed["speakers"]
    assert long[0]["name"] == long[1]["name"]
    assert [speaker["raw"][-1] for speaker in long] == ["x", "y"]
    assert recognised(seen).model["speakers"] == 4
    assert FAMILY.data(recognised(seen), seen, PLAIN) == {"d_vectors": AsIs(VECTORS)}
    untold = outline(tiny_coqui.tiny())
    assert FAMILY.data(recognised(untold), untold, PLAIN) == {}
    assert built(seen).feed["d_vector"]["width"] == tiny_coqui.TINY.gin_channels


def test_how_a_voice_is_fed_is_told() -> None:
    """Rates, symbols, what goes between them, scales, and the rule of durations."""
    feed = built(whole()).feed
    assert (feed["sample_rate"], feed["hop"], feed["blank"], feed["pad"]) == (16_000, 64, 11, 0)
    assert (feed["add_blank"], feed["use_eos_bos"], feed["cleaner"]) == (True, False, "multilingual_cleaners")
    assert feed["tokens"] == reading(whole()).config.tokens
    assert feed["scales"] == {"noise_scale": 0.667, "length_scale": 1.0, "noise_scale_dp": 1.0}
    assert feed["durations"]["rule"] == "min(ceil(w * length_scale), 1000)"
    assert feed["languages"] == [{"id": row, "name": name} for name, row in LANGUAGES.items()]
    assert "speakers" not in built(whole("single")).feed
    assert not {"languages", "d_vector"} & built(whole("single")).feed.keys()
    assert built(whole("speakers")).feed["speakers"][1] == {"id": 1, "name": "VCTK_p226"}
    assert built(outline(tiny_coqui.tiny("speakers"))).feed["speakers"] == []
    assert "duration_noise" not in built(whole("speakers")).feed
    assert built(whole("hearing")).feed["spectrogram"]["bins"] == 33
    assert json.loads(json.dumps(feed, allow_nan=False)) == feed


def test_a_stretched_sound_is_counted_in_whole_frames() -> None:
    """Samples a frame need not be a whole number."""
    assert built(whole("whole-stretch")).feed["hop"] == 128
    made = tiny_coqui.settings(sample_rate=22_050, encoder_rate=16_000)
    feed = built(whole(sample_rate=22_050, encoder_rate=16_000)).feed
    assert feed["hop"] == 88.2
    assert feed["samples"] == f"floor(frames * 441 / 320) * {made.hop}"
    for rates, samples in (((32_000, 16_000), 14 * 64), ((24_000, 16_000), 10 * 64), ((22_050, 16_000), 9 * 64)):
        voice = tiny_coqui.tiny(sample_rate=rates[0], encoder_rate=rates[1])
        exportable = built(outline(voice))
        drawn = exportable.sample(7, np.random.default_rng(0))
        own = network(exportable, tensors(voice))
        assert own(*(torch.from_numpy(drawn[port.name]) for port in exportable.inputs)).shape == (1, 1, samples)


def test_symbols_that_cannot_be_shown_have_a_table_of_their_own() -> None:
    """By their code points; a sidecar that holds such a text is read by nobody."""
    voice = tiny_coqui.tiny("single")
    letters = voice["config"]["characters"]
    letters["characters"] = "\u00a0\u200d" + letters["characters"][2:]
    feed = built(outline(voice)).feed
    assert feed["tokens_by_code_point"] == {"a0": 2, "200d": 3}
    assert not {"\u00a0", "\u200d"} & feed["tokens"].keys()
    _must_be_plain(feed, [MAX_VALUES])


def large(symbols: int, speakers: int) -> Exportable:
    """Return a Chinese voice with so many symbols and speakers with long names."""
    seen = whole(symbols=symbols)
    names = tuple(f"{number}{'名' * 99}\n" for number in range(speakers))
    vectors = DVectors(names, (1,) * speakers, tiny_coqui.TINY.gin_channels, VECTORS)
    return built(replace(seen, beside={**seen.beside, "speakers.json": vectors}))


def test_a_thousand_speakers_and_thousands_of_symbols_have_room() -> None:
    """In the answer of the worker, and in a sidecar that other daemons read."""
    feed = large(4000, 1000).feed
    assert (len(feed["tokens"]), len(feed["speakers"])) == (4000, 1000)
    assert all("raw" in speaker for speaker in feed["speakers"])
    assert len(json.dumps(feed, ensure_ascii=False).encode()) < MAX_LINE * 3 / 4
    _must_be_plain(feed, [MAX_VALUES - 900])


def test_symbols_without_room_are_left_to_the_config() -> None:
    """With a sentence; nothing else is missing."""
    seen = whole(symbols=12_000)
    assert any("12000 symbols" in note for note in recognised(seen).notes)
    feed = built(seen).feed
    assert "tokens" not in feed
    assert feed["blank"] == 11_999


def test_the_one_graph_says_in_its_file_what_its_clients_read() -> None:
    """Sherpa-onnx knows it by its comment; all of it is text."""
    metadata = built(whole("speakers-languages"), "single").metadata
    wanted = {"model_type": "vits", "comment": "coqui", "frontend": "characters", "language": "en", "add_blank": "1"}
    wanted |= {"n_speakers": "5", "blank_id": "11", "pad_id": "0", "use_eos_bos": "0", "sample_rate": "16000"}
    assert {key: metadata[key] for key in wanted} == wanted
    assert built(whole("single"), "single").metadata["language"] == "unknown"
    assert "comment" not in built(whole()).metadata
    phonemes = tiny_coqui.tiny("single")
    phonemes["config"] |= {"use_phonemes": True, "phonemizer": "espeak", "phoneme_language": "en-us"}
    told = built(outline(phonemes), "single").metadata
    assert (told["frontend"], told["voice"], told["language"]) == ("", "en-us", "en-us")


@pytest.mark.parametrize(
    ("cleaners", "frontend"),
    [(["english_cleaners2"], None), (["transliteration_cleaners"], "characters"), ([], "characters")],
)
def test_what_a_cleaner_of_the_original_does_is_not_made_up(cleaners: list[str], frontend: str | None) -> None:
    """Some make phonemes: whoever fed letters to such a voice, as the file said, would hear gibberish."""
    config = tiny_coqui.original_config("single")
    config["data"]["text_cleaners"] = cleaners
    seen = with_companions(tiny_coqui.original("single"), config=config)
    made = built(seen, "single")
    assert made.metadata.get("frontend") == frontend
    assert made.feed.get("use_phonemes") == (None if frontend is None else False)
    assert [note for note in recognised(seen).notes if "text cleaner" in note] == (
        [] if frontend else [CLEANED.format(cleaner="english_cleaners2")]
    )


def test_a_tensor_of_another_shape_is_named() -> None:
    """As the file calls it or as we do, with what it has and what it should have."""
    seen = whole()
    wrong = dict(seen.tensors) | {"text_encoder.proj.bias": TensorInfo((3,), "float32")}
    with pytest.raises(Contradiction, match=r"text_encoder\.proj\.bias has the shape 3 and should have 16"):
        recognised(replace(seen, tensors=wrong))


def test_voices_that_sing_are_others() -> None:
    """Each has one claim."""
    for other in (tiny_voices.tiny(), tiny_sovits.tiny()):
        assert isinstance(FAMILY.recognise(outline(other)), NotMine)
    for variant in tiny_coqui.VARIANTS:
        assert choose(whole(variant))[0].name == FAMILY.name
