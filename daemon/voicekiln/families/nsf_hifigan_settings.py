"""What a vocoder of the kind NSF-HiFiGAN is made of, read from tensor shapes and the `config.json` beside it.

Shapes win. The config is asked for what leaves no trace in them: the first upsampling rate, the sample rate, the
dilations, and how the mel spectrograms were made that the vocoder was trained with. A file without one is taken to be
of the kind that nearly all are, if its shapes allow that, and the person is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from voicekiln.errors import NoCompanion, OtherFamily
from voicekiln.families.base import Outline
from voicekiln.families.companions import CONFIG, MAX_NUMBER, RATES_HZ, Table, beside, first
from voicekiln.families.rvc_config import shown
from voicekiln.families.tensors import Shape, axes, contradiction, listed, numbered
from voicekiln.families.vits import check_reach

MAX_STEPS = 16
MAX_MELS = 1024
MAX_TRANSFORM = 4096
"""Samples of a Fourier transform; the real ones have 2048."""


@dataclass(frozen=True, slots=True)
class Network:
    """All that the vocoder's network is built from."""

    mels: int
    initial: int
    """Channels at the first step; each step halves them."""
    rates: Shape
    up_kernels: Shape
    block_kernels: Shape
    dilations: tuple[Shape, ...]
    harmonics: int
    """Sines of the source, the fundamental included."""
    sample_rate: int
    """Hz."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)


@dataclass(frozen=True, slots=True)
class Analysis:
    """How the mel spectrograms were made."""

    n_fft: int
    window: int
    """Samples, as `n_fft`."""
    low_hz: float
    high_hz: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Of both parts of the vocoder."""

    network: Network
    analysis: Analysis


ASSUMED = Analysis(2048, 2048, 40.0, 16_000.0)
"""Of nearly all vocoders of this kind; so are the next three."""
HOP = 512
SAMPLE_RATE = 44_100
DILATIONS = (1, 3, 5)


def read(outline: Outline, shapes: Mapping[str, Shape]) -> tuple[Settings, list[str], list[str]]:
    """Return the settings, sentences for the person about what was assumed, and the companions that were used.

    Args:
        outline: with the companions.
        shapes: of the tensors, weight norm folded.

    Raises:
        Contradiction: if the shapes, or they and the vocoder's own config, cannot all be true.
        OtherFamily: if the config asks for what this vocoder does not do.
    """
    found = _measure(shapes)
    notes: list[str] = []
    told = first(beside(outline), lambda each: (_checked(_told(each.table(), found)), [each.name]), notes)
    if told is not None:
        settings, used = told
        return settings, notes, used
    settings = _checked(_assumed(found))
    return settings, [*notes, _rebuilt(settings)], []


