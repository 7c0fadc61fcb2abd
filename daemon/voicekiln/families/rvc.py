"""RVC, retrieval-based voice conversion: versions 1 and 2, with and without f0, at every sample rate.

A file is known by its tensors. What its `version`, `f0`, `sr` and `vocoder` say is compared with them and never
decides alone, but for a foreign vocoder's name: another network can hide behind equal shapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from voicekiln.errors import NoSuchFace, OtherFamily, UnknownVocoder, plain
from voicekiln.families import rvc_feed, rvc_settings, sample
from voicekiln.families.base import MAX_ONNX_BYTES, NO_TEXT, PLAIN, WANTED_DB, Claim, Exportable, NotMine, Outline
from voicekiln.families.rvc_config import read_rate, shown
from voicekiln.families.rvc_network import Settings, expected, network
from voicekiln.families.tensors import TRAINING_ONLY, compare, contradiction, folded, stored
from voicekiln.families.weights import Rule, rules
from voicekiln.job import OF_TEXT, Data, Part, Recipe

VERSIONS = {256: "v1", 768: "v2"}
"""By the width of the speech features."""
MARKS = ("enc_p.emb_phone.weight", "enc_p.emb_pitch.weight")
"""Tensors that RVC has and no relative of it."""

OWN_VOCODERS = frozenset({"", "none", "default", "hifigan", "nsfhifigan", "hifigannsf"})
"""RVC's own decoder under the names that tools give it, letters and digits only."""
VOCODER_MARKS = (
    ("MRF HiFi-GAN", ("dec.mrfs.", "dec.upsamples.")),
    ("RefineGAN", ("dec.upsample_conv_blocks.", "dec.downsample_blocks.", "dec.mel_conv.")),
    ("BigVGAN", ("dec.activation_post.", "dec.act_post.")),
    ("HiFi-GAN with residual blocks of kind 2", ("dec.resblocks.0.convs.",)),
)
"""Foreign decoders and the beginnings of tensor names that give them away."""

SHOWN_ELSEWHERE = frozenset(
    {"config", "version", "f0", "sr", "embedder_model", "embedder_name", "embedder_output_layer"}
)
NEWER_NAMES = {"dataset_lenght": "dataset_length", "model_creator": "author"}
"""Entries that tools wrote under another name before."""
TRAINING_NOTE = (
    "This is a training checkpoint (usually named G_….pth), about eight times the size of a finished voice; "
    "the voice in it was converted and the rest left out."
)
TRUE = frozenset({"1", "true"})
"""Ways to say that a voice has f0."""
MAX_WHOLE = 2**53
"""The largest whole number among the extras: beyond it JSON's readers begin to round."""

MAX_EXTRA = 40
MAX_EXTRA_TEXT = 200
"""Characters; a longer text among the file's own entries is left out."""


