"""RVC keeps the family contract and finds its voices under all the forms in which tools write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import reference_voices
import tiny_voices
from families.contract import FamilyContract
from outlines import named, outline, tensors
from plain_export import network
from voicekiln.errors import BadNumbers, Contradiction, OtherFamily, UnknownVocoder
from voicekiln.families.base import Claim, Exportable, Outline
from voicekiln.families.rvc import TRAINING_NOTE, Rvc
from voicekiln.families.weights import read


def recognised(checkpoint: dict[str, Any]) -> Claim:
    """Return RVC's claim on it."""
    answer = Rvc().recognise(outline(checkpoint))
    assert isinstance(answer, Claim), answer
    return answer


def built(checkpoint: dict[str, Any]) -> Exportable:
    """Return RVC's network for it."""
    return Rvc().build(recognised(checkpoint), outline(checkpoint))


class TestRvcWithF0(FamilyContract):
    """The contract for voices that are told the pitch."""

    family = Rvc()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return v2 twice, v1 and a training checkpoint."""
        voices = [tiny_voices.tiny(seed=seed) for seed in (0, 1)]
        return [*voices, tiny_voices.tiny("v1", sr=48_000), tiny_voices.tiny_training()]

    def common(self) -> Sequence[Outline]:
        """Return what RVC's own training saves with f0."""
        return [reference_voices.outline(name) for name in reference_voices.names() if name.endswith("-f0")]


class TestRvcWithoutF0(FamilyContract):
    """The contract for voices that are not."""

    family = Rvc()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return v1 twice and v2."""
        voices = [tiny_voices.tiny("v1", f0=False, seed=seed) for seed in (0, 1)]
        return [*voices, tiny_voices.tiny(f0=False, sr=32_000)]

    def common(self) -> Sequence[Outline]:
        """Return what RVC's own training saves without f0."""
        return [reference_voices.outline(name) for name in reference_voices.names() if name.endswith("-nof0")]


@pytest.mark.parametrize("f0", [True, False])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("rate", [24_000, 32_000, 40_000, 48_000])
def test_every_version_and_rate_is_claimed(version: str, rate: int, f0: bool) -> None:  # noqa: FBT001 - parametrised
    """Version, rate, hop and f0 are told, from a voice and from a training checkpoint alike."""
    for checkpoint in (
        tiny_voices.tiny(version, f0=f0, sr=rate),
        tiny_voices.tiny_training(version, f0=f0, sr=rate),
    ):
        model = recognised(checkpoint).model
        assert (model["version"], model["sample_rate"], model["hop"]) == (version, rate, rate // 100)
        assert model["f0"] is f0


def test_what_inspect_shows() -> None:
    """All the figures of a voice, as a person and the sidecar want them."""
    model = dict(recognised(tiny_voices.tiny()).model)
    parameters = model.pop("parameters")
    assert parameters == sum(t.numel() for n, t in tiny_voices.tiny()["weight"].items() if not n.endswith("_g"))
    assert model == {
        "family": "rvc",
        "version": "v2",
        "feature_width": 768,
        "hidden_size": 16,
        "layers": 2,
        "heads": 2,
        "window": 10,
        "sample_rate": 40_000,
        "hop": 400,
        "f0": True,
        "speakers": 2,
        "weights": "half",
        "weight_norm": True,
        "checkpoint": "voice",
        "embedder": "hubert_base",
        "feature_layer": 12,
        "final_projection": False,
        "extra": {"info": "random weights"},
    }


Change = Callable[[dict[str, Any]], Any]


def _longer_config(voice: dict[str, Any]) -> None:
    voice["config"].insert(17, 768)
    voice |= {"embedder_name": "contentvec", "embedder_output_layer": 9, "speaker_info": {"0": "a"}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda v: v.pop("version"), id="no version, as in the first files"),
        pytest.param(lambda v: v.pop("f0"), id="no f0"),
        pytest.param(lambda v: v.pop("sr"), id="no sr"),
        pytest.param(lambda v: v.update(sr=40_000), id="sr a number"),
        pytest.param(lambda v: v.update(sr="40000"), id="sr digits"),
        pytest.param(lambda v: v.update(f0=True), id="f0 a truth value"),
        pytest.param(lambda v: v.update(config=tuple(v["config"])), id="config a tuple"),
        pytest.param(lambda v: v.update(vocoder="HiFi-GAN"), id="Applio's name for the vocoder"),
        pytest.param(lambda v: v.update(vocoder="Default"), id="Vietnamese-RVC's name for the vocoder"),
        pytest.param(_longer_config, id="ddPn08's config of 19"),
    ],
)
def test_other_tools_ways_of_saying_the_same(change: Change) -> None:
    """Settings are equal, nothing has to be explained, and the graph is shared."""
    voice = tiny_voices.tiny()
    plain, key = recognised(voice), built(voice).graph_key
    change(voice)
    claim = recognised(voice)
    assert (claim.settings, claim.notes) == (plain.settings, ())
    assert built(voice).graph_key == key


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v.update(version="v1"), "v1"),
        (lambda v: v.update(f0=0), "without f0"),
        (lambda v: v.update(sr="48k"), "48k"),
        (lambda v: v["config"].__setitem__(15, 109), "109 for speakers"),
        (lambda v: v["config"].__setitem__(6, 6), "6 for layers"),
    ],
)
def test_weights_win_over_words(change: Change, word: str) -> None:
    """Where the file's entries are wrong but shapes leave no doubt, the voice is taken and the person told."""
    voice = tiny_voices.tiny()
    plain = recognised(voice)
    change(voice)
    claim = recognised(voice)
    assert claim.settings == plain.settings
    assert any(word in note for note in claim.notes)


