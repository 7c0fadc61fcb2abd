"""RVC's network from its settings, and whether a checkpoint's tensors are the ones that it has.

The table of tensors comes from the network itself, built without numbers, so that the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from voicekiln.errors import Contradiction, plain
from voicekiln.families.base import TensorInfo
from voicekiln.families.rvc_config import shown
from voicekiln.nets.attention import Encoder
from voicekiln.nets.flow import ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.rvc import (
    LivePitchedSynthesizer,
    LivePlainSynthesizer,
    PitchedSynthesizer,
    PlainSynthesizer,
    Synthesizer,
    TextEncoder,
)
from voicekiln.nets.source import SourceModuleHnNSF

MAX_SIZE = 65_536
"""Along one axis of a tensor; the largest in a real voice is a few thousand."""
TRAINING_ONLY = "enc_q."
"""Prefix of the posterior encoder, which no voice needs to speak."""
_WEIGHT_TYPES = ("float16", "float32", "float64", "bfloat16")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a network is built from; equal settings, equal graphs."""

    features: int
    """Width of the speech features, 256 or 768."""
    f0: bool
    channels: int
    hidden: int
    filter_channels: int
    heads: int
    layers: int
    kernel: int
    """Of the text encoder's feed-forward convolutions."""
    window: int
    """Frames that the relative attention sees to each side."""
    flows: int
    flow_layers: int
    initial: int
    """Channels at the decoder's first step; each step halves them."""
    rates: Shape
    up_kernels: Shape
    block_kernels: Shape
    dilations: tuple[Shape, ...]
    speakers: int
    gin_channels: int
    sample_rate: int
    """Hz."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)


@lru_cache(maxsize=16)
def network(settings: Settings, *, live: bool = False) -> Synthesizer:
    """Return the network, in eval mode and without numbers: its parameters lie on torch's meta device.

    With the face of RVC's own programs or, `live`, that of w-okada's. It is shared; copy it before giving it any.
    """
    s = settings
    pitched, plain_kind = (
        (LivePitchedSynthesizer, LivePlainSynthesizer) if live else (PitchedSynthesizer, PlainSynthesizer)
    )
    kind: type[Synthesizer] = pitched if s.f0 else plain_kind
    with torch.device("meta"):
        source = SourceModuleHnNSF(s.sample_rate, s.hop) if s.f0 else None
        encoder = Encoder(s.hidden, s.filter_channels, s.heads, s.layers, s.kernel, s.window)
        decoder = Generator(
            s.channels, s.initial, s.rates, s.up_kernels, s.block_kernels, s.dilations, s.gin_channels, source
        )
        voice = kind(
            enc_p=TextEncoder(encoder, s.features, s.hidden, s.channels, pitch=s.f0),
            flow=ResidualCouplingBlock(s.channels, s.hidden, s.flow_layers, s.gin_channels, s.flows),
            dec=decoder,
            speakers=s.speakers,
            gin_channels=s.gin_channels,
        )
    return voice.eval().requires_grad_(requires_grad=False)


@lru_cache(maxsize=16)
def expected(settings: Settings) -> Mapping[str, Shape]:
    """Return name and shape of every tensor of a checkpoint of these settings, weight norm folded."""
    return {name: _saved(tuple(tensor.shape)) for name, tensor in network(settings).state_dict().items()}


def _saved(shape: Shape) -> Shape:
    """Return a weight's shape as checkpoints have it: without the axis of height one (see `nets.hifigan`)."""
    with_height = 4
    return (*shape[:2], shape[-1]) if len(shape) == with_height else shape


def folded(tensors: Mapping[str, TensorInfo]) -> dict[str, Shape]:
    """Return the shapes as they are once weight norm is folded and what only training needs is dropped.

    Raises:
        Contradiction: if a tensor has a shape or type that no weight has, or a pair is not a pair.
    """
    kept = {name: info for name, info in tensors.items() if not name.startswith(TRAINING_ONLY)}
    shapes: dict[str, Shape] = {}
    for name, info in kept.items():
        _check_weight(name, info)
        if name.endswith(".weight_g"):
            _check_pair(name, info, kept.get(name.removesuffix("g") + "v"))
            continue
        if name.endswith(".weight_v") and name.removesuffix("v") + "g" not in kept:
            raise contradiction([f"{plain(name, 120)} lacks its weight_g"])
        whole = name.removesuffix("_v") if name.endswith(".weight_v") else name
        if whole in shapes:
            raise contradiction([f"{plain(whole, 120)} is there twice, with and without weight norm"])
        shapes[whole] = info.shape
    return shapes


def compare(settings: Settings, shapes: Mapping[str, Shape]) -> list[str]:
    """Return what is wrong with `shapes`, a phrase each: tensors of another shape, missing or superfluous."""
    wanted = expected(settings)
    wrong = [
        f"{name} has the shape {_words(shapes[name])} and should have {_words(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    superfluous = [f"{plain(name, 120)} does not belong into such a voice" for name in shapes if name not in wanted]
    return wrong + missing + superfluous


def contradiction(problems: list[str]) -> Contradiction:
    """Return the refusal that tells the first problem and counts the rest."""
    rest = f" (and {len(problems) - 1} more of its tensors do not fit)" if problems[1:] else ""
    return Contradiction(what=problems[0] + rest)


def _check_weight(name: str, info: TensorInfo) -> None:
    if info.dtype not in _WEIGHT_TYPES:
        raise contradiction([f"{plain(name, 120)} holds numbers of the type {plain(info.dtype, 20)}"])
    if not info.shape or not all(0 < size <= MAX_SIZE for size in info.shape):
        raise contradiction([f"{plain(name, 120)} has the shape {_words(info.shape)}, which no weight has"])


def _check_pair(name: str, g: TensorInfo, v: TensorInfo | None) -> None:
    if v is None or g.shape != (*v.shape[:1], *(1 for _ in v.shape[1:])):
        raise contradiction([f"{plain(name, 120)} does not fit its weight_v"])


def _words(shape: Shape) -> str:
    """Return a shape as a person writes it; a hostile one is cut."""
    return " x ".join(map(shown, shape[:6])) or "()"
