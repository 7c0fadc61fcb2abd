"""so-vits-svc keeps the family contract, with all its options; what no tensor tells comes from the config beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference_voices
import tiny_sovits
import tiny_voices
from families.contract import FamilyContract
from outlines import named, outline, tensors
from plain_export import network
from voicekiln.errors import BadNumbers, Contradiction, NoSuchFace
from voicekiln.families import choose, so_vits_svc_feed
from voicekiln.families.base import PLAIN, Claim, Exportable, NotMine, Outline
from voicekiln.families.rvc import Rvc
from voicekiln.families.so_vits_svc import TRAINING_NOTE, SoVitsSvc
from voicekiln.families.so_vits_svc_settings import Reading
from voicekiln.families.so_vits_svc_units import STRETCHES
from voicekiln.job import Part, Recipe

FAMILY = SoVitsSvc()
MIX = Recipe("mix", speaker_mix=True)
REFERENCES = ("sovits-40", "sovits-41", "sovits-41-tflow", "sovits-41-tiny", "sovits-41-vol-snake", "sovits-fork")

Change = Callable[[dict[str, Any]], Any]


def with_config(checkpoint: dict[str, Any], config: object, name: str = "config.json") -> Outline:
    """Return a checkpoint's outline with a companion beside it."""
    return replace(outline(checkpoint), beside={name: config})


def reference(name: str) -> Outline:
    """Return a reference voice's outline with its config beside it."""
    return replace(reference_voices.outline(name), beside={"config.json": reference_voices.spec(name)["config_json"]})


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


def voices(*variants: str) -> list[dict[str, Any]]:
    """Return the default voice twice and the variants."""
    return [*(tiny_sovits.tiny(seed=seed) for seed in (0, 1)), *map(tiny_sovits.tiny, variants)]


class TestSoVitsSvc(FamilyContract):
    """The contract for the plain graph of all variants."""

    family = FAMILY

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return the default twice, all other networks, and a training checkpoint."""
        options = ("vol", "snake", "tiny", "transformer", "shared-transformer", "one-speaker", "other-gin")
        return [*voices(*options), tiny_sovits.tiny_training("three-speakers")]

    def common(self) -> Sequence[Outline]:
        """Return what 4.1's tiny template and the fork train for one speaker."""
        return [reference("sovits-41-tiny"), reference("sovits-fork")]

    def others(self) -> Sequence[Outline]:
        """Return also RVC's voices."""
        rvc = [outline(voice) for voice in (tiny_voices.tiny(), tiny_voices.tiny_training("v1", f0=False))]
        return [*super().others(), *rvc]


class TestAutoF0(TestSoVitsSvc):
    """The contract for the graph that predicts f0."""

    part = "autof0"

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return the default twice, and with loudness and shared layers."""
        return voices("vol", "tiny")


class TestMix(TestSoVitsSvc):
    """The contract for the graph that is fed a share of each speaker."""

    recipe = MIX

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return two speakers twice, three, and both in other networks."""
        return voices("three-speakers", "snake", "transformer")

    def common(self) -> Sequence[Outline]:
        """Return a voice of one speaker, which is not mixed: the usual templates are for one."""
        return [reference("sovits-41-tiny")]


