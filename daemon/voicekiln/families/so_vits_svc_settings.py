"""What a so-vits-svc voice is made of, read from tensor shapes and, where shapes are silent, from the config beside it.

Shapes win: sizes are measured, and the config is asked only for what leaves no trace in them (the first upsampling
rate, dilations, sample rate). A voice without one is taken to be of the kind that nearly all are, if its shapes allow
that, and the person is told. In a folder of many voices `config.json` may be another one's: it has to agree in every
size, or it is left aside. What lies under the voice's own name is the voice's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from voicekiln.errors import NoCompanion
from voicekiln.families import vits
from voicekiln.families.base import Outline
from voicekiln.families.companions import CONFIG, Companion, Table, beside, check_count, check_speakers, first
from voicekiln.families.rvc_config import shown
from voicekiln.families.so_vits_svc_config import (
    LISTS,
    NUMBERS,
    SILENT,
    SWITCHES,
    Config,
    read_config,
)
from voicekiln.families.so_vits_svc_network import Settings, expected
from voicekiln.families.so_vits_svc_sizes import measure
from voicekiln.families.so_vits_svc_units import check_width
from voicekiln.families.tensors import Shape, axes, compare, contradiction, folded, listed

HOP = 512
SAMPLE_RATE = 44_100
DILATIONS = (1, 3, 5)
"""Of every residual block in every template of so-vits-svc and its fork, as are the two above."""

MAX_HOP = 4096
"""Samples a frame; the source holds several numbers for each."""

KEYS = {name: key for key, name in (NUMBERS | LISTS | SWITCHES).items()} | {
    "snake": "vocoder_name",
    "rates": "upsample_rates",
}
"""What the config calls a setting."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a voice is made of, and how that is known."""

    settings: Settings
    config: Config
    """The one that was used."""
    notes: tuple[str, ...]
    companions: tuple[str, ...]
    """Names of the files beside the voice that were used."""


def read(outline: Outline) -> Reading:
    """Return what the voice is made of.

    Raises:
        Contradiction: if the shapes, or they and the voice's own config, cannot all be true.
    """
    shapes = folded(outline.tensors)
    sizes = measure(shapes)
    check_count(sizes["speakers"])
    notes: list[str] = []

    def reading(companion: Companion) -> Reading | None:
        name = companion.name
        if (config := read_config(name, companion.values)) is None:
            notes.append(f"{shown(name)}, which lies beside it, is no config of so-vits-svc and was left aside.")
            return None
        settings = _told(companion, config, sizes, shapes)
        told = (*_left_out(name, config, settings), *_differences(config, settings))
        return Reading(settings, config, (*notes, *told), (name,))

    if (found := first(beside(outline), reading, notes)) is not None:
        return found
    settings = _settings(SILENT, sizes, shapes)
    return Reading(settings, SILENT, (*notes, _assumed(settings)), ())


def _told(companion: Companion, config: Config, sizes: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Settings:
    """Return the settings with what a companion says.

    Raises:
        Contradiction: if it cannot be the voice's, or need not be and differs.
    """
    settings = _settings(config, sizes, shapes)
    check_width(companion.name, config, settings.ssl_dim)
    check_speakers(companion.name, config.speakers, settings.speakers)
    if not companion.own:
        for key, said, found in _differing(config, settings):
            Table(companion.name, {}).agree(key, said, found)
    return settings


def _settings(config: Config, sizes: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Settings:
    """Return the settings, with all that could not be built refused.

    Raises:
        Contradiction: if they cannot be, or are not those of the tensors.
    """
    dilations = config.dilations or (DILATIONS,) * len(sizes["block_kernels"])
    rate = config.sample_rate or SAMPLE_RATE
    settings = Settings(**sizes, rates=_rates(config, sizes, shapes), dilations=dilations, sample_rate=rate)
    _check(settings)
    if problems := compare(expected(settings), shapes):
        raise contradiction(problems)
    return settings


def _rates(config: Config, sizes: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Shape:
    """Return the upsampling rates: all but the first are told by the convolutions that bring the source to the steps.

    Raises:
        Contradiction: if these are no such convolutions, or the first rate cannot be.
    """
    kernels = sizes["up_kernels"]
    widths = tuple(axes(shapes, f"dec.noise_convs.{step}.weight", 3)[2] for step in range(len(kernels)))
    strides = (*(width // 2 for width in widths[:-1]), 1)
    pairs = list(pairwise(strides))
    # An odd stride is padded by the original so that lengths do not meet.
    if widths[-1] != 1 or any(width % 4 for width in widths[:-1]) or any(a % b or a == b for a, b in pairs):
        raise contradiction([f"its source is brought to its steps by convolutions of the widths {listed(widths)}"])
    said = config.hop
    if config.rates is not None:
        product = math.prod(config.rates)
        if said not in (None, product):
            raise contradiction([f"its settings have {said} samples a frame and the upsampling {listed(config.rates)}"])
        said = product
    first, rest = divmod(said or HOP, strides[0])
    if said is None and (rest or kernels[0] != 2 * first):
        raise NoCompanion(name=CONFIG[0], what="its upsampling cannot be told from its tensors")
    if rest or first < 2:  # noqa: PLR2004 - a step that upsamples
        raise contradiction(
            [f"its settings have {shown(said)} samples a frame, its decoder makes {strides[0]} after one step"]
        )
    return (first, *(a // b for a, b in pairs))


def _check(s: Settings) -> None:
    if min(s.layers, s.flows, s.flow_layers) < 1 or (s.f0_decoder and s.f0_layers < 1):
        raise contradiction(["layers of the text encoder, the flow or the f0 decoder are missing"])
    vits.check(s, (s.kernel, s.flow_kernel or 1))
    odd = any(kernel < rate or (kernel - rate) % 2 for kernel, rate in zip(s.up_kernels, s.rates, strict=True))
    if odd or s.hop > MAX_HOP:
        raise contradiction([f"its upsampling is {listed(s.rates)} by {listed(s.up_kernels)}"])


def _differing(config: Config, settings: Settings) -> Iterator[tuple[str, object, object]]:
    """Give the sizes in which a config disagrees with the weights: its name for it, what it says, what they have."""
    told = dict(config.sizes) | ({"rates": config.rates} if config.rates else {})
    if settings.transformer_flow:
        told.pop("depthwise", None)  # it would be seen in a WaveNet, and there is none outside of the training
    for name, said in told.items():
        if (found := getattr(settings, name)) != said:
            yield KEYS[name], said, found


def _differences(config: Config, settings: Settings) -> list[str]:
    """Return a sentence for each of them."""
    return [
        f"Its settings say {listed(said)} for {key}, its weights have {listed(found)}; the weights were believed."
        for key, said, found in _differing(config, settings)
    ]


def _left_out(name: str, config: Config, settings: Settings) -> tuple[str, ...]:
    """Return a sentence if a config says only some of what no tensor tells."""
    if None not in (config.hop or config.rates, config.sample_rate, config.dilations):
        return ()
    sentence = (
        f"{shown(name)} leaves some things out; they were taken as most voices of this kind have them. In all: "
        f"{settings.sample_rate} Hz, {settings.hop} samples a frame, dilations {listed(settings.dilations[0])}."
    )
    return (sentence,)


def _assumed(settings: Settings) -> str:
    return (
        f"It comes without its config.json; what most voices of this kind have was assumed: {settings.sample_rate} Hz, "
        f"{settings.hop} samples a frame, dilations {listed(settings.dilations[0])}. Put its "
        "config.json beside it, and it is converted again with what that says."
    )
