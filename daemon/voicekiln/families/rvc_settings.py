"""What an RVC voice is made of, read from tensor shapes and, where shapes are silent, from the file's config.

Shapes win: sizes are measured, and the config is asked only for what leaves no trace in them (upsampling rates,
dilations, sample rate). A training checkpoint has no config; its decoder is looked up among those that RVC and
Applio train, and its dilations are taken to be theirs. A wrong guess would give a wrong voice without any error,
so what does not fit exactly one of them is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import mode
from typing import Any

from voicekiln.errors import Contradiction, UnknownVocoder
from voicekiln.families.base import Outline
from voicekiln.families.rvc_config import Config, read_config, read_rate
from voicekiln.families.rvc_network import Settings, expected
from voicekiln.families.tensors import Shape, axes, compare, contradiction, folded, listed, numbered

FRAMES_PER_S = 100
"""Feature frames a second, whatever the sample rate."""
MAX_WINDOW = 1000
"""Frames; RVC has 10."""
MAX_REACH = 10_000
"""Samples to each side that one convolution of the decoder may see; RVC has 25. Far more, and a small file fills any
memory: dilations leave no trace in the weights."""
DILATIONS = (1, 3, 5)
"""Of every residual block that RVC trains."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a decoder's shapes do not tell."""

    sample_rate: int
    rates: Shape
    dilations: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    sample_rate: int
    spectrum: int | None
    """Width of the spectrogram that went into training (`enc_q.pre`); None where it is not known."""
    rates: Shape
    kernels: Shape
    features: Shape
    """Widths of the speech features with which it was trained: 256 in version 1, 768 in version 2."""


KNOWN = (
    _Known(32_000, 513, (10, 4, 2, 2, 2), (16, 16, 4, 4, 4), (256,)),
    _Known(48_000, 1025, (10, 6, 2, 2, 2), (16, 16, 4, 4, 4), (256,)),
    _Known(40_000, 1025, (10, 10, 2, 2), (16, 16, 4, 4), (256, 768)),
    _Known(32_000, 513, (10, 8, 2, 2), (20, 16, 4, 4), (768,)),
    _Known(48_000, 1025, (12, 10, 2, 2), (24, 20, 4, 4), (768,)),
    _Known(24_000, None, (10, 6, 2, 2), (20, 12, 4, 4), (768,)),  # Applio
)


def read(outline: Outline) -> tuple[Settings, list[str]]:
    """Return the settings, and sentences for the person about what was assumed.

    Raises:
        Contradiction: if shapes and config cannot all be true.
        UnknownVocoder: if the decoder is not RVC's.
    """
    shapes = folded(outline.tensors)
    sizes = _measure(shapes)
    if "config" in outline.rest:
        config = read_config(outline.rest["config"])
        decoder = Decoder(config.sample_rate, config.rates, config.dilations)
        hints, notes = _sizes(config), _differences(sizes, config)
    else:
        decoder = _look_up(outline, sizes, shapes)
        hints, notes = {}, [_rebuilt(decoder)]
    settings = _settings(sizes, decoder)
    if problems := compare(expected(settings), shapes):
        # One wrong tensor among those that were measured makes all others look wrong; the config may know better.
        raise contradiction(min(problems, _by_config(sizes | hints, decoder, shapes) or problems, key=len))
    return settings, notes