class TestAutoF0OfAMix(TestMix):
    """The contract for both at once."""

    part = "autof0"


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_is_recognised_without_a_remark(name: str) -> None:
    """By this family alone; with its config nothing has to be assumed, and its sizes are those of the config."""
    seen = reference(name)
    family, claim = choose(seen)
    assert family.name == FAMILY.name
    assert claim.notes == ()
    model, told = claim.model, reference_voices.spec(name)["config_json"]
    assert (model["sample_rate"], model["hop"], model["companions"]) == (44_100, 512, ["config.json"])
    assert [speaker["name"] for speaker in model["speaker_names"]] == list(told["spk"])
    settings = claim.settings.settings
    assert (settings.ssl_dim, settings.gin_channels) == (told["model"]["ssl_dim"], told["model"]["gin_channels"])
    assert settings.rates == tuple(told["model"]["upsample_rates"])
    assert settings.snake == (told["model"].get("vocoder_name") == "nsf-snake-hifigan")
    assert FAMILY.parts(claim, PLAIN) == ("so-vits-svc", "autof0")


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_without_its_config_has_the_same_network(name: str) -> None:
    """All that matters for the graph is in the tensors, or as everybody has it; what was assumed is said."""
    alone = reference_voices.outline(name)
    assert reading(alone).settings == reading(reference(name)).settings
    assert built(alone).graph_key == built(reference(name)).graph_key
    claim = recognised(alone)
    assert "44100 Hz, 512 samples a frame, dilations 1, 3, 5" in claim.notes[0]
    assert "Nothing says which speech encoder" in claim.notes[1]
    assert claim.model["companions"] == []


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sovits-40", {"version": "4.0", "embedder": "vec256l9", "feature_layer": 9, "stretch": "left"}),
        ("sovits-41", {"version": "4.1", "embedder": "vec768l12", "feature_layer": 12, "stretch": "nearest"}),
        ("sovits-fork", {"version": "4.0 (fork)", "embedder": "vec768l12", "speakers": 2, "stretch": "nearest"}),
        ("sovits-41-vol-snake", {"loudness": True, "options": ["snake"], "weights": "float"}),
        ("sovits-41-tiny", {"options": ["depthwise", "shared_flow"], "speakers": 1}),
        ("sovits-41-tflow", {"options": ["shared_flow", "transformer_flow"]}),
    ],
)
def test_what_inspect_shows(name: str, facts: Mapping[str, object]) -> None:
    """The version, the encoder of the features, how they are stretched, and the options."""
    model = recognised(reference(name)).model
    assert {key: model[key] for key in facts} == facts


@pytest.mark.parametrize("variant", tiny_sovits.VARIANTS)
def test_all_settings_are_read(variant: str) -> None:
    """What a voice was made of is found again, with its config and without."""
    made, voice = tiny_sovits.settings(variant), tiny_sovits.tiny(variant)
    assert reading(outline(voice)).settings == made
    with_its_own = recognised(with_config(voice, tiny_sovits.config(variant)))
    assert (with_its_own.settings.settings, with_its_own.notes) == (made, ())


@pytest.mark.parametrize("width", [256, 768, 1024, 1280])
def test_every_encoder_has_its_width(width: int) -> None:
    """Features of every width are taken; the usual encoder is named together with the others that there are."""
    claim = recognised(outline(tiny_sovits.tiny(ssl_dim=width)))
    usual = {256: "vec256l9", 768: "vec768l12", 1024: "whisper-ppg", 1280: "whisper-ppg-large"}[width]
    assert (claim.model["feature_width"], claim.model["embedder"]) == (width, usual)
    taken, _, others = claim.notes[1].partition("of that width")
    assert usual in taken
    assert usual not in others
    assert bool(others) == (width != 1280)


def test_a_width_that_no_encoder_has_is_taken_and_told() -> None:
    """The network does not mind; no encoder is made up."""
    claim = recognised(outline(tiny_sovits.tiny(ssl_dim=300)))
    assert "embedder" not in claim.model
    assert claim.notes[1] == "Nothing says which speech encoder gives it its features of the width 300."
    assert "encoder" not in built(outline(tiny_sovits.tiny(ssl_dim=300))).feed["features"]


def test_the_config_tells_what_tensors_do_not() -> None:
    """Rate, hop, dilations, encoder, the rule of stretching and names come from it."""
    config = tiny_sovits.config(rates=(10, 8, 2, 2, 2), sample_rate=32_000, encoder="hubertsoft")
    config["model"]["resblock_dilation_sizes"] = [[1, 2, 4], [1, 3, 9]]
    config["data"]["unit_interpolate_mode"] = "linear"
    voice = tiny_sovits.tiny(rates=(10, 8, 2, 2, 2), up_kernels=(16, 16, 4, 4, 4))
    config["model"]["upsample_kernel_sizes"] = [16, 16, 4, 4, 4]
    seen = with_config(voice, config)
    settings, model = reading(seen).settings, recognised(seen).model
    assert (settings.rates, settings.sample_rate) == ((10, 8, 2, 2, 2), 32_000)
    assert settings.dilations == ((1, 2, 4), (1, 3, 9))
    assert (model["embedder"], model["stretch"], model["hop"]) == ("hubertsoft", "linear", 640)
    assert built(seen).feed["stretch"]["formula"].startswith("bring the units to the number of frames")


