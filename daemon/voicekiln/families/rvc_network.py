"""RVC's network from its settings, and the tensors that a checkpoint of it has.

The table of tensors comes from the network itself, built without numbers, so that the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from voicekiln.families.tensors import Shape, saved
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
    return {name: saved(tuple(tensor.shape)) for name, tensor in network(settings).state_dict().items()}
