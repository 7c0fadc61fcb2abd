"""so-vits-svc: voices of 4.0, 4.1 and the fork, of every width, with all their options.

A file is known by its tensors, and what its network is made of is measured in them. The `config.json` beside it is
wanted for what is not in them - speakers' names, the encoder of the speech features - and may come later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from voicekiln.errors import NoSuchFace, OtherFamily
from voicekiln.families import so_vits_svc_feed as feeding
from voicekiln.families.base import (
    MAX_ONNX_BYTES,
    NO_TEXT,
    PLAIN,
    WANTED_DB,
    Claim,
    Exportable,
    NotMine,
    Outline,
    TensorInfo,
)
from voicekiln.families.singing import iteration, named
from voicekiln.families.so_vits_svc_config import config
from voicekiln.families.so_vits_svc_network import Settings, copies, expected, network
from voicekiln.families.so_vits_svc_settings import DILATIONS, SAMPLE_RATE, Reading, read
from voicekiln.families.so_vits_svc_units import units, unsure
from voicekiln.families.tensors import TRAINING_ONLY, compare, contradiction, folded, stored
from voicekiln.families.weights import Rule, rules
from voicekiln.job import OF_TEXT, Data, Part, Recipe

MARKS = ("emb_uv.weight", "enc_p.f0_emb.weight")
"""Tensors that so-vits-svc has and no relative of it."""
OPTIONS = ("snake", "depthwise", "shared_flow", "transformer_flow")
"""Settings that are told if a voice has them."""
TRAINING_NOTE = (
    "This is a training checkpoint (usually named G_….pth); the voice in it was converted and what only the training "
    "needs was left out."
)

V41 = Settings(
    ssl_dim=768,
    hidden=192,
    channels=192,
    filter_channels=768,
    heads=2,
    layers=6,
    kernel=3,
    window=4,
    flows=4,
    flow_layers=4,
    initial=512,
    rates=(8, 8, 2, 2, 2),
    up_kernels=(16, 16, 4, 4, 4),
    block_kernels=(3, 7, 11),
    dilations=(DILATIONS,) * 3,
    speakers=1,
    gin_channels=768,
    sample_rate=SAMPLE_RATE,
    vol=False,
    snake=False,
    depthwise=False,
    shared_flow=False,
    transformer_flow=False,
    flow_filter_channels=0,
    flow_kernel=0,
    flow_heads=0,
    f0_decoder=True,
    f0_layers=6,
)
"""What 4.1 trains if nothing is changed, with one speaker."""
USUAL = (
    (V41, "vec768l12"),
    (replace(V41, vol=True), "vec768l12"),
    (replace(V41, ssl_dim=256, gin_channels=256), "vec256l9"),
    (replace(V41, filter_channels=512, initial=400, depthwise=True, shared_flow=True), "vec768l12"),
    (replace(V41, gin_channels=256, speakers=200), None),
)
"""4.1 with and without loudness, for narrow features (4.0's network, too), the tiny one, and the fork's."""


class SoVitsSvc:
    """The family; see `voicekiln.families.base.Family`."""

    name = "so-vits-svc"
    title = "so-vits-svc (4.0, 4.1 and the fork)"

    def usual(self) -> Iterable[Outline]:
        """Return the networks of the usual templates, for one speaker; the fork's has room for 200."""
        return (outline(settings, ("speaker",), encoder) for settings, encoder in USUAL)

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is a so-vits-svc voice.

        Raises:
            OtherFamily: if it is larger than an ONNX file.
            Contradiction: if its shapes and the config cannot all be true.
        """
        if not any(mark in outline.tensors for mark in MARKS):
            return NotMine(f"it has no {MARKS[0]}")
        found = read(outline)
        settings, fed = found.settings, units(found.config, found.settings.ssl_dim)
        if (size := 4 * _parameters(settings)) > MAX_ONNX_BYTES:
            what = f"a so-vits-svc voice of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        training = any(name.startswith(TRAINING_ONLY) for name in outline.tensors)
        notes = ((TRAINING_NOTE,) if training else ()) + found.notes + unsure(fed)
        model = _describe(outline, found) | fed.model | {"checkpoint": "training" if training else "voice"}
        return Claim(self.name, found, model, notes)

    def parts(self, claim: Claim, recipe: Recipe) -> tuple[Part, ...]:
        """Return the recipe's faces, `rvc` being the plain one, and the one that predicts f0 where the voice can."""
        found: Reading = claim.settings
        faces: Iterable[Part] = ("so-vits-svc" if face == "rvc" else face for face in recipe.interfaces)
        return (*faces, "autof0") if found.settings.f0_decoder else (*faces,)

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return the voice's network, or that which predicts f0 as well.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
            NoSuchFace: for a voice that is to be opened by w-okada's client, or cannot predict f0.
        """
        found: Reading = claim.settings
        settings, told = found.settings, found.config
        if problems := compare(expected(settings), folded(outline.tensors)):
            raise contradiction(problems)
        if part in OF_TEXT:
            raise NoSuchFace(interface=part, why=NO_TEXT)
        if part == "w-okada":
            raise NoSuchFace(interface=part, why=feeding.NO_LIVE)
        if part == "autof0" and not settings.f0_decoder:
            raise NoSuchFace(interface=part, why=feeding.NO_PREDICTION)
        graph: Part = "autof0" if part == "autof0" else "so-vits-svc"
        # What the plain graph has none of shall not tell voices apart.
        made = settings if graph == "autof0" else replace(settings, f0_decoder=False, f0_layers=0)
        several = settings.speakers > 1 and (told.speakers is None or len(told.speakers) > 1)
        mix = recipe.speaker_mix and several
        module = network(made, graph, mix=mix)
        weights, fed = rules(outline.tensors), units(told, settings.ssl_dim)
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(made))} {graph}{' mix' if mix else ''}",
            title=_title(made, graph, mix=mix),
            module=module,
            weights={name: weights[name] for name in module.state_dict()},
            inputs=feeding.inputs(made, mix=mix),
            outputs=feeding.outputs(graph),
            sample=feeding.sampler(made, mix=mix),
            wanted_db=WANTED_DB,
            metadata=feeding.metadata(claim.model),
            feed=feeding.feed(settings, fed, told.speakers, mix=mix),
            names=feeding.names(made),
            interface=graph,
            client=feeding.moevs(made, fed, told.speakers, mix=mix) if part == "moevs" else {},
            in_float32="dec.m_source",
            noises=("dec.m_source.l_sin_gen.noise",),
            replays={"predicted": feeding.SUNG.name} if graph == "autof0" else {},
            notes=(feeding.ONE_SPEAKER,) if recipe.speaker_mix and not several else (),
        )

    def data(self, _claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return nothing: all of the voice is in its ONNX files."""
        return {}


def outline(settings: Settings, speakers: tuple[str, ...], encoder: str | None) -> Outline:
    """Return what a checkpoint of these settings looks like, its config beside it, without drawing numbers for it."""
    tensors = {name: TensorInfo(shape, "float32") for name, shape in expected(settings).items()}
    written = config(settings, speakers, encoder)
    return Outline(tensors, {"iteration": 0}, "model", ("model", "iteration"), {"config.json": written})


def _describe(outline: Outline, found: Reading) -> dict[str, Any]:
    """Return what `inspect` shows of the network, but for its speech features."""
    settings, names = found.settings, found.config.speakers
    told = {
        "family": SoVitsSvc.name,
        "version": found.config.version or ("4.1" if _newer(settings) else "4.0 or 4.1"),
        "feature_width": settings.ssl_dim,
        "hidden_size": settings.hidden,
        "layers": settings.layers,
        "heads": settings.heads,
        "window": settings.window,
        "sample_rate": settings.sample_rate,
        "hop": settings.hop,
        "f0": True,
        "automatic_f0": settings.f0_decoder,
        "loudness": settings.vol,
        "speakers": len(names) if names else settings.speakers,
        "parameters": _parameters(settings),
        "weights": stored(outline.tensors),
        "weight_norm": any(name.endswith(".weight_g") for name in outline.tensors),
        "companions": [*found.companions],
    }
    if names:
        told["speaker_names"] = named(names)
    if options := [name for name in OPTIONS if getattr(settings, name)]:
        told["options"] = options
    return told | iteration(outline.rest.get("iteration"))


def _newer(settings: Settings) -> bool:
    """Say whether the network has what 4.0 did not know."""
    return settings.vol or not settings.f0_decoder or any(getattr(settings, name) for name in OPTIONS)


def _parameters(settings: Settings) -> int:
    again = copies(settings)
    return sum(math.prod(shape) for name, shape in expected(settings).items() if name not in again)


def _title(settings: Settings, graph: Part, *, mix: bool) -> str:
    options = {
        "loudness": settings.vol,
        "snake": settings.snake,
        "depthwise": settings.depthwise,
        "shared flow": settings.shared_flow,
        "transformer flow": settings.transformer_flow,
        "automatic f0": graph == "autof0",
        "speaker mix": mix,
    }
    told = [
        f"{settings.speakers} speaker{'s' * (settings.speakers > 1)}",
        *(name for name, on in options.items() if on),
    ]
    return f"so-vits-svc for {settings.ssl_dim} features, {settings.sample_rate} Hz, {', '.join(told)}"