def test_without_config_a_decoder_of_another_kind_is_not_guessed() -> None:
    """Kernels that do not fit 512 samples a frame are told; a config that comes later heals it."""
    voice = tiny_sovits.tiny(rates=(10, 8, 2, 2, 2), up_kernels=(20, 16, 4, 4, 4))
    with pytest.raises(Contradiction, match=r"without its config\.json"):
        recognised(outline(voice))
    config = tiny_sovits.config(rates=(10, 8, 2, 2, 2), up_kernels=(20, 16, 4, 4, 4))
    assert recognised(with_config(voice, config)).notes == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["model"].update(n_speakers=200), "200 for n_speakers, its weights have 2"),
        (lambda c: c["model"].update(filter_channels=768), "768 for filter_channels, its weights have 24"),
        (lambda c: c["model"].update(vol_embedding=True), "True for vol_embedding, its weights have False"),
        (lambda c: c["model"].update(vocoder_name="nsf-snake-hifigan"), "True for vocoder_name"),
        (lambda c: c["model"].update(upsample_rates=[8, 4, 4, 2, 2]), "8, 4, 4, 2, 2 for upsample_rates"),
        (lambda c: c["model"].update(upsample_kernel_sizes=[16, 16, 8, 4, 4]), "upsample_kernel_sizes"),
    ],
)
def test_weights_win_over_the_config(change: Change, word: str) -> None:
    """The voice's own config is believed in all else, and the person told; a general one belongs to another voice."""
    voice, config = tiny_sovits.tiny(), tiny_sovits.config()
    change(config)
    own = recognised(with_config(voice, config, "voice.json"))
    assert own.settings.settings == tiny_sovits.settings()
    assert any(word in note for note in own.notes)
    assert own.model["companions"] == ["voice.json"]
    general = recognised(with_config(voice, config))
    assert general.model["companions"] == []
    assert general.notes[0].startswith("config.json, which lies beside it, is not this model's: config.json has")
    assert "speaker_names" not in general.model


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["data"].update(hop_length=500), "500 samples a frame"),
        (lambda c: c["data"].update(hop_length=64), "64 samples a frame and the upsampling 8"),
        (lambda c: [c["data"].update(hop_length=500), c["model"].pop("upsample_rates")], "makes 64 after one step"),
        (lambda c: c["data"].update(hop_length=True), "hop_length True, which cannot be"),
        (lambda c: c["data"].update(sampling_rate=0), "sampling_rate 0, which cannot be"),
        (lambda c: c["data"].update(sampling_rate=1), "sampling_rate 1, which cannot be"),
        (lambda c: c["data"].update(sampling_rate=10**6), "sampling_rate 1000000, which cannot be"),
        (lambda c: c["data"].update(sampling_rate="200k"), "sampling_rate 200k, which cannot be"),
        (lambda c: c["data"].update(sampling_rate="many"), "sampling_rate many, which cannot be"),
        (lambda c: c["model"].update(ssl_dim=10**400), "ssl_dim a huge number, which cannot be"),
        (lambda c: c["model"].update(n_layers=-1), "n_layers -1, which cannot be"),
        (lambda c: c["model"].update(upsample_rates=[]), "upsample_rates a list, which cannot be"),
        (lambda c: c["model"].update(upsample_rates=[65536] * 16), "have 512 samples a frame and the upsampling 65536"),
        (lambda c: c["model"].update(resblock_dilation_sizes=[[1, 3, 5]]), "1 residual blocks a step"),
        (lambda c: c["model"].update(resblock_dilation_sizes=[[1, 3], [1, 3, 5]]), "convs1.2"),
        (lambda c: c["model"].update(resblock_dilation_sizes=[[1, 3, 10001], [1, 3, 5]]), "10001 samples to each side"),
        (lambda c: c["model"].update(resblock="2"), "residual blocks of kind 2"),
        (lambda c: c["model"].update(speech_encoder="vec768l12"), "which gives 768 features a unit"),
        (lambda c: c.update(spk={"a": 0, "b": 2}), "has a speaker 2, the weights have 2"),
        (lambda c: c.update(spk={"a": 0, "b": 0}), "without a number of their own"),
        (lambda c: c.update(spk={"a": "0"}), "without a number of their own"),
        (lambda c: c.update(spk={str(n): n for n in range(1001)}), "it has 1001 speakers, 1000 at most"),
    ],
)
def test_a_config_that_cannot_be_the_voices(change: Change, sentence: str) -> None:
    """Under the voice's own name it is a refusal in words; under the general name it is another voice's."""
    voice, config = tiny_sovits.tiny(), tiny_sovits.config()
    change(config)
    with pytest.raises(Contradiction) as refusal:
        recognised(with_config(voice, config, "Voice.JSON"))
    assert sentence in refusal.value.text
    general = recognised(with_config(voice, config, "Config.json"))
    assert sentence in general.notes[0]
    assert general.settings.settings == tiny_sovits.settings()


