"""Shallow diffusion: the model that so-vits-svc puts behind a voice to clean its mel, a `Unit2Mel`.

One graph has the sampler's loop in it, so that a client needs no more than numbers to steer it. The pieces of which it
consists are made as well, for clients that run a sampler of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from voicekiln.errors import OtherFamily
from voicekiln.families import diffusion_feed as feeding
from voicekiln.families.base import (
    MAX_ONNX_BYTES,
    PLAIN,
    WANTED_DB,
    Claim,
    Exportable,
    NotMine,
    Outline,
    TensorInfo,
)
from voicekiln.families.diffusion_network import (
    BUFFERS,
    DENOISER,
    LIMITS,
    PARTS,
    Settings,
    expected,
    network,
)
from voicekiln.families.diffusion_settings import HOP, METHODS, SAMPLE_RATE, Reading, read
from voicekiln.families.singing import iteration, named
from voicekiln.families.so_vits_svc_units import unsure
from voicekiln.families.tensors import compare, contradiction, folded, stored
from voicekiln.families.weights import Rule, Schedule, rules
from voicekiln.job import Data, Part, Recipe

MARKS = (f"{DENOISER}input_projection.weight", "unit_embed.weight")
"""Tensors that such a model has, and no relative of it has both."""
FINE_ENOUGH = ("float32", "float64")
"""Types in which a schedule can be kept: in others its first times are nothing at all."""
SCHEDULE = {BUFFERS[0]: False, BUFFERS[1]: True}
"""What is used of it: whether the numbers fall."""
ONE_SPEAKER = "This recipe asks for a speaker mix, but the model has one speaker and is not told who sings."

V41 = Settings(
    width=768,
    hidden=256,
    channels=512,
    layers=20,
    mels=128,
    limits=1,
    speakers=1,
    timesteps=1000,
    k_step_max=100,
)
"""What so-vits-svc 4.1 trains if `k_step_max` is set as its guide says and there is one speaker."""
USUAL = (
    (V41, "vec768l12"),
    (replace(V41, k_step_max=1000), "vec768l12"),
    (replace(V41, width=256), "vec256l9"),
)
"""With the usual depth, with all of it, and for narrow features."""


class ShallowDiffusion:
    """The family; see `voicekiln.families.base.Family`."""

    name = "shallow-diffusion"
    title = "shallow diffusion (so-vits-svc 4.1, Diffusion-SVC)"

    def usual(self) -> Iterable[Outline]:
        """Return the networks of the usual templates, for one speaker."""
        return (outline(settings, encoder) for settings, encoder in USUAL)

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is a shallow diffusion model.

        Raises:
            OtherFamily: if it is larger than an ONNX file.
            Contradiction: if its shapes and its YAML cannot all be true.
        """
        for mark in MARKS:
            if mark not in outline.tensors:
                return NotMine(f"it has no {mark}")
        for buffer in (*BUFFERS, *LIMITS):
            if (info := outline.tensors.get(buffer)) is not None and info.dtype not in FINE_ENOUGH:
                raise contradiction([f"{buffer} is in {info.dtype}, too coarse for a schedule"])
        found = read(outline, folded(outline.tensors))
        if (size := 4 * _parameters(found.settings)) > MAX_ONNX_BYTES:
            what = f"a diffusion model of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        _compare(found, outline)
        return Claim(self.name, found, _describe(outline, found), (*found.notes, *unsure(found.units)))

    def parts(self, _claim: Claim, _recipe: Recipe) -> tuple[Part, ...]:
        """Return the whole and its pieces, whatever the recipe: its interfaces are voices'."""
        return PARTS

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return the whole or one of its pieces.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
        """
        found: Reading = claim.settings
        settings, graph = found.settings, part or PARTS[0]
        _compare(found, outline)
        several = settings.speakers > 1
        # The condition by itself is always asked for shares, as so-vits-svc's exporter has it.
        mix = several and (recipe.speaker_mix or graph == "encoder")
        module = network(settings, graph)
        weights = rules(outline.tensors) | {name: Schedule(name, falling) for name, falling in SCHEDULE.items()}
        halves = graph in ("diffusion", "denoise")
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(settings))} {graph}{' mix' if mix else ''}",
            title=_title(settings, graph, mix=mix),
            module=module,
            weights={name: weights[name] for name in module.state_dict()},
            inputs=feeding.inputs(settings, graph, mix=mix),
            outputs=feeding.outputs(settings, graph),
            sample=feeding.sampler(settings, graph, mix=mix),
            wanted_db=WANTED_DB,
            metadata=feeding.metadata(claim.model),
            feed=feeding.feed(found, mix=recipe.speaker_mix and several),
            names=feeding.names(settings, graph),
            interface=graph,
            in_float32=f"{DENOISER}mlp" if halves else None,
            in_half=DENOISER.removesuffix(".") if halves else "",
            notes=(ONE_SPEAKER,) if recipe.speaker_mix and not several and graph == PARTS[0] else (),
        )

    def data(self, _claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return nothing: all of the model is in its ONNX files."""
        return {}


