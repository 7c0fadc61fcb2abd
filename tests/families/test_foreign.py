"""What is put into the inbox but is no voice of ours is told by sight, and the choice among families is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

import tiny_voices
from outlines import named, outline
from voicekiln.errors import Discriminator, NoWeights, OtherFamily, UnknownModel
from voicekiln.families import FAMILIES, choose
from voicekiln.families.base import PLAIN, Claim, Exportable, NotMine, Outline
from voicekiln.families.foreign import KINDS, sight
from voicekiln.families.weights import Rule
from voicekiln.job import Data, Part, Recipe

SEEN = {
    "4.0-v2": ("text_encoder.emb.weight", "mel_decoder.proj.weight", "posterior_encoder.pre.weight", "dec_harm.weight"),
    "QuickVC": ("emb_uv.weight", "pre.weight", "enc_p.f0_emb.weight", "dec.multistream_conv_post.weight"),
    "so-vits-svc 3": ("emb_g.weight", "enc_p.pre.weight", "enc_p.enc.in_layers.0.weight_g", "dec.conv_pre.weight"),
    "DDSP-SVC": ("unit2ctrl.stack.0.weight", "unit2ctrl.f0_embed.weight"),
    "GPT-SoVITS voice": ("enc_p.ssl_proj.weight", "ref_enc.fc.fc.weight", "dec.conv_pre.weight"),
    "language model": ("model.ar_text_embedding.word_embeddings.weight", "model.h.layers.0.norm1.weight"),
    "Bert-VITS2": ("enc_p.emb.weight", "enc_p.tone_emb.weight", "dp.conv_1.weight", "dec.conv_pre.weight"),
    "VITS 2": ("enc_p.emb.weight", "dp.flows.0.m", "flow.flows.0.pre_transformer.attn_layers.0.conv_q.weight"),
    "MB-iSTFT-VITS": ("enc_p.emb.weight", "dp.flows.0.m", "dec.subband_conv_post.weight_g"),
    "Hugging Face": ("text_encoder.embed_tokens.weight", "flow.flows.0.conv_pre.weight", "decoder.conv_pre.weight"),
    "without a diffusion": ("unit_embed.weight", "decoder.decoder.layers.0.weight"),
    "DiffSinger": ("model.fs2.txt_embed.weight", "model.diffusion.denoise_fn.input_projection.weight"),
    "RMVPE": ("unet.encoder.bn.weight", "cnn.weight", "fc.1.bias"),
    "HuBERT": ("feature_extractor.conv_layers.0.0.weight", "encoder.layers.0.fc1.weight", "final_proj.weight"),
    "not told the pitch": ("conv_pre.weight_g", "ups.0.weight_g"),
    "mini_nsf": ("conv_pre.weight_g", "ups.0.weight_g", "source_conv.weight"),
    "Vocos": ("backbone.embed.weight", "head.out.weight"),
    "trained with energy": ("enc_p.emb_phone.weight", "enc_p.emb_energy.weight"),
}


@pytest.mark.parametrize("what", SEEN)
def test_other_models_are_told_by_sight(what: str) -> None:
    """The person learns what the file is, and what would be converted."""
    with pytest.raises(OtherFamily) as refusal:
        choose(named(*SEEN[what]))
    assert what in refusal.value.text
    assert FAMILIES[0].title in refusal.value.advice


@pytest.mark.parametrize("words", [{"version": "voras_beta"}, {"architecture": "SVC"}])
def test_relatives_of_rvc_are_told_by_their_words(words: dict[str, str]) -> None:
    """Their tensors may look like RVC's, but the network is another."""
    with pytest.raises(OtherFamily):
        choose(outline(tiny_voices.tiny() | words))


def test_every_kind_is_covered() -> None:
    """No kind is without a test of its own, and each sees one kind only."""
    relatives = {kind.what for kind in KINDS if "VoRAS" in kind.what or "architecture SVC" in kind.what}
    assert {sight(named(*names)) for names in SEEN.values()} | relatives == {kind.what for kind in KINDS}


@pytest.mark.parametrize("f0", [True, False])
def test_a_voice_is_not_mistaken(f0: bool) -> None:  # noqa: FBT001 - parametrised
    """No kind sees itself in RVC's own voices."""
    for checkpoint in (tiny_voices.tiny(f0=f0), tiny_voices.tiny_training(f0=f0)):
        assert sight(outline(checkpoint)) is None
        family, claim = choose(outline(checkpoint))
        assert (family.name, claim.family) == ("rvc", "rvc")


def test_discriminators_are_told() -> None:
    """The other half of a training."""
    with pytest.raises(Discriminator):
        choose(named("discriminators.0.convs.0.weight_g", "discriminators.0.convs.0.bias"))


def test_optimizer_state_is_no_voice() -> None:
    """Nor is an empty file; what is there is told."""
    with pytest.raises(NoWeights, match="optimizer, epoch"):
        choose(Outline({}, {"epoch": 1}, None, ("optimizer", "epoch")))
    with pytest.raises(NoWeights):
        choose(replace(named("state.0.exp_avg"), tensor_key="optimizer", keys=("optimizer",)))


class Fake:
    """A family that says what it was made to say."""

    def __init__(self, title: str, answer: Claim | NotMine) -> None:
        self.name = self.title = title
        self.answer = answer

    def usual(self) -> tuple[Outline, ...]:
        """Return nothing."""
        return ()

    def recognise(self, outline: Outline) -> Claim | NotMine:  # noqa: ARG002 - whatever is shown
        """Say it."""
        return self.answer

    def parts(self, claim: Claim, recipe: Recipe) -> tuple[Part, ...]:
        """Never called."""
        raise AssertionError(claim, recipe)

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Never called."""
        raise AssertionError(claim, outline, part, recipe)

    def data(self, claim: Claim, outline: Outline, recipe: Recipe) -> Mapping[Data, Rule]:
        """Never called."""
        raise AssertionError(claim, outline, recipe)


def test_no_claim_says_what_each_family_missed() -> None:
    """All reasons reach the person."""
    families = (Fake("A", NotMine("no ears")), Fake("B", NotMine("no mouth")))
    with pytest.raises(UnknownModel, match="voice of A: no ears; not a voice of B: no mouth"):
        choose(named("layer.weight"), families)


def test_two_claims_are_a_refusal() -> None:
    """There is no order among families."""
    families = (Fake("A", Claim("A", None, {})), Fake("B", Claim("B", None, {})))
    with pytest.raises(UnknownModel, match="also a voice of A; also a voice of B"):
        choose(named("layer.weight"), families)


def test_one_claim_wins() -> None:
    """Whatever the others say."""
    mine = Fake("B", Claim("B", None, {}))
    assert choose(named("layer.weight"), (Fake("A", NotMine("no")), mine)) == (mine, mine.answer)