def test_an_encoder_that_nobody_here_knows_is_told() -> None:
    """It is passed on as it is written; those that are known need no remark."""
    for encoder, told in (("hubert-of-mine", True), ("hubertsoft", False)):
        claim = recognised(with_config(tiny_sovits.tiny(), tiny_sovits.config(encoder=encoder)))
        assert claim.model["embedder"] == encoder
        sentence = f"Nobody here knows the speech encoder {encoder}; its name is passed on as written."
        assert claim.notes == ((sentence,) if told else ())


def test_more_speakers_than_can_be_told_are_refused() -> None:
    """Their names alone would be longer than all that the worker may say."""
    with pytest.raises(Contradiction, match="it has 1001 speakers, 1000 at most"):
        recognised(outline(tiny_sovits.tiny(speakers=1001)))
    assert recognised(outline(tiny_sovits.tiny(speakers=1000))).model["speakers"] == 1000


@pytest.mark.parametrize("other", [None, [], {"a": 1}, {"model": {}}, {"model": [], "data": {}}, "text"])
def test_a_companion_that_is_no_config_is_left_aside(other: object) -> None:
    """Unreadable or of another tool: it is told, the other one is looked at, and the voice is converted."""
    voice = tiny_sovits.tiny()
    seen = replace(outline(voice), beside={"voice.json": other, "config.json": tiny_sovits.config()})
    claim = recognised(seen)
    assert claim.model["companions"] == ["config.json"]
    assert len(claim.notes) == 1
    assert claim.notes[0].startswith("voice.json, which lies beside it,")


def test_the_voices_own_config_comes_first() -> None:
    """It is taken without a look at the general one."""
    beside = {"config.json": tiny_sovits.config(speakers=("x", "y")), "voice.json": tiny_sovits.config()}
    claim = recognised(replace(outline(tiny_sovits.tiny()), beside=beside))
    assert claim.model["companions"] == ["voice.json"]
    assert [speaker["name"] for speaker in claim.model["speaker_names"]] == ["tenor", "alto"]


def test_other_companions_are_not_looked_at() -> None:
    """A diffusion model's settings beside the voice are not the voice's."""
    seen = replace(outline(tiny_sovits.tiny()), beside={"diffusion.yaml": {"data": {}, "model": {}}, "v.yaml": None})
    assert recognised(seen).notes == recognised(outline(tiny_sovits.tiny())).notes