def outline(settings: Settings, encoder: str) -> Outline:
    """Return what a checkpoint of these settings looks like, its YAML beside it, without drawing numbers for it."""
    tensors = {name: TensorInfo(shape, "float32") for name, shape in expected(settings).items()}
    written = {
        "data": {
            "sampling_rate": SAMPLE_RATE,
            "block_size": HOP,
            "encoder": encoder,
            "encoder_out_channels": settings.width,
            "unit_interpolate_mode": "nearest",
        },
        "model": {
            "n_layers": settings.layers,
            "n_chans": settings.channels,
            "n_hidden": settings.hidden,
            "timesteps": settings.timesteps,
            "k_step_max": settings.k_step_max,
            "n_spk": settings.speakers,
        },
        "infer": {"method": METHODS[-1], "speedup": 10},
    }
    return Outline(tensors, {"global_step": 0}, "model", ("global_step", "model"), {"diffusion.yaml": written})


def _compare(found: Reading, outline: Outline) -> None:
    """Refuse tensors that are not all that such a model has, and no more."""
    if problems := compare(found.expected, folded(outline.tensors)):
        raise contradiction(problems)


def _describe(outline: Outline, found: Reading) -> dict[str, Any]:
    """Return what `inspect` shows of the network."""
    settings, told = found.settings, found.told
    facts = {
        "family": ShallowDiffusion.name,
        "version": "Unit2Mel",
        "feature_width": settings.width,
        "hidden_size": settings.hidden,
        "channels": settings.channels,
        "layers": settings.layers,
        "mels": settings.mels,
        "timesteps": settings.timesteps,
        "k_step_max": settings.k_step_max,
        "speedup": told.speedup,
        "sampler": METHODS[found.method],
        "sample_rate": told.sample_rate,
        "hop": told.hop,
        "f0": True,
        "speakers": settings.speakers,
        "parameters": _parameters(settings),
        "weights": stored(outline.tensors),
        "checkpoint": "training" if "optimizer" in outline.keys else "voice",
        "companions": [*found.companions],
    }
    facts |= found.units.model | ({"vocoder": told.vocoder} if told.vocoder else {})
    facts |= {"speaker_names": named(told.speakers)} if told.speakers else {}
    return facts | iteration(outline.rest.get("global_step"))


def _parameters(settings: Settings) -> int:
    return sum(math.prod(shape) for name, shape in expected(settings).items() if name not in (*BUFFERS, *LIMITS))


def _title(settings: Settings, graph: Part, *, mix: bool) -> str:
    told = [
        f"{settings.width} features",
        f"{settings.channels} x {settings.layers}",
        f"{settings.k_step_max} of {settings.timesteps} times",
        f"{settings.speakers} speaker{'s' * (settings.speakers > 1)}",
    ]
    which = "the whole" if graph == PARTS[0] else graph
    return f"shallow diffusion for {', '.join(told)}{', speaker mix' if mix else ''}: {which}"