def test_extra_entries_are_kept_if_they_are_short_and_plain() -> None:
    """Author and epoch go into the sidecar, under their newer names; tables, books and infinities do not."""
    extra = {"author": "A", "epoch": 3, "dataset_lenght": "1m", "vocoder": "HiFi-GAN", "embedder_model": "contentvec"}
    model = recognised(tiny_voices.tiny() | extra | {"params": {"a": 1}, "book": "x" * 999, "x": float("inf")}).model
    kept = {"info": "random weights", "author": "A", "epoch": 3, "dataset_length": "1m", "vocoder": "HiFi-GAN"}
    assert model["extra"] == kept
    assert model["embedder"] == "contentvec"


@pytest.mark.parametrize(("dtype", "word"), [(torch.float16, "half"), (torch.float32, "float"), (None, "mixed")])
def test_precision_of_the_weights_is_told(dtype: torch.dtype | None, word: str) -> None:
    """Half, float and mixed weights are all taken."""
    voice = tiny_voices.tiny()
    for at, (name, tensor) in enumerate(voice["weight"].items()):
        voice["weight"][name] = tensor.to(dtype or (torch.float16, torch.float32)[at % 2])
    claim = recognised(voice)
    assert claim.model["weights"] == word
    assert network(built(voice), tensors(voice))


def test_both_spellings_of_weight_norm_and_none_are_the_same_voice() -> None:
    """`weight_g`, torch's newer `parametrizations`, and weights folded by another tool load to equal numbers."""
    voice = tiny_voices.tiny()["weight"]
    newer = {
        name.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ): tensor
        for name, tensor in voice.items()
    }
    rules = built(tiny_voices.tiny()).weights
    folded = {name: read(rule, voice) for name, rule in rules.items()}
    want = loaded(voice)
    for other in (newer, folded):
        assert other.keys() != voice.keys()
        assert all(torch.equal(tensor, want[name]) for name, tensor in loaded(other).items())


def loaded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the network's weights after they went through the family."""
    voice = tiny_voices.tiny() | {"weight": weights}
    return network(built(voice), tensors(voice)).state_dict()