def _measure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return those of the settings that can be read from shapes."""
    steps = numbered(shapes, r"dec\.ups\.([0-9]{1,3})\.")
    blocks = numbered(shapes, r"dec\.resblocks\.([0-9]{1,3})\.")
    per_step = blocks // max(steps, 1)
    if blocks != steps * per_step or not blocks:
        raise contradiction([f"its decoder has {steps} upsampling steps and {blocks} residual blocks"])
    width, features = axes(shapes, "enc_p.emb_phone.weight", 2)
    twice, normed, _ = axes(shapes, "enc_p.proj.weight", 3)
    half = axes(shapes, "flow.flows.0.pre.weight", 3)[1]
    filter_channels, fed, kernel = axes(shapes, "enc_p.encoder.ffn_layers.0.conv_1.weight", 3)
    _, offsets, head = axes(shapes, "enc_p.encoder.attn_layers.0.emb_rel_k", 3)
    initial, decoded, _ = axes(shapes, "dec.conv_pre.weight", 3)
    speakers, gin_channels = axes(shapes, "emb_g.weight", 2)
    # Taken by majority, so that one wrong tensor is found out and not all the others.
    hidden, channels = mode((width, normed, fed)), mode((decoded, twice // 2, half * 2))
    if hidden % head or offsets % 2 == 0 or offsets == 1:
        raise contradiction([f"relative attention of the size {offsets} x {head} does not fit {hidden} channels"])
    return {
        "features": features,
        "f0": any(name.startswith(("enc_p.emb_pitch.", "dec.m_source.", "dec.noise_convs.")) for name in shapes),
        "channels": channels,
        "hidden": hidden,
        "filter_channels": filter_channels,
        "heads": hidden // head,
        "layers": numbered(shapes, r"enc_p\.encoder\.attn_layers\.([0-9]{1,3})\."),
        "kernel": kernel,
        "window": offsets // 2,
        # Every other step of the flow is a flip, which has no tensors.
        "flows": (numbered(shapes, r"flow\.flows\.([0-9]{1,3})\.") + 1) // 2,
        "flow_layers": numbered(shapes, r"flow\.flows\.0\.enc\.in_layers\.([0-9]{1,3})\."),
        "initial": initial,
        "up_kernels": tuple(axes(shapes, f"dec.ups.{i}.weight", 3)[2] for i in range(steps)),
        "block_kernels": tuple(axes(shapes, f"dec.resblocks.{i}.convs1.0.weight", 3)[2] for i in range(per_step)),
        "speakers": speakers,
        "gin_channels": gin_channels,
    }


def _settings(sizes: dict[str, Any], decoder: Decoder) -> Settings:
    """Return the settings, with all that could not be built refused.

    Raises:
        Contradiction, UnknownVocoder: if they cannot be.
    """
    settings = Settings(**sizes, rates=decoder.rates, dilations=decoder.dilations, sample_rate=decoder.sample_rate)
    _check_counts(settings)
    _check_rates(settings)
    return settings


def _check_counts(s: Settings) -> None:
    if min(s.layers, s.flows, s.flow_layers) < 1:
        raise contradiction(["layers of the text encoder or the flow are missing"])
    if len(s.rates) != len(s.up_kernels):
        raise contradiction([f"its settings have {len(s.rates)} upsampling steps, its decoder {len(s.up_kernels)}"])
    if len(s.dilations) != len(s.block_kernels):
        raise contradiction(
            [f"its settings have {len(s.dilations)} residual blocks a step, its decoder {len(s.block_kernels)}"]
        )
    if s.channels % 2 or s.initial >> len(s.rates) < 1 or not all(k % 2 for k in (s.kernel, *s.block_kernels)):
        raise contradiction(["the sizes of its layers cannot be halved or centred as they have to be"])
    reach = max(kernel // 2 * max(steps) for kernel, steps in zip(s.block_kernels, s.dilations, strict=True))
    if reach > MAX_REACH:
        raise contradiction([f"a convolution of its decoder sees {reach} samples to each side"])
    if s.window > MAX_WINDOW:
        raise contradiction([f"its relative attention sees {s.window} frames to each side"])


def _check_rates(s: Settings) -> None:
    if s.hop * FRAMES_PER_S != s.sample_rate:
        raise contradiction([f"its decoder makes {s.hop} samples of a frame, its sample rate is {s.sample_rate} Hz"])
    later = [math.prod(s.rates[step + 1 :]) for step in range(len(s.rates) - 1)]
    odd = any(kernel < rate or (kernel - rate) % 2 for kernel, rate in zip(s.up_kernels, s.rates, strict=True))
    if odd or any(stride % 2 for stride in later):
        raise UnknownVocoder(vocoder=f"HiFi-GAN with the upsampling {listed(s.rates)} by {listed(s.up_kernels)}")


def _sizes(config: Config) -> dict[str, Any]:
    """Return the sizes that the config has too, under the settings' names."""
    measured = {field.name for field in fields(Settings)} - {"rates", "dilations", "sample_rate"}
    return {field.name: getattr(config, field.name) for field in fields(Config) if field.name in measured}


def _by_config(sizes: dict[str, Any], decoder: Decoder, shapes: Mapping[str, Shape]) -> list[str]:
    """Return what is wrong if the config is believed; nothing if it cannot be."""
    if sizes["hidden"] % sizes["heads"]:
        return []
    try:
        return compare(expected(_settings(sizes, decoder)), shapes)
    except (Contradiction, UnknownVocoder):
        return []


def _differences(sizes: dict[str, Any], config: Config) -> list[str]:
    """Return a sentence for each size in which the config disagrees with the weights."""
    words = {"speakers": "speakers", "heads": "attention heads", "layers": "layers"}
    return [
        f"Its settings say {listed(said)} for {words.get(name, name.replace('_', ' '))}, "
        f"its weights have {listed(sizes[name])}; the weights were believed."
        for name, said in _sizes(config).items()
        if said != sizes[name]
    ]


def _look_up(outline: Outline, sizes: dict[str, Any], shapes: Mapping[str, Shape]) -> Decoder:
    """Return the one known decoder that fits a file without config.

    Raises:
        UnknownVocoder: if there is none.
        Contradiction: if more than one fits.
    """
    kernels = sizes["up_kernels"]
    fitting = [known for known in KNOWN if known.kernels == kernels and _noise_fits(known, sizes, shapes)]
    if not fitting:
        raise UnknownVocoder(vocoder=f"HiFi-GAN with upsampling kernels {listed(kernels)} of an unknown training")
    spectrum = outline.tensors.get("enc_q.pre.weight")
    said = read_rate(outline.rest.get("sr"))
    if spectrum is not None and len(spectrum.shape) > 1:
        fitting = [known for known in fitting if known.spectrum in (None, spectrum.shape[1])]
    if said is not None:
        fitting = [known for known in fitting if known.sample_rate == said]
    if len(fitting) != 1:
        raise contradiction(["it comes without settings, and its sample rate cannot be told from its tensors"])
    return Decoder(fitting[0].sample_rate, fitting[0].rates, (DILATIONS,) * len(sizes["block_kernels"]))


def _noise_fits(known: _Known, sizes: dict[str, Any], shapes: Mapping[str, Shape]) -> bool:
    """Say whether the source's convolutions, which tell the later upsampling rates, fit."""
    if not sizes["f0"]:
        return True
    strides = [math.prod(known.rates[step + 1 :]) for step in range(len(known.rates))]
    widths = [1 if stride == 1 else 2 * stride for stride in strides]
    return all(shapes.get(f"dec.noise_convs.{i}.weight", ())[2:] == (width,) for i, width in enumerate(widths))


def _rebuilt(decoder: Decoder) -> str:
    return (
        f"It comes without settings; they were rebuilt from its tensors: {decoder.sample_rate} Hz, "
        f"upsampling {listed(decoder.rates)}, dilations {listed(decoder.dilations[0])}."
    )
