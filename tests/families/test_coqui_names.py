"""Names of tensors: whose they are is told apart exactly, and each comes out under the network's name for it."""

from __future__ import annotations

import pytest

import reference_voices
import tiny_coqui
import tiny_sovits
import tiny_voices
from outlines import outline
from voicekiln.families.coqui_names import canonical, layout
from voicekiln.families.coqui_network import expected
from voicekiln.families.coqui_usual import coquis

ORIGINALS = {
    "enc_p.emb.weight": "text_encoder.emb.weight",
    "enc_p.encoder.attn_layers.0.conv_q.weight": "text_encoder.encoder.attn_layers.0.conv_q.weight",
    "enc_p.proj.bias": "text_encoder.proj.bias",
    "dp.pre.weight": "duration_predictor.pre.weight",
    "dp.convs.norms_1.2.gamma": "duration_predictor.convs.norms_1.2.gamma",
    "dp.flows.0.m": "duration_predictor.flows.0.translation",
    "dp.flows.0.logs": "duration_predictor.flows.0.log_scale",
    "dp.flows.1.pre.weight": "duration_predictor.flows.1.pre.weight",
    "dp.flows.3.convs.convs_sep.0.bias": "duration_predictor.flows.2.convs.convs_sep.0.bias",
    "dp.flows.7.proj.weight": "duration_predictor.flows.4.proj.weight",
    "dp.flows.11.proj.weight": "duration_predictor.flows.6.proj.weight",
    "dp.cond.weight": "duration_predictor.cond.weight",
    "dec.conv_pre.weight": "waveform_decoder.conv_pre.weight",
    "dec.resblocks.3.convs1.0.weight_v": "waveform_decoder.resblocks.3.convs1.0.weight_v",
    "dec.cond.bias": "waveform_decoder.cond.bias",
    "flow.flows.6.enc.cond_layer.weight_g": "flow.flows.6.enc.cond_layer.weight_g",
    "enc_q.enc.in_layers.15.weight_v": "posterior_encoder.enc.in_layers.15.weight_v",
    "emb_g.weight": "emb_g.weight",
}
"""Names in a file of the original VITS: a flow's flips have numbers and no tensors."""
COQUIS = {
    "text_encoder.emb.weight": "text_encoder.emb.weight",
    "duration_predictor.flows.4.proj.weight": "duration_predictor.flows.4.proj.weight",
    "duration_predictor.flows.0.translation": "duration_predictor.flows.0.translation",
    "waveform_decoder.conv_pre.weight": "waveform_decoder.conv_pre.weight",
    "waveform_decoder.cond_layer.weight": "waveform_decoder.cond.weight",
    "flow.flows.0.pre.weight": "flow.flows.0.pre.weight",
    "flow.flows.3.enc.cond_layer.weight_g": "flow.flows.6.enc.cond_layer.weight_g",
    "posterior_encoder.enc.cond_layer.weight_v": "posterior_encoder.enc.cond_layer.weight_v",
    "emb_l.weight": "emb_l.weight",
}
"""Names in a file of Coqui's."""
LEFT_OUT = (
    "disc.nets.0.convs.0.bias",
    "speaker_encoder.fc.weight",
    "audio_transform.kernel",
    "duration_predictor.post_flows.1.pre.weight",
    "duration_predictor.post_pre.bias",
    "dp.post_flows.0.m",
)
REFERENCES = ("coqui-yourtts", "coqui-vits-single", "coqui-vits-multispeaker")


@pytest.mark.parametrize(("theirs", "whose"), [(ORIGINALS, "vits"), (COQUIS, "coqui")])
def test_each_tensor_has_the_name_of_the_network(theirs: dict[str, str], whose: str) -> None:
    """Of both layouts, weight norm or not, and whatever is not needed is left out."""
    assert layout(theirs) == whose
    assert canonical([*theirs, *LEFT_OUT]) == theirs


@pytest.mark.parametrize("variant", tiny_coqui.VARIANTS)
def test_no_tensor_of_a_voice_is_lost(variant: str) -> None:
    """All that a network has comes out of the files that both tools write of it, each once."""
    made = tiny_coqui.settings(variant)
    ours = set(expected(made))
    for written in (coquis, tiny_coqui.originals) if made.speaker != "d_vector" else (coquis,):
        names = canonical(map(written, ours))
        assert set(names.values()) == ours
        assert len(names) == len(ours)


def test_the_original_has_no_speaker_without_a_table() -> None:
    """It is told of one by number or not at all, so the layers for it are never used."""
    alone, led = (set(expected(tiny_coqui.settings(variant))) for variant in ("single", "one-language"))
    names = canonical(map(tiny_coqui.originals, led))
    left = {name for name in led if ".cond" in name}
    assert len(left) > 3
    assert set(names.values()) == led - left
    assert not any(".cond" in name for name in alone)


@pytest.mark.parametrize("name", REFERENCES)
def test_references_are_coquis(name: str) -> None:
    """With all that training left in them; the way back of their durations is not needed."""
    tensors = reference_voices.outline(name).tensors
    assert layout(tensors) == "coqui"
    assert not any("post_" in name.replace("conv_post", "") for name in canonical(tensors).values())
    assert set(tensors) - set(canonical(tensors)) == {name for name in tensors if "predictor.post_" in name}


def test_other_voices_are_nobodys() -> None:
    """RVC, so-vits-svc, half of a voice, and a predictor without symbols."""
    for checkpoint in (tiny_voices.tiny(), tiny_voices.tiny_training(), tiny_sovits.tiny()):
        assert layout(outline(checkpoint).tensors) is None
    for names in (["enc_p.emb.weight", "dec.x"], ["dp.pre.weight", "enc_p.emb_phone.weight"], ["text_encoder.x"], []):
        assert layout(names) is None


def test_unknown_names_stand_for_themselves() -> None:
    """So they are found to be superfluous; flips have no tensors."""
    strange = ["flow.flows.x.pre", "other.waveform_decoder.cond_layer.weight", "encp.x", "dp.flows.2.pre.weight"]
    for theirs in (COQUIS, ORIGINALS):
        assert canonical([*theirs, *strange]) == theirs | {name: name for name in strange}
