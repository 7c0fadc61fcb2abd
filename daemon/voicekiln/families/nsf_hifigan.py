"""NSF-HiFiGAN, the vocoder that so-vits-svc, DiffSinger and Diffusion-SVC use after a diffusion model.

Two networks come of one file: the vocoder, from a mel spectrogram and pitch to audio, and `mel`, from audio to the mel
spectrogram that this vocoder was trained with. The second has no weight of the file in it, as its numbers follow from
the settings, and it is float32 in every precision: half of that cannot hold the squares of loud and of quiet sounds.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from voicekiln.errors import OtherFamily
from voicekiln.families import nsf_hifigan_feed as feed
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
from voicekiln.families.nsf_hifigan_settings import Network, Settings, read
from voicekiln.families.tensors import TRAINING_ONLY, Shape, compare, contradiction, folded, saved, stored
from voicekiln.families.weights import Computed, Rule, rules
from voicekiln.job import Data, Part, Port, Recipe
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.mel import LogMel, dft_weights, mel_weights
from voicekiln.nets.nsf_hifigan import Vocoder
from voicekiln.nets.source import SourceModuleHnNSF

MARK = "m_source.l_linear.weight"
"""A tensor that no other model has under just this name."""
KIND_2 = "resblocks.0.convs."


class NsfHifiGan:
    """The family; see `voicekiln.families.base.Family`."""

    name = "nsf-hifigan"
    title = "NSF-HiFiGAN (vocoder)"

    def usual(self) -> Iterable[Outline]:
        """Return the vocoder of openvpi's releases, from which all others are fine-tuned."""
        rates, up_kernels, block_kernels, dilations = (8, 8, 2, 2, 2), (16, 16, 4, 4, 4), (3, 7, 11), ((1, 3, 5),) * 3
        made = Network(128, 512, rates, up_kernels, block_kernels, dilations, 9, 44_100)
        infos = {name: TensorInfo(shape, "float32") for name, shape in expected(made).items()}
        config = {
            "num_mels": made.mels,
            "upsample_rates": [*rates],
            "upsample_kernel_sizes": [*up_kernels],
            "upsample_initial_channel": made.initial,
            "resblock_kernel_sizes": [*block_kernels],
            "resblock_dilation_sizes": [[*each] for each in dilations],
            "sampling_rate": made.sample_rate,
            "hop_size": made.hop,
            "n_fft": 2048,
            "win_size": 2048,
            "fmin": 40,
            "fmax": 16_000,
        }
        yield Outline(infos, {}, "generator", ("generator",), {"config.json": config})

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is such a vocoder.

        Raises:
            OtherFamily: if it is a relative with another network, or larger than an ONNX file.
            Contradiction: if what it and its config say cannot all be true.
        """
        if MARK not in outline.tensors:
            return NotMine(f"it has no {MARK}")
        if any(name.startswith(KIND_2) for name in outline.tensors):
            what = "an NSF-HiFiGAN vocoder with residual blocks of kind 2"
            raise OtherFamily(what=what, families=self.title)
        shapes = folded(outline.tensors)
        settings, notes, companions = read(outline, shapes)
        parameters = sum(map(math.prod, expected(settings.network).values()))
        if (size := 4 * parameters) > MAX_ONNX_BYTES:
            what = f"a vocoder of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        _compare(settings.network, shapes)
        model = _describe(outline, settings) | {"parameters": parameters, "companions": companions}
        return Claim(self.name, settings, model, tuple(notes))

    def parts(self, _claim: Claim, _recipe: Recipe) -> tuple[Part, ...]:
        """Return both, whatever the recipe: its interfaces are voices'."""
        return "vocoder", "mel"

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, _recipe: Recipe = PLAIN) -> Exportable:
        """Return the vocoder, or what makes its mel spectrograms.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
        """
        settings: Settings = claim.settings
        _compare(settings.network, folded(outline.tensors))
        return self._mel(settings) if part == "mel" else self._vocoder(settings, outline)

    def data(self, _claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return nothing."""
        return {}

    def _vocoder(self, settings: Settings, outline: Outline) -> Exportable:
        made = settings.network
        kept = [name for name in outline.tensors if not name.startswith(TRAINING_ONLY)]
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(made))}",
            title=f"NSF-HiFiGAN, {made.sample_rate} Hz",
            module=network(made),
            weights={f"generator.{name}": rule for name, rule in rules(kept).items()},
            inputs=(Port("c", "float32", (1, made.mels, "frames")), Port("f0", "float32", (1, "frames"))),
            outputs=(Port("audio", "float32", (1, 1, "samples")),),
            sample=partial(feed.spectrogram, made),
            wanted_db=WANTED_DB,
            metadata=feed.metadata(self.name, settings),
            feed=feed.feed(settings),
            names={"mel": "c", "f0": "f0", "noise": None},
            interface="vocoder",
            in_float32="generator.m_source",
            noises=("generator.m_source.l_sin_gen.noise",),
        )

    def _mel(self, settings: Settings) -> Exportable:
        made, how = settings.network, settings.analysis
        return Exportable(
            graph_key=f"{self.name} mel {json.dumps([how.n_fft, how.window, made.hop, made.mels])}",
            title=f"mel spectrogram, {made.mels} bands every {made.hop} samples",
            module=analyser(how.n_fft, how.window, made.hop, made.mels),
            weights={
                "log_mel.dft.conv.weight": Computed(dft_weights, arguments=(how.n_fft, how.window)),
                "log_mel.basis.weight": Computed(
                    mel_weights, arguments=(made.sample_rate, how.n_fft, made.mels, how.low_hz, how.high_hz)
                ),
            },
            inputs=(Port("audio", "float32", (1, "samples")),),
            outputs=(Port("mel", "float32", (1, made.mels, "frames")),),
            sample=partial(feed.recording, made, how),
            wanted_db=WANTED_DB,
            metadata=feed.metadata(self.name, settings),
            feed=feed.feed(settings),
            names={"audio": "audio"},
            interface="mel",
            in_float32="log_mel",
        )


@lru_cache(maxsize=4)
def network(made: Network) -> Vocoder:
    """Return the vocoder, in eval mode and without numbers; it is shared, copy it before giving it any."""
    with torch.device("meta"):
        source = SourceModuleHnNSF(made.sample_rate, made.hop, made.harmonics - 1)
        generator = Generator(
            *(made.mels, made.initial, made.rates, made.up_kernels, made.block_kernels, made.dilations),
            gin_channels=None,
            source=source,
            post_bias=True,
        )
        vocoder = Vocoder(generator)
    return vocoder.eval().requires_grad_(requires_grad=False)


@lru_cache(maxsize=4)
def analyser(n_fft: int, window: int, hop: int, mels: int) -> nn.Module:
    """Return what makes mel spectrograms, as `network` returns the vocoder.

    All of it lies in one submodule, which can so be told to stay in float32.
    """
    with torch.device("meta"):
        whole = nn.Sequential(OrderedDict(log_mel=LogMel(n_fft, window, hop, mels)))
    return whole.eval().requires_grad_(requires_grad=False)


@lru_cache(maxsize=4)
def expected(made: Network) -> Mapping[str, Shape]:
    """Return name and shape of every tensor of a vocoder's file, weight norm folded."""
    weights = network(made).generator.state_dict()
    return {name: saved(tuple(weight.shape)) for name, weight in weights.items()}


def _compare(made: Network, shapes: Mapping[str, Shape]) -> None:
    """Refuse tensors that are not exactly those of the network."""
    if problems := compare(expected(made), shapes):
        raise contradiction(problems)


def _describe(outline: Outline, settings: Settings) -> dict[str, Any]:
    """Return what `inspect` shows."""
    made, how = settings.network, settings.analysis
    return {
        "family": NsfHifiGan.name,
        "version": "1",
        "sample_rate": made.sample_rate,
        "hop": made.hop,
        "f0": True,
        "speakers": 0,
        "weights": stored(outline.tensors),
        "weight_norm": any(name.endswith(".weight_g") for name in outline.tensors),
        "checkpoint": "vocoder",
        "mels": made.mels,
        **asdict(how),
    }