@pytest.mark.parametrize("part", ["model", "data"])
def test_what_a_config_leaves_out_is_assumed_and_told(part: str) -> None:
    """A config without most of its entries is a config; nothing is assumed in silence."""
    claim = recognised(with_config(tiny_sovits.tiny(), tiny_sovits.config() | {part: {}}))
    assert claim.settings.settings == tiny_sovits.settings()
    assert claim.notes[0].startswith("config.json leaves some things out;")
    assert "44100 Hz, 512 samples a frame, dilations 1, 3, 5" in claim.notes[0]


def test_names_of_speakers_are_cleaned() -> None:
    """They come from a stranger and go into pages and file headers."""
    config = tiny_sovits.config(speakers=("te\nnor\u202e", "x" * 9999))
    seen = with_config(tiny_sovits.tiny(), config)
    first, second = (speaker["name"] for speaker in recognised(seen).model["speaker_names"])
    assert first == "te nor\N{REPLACEMENT CHARACTER}"
    assert len(second) == 60


def test_a_training_checkpoint_is_taken_with_a_note() -> None:
    """The posterior encoder is left out, and the graph is the voice's."""
    training, config = tiny_sovits.tiny_training(), tiny_sovits.config()
    claim = recognised(with_config(training, config))
    assert claim.notes == (TRAINING_NOTE,)
    assert (claim.model["checkpoint"], claim.model["iteration"]) == ("training", 800)
    assert built(outline(training)).graph_key == built(outline(tiny_sovits.tiny())).graph_key
    assert network(built(outline(training)), tensors(training))


def test_half_weights_are_a_voice() -> None:
    """A half release has the same graph, and loads."""
    half = tiny_sovits.tiny(half=True)
    assert recognised(outline(half)).model["weights"] == "half"
    assert built(outline(half)).graph_key == built(outline(tiny_sovits.tiny())).graph_key
    assert network(built(outline(half)), tensors(half))


def test_both_spellings_of_weight_norm_are_the_same_voice() -> None:
    """Torch's newer `parametrizations` load to equal numbers."""
    voice = tiny_sovits.tiny()
    newer = {
        name.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ): tensor
        for name, tensor in voice["model"].items()
    }
    assert newer.keys() != voice["model"].keys()
    other = voice | {"model": newer}
    mine, same = (network(built(outline(each)), tensors(each)).state_dict() for each in (voice, other))
    assert all(torch.equal(tensor, same[name]) for name, tensor in mine.items())


def test_the_order_of_the_inputs_is_the_one_that_clients_know() -> None:
    """Clients that feed by position rely on it; the loudness comes last, a mix where the number of the speaker was."""
    plain = ["c", "f0", "mel2ph", "uv", "noise", "sid"]
    seen, loud = outline(tiny_sovits.tiny("three-speakers")), outline(tiny_sovits.tiny("vol"))
    assert [port.name for port in built(seen).inputs] == plain
    assert [port.name for port in built(loud, "autof0").inputs] == [*plain, "vol"]
    assert [port.name for port in built(loud, "autof0").outputs] == ["audio", "f0_auto"]
    (speaker,) = (port for port in built(seen, recipe=MIX).inputs if port.name == "sid")
    assert (speaker.dtype, speaker.axes) == ("float32", ("frames", 3))
    assert built(seen).in_float32 == "dec.m_source"


def test_graphs_differ_by_part_and_mix_alone() -> None:
    """What a graph has none of does not tell voices apart."""
    seen = outline(tiny_sovits.tiny())
    parts: tuple[Part, ...] = ("so-vits-svc", "autof0")
    exportables = [built(seen, part, recipe) for recipe in (PLAIN, MIX) for part in parts]
    assert len({exportable.graph_key for exportable in exportables}) == 4
    assert len({exportable.title for exportable in exportables}) == 4
    silent = outline(tiny_sovits.tiny("no-f0-decoder"))
    assert built(silent).graph_key == built(seen).graph_key
    assert built(seen, "moevs").graph_key == built(seen).graph_key