class Rvc:
    """The family; see `voicekiln.families.base.Family`."""

    name = "rvc"
    title = "RVC (v1 and v2)"

    def usual(self) -> Iterable[Outline]:
        """Return the networks of RVC's and Applio's own training: each version at its rates, with and without f0."""
        for known in rvc_settings.KNOWN:
            for features in known.features:
                for f0 in (True, False):
                    decoder = replace(sample.V2_40K, rates=known.rates, up_kernels=known.kernels)
                    yield sample.outline(replace(decoder, sample_rate=known.sample_rate, features=features, f0=f0))

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is an RVC voice.

        Raises:
            UnknownVocoder: if another decoder than RVC's own is in it.
            OtherFamily: if it wants speech features of a width that RVC does not have, or is larger than an ONNX file.
            Contradiction: if what it says of itself cannot all be true.
        """
        if not any(mark in outline.tensors for mark in MARKS):
            return NotMine(f"it has no {MARKS[0]}")
        _check_vocoder(outline)
        settings, notes = rvc_settings.read(outline)
        if settings.features not in VERSIONS:
            what = f"an RVC voice for speech features of the width {settings.features} (RVC itself has 256 and 768)"
            raise OtherFamily(what=what, families=self.title)
        if (size := 4 * _parameters(settings)) > MAX_ONNX_BYTES:
            what = f"an RVC voice of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        model = _describe(outline, settings) | rvc_feed.encoder(settings, outline.rest)
        model |= {"extra": _extra(outline.rest)}
        return Claim(self.name, settings, model, (*_opening(outline), *notes, *_disagreements(outline, settings)))

    def parts(self, _claim: Claim, recipe: Recipe) -> tuple[Part, ...]:
        """Return the recipe's faces."""
        return recipe.interfaces

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, _recipe: Recipe = PLAIN) -> Exportable:
        """Return the voice's network.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
            NoSuchFace: for a voice without f0 that is to be opened by MoeVoiceStudio.
        """
        settings: Settings = claim.settings
        kept = {name: info for name, info in outline.tensors.items() if not name.startswith(TRAINING_ONLY)}
        if problems := compare(expected(settings), folded(kept)):
            raise contradiction(problems)
        model = claim.model
        if part in OF_TEXT:
            raise NoSuchFace(interface=part, why=NO_TEXT)
        if part == "moevs" and not settings.f0:
            raise NoSuchFace(interface=part, why=rvc_feed.NO_MOEVS)
        live = part == "w-okada"
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(settings))}",
            title=f"RVC {model['version']}, {settings.sample_rate} Hz, {'f0' if settings.f0 else 'no f0'}",
            module=network(settings, live=live),
            weights=rules(kept),
            inputs=rvc_feed.inputs(settings, live=live),
            outputs=rvc_feed.LIVE_OUTPUTS if live else rvc_feed.OUTPUTS,
            sample=rvc_feed.sampler(settings, live=live),
            wanted_db=WANTED_DB,
            metadata=rvc_feed.live_metadata(model) if live else rvc_feed.metadata(model),
            feed=rvc_feed.feed(model, settings),
            names=rvc_feed.names(settings, live=live),
            interface="w-okada" if live else "rvc",
            client=rvc_feed.moevs(model) if part == "moevs" else {},
            in_float32="dec.m_source" if settings.f0 else None,
            noises=("noise",) * live + ("dec.m_source.l_sin_gen.noise",) * settings.f0,
        )

    def data(self, _claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return nothing: all of the voice is in its ONNX file."""
        return {}


def _check_vocoder(outline: Outline) -> None:
    """Refuse decoders that are not RVC's own, by their tensors and by their name."""
    for vocoder, marks in VOCODER_MARKS:
        if any(name.startswith(marks) for name in outline.tensors):
            raise UnknownVocoder(vocoder=vocoder)
    if any(name.startswith("dec.") and name.endswith((".alpha", ".beta")) for name in outline.tensors):
        raise UnknownVocoder(vocoder="BigVGAN")
    said = shown(outline.rest.get("vocoder", ""))
    if "".join(filter(str.isalnum, said.lower())) not in OWN_VOCODERS:
        raise UnknownVocoder(vocoder=said)


def _describe(outline: Outline, settings: Settings) -> dict[str, Any]:
    """Return what `inspect` shows of the network."""
    training = any(name.startswith(TRAINING_ONLY) for name in outline.tensors)
    return {
        "family": Rvc.name,
        "version": VERSIONS[settings.features],
        "feature_width": settings.features,
        "hidden_size": settings.hidden,
        "layers": settings.layers,
        "heads": settings.heads,
        "window": settings.window,
        "sample_rate": settings.sample_rate,
        "hop": settings.hop,
        "f0": settings.f0,
        "speakers": settings.speakers,
        "parameters": _parameters(settings),
        "weights": stored(outline.tensors),
        "weight_norm": any(name.endswith(".weight_g") for name in outline.tensors),
        "checkpoint": "training" if training or "optimizer" in outline.keys else "voice",
    }


def _parameters(settings: Settings) -> int:
    return sum(math.prod(shape) for shape in expected(settings).values())


def _extra(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's own entries that are short and plain: author, epoch, vocoder ..."""
    kept: dict[str, Any] = {}
    for key, value in rest.items():
        name = NEWER_NAMES.get(key, plain(key, 60))
        if key in SHOWN_ELSEWHERE or not name or not _is_short(value) or len(kept) == MAX_EXTRA:
            continue
        kept.setdefault(name, plain(value) if isinstance(value, str) else value)
    return kept


def _is_short(value: object) -> bool:
    match value:
        case bool():
            return True
        case int():
            return abs(value) <= MAX_WHOLE
        case float():
            return math.isfinite(value)
        case str():
            return 0 < len(value) <= MAX_EXTRA_TEXT
        case _:
            return False


def _opening(outline: Outline) -> tuple[str, ...]:
    """Return the sentence that a training checkpoint deserves."""
    if "optimizer" not in outline.keys and not any(name.startswith(TRAINING_ONLY) for name in outline.tensors):
        return ()
    return (TRAINING_NOTE,)


def _disagreements(outline: Outline, settings: Settings) -> list[str]:
    """Return a sentence for each entry of the file that its weights prove wrong."""
    rest, version = outline.rest, VERSIONS[settings.features]
    notes = []
    if rest.get("version") not in (None, version):
        notes.append(f"The file calls itself version {shown(rest['version'])}, its weights are {version}.")
    if rest.get("f0") is not None and (shown(rest["f0"]).lower() in TRUE) != settings.f0:
        notes.append(f"The file says that it is a voice {'without' if settings.f0 else 'with'} f0, its weights do not.")
    if rest.get("sr") is not None and read_rate(rest["sr"]) != settings.sample_rate:
        notes.append(f"The file says {shown(rest['sr'])} for its sample rate; {settings.sample_rate} Hz was used.")
    return notes
