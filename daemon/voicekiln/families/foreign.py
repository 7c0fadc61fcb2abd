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


def _clusters(outline: Outline) -> bool:
    return any(name.endswith("cluster_centers_") for name in (*outline.tensors, *outline.keys))


KINDS = (
    _Kind("a voice of VoRAS, a relative of RVC with another network", _says("version", "voras_beta")),
    _Kind("a voice of the architecture SVC of Vietnamese-RVC", _says("architecture", "SVC")),
    _Kind(
        "an RVC voice that was trained with energy (Vietnamese-RVC)", _having("enc_p.emb_phone.", "enc_p.emb_energy.")
    ),
    _Kind(
        "a so-vits-svc voice",
        _either(_having("emb_uv."), _having("f0_decoder."), _having("enc_p.f0_emb."), _having("pre.", "enc_p.enc_.")),
    ),
    _Kind("a Coqui voice (VITS or YourTTS)", _having("waveform_decoder.", "text_encoder.")),
    _Kind("the speaker encoder of YourTTS", _having("torch_spec.", "layer1.")),
    _Kind("a GPT-SoVITS voice", _either(_having("enc_p.ssl_proj."), _having("enc_p.encoder_ssl."))),
    _Kind("the language model of a GPT-SoVITS voice", _having("model.ar_")),
    _Kind("a text-to-speech voice (VITS)", _either(_having("enc_p.emb.", "dp."), _having("enc_p.bert_proj."))),
    _Kind(
        "a shallow diffusion model (so-vits-svc, DDSP-SVC)",
        _either(_having("decoder.denoise_fn."), _having("unit_embed.")),
    ),
    _Kind("the pitch detector RMVPE", _having("unet.", "cnn.")),
    _Kind(
        "a speech encoder (HuBERT or ContentVec), which finds the features that a voice is fed",
        _either(_having("feature_extractor.conv_layers."), _having("hubert.")),
    ),
    _Kind(
        "a vocoder (HiFi-GAN) without a voice",
        _either(lambda outline: outline.tensor_key == "generator", _having("conv_pre.", "ups.")),
    ),
    _Kind("a k-means model (cluster centres) for so-vits-svc", _clusters),
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