def test_a_training_checkpoint_is_taken_with_a_note() -> None:
    """The most common mistake is a conversion, and the person learns what it was."""
    checkpoint = tiny_voices.tiny_training()
    claim = recognised(checkpoint)
    assert claim.model["checkpoint"] == "training"
    assert claim.notes[0] == TRAINING_NOTE
    assert "40000 Hz" in claim.notes[1]
    assert network(built(checkpoint), tensors(checkpoint))
    decoder = {"block_kernels": claim.settings.block_kernels, "dilations": claim.settings.dilations}
    assert built(checkpoint).graph_key == built(tiny_voices.tiny(**decoder)).graph_key


def test_a_rate_that_cannot_be_told_is_not_guessed() -> None:
    """Version 1 without f0 at 32 and 48 kHz have equal decoders: only the spectrogram or `sr` can tell."""
    checkpoint = tiny_voices.tiny_training("v1", f0=False, sr=32_000)
    for name in ("enc_q.pre.weight", "enc_q.pre.bias"):
        del checkpoint["model"][name]
    with pytest.raises(Contradiction, match="sample rate cannot be told"):
        recognised(checkpoint)
    assert recognised(checkpoint | {"sr": "48k"}).model["sample_rate"] == 48_000


@pytest.mark.parametrize(
    ("tensor", "vocoder"),
    [
        ("dec.mrfs.0.0.convs1.0.weight_g", "MRF HiFi-GAN"),
        ("dec.upsample_conv_blocks.0.input_conv.weight", "RefineGAN"),
        ("dec.resblocks.0.layers.0.act1.act.alpha", "BigVGAN"),
        ("dec.resblocks.0.convs.0.weight_g", "HiFi-GAN with residual blocks of kind 2"),
    ],
)
def test_foreign_vocoders_are_named_by_their_tensors(tensor: str, vocoder: str) -> None:
    """Whatever the file says of itself."""
    for words in ({}, {"vocoder": "HiFi-GAN"}):
        voice = tiny_voices.tiny() | words
        voice["weight"][tensor] = torch.zeros(2, 1, 1)
        with pytest.raises(UnknownVocoder) as refusal:
            recognised(voice)
        assert refusal.value.found == {"vocoder": vocoder}


@pytest.mark.parametrize("vocoder", ["MRF HiFi-GAN", "MRF-HiFi-GAN", "RefineGAN", "BigVGAN", "something new"])
def test_foreign_vocoders_are_named_by_their_name(vocoder: str) -> None:
    """Another network can hide behind equal shapes."""
    with pytest.raises(UnknownVocoder, match=vocoder):
        recognised(tiny_voices.tiny() | {"vocoder": vocoder})


def test_other_feature_widths_are_another_family() -> None:
    """A voice for features of another encoder is named as such."""
    with pytest.raises(OtherFamily, match="1024"):
        recognised(tiny_voices.tiny(features=1024))


