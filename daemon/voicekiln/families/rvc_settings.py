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
from typing import Any

from voicekiln.errors import Contradiction, UnknownVocoder
from voicekiln.families import vits
from voicekiln.families.base import Outline
from voicekiln.families.rvc_config import Config, read_config, read_rate
from voicekiln.families.rvc_network import Settings, expected
from voicekiln.families.tensors import Shape, compare, contradiction, folded, listed, numbered

FRAMES_PER_S = 100
"""Feature frames a second, whatever the sample rate."""
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
    features, sizes = vits.measure(shapes, ("enc_p.emb_phone.weight", 2), "enc_p.encoder")
    return sizes | {
        "features": features,
        "f0": any(name.startswith(("enc_p.emb_pitch.", "dec.m_source.", "dec.noise_convs.")) for name in shapes),
        "flow_layers": numbered(shapes, r"flow\.flows\.0\.enc\.in_layers\.([0-9]{1,3})\."),
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
    vits.check(s, (s.kernel,))


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