def test_the_parts_that_a_recipe_wants() -> None:
    """The plain face under the family's name, the client's where it is asked for, the prediction where there is one."""
    claim, silent = (recognised(outline(tiny_sovits.tiny(v))) for v in ("default", "no-f0-decoder"))
    faces = Recipe("r", interfaces=("moevs", "rvc", "w-okada"))
    assert FAMILY.parts(claim, faces) == ("moevs", "so-vits-svc", "w-okada", "autof0")
    assert FAMILY.parts(silent, PLAIN) == ("so-vits-svc",)
    assert FAMILY.data(claim, outline(tiny_sovits.tiny()), PLAIN) == {}


@pytest.mark.parametrize(("part", "variant"), [("w-okada", "default"), ("autof0", "no-f0-decoder")])
def test_a_part_that_cannot_be_is_told(part: Part, variant: str) -> None:
    """It is left out with a sentence."""
    with pytest.raises(NoSuchFace):
        built(outline(tiny_sovits.tiny(variant)), part)


def test_a_mix_of_one_speaker_is_the_plain_face_with_a_note() -> None:
    """Whether there is one row, or room for 200 and one name."""
    alone = outline(tiny_sovits.tiny("one-speaker"))
    one_of_many = with_config(tiny_sovits.tiny("fork"), tiny_sovits.config("fork", speakers=("tenor",)))
    for seen in (alone, one_of_many):
        exportable = built(seen, recipe=MIX)
        assert exportable.graph_key == built(seen).graph_key
        assert exportable.notes == (so_vits_svc_feed.ONE_SPEAKER,)
        assert exportable.feed["speaker"]["lowest"] == 0
        assert "mix" not in exportable.feed["speaker"]
        assert built(seen).notes == ()
    assert built(outline(tiny_sovits.tiny()), recipe=MIX).notes == ()


@pytest.mark.parametrize("frames", [1, 24, 40, 200])
def test_samples_are_plausible(frames: int) -> None:
    """Every frame has a unit, in their order and to the last; voiced is where f0 is; shares add up to one."""
    seen = outline(tiny_sovits.tiny("three-speakers", vol=True))
    for recipe in (PLAIN, MIX):
        drawn = built(seen, recipe=recipe).sample(frames, np.random.default_rng(0))
        used, units = drawn["mel2ph"][0], drawn["c"].shape[1]
        assert (used[0], set(np.diff(used)) <= {0, 1}) == (1, True)
        assert units - 1 <= used[-1] <= units
        assert units != frames or frames == 1
        assert np.array_equal(drawn["uv"], drawn["f0"] > 0)
        assert drawn["vol"].min() > 0
    assert np.allclose(drawn["sid"].sum(axis=1), 1)


def test_a_mix_of_one_speaker_alone_is_that_speaker() -> None:
    """The graph of the mix with all of the share on one row sings as the plain one does with its number."""
    voice = tiny_sovits.tiny("three-speakers")
    seen = outline(voice)
    feed = built(seen).sample(40, np.random.default_rng(1)) | {"sid": np.array([1])}
    mixed = feed | {"sid": np.tile(np.array([[0, 1, 0]], np.float32), (40, 1))}
    audio = []
    for exportable, inputs in ((built(seen), feed), (built(seen, recipe=MIX), mixed)):
        own = network(exportable, tensors(voice))
        noise: Any = own.get_submodule(exportable.noises[0])
        noise.replay = torch.zeros(40, 512, 9)
        with torch.no_grad():
            audio.append(own(*(torch.from_numpy(inputs[port.name]) for port in exportable.inputs)).numpy())
    assert reference_voices.ac_snr_db(*audio) > 100


@pytest.mark.parametrize("name", REFERENCES)
def test_the_formula_of_the_stretch_is_the_originals(name: str) -> None:
    """Whoever computes `mel2ph` as the sidecar says gets what the original's own stretch uses."""
    stretch = built(reference(name)).feed["stretch"]
    assert (stretch["formula"], stretch["first"]) == (STRETCHES[stretch["rule"]], 1)
    expression = stretch["formula"].partition(" = ")[2].rpartition(", ")[0]
    for run in reference_voices.arrays(name):
        frames, units = run["mel2ph"].shape[1], run["c"].shape[1]
        single = np.float32 if stretch["rule"] == "nearest" else np.int64
        known = {"t": np.arange(frames, dtype=single), "units": single(units), "frames": single(frames)}
        said = eval(expression, {"floor": np.floor, "min": np.minimum}, known)  # noqa: S307 - our own sentence
        assert np.array_equal(said, run["mel2ph"][0])


