"""so-vits-svc's network from its settings, and the tensors that a checkpoint of it has.

The table of tensors comes from the network itself, built without numbers, so that the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

from voicekiln.families.tensors import Shape, saved
from voicekiln.job import Part
from voicekiln.nets.attention import Encoder
from voicekiln.nets.causal import FFT
from voicekiln.nets.f0_decoder import F0Decoder
from voicekiln.nets.flow import KERNEL, WN, ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.snake import SnakeGenerator
from voicekiln.nets.so_vits_svc import HARMONICS, PredictingSynthesizer, Synthesizer, TextEncoder
from voicekiln.nets.source import SourceModuleHnNSF


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a network is built from; equal settings, equal graphs. Tensor names say where each is to be seen."""

    ssl_dim: int
    """Width of the speech features: `pre.weight` is (hidden, ssl_dim, 5)."""
    hidden: int
    channels: int
    """Of the latent sound (`inter_channels`): half of `enc_p.proj.weight`'s first axis."""
    filter_channels: int
    """Of the feed-forward convolutions in `enc_p.enc_` and in `f0_decoder`: `...ffn_layers.0.conv_1.weight`."""
    heads: int
    """Of the prior's attention and of the f0 decoder's: hidden divided by the last axis of `emb_rel_k`."""
    layers: int
    """Of the prior's transformer: its `attn_layers`."""
    kernel: int
    """Of those feed-forward convolutions, f0 decoder included."""
    window: int
    """Frames that the relative attention sees to each side: `emb_rel_k`'s middle axis is 2 * window + 1."""
    flows: int
    """Couplings in the flow (`n_flow_layer`): how many of `flow.flows.N.pre`."""
    flow_layers: int
    """Layers in a coupling: `in_layers` of its WaveNet, or `self_attn_layers` with `transformer_flow`."""
    initial: int
    """Channels at the decoder's first step; each step halves them, rounding down."""
    rates: Shape
    """Upsampling at each step; their product is the hop. `dec.noise_convs.N.weight`'s last axis is twice the product
    of the rates after step N, and 1 for the last step."""
    up_kernels: Shape
    """Last axes of `dec.ups.N.weight`."""
    block_kernels: Shape
    """Last axes of `dec.resblocks.N.convs1.0.weight` for the blocks of the first step."""
    dilations: tuple[Shape, ...]
    """For each of `block_kernels`, those of `convs1`: (1, 3, 5) each, which no tensor tells."""
    speakers: int
    """Rows of `emb_g.weight`, named or not."""
    gin_channels: int
    """Columns of `emb_g.weight`."""
    sample_rate: int
    """Hz; no tensor tells it."""
    vol: bool
    """Whether the loudness is an input: `emb_vol.weight` is there (`vol_embedding`)."""
    snake: bool
    """Whether the decoder's activations are periodic: `dec.snakes.*` is there (`nsf-snake-hifigan`)."""
    depthwise: bool
    """Whether the WaveNets' convolutions are split: `...in_layers.0.depth_conv.*` is there."""
    shared_flow: bool
    """Whether all couplings have one set of inner layers: `flow.wn.*` is there (see `copies`)."""
    transformer_flow: bool
    """Whether these inner layers are a transformer's: `flow.flows.0.enc.self_attn_layers.*` is there."""
    flow_filter_channels: int
    """Of the feed-forward convolutions in a transformer flow: `flow.flows.0.enc.ffn_layers.0.conv_1.weight`'s first
    axis; 0 without one."""
    flow_kernel: int
    """Of these convolutions; 0 without a transformer flow."""
    flow_heads: int
    """Of the attention in a transformer flow, which no tensor tells: the original has as many as the prior; 0 without
    one."""
    f0_decoder: bool
    """Whether the voice can predict its f0: `f0_decoder.*` is there (always in 4.0)."""
    f0_layers: int
    """Of the f0 decoder: its `self_attn_layers`; 0 without one."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)


@lru_cache(maxsize=16)
def network(settings: Settings, part: Part = "so-vits-svc", *, mix: bool = False) -> Synthesizer:
    """Return the network, in eval mode and without numbers: its parameters lie on torch's meta device.

    It is shared; copy it before giving it any.

    Args:
        settings: With an f0 decoder, if the part is to have one.
        part: `so-vits-svc`, without the f0 decoder, or `autof0`, which has all tensors of a checkpoint.
        mix: Whether `sid` is the share of each speaker in each frame.
    """
    s = settings
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "enc_p": TextEncoder(
                Encoder(s.hidden, s.filter_channels, s.heads, s.layers, s.kernel, s.window), s.hidden, s.channels
            ),
            "flow": _flow(s),
            "dec": _decoder(s),
            "ssl_dim": s.ssl_dim,
            "hidden": s.hidden,
            "speakers": s.speakers,
            "gin_channels": s.gin_channels,
            "vol": s.vol,
            "mix": mix,
        }
        if part == "autof0":
            f0 = F0Decoder(s.hidden, s.filter_channels, s.heads, s.f0_layers, s.kernel, s.gin_channels)
            voice: Synthesizer = PredictingSynthesizer(f0, **parts)
        else:
            voice = Synthesizer(**parts)
    return voice.eval().requires_grad_(requires_grad=False)


@lru_cache(maxsize=16)
def expected(settings: Settings) -> Mapping[str, Shape]:
    """Return name and shape of every tensor of a checkpoint of these settings, weight norm folded."""
    whole = network(settings, "autof0" if settings.f0_decoder else "so-vits-svc")
    shapes = {name: saved(tuple(tensor.shape)) for name, tensor in whole.state_dict().items()}
    return shapes | {copy: shapes[name] for copy, name in copies(settings).items()}


def copies(settings: Settings) -> Mapping[str, str]:
    """Return the names under which a checkpoint holds tensors once more, and the name under which each is read.

    A shared flow is saved as `flow.wn.*` and again as `flow.flows.N.enc.*` for each coupling. The original reads
    `flow.wn.*` last, so it is what counts.
    """
    if not settings.shared_flow:
        return {}
    shared = "flow.wn."
    names = [name for name in network(settings).state_dict() if name.startswith(shared)]
    couplings = [f"flow.flows.{2 * step}.enc." for step in range(settings.flows)]
    return {name.replace(shared, coupling, 1): name for coupling in couplings for name in names}


def _flow(s: Settings) -> ResidualCouplingBlock:
    transformer = partial(
        FFT, s.hidden, s.flow_filter_channels, s.flow_heads, s.flow_layers, s.flow_kernel, s.gin_channels
    )
    wavenet = partial(WN, s.hidden, KERNEL, s.flow_layers, s.gin_channels, depthwise=s.depthwise)
    inner = transformer if s.transformer_flow else wavenet
    return ResidualCouplingBlock(
        s.channels, s.hidden, s.flow_layers, s.gin_channels, s.flows, inner=inner, shared=s.shared_flow
    )


def _decoder(s: Settings) -> Generator:
    source = SourceModuleHnNSF(s.sample_rate, s.hop, HARMONICS)
    kind = SnakeGenerator if s.snake else Generator
    sizes = (s.channels, s.initial, s.rates, s.up_kernels, s.block_kernels, s.dilations, s.gin_channels)
    return kind(*sizes, source, post_bias=True)
