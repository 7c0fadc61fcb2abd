"""A Coqui VITS voice's networks from its settings, and the tensors that a checkpoint of it has.

The names are those of our modules; what files call them is `coqui_names`' affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import nn

from voicekiln.families.tensors import Shape, saved
from voicekiln.nets.attention import Encoder
from voicekiln.nets.durations import DurationPredictor, StochasticDurationPredictor
from voicekiln.nets.embedding import embedding
from voicekiln.nets.flow import WN, ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator, SmallGenerator
from voicekiln.nets.posterior import PosteriorEncoder
from voicekiln.nets.text_to_speech import (
    MAX_SAMPLES,
    PriorToSpeech,
    Stretch,
    TextEncoder,
    TextToPrior,
    TextToSpeech,
    Voice,
    VoiceConversion,
)

Made = Literal["encoder", "decoder", "single", "voice-conversion"]
"""Which of a voice's networks: those parts of `job.Part` that can be made of one."""
Speaker = Literal["none", "d_vector", "speaker_id"]
"""How a voice is told who speaks: not at all, by a vector that a speaker encoder finds, or by a row of `emb_g`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the networks are built from; equal settings, equal graphs. Tensor names say where each is to be seen."""

    symbols: int
    """Rows of `text_encoder.emb.weight`."""
    hidden: int
    """Columns of `text_encoder.emb.weight`; the transformer has `hidden + language_channels`."""
    channels: int
    """Of the latent sound: half of `text_encoder.proj.weight`'s first axis."""
    filter_channels: int
    """`text_encoder.encoder.ffn_layers.0.conv_1.weight`'s first axis."""
    heads: int
    layers: int
    kernel: int
    window: int
    """All four as in `vits.measure`."""
    languages: int
    """Rows of `emb_l.weight`; 0 without."""
    language_channels: int
    """Columns of `emb_l.weight`; 0 without."""
    speaker: Speaker
    speakers: int
    """Rows of `emb_g.weight`; 0 unless `speaker` is `speaker_id`."""
    gin_channels: int
    """Of the speaker: `waveform_decoder.cond.weight`'s second axis; 0 for one speaker."""
    stochastic: bool
    """Whether durations are drawn: `duration_predictor.flows.*` is there."""
    duration_channels: int
    """Within the duration predictor: the first axis of its `pre.weight`, or of `conv_1.weight` in a plain one."""
    duration_kernel: int
    """Last axis of its `convs.convs_sep.0.weight`, or of `conv_1.weight`."""
    duration_layers: int
    """How many of its `convs.convs_sep`; 0 in a plain one."""
    duration_flows: int
    """Convolutional flows, the unused one included: highest number in its `flows.N.pre`; 0 in a plain one."""
    duration_bins: int
    """Of their splines: the first axis of `flows.1.proj.weight` is 3 * bins - 1; 0 in a plain one."""
    duration_by_speaker: bool
    """Whether it is told the speaker: its `cond.weight` is there."""
    duration_by_language: bool
    """Its `cond_lang.weight` is there."""
    glow_norm: bool
    """Whether the plain predictor's norms are of Glow-TTS' kind, with gamma as (1, channels, 1) and an epsilon of 1e-4;
    the original VITS has (channels,) and 1e-5."""
    flows: int
    """Couplings in the flow."""
    flow_layers: int
    flow_kernel: int
    """Last axis of `flow.flows.0.enc.in_layers.0.weight`."""
    flow_dilation: int
    """By this factor each layer's dilation grows (`dilation_rate_flow`); 1 in all released voices, no tensor tells."""
    initial: int
    rates: Shape
    up_kernels: Shape
    block_kernels: Shape
    dilations: tuple[Shape, ...]
    """As in `so_vits_svc_network.Settings`; of residual blocks of kind 2 the first two of each are used."""
    block: Literal[1, 2]
    """Kind of residual block: `resblocks.0.convs1` or `resblocks.0.convs`."""
    sample_rate: int
    """Hz, of what is heard."""
    encoder_rate: int
    """Hz, of the latent sound, which is stretched to `sample_rate` before the decoder where they differ
    (`encoder_sample_rate`, `interpolate_z`); else equal to `sample_rate`."""
    spectrum: int
    """Bins that the posterior encoder takes: `posterior_encoder.pre.weight`'s second axis; 0 without it."""
    posterior_layers: int
    posterior_kernel: int
    posterior_dilation: int
    """As of the flow; 0 without it."""

    @property
    def hop(self) -> int:
        """Samples that the decoder makes of one of its frames."""
        return math.prod(self.rates)

    @property
    def most_frames(self) -> int:
        """How many frames of the latent sound the face `single` makes at most."""
        return max(1, MAX_SAMPLES * self.encoder_rate // (self.sample_rate * self.hop))


@lru_cache(maxsize=16)
def network(settings: Settings, part: Made) -> Voice:
    """Return one of the networks, in eval mode and without numbers: its parameters lie on torch's meta device.

    It is shared; copy it before giving it any.

    Args:
        settings: With a posterior encoder and several speakers, if the part is `voice-conversion`.
        part: Which of them.
    """
    with torch.device("meta"):
        voice = _voice(settings, part)
    return voice.eval().requires_grad_(requires_grad=False)


@lru_cache(maxsize=16)
def expected(settings: Settings) -> Mapping[str, Shape]:
    """Return name and shape of every tensor of a checkpoint of these settings, weight norm folded.

    Less what only training needs, but for the posterior encoder, and the step of the duration predictor's flow that is
    left out when it runs backwards: that one is there in all checkpoints.
    """
    with torch.device("meta"):
        heard = {"posterior_encoder": _posterior_encoder(settings)} if settings.spectrum else {}
        whole = Voice(**_reading(settings) | _speech(settings) | heard)
    shapes = {name: saved(tuple(tensor.shape)) for name, tensor in whole.state_dict().items()}
    second = "duration_predictor.flows.2."
    unused = {
        name.replace(second, "duration_predictor.flows.1."): shape
        for name, shape in shapes.items()
        if name.startswith(second)
    }
    return shapes | unused


def _voice(s: Settings, part: Made) -> Voice:
    match part:
        case "encoder":
            return TextToPrior(**_reading(s))
        case "decoder":
            return PriorToSpeech(**_speech(s))
        case "single":
            return TextToSpeech(s.most_frames, **_reading(s) | _speech(s))
        case "voice-conversion":
            return VoiceConversion(**_speech(s), posterior_encoder=_posterior_encoder(s))


def _speaker(s: Settings, *, told: bool = True) -> dict[str, nn.Module | None]:
    return {"emb_g": embedding(s.speakers, s.gin_channels) if told and s.speaker == "speaker_id" else None}


def _reading(s: Settings) -> dict[str, nn.Module | None]:
    width = s.hidden + s.language_channels
    encoder = Encoder(width, s.filter_channels, s.heads, s.layers, s.kernel, s.window)
    return _speaker(s, told=s.duration_by_speaker) | {
        "emb_l": embedding(s.languages, s.language_channels) if s.languages else None,
        "text_encoder": TextEncoder(encoder, s.symbols, s.hidden, s.language_channels, s.channels),
        "duration_predictor": _duration_predictor(s, width),
    }


def _duration_predictor(s: Settings, width: int) -> nn.Module:
    gin_channels = s.gin_channels if s.duration_by_speaker else 0
    language_channels = s.language_channels if s.duration_by_language else 0
    inner, kernel, told = s.duration_channels, s.duration_kernel, (gin_channels, language_channels)
    if not s.stochastic:
        return DurationPredictor(width, inner, kernel, *told, glow_norm=s.glow_norm)
    sizes = (s.duration_layers, s.duration_flows, s.duration_bins)
    return StochasticDurationPredictor(width, inner, kernel, *sizes, *told)


def _speech(s: Settings) -> dict[str, nn.Module | None]:
    wavenet = partial(WN, s.hidden, s.flow_kernel, s.flow_layers, s.gin_channels, dilation_rate=s.flow_dilation)
    ratio = Fraction(s.sample_rate, s.encoder_rate)
    kind = {1: Generator, 2: SmallGenerator}[s.block]
    return _speaker(s) | {
        "flow": ResidualCouplingBlock(s.channels, s.hidden, s.flow_layers, s.gin_channels, s.flows, inner=wavenet),
        "stretch": nn.Identity() if ratio == 1 else Stretch(ratio),
        "waveform_decoder": kind(
            s.channels, s.initial, s.rates, s.up_kernels, s.block_kernels, s.dilations, s.gin_channels or None
        ),
    }


def _posterior_encoder(s: Settings) -> PosteriorEncoder:
    wavenet = WN(s.hidden, s.posterior_kernel, s.posterior_layers, s.gin_channels, dilation_rate=s.posterior_dilation)
    return PosteriorEncoder(s.spectrum, s.hidden, s.channels, wavenet)