def test_how_a_voice_is_fed_is_told() -> None:
    """Encoder, layer, width, rates, the rule of stretching, the scale of the noise, and the speakers by name."""
    feed = built(reference("sovits-41-vol-snake")).feed
    assert feed["features"] == {
        "encoder": "vec768l12",
        "layer": 12,
        "final_projection": False,
        "width": 768,
        "input_sample_rate": 16_000,
        "frames_per_second": 50,
    }
    assert (feed["hop"], feed["sample_rate"], feed["noise"]["scale"]) == (512, 44_100, 0.4)
    assert feed["speaker"] == {
        "lowest": 0,
        "highest": 1,
        "names": [{"id": 0, "name": "tenor"}, {"id": 1, "name": "alto"}],
    }
    assert "sqrt" in feed["loudness"]["formula"]
    assert feed["automatic_f0"] == {"part": "autof0", "hint": "f0", "output": "f0_auto"}
    assert not {"loudness", "automatic_f0"} & built(outline(tiny_sovits.tiny("no-f0-decoder"))).feed.keys()
    assert built(reference("sovits-41")).names.keys() == {*so_vits_svc_feed.NAMES} - {"loudness"}
    assert json.loads(json.dumps(feed, allow_nan=False)) == feed


def test_the_onnx_file_says_what_it_is() -> None:
    """Its own metadata are texts; names of speakers are there in JSON, as long as they are not a book."""
    metadata = built(reference("sovits-40")).metadata
    assert all(isinstance(value, str) for value in metadata.values())
    assert (metadata["sample_rate"], metadata["f0"], metadata["embedder"]) == ("44100", "1", "vec256l9")
    assert json.loads(metadata["speaker_names"]) == [{"id": 0, "name": "tenor"}, {"id": 1, "name": "alto"}]
    many = tiny_sovits.config("fork", speakers=tuple(f"{n} {'x' * 90}" for n in range(200)))
    assert "speaker_names" not in built(with_config(tiny_sovits.tiny("fork"), many)).metadata


def test_what_the_client_reads() -> None:
    """MoeVoiceStudio's file: the width of the features is theirs, not the speaker's, and a mix is told as such."""
    assert built(reference("sovits-fork"), "moevs").client == {
        "Type": "SoVits",
        "Rate": 44_100,
        "Hop": 512,
        "Hubert": "vec-768-layer-12",
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": False,
        "Volume": False,
        "HiddenSize": 768,
        "Characters": ["tenor", "alto"],
        "Cluster": "",
    }
    assert built(reference("sovits-41-vol-snake"), "moevs").client["Volume"] is True
    assert built(reference("sovits-40"), "moevs").client["Hubert"] == "vec-256-layer-9"
    assert built(reference("sovits-40")).client == {}
    assert built(reference("sovits-40"), "autof0").client == {}


def test_a_mix_has_a_character_for_each_row() -> None:
    """The client feeds as many shares as there are characters, so those without a name have a number."""
    client = built(reference("sovits-fork"), "moevs", MIX).client
    assert client["CharaMix"] is True
    assert client["Characters"][:3] == ["tenor", "alto", "speaker 2"]
    assert len(client["Characters"]) == 200


def test_rows_without_names_are_one_character() -> None:
    """Two hundred rows of which nobody says who is in them are room, not speakers; a few are speakers."""
    assert built(outline(tiny_sovits.tiny("fork")), "moevs").client["Characters"] == ["speaker 0"]
    assert len(built(outline(tiny_sovits.tiny("three-speakers")), "moevs").client["Characters"]) == 3


