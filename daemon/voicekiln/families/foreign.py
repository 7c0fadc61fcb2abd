"""Models that people put into the inbox and that are known by sight, but are no voices of any family here.

A person is told what the file is instead of what it is not. What is seen are names of tensors and top-level keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voicekiln.errors import Discriminator, NoWeights, plain
from voicekiln.families.base import Outline

_OPTIMIZER_KEYS = frozenset({"optimizer", "optimizer_state_dict", "optimizers", "scaler", "scheduler", "lr_schedulers"})


@dataclass(frozen=True, slots=True)
class _Kind:
    what: str
    """Completes the sentence «This is …»."""
    seen: Callable[[Outline], bool]


def _having(*prefixes: str) -> Callable[[Outline], bool]:
    """Return a test for outlines in which each of the prefixes begins the name of some tensor."""
    return lambda outline: all(any(name.startswith(prefix) for name in outline.tensors) for prefix in prefixes)


def _either(*tests: Callable[[Outline], bool]) -> Callable[[Outline], bool]:
    return lambda outline: any(test(outline) for test in tests)


def _says(key: str, *values: str) -> Callable[[Outline], bool]:
    """Return a test for RVC-like outlines whose metadata has one of the values under `key`."""
    return lambda outline: outline.rest.get(key) in values and _having("enc_p.")(outline)


def _without_source(outline: Outline) -> bool:
    """Say whether it is a vocoder that makes its own pitch; one that is told it has a family."""
    vocoder = outline.tensor_key == "generator" or _having("conv_pre.", "ups.")(outline)
    return vocoder and not _having("m_source.")(outline)


def _without_denoiser(outline: Outline) -> bool:
    """Say whether it makes mels out of speech features at once; one that cleans them has a family."""
    return _having("unit_embed.")(outline) and not _having("decoder.denoise_fn.")(outline)


def _without_units(outline: Outline) -> bool:
    """Say whether it cleans mels but hears of no speech features."""
    return any("denoise_fn." in name for name in outline.tensors) and not _having("unit_embed.")(outline)


KINDS = (
    _Kind("a voice of VoRAS, a relative of RVC with another network", _says("version", "voras_beta")),
    _Kind("a voice of the architecture SVC of Vietnamese-RVC", _says("architecture", "SVC")),
    _Kind(
        "an RVC voice that was trained with energy (Vietnamese-RVC)", _having("enc_p.emb_phone.", "enc_p.emb_energy.")
    ),
    _Kind("a voice of so-vits-svc 4.0-v2 (VISinger 2), another network", _having("mel_decoder.", "posterior_encoder.")),
    _Kind(
        "a voice of so-vits-svc-fork with the decoder of QuickVC (MS-iSTFT), another network",
        _either(_having("emb_uv.", "dec.multistream_conv_post."), _having("emb_uv.", "dec.subband_conv_post.")),
    ),
    _Kind(
        "a voice of so-vits-svc 3 or a relative of it (FreeVC)",
        _either(_having("enc_p_."), _having("enc_p.enc.in_layers.")),
    ),
    _Kind("a voice of DDSP-SVC", _having("unit2ctrl.")),
    _Kind("a GPT-SoVITS voice", _either(_having("enc_p.ssl_proj."), _having("enc_p.encoder_ssl."))),
    _Kind("the language model of a GPT-SoVITS voice", _having("model.ar_")),
    _Kind(
        "a voice of Bert-VITS2 or a relative of it (MeloTTS), another network than VITS",
        _either(_having("enc_p.bert_proj."), _having("enc_p.tone_emb.")),
    ),
    _Kind("a text-to-speech voice of VITS 2, another network than VITS", _having("flow.flows.0.pre_transformer.")),
    _Kind(
        "a text-to-speech voice with the decoder of MB-iSTFT-VITS, another network than VITS",
        _either(_having("enc_p.emb.", "dec.multistream_conv_post."), _having("enc_p.emb.", "dec.subband_conv_post.")),
    ),
    _Kind(
        "a text-to-speech voice (VITS or MMS) in the layout of Hugging Face's transformers",
        _having("text_encoder.embed_tokens."),
    ),
    _Kind("a model of Diffusion-SVC without a diffusion in it (its naive first stage)", _without_denoiser),
    _Kind("a diffusion model of DiffSinger or another relative of so-vits-svc's", _without_units),
    _Kind("the pitch detector RMVPE", _having("unet.", "cnn.")),
    _Kind(
        "a speech encoder (HuBERT or ContentVec), which finds the features that a voice is fed",
        _either(_having("feature_extractor.conv_layers."), _having("hubert.")),
    ),
    _Kind("the vocoder PC-NSF-HiFiGAN with its smaller source (mini_nsf)", _having("conv_pre.", "source_conv.")),
    _Kind("a vocoder of another architecture than NSF-HiFiGAN (Vocos or one like it)", _having("backbone.", "head.")),
    _Kind("a vocoder (HiFi-GAN or one like it) that is not told the pitch", _without_source),
)


def refuse_parts(outline: Outline) -> None:
    """Refuse the parts of a training that no family has to look at.

    Raises:
        Discriminator: for the network that judges.
        NoWeights: for optimizer state alone.
    """
    names = list(outline.tensors)
    if names and all(name.startswith(("discriminators.", "module.discriminators.")) for name in names):
        raise Discriminator
    if not names or (outline.tensor_key in _OPTIMIZER_KEYS):
        found = ", ".join(plain(key, 40) for key in outline.keys[:6])
        raise NoWeights(keys=found or "nothing at all")


def sight(outline: Outline) -> str | None:
    """Return what the file is, to complete «This is …»; None if it is not known by sight."""
    return next((kind.what for kind in KINDS if kind.seen(outline)), None)