def _cut(name: str) -> Change:
    return lambda v: v["weight"].update({name: v["weight"][name][:-1]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v["weight"].pop("enc_p.proj.bias"), "enc_p.proj.bias is missing"),
        (lambda v: v["weight"].pop("enc_p.emb_phone.weight"), "enc_p.emb_phone.weight is missing"),
        (lambda v: v["weight"].pop("dec.ups.1.weight_g"), "dec.ups.1.weight_v lacks its weight_g"),
        (lambda v: v["weight"].update(extra=torch.zeros(3)), "extra does not belong into such a voice"),
        (_cut("enc_p.proj.weight"), "enc_p.proj.weight has the shape 15 x 16 x 1 and should have 16 x 16 x 1"),
        (_cut("enc_p.emb_phone.weight"), "enc_p.emb_phone.weight has the shape 15 x 768 and should have 16 x 768"),
        (_cut("dec.conv_pre.weight"), "dec.conv_pre.weight has the shape 31 x 8 x 7 and should have 32 x 8 x 7"),
        (_cut("dec.noise_convs.0.weight"), "dec.noise_convs.0.weight has the shape"),
        (lambda v: v["weight"].update(x=torch.zeros(2, dtype=torch.int64)), "x holds numbers of the type int64"),
        (lambda v: v["config"].__setitem__(12, [10, 10, 4, 2]), "800 samples of a frame"),
        (lambda v: v["config"].__setitem__(-1, 48_000), "its sample rate is 48000 Hz"),
        (lambda v: v["config"].__setitem__(12, [10, 8, 5]), "3 upsampling steps"),
        (lambda v: v["config"].__setitem__(12, [-10, -10, 2, 2]), "value 13 of its settings"),
        (lambda v: v["config"].__setitem__(12, "fast"), "value 13 of its settings (config) is fast"),
        (lambda v: v["config"].__setitem__(11, [[1, 3]]), "1 residual blocks a step"),
        (lambda v: v["config"].__setitem__(11, [[1, 3, 5], [1, 2]]), "dec.resblocks.0.convs1.2.weight is missing"),
        (lambda v: v.update(config={"a": 1}), "not the 18 values"),
        (lambda v: v.update(config=["x"] * 18), "value 10 of its settings"),
        (lambda v: v["config"].__setitem__(-1, None), "value 18 of its settings (config) is None"),
        (lambda v: v["config"].__setitem__(4, 10**5000), "value 5 of its settings (config) is a huge number"),
    ],
)
def test_contradictions_name_what_does_not_fit(change: Change, sentence: str) -> None:
    """The tensor or the setting, what it has and what it should have."""
    voice = tiny_voices.tiny()
    change(voice)
    with pytest.raises(Contradiction) as refusal:
        recognised(voice)
    assert sentence in refusal.value.text


def test_contradictions_with_a_residual_block_of_another_kind() -> None:
    """The config's `resblock` decides which network the weights belong to."""
    voice = tiny_voices.tiny()
    voice["config"][9] = "2"
    with pytest.raises(UnknownVocoder, match="kind 2"):
        recognised(voice)


@pytest.mark.parametrize(
    ("rates", "kernels"),
    [((16, 5, 5, 1), (32, 9, 9, 1)), ((10, 10, 2, 2), (16, 16, 4, 3)), ((10, 10, 2, 2), (8, 16, 4, 4))],
)
def test_upsampling_that_rvc_does_not_have_is_not_guessed(rates: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    """Odd steps are padded in other ways by the tools that have them; the lengths would not meet."""
    with pytest.raises(UnknownVocoder, match="upsampling"):
        recognised(tiny_voices.tiny(rates=rates, up_kernels=kernels))


def test_a_training_of_unknown_upsampling_is_not_guessed() -> None:
    """Kernels as at 40 kHz are not enough: the source's convolutions must fit as well."""
    with pytest.raises(UnknownVocoder, match="unknown training"):
        recognised(tiny_voices.tiny_training(rates=(10, 5, 4, 2)))


def test_rows_of_zeros_under_weight_norm_are_bad_numbers() -> None:
    """They would be NaN in every program that plays the voice."""
    voice = tiny_voices.tiny()
    voice["weight"]["dec.ups.0.weight_v"][3] = 0
    with pytest.raises(BadNumbers, match=r"dec\.ups\.0\.weight"):
        network(built(voice), tensors(voice))


def test_the_order_of_the_inputs_is_the_one_that_clients_know() -> None:
    """Clients that feed by position rely on it."""
    with_f0, without = (built(voice) for voice in (tiny_voices.tiny(), tiny_voices.tiny(f0=False)))
    assert [port.name for port in with_f0.inputs] == ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]
    assert [port.name for port in without.inputs] == ["phone", "phone_lengths", "ds", "rnd"]
    assert with_f0.in_float32 == "dec.m_source"
    assert without.in_float32 is None


def test_declines_without_its_marks() -> None:
    """What has neither of RVC's own tensors is not looked at any further."""
    answer = Rvc().recognise(named("dec.conv_pre.weight", "flow.flows.0.pre.weight"))
    assert answer == Rvc().recognise(named("nothing"))