def test_speakers_numbers_may_have_gaps() -> None:
    """A character's place is the speaker's number."""
    config = tiny_sovits.config("three-speakers") | {"spk": {"alto": 2, "tenor": 0}}
    seen = with_config(tiny_sovits.tiny("three-speakers"), config)
    assert built(seen, "moevs").client["Characters"] == ["tenor", "speaker 1", "alto"]


def test_copies_of_shared_layers_are_read_once_and_have_to_be_there() -> None:
    """A tensor that is the same one under several names: one is read, and a name too few is a contradiction."""
    voice = tiny_sovits.tiny("tiny")
    rules = built(outline(voice)).weights
    assert not any(name.startswith("flow.flows.0.enc.in_layers") for name in rules)
    assert any(name.startswith("flow.wn.in_layers") for name in rules)
    del voice["model"]["flow.flows.2.enc.cond_layer.bias"]
    with pytest.raises(Contradiction, match=r"flow\.flows\.2\.enc\.cond_layer\.bias is missing"):
        recognised(outline(voice))


def _cut(name: str) -> Change:
    return lambda v: v.update({name: v[name][:-1]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v.pop("pre.weight"), "pre.weight is missing"),
        (lambda v: v.pop("emb_uv.weight"), "emb_uv.weight is missing"),
        (lambda v: v.pop("enc_p.f0_emb.weight"), "enc_p.f0_emb.weight is missing"),
        (lambda v: v.pop("dec.m_source.l_linear.weight"), "dec.m_source.l_linear.weight is missing"),
        (lambda v: v.pop("dec.noise_convs.0.weight"), "dec.noise_convs.0.weight is missing"),
        (lambda v: v.pop("f0_decoder.proj.weight"), "f0_decoder.proj.weight is missing"),
        (lambda v: v.pop("dec.ups.1.weight_g"), "dec.ups.1.weight_v lacks its weight_g"),
        (lambda v: v.update(extra=torch.zeros(3)), "extra does not belong into such a voice"),
        (lambda v: v.update({"pre.weight": torch.zeros(16, 256)}), "pre.weight has 2 axes and should have 3"),
        (_cut("pre.weight"), "pre.weight has the shape 15 x 256 x 5 and should have 16 x 256 x 5"),
        (_cut("enc_p.proj.weight"), "enc_p.proj.weight has the shape 15 x 16 x 1 and should have 16 x 16 x 1"),
        (_cut("emb_uv.weight"), "emb_uv.weight has the shape 1 x 16 and should have 2 x 16"),
        (
            lambda v: v.update({"dec.noise_convs.1.weight": torch.zeros(16, 1, 15)}),
            "convolutions of the widths 128, 15",
        ),
    ],
)
def test_contradictions_name_what_does_not_fit(change: Change, sentence: str) -> None:
    """The tensor, what it has and what it should have."""
    voice = tiny_sovits.tiny()
    change(voice["model"])
    with pytest.raises(Contradiction) as refusal:
        recognised(outline(voice))
    assert sentence in refusal.value.text


def test_rows_of_zeros_under_weight_norm_are_bad_numbers() -> None:
    """They would be NaN in every program that plays the voice."""
    voice = tiny_sovits.tiny()
    voice["model"]["dec.ups.0.weight_v"][3] = 0
    with pytest.raises(BadNumbers, match=r"dec\.ups\.0\.weight"):
        network(built(outline(voice)), tensors(voice))


def test_the_two_families_decline_each_other() -> None:
    """Neither claims the other's voices, so that each has one claim."""
    assert FAMILY.recognise(outline(tiny_voices.tiny())) == NotMine("it has no emb_uv.weight")
    for variant in tiny_sovits.VARIANTS:
        seen = outline(tiny_sovits.tiny(variant))
        assert isinstance(Rvc().recognise(seen), NotMine)
        assert choose(seen)[0].name == FAMILY.name


def test_declines_without_its_marks() -> None:
    """What has neither of its own tensors is not looked at any further."""
    assert isinstance(FAMILY.recognise(named("pre.weight", "dec.conv_pre.weight")), NotMine)