def _measure(shapes: Mapping[str, Shape]) -> Network:
    """Return what can be read from shapes; 0 stands for the first rate and for each dilation."""
    steps = numbered(shapes, r"ups\.([0-9]{1,3})\.")
    blocks = numbered(shapes, r"resblocks\.([0-9]{1,3})\.")
    per_step = blocks // max(steps, 1)
    if not 0 < steps <= MAX_STEPS or blocks != steps * per_step or not 0 < per_step <= MAX_STEPS:
        raise contradiction([f"its decoder has {steps} upsampling steps and {blocks} residual blocks"])
    initial, mels, _ = axes(shapes, "conv_pre.weight", 3)
    widths = [axes(shapes, f"noise_convs.{step}.weight", 3)[2] for step in range(steps)]
    strides = [*(width // 2 for width in widths[:-1]), 1]
    later = [stride // max(next_, 1) for stride, next_ in pairwise(strides)]
    if widths != [*(2 * math.prod(later[step:]) for step in range(steps - 1)), 1] or any(s % 2 for s in strides[:-1]):
        raise contradiction(
            [f"its source is brought to its steps by convolutions of the widths {listed(tuple(widths))}"]
        )
    kernels = tuple(axes(shapes, f"resblocks.{block}.convs1.0.weight", 3)[2] for block in range(per_step))
    if initial >> steps < 1 or mels > MAX_MELS or not all(kernel % 2 for kernel in kernels):
        raise contradiction(["the sizes of its layers cannot be halved or centred as they have to be"])
    return Network(
        mels=mels,
        initial=initial,
        rates=(0, *later),
        up_kernels=tuple(axes(shapes, f"ups.{step}.weight", 3)[2] for step in range(steps)),
        block_kernels=kernels,
        dilations=tuple(
            (0,) * numbered(shapes, rf"resblocks\.{at}\.convs1\.([0-9]{{1,3}})\.") for at in range(per_step)
        ),
        harmonics=axes(shapes, "m_source.l_linear.weight", 2)[1],
        sample_rate=SAMPLE_RATE,
    )


def _told(config: Table, found: Network) -> Settings:
    """Return the settings as the config completes them."""

    def said(key: str, low: int = 1, high: int = MAX_NUMBER) -> int:
        return config.given(key, config.number(key, low, high))

    def said_all(key: str) -> Shape:
        return config.given(key, config.numbers(key))

    rates = said_all("upsample_rates")
    config.agree("upsample_rates", (0, *rates[1:]), found.rates)
    config.agree("upsample_kernel_sizes", said_all("upsample_kernel_sizes"), found.up_kernels)
    config.agree("upsample_initial_channel", said("upsample_initial_channel"), found.initial)
    config.agree("num_mels", said("num_mels"), found.mels)
    config.agree("resblock_kernel_sizes", said_all("resblock_kernel_sizes"), found.block_kernels)
    config.agree("hop_size", said("hop_size"), math.prod(rates))
    dilations = config.given("resblock_dilation_sizes", config.lists("resblock_dilation_sizes"))
    config.agree("resblock_dilation_sizes", tuple(map(len, dilations)), tuple(map(len, found.dilations)))
    rate = said("sampling_rate", RATES_HZ[0], RATES_HZ[-1])
    n_fft = said("n_fft", 2, MAX_TRANSFORM)
    window = said("win_size", math.prod(rates), n_fft)
    if "fmax" not in config.values:
        raise config.silent("fmax")
    # null stands for no limit but half the sample rate.
    highest = config.real("fmax", 1, rate / 2) or rate / 2
    analysis = Analysis(n_fft, window, config.given("fmin", config.real("fmin", 0, highest - 1)), highest)
    if (noise := config.values.get("noise_sigma")) not in (None, 0):
        what = f"an NSF-HiFiGAN vocoder that adds noise to its features (noise_sigma {shown(noise)})"
        raise OtherFamily(what=what, families="NSF-HiFiGAN")
    return Settings(replace(found, rates=rates, dilations=dilations, sample_rate=rate), analysis)


def _assumed(found: Network) -> Settings:
    """Return the settings of the usual kind."""
    first, rest = divmod(HOP, math.prod(found.rates[1:]))
    if rest or found.up_kernels[0] != 2 * first or any(len(each) != len(DILATIONS) for each in found.dilations):
        raise NoCompanion(name=CONFIG[0], what="its upsampling cannot be told from its tensors")
    dilations = (DILATIONS,) * len(found.dilations)
    return Settings(replace(found, rates=(first, *found.rates[1:]), dilations=dilations), ASSUMED)


def _checked(settings: Settings) -> Settings:
    """Refuse what cannot be built."""
    made = settings.network
    if any(kernel < rate or (kernel - rate) % 2 for kernel, rate in zip(made.up_kernels, made.rates, strict=True)):
        raise contradiction([f"its upsampling is {listed(made.rates)} by {listed(made.up_kernels)}"])
    check_reach(made.block_kernels, made.dilations)
    return settings


def _rebuilt(settings: Settings) -> str:
    made, analysis = settings.network, settings.analysis
    return (
        f"It comes without its config.json; what most vocoders of this kind have was assumed: {made.sample_rate} Hz, "
        f"{made.hop} samples a frame, upsampling {listed(made.rates)}, dilations {listed(made.dilations[0])}, and mel "
        f"spectrograms of {analysis.n_fft} samples from {analysis.low_hz:g} to {analysis.high_hz:g} Hz."
    )
