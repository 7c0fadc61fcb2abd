"""The speaker encoder of YourTTS (`model_se.pth`): from sound to the d-vector with which the voice is told who speaks.

The network takes the sound itself: its mel spectrogram is made within, of the window and the bands in the checkpoint.
All of it is float32 in every precision. Half of that cannot hold the energies of loud and of quiet sounds; and where
the last layer's bias takes away what all voices have in common, it leaves the error of that: rounded weights alone have
cost the reference encoder all but 42 dB. A wrong d-vector is another voice in all that is said with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import torch

from voicekiln.errors import OtherFamily
from voicekiln.families import speaker_encoder_feed as feed
from voicekiln.families.base import (
    MAX_ONNX_BYTES,
    PLAIN,
    Claim,
    Exportable,
    NotMine,
    Outline,
    TensorInfo,
)
from voicekiln.families.speaker_encoder_settings import Network, Settings, read
from voicekiln.families.tensors import Shape, compare, contradiction, folded, stored
from voicekiln.families.weights import AsIs, Computed, Rule
from voicekiln.job import Data, Part, Port, Recipe
from voicekiln.nets import speaker_encoder as nets
from voicekiln.nets.batch_norm import affine
from voicekiln.nets.mel import windowed

MARK = "layer1.0.se.fc.0.weight"
"""A tensor that no other model has under just this name."""
FRONT_END = "torch_spec."
LSTM = (("layers.0.lstm.", "layers.0.linear."), ("layers.lstm.", "layers.linear."))
"""What names begin with in Coqui's other speaker encoder, with and without projections between its layers."""
WANTED_DB = 90.0
"""In both precisions. The numbers of a d-vector then differ by 0.0000014 on the average; that the last layer may take
away the greater part of the sum (see above) leaves two float32 networks not much more than 100 dB."""
IN_FLOAT32 = (
    "The speaker encoder is float32 in its fp16 file as well: half precision would change the d-vector, and so the "
    "voice in which all is said with it."
)
COUNTER = ".num_batches_tracked"
"""Only training needs them."""

WINDOW = "torch_spec.1.spectrogram.window"
TRANSFORM = "torch_spec.1.spectrogram.conv.weight"
"""What the network has in its place."""
AFFINE = ".affine"
BATCH_NORM = (".weight", ".bias", ".running_mean", ".running_var")
"""What a checkpoint has in its place."""


class SpeakerEncoder:
    """The family; see `voicekiln.families.base.Family`."""

    name = "speaker-encoder"
    title = "speaker encoder of YourTTS"

    def usual(self) -> Iterable[Outline]:
        """Return the one that is released with YourTTS."""
        made = Network(512, 160, 64, (32, 64, 128, 256), (3, 4, 6, 3), (4, 8, 16, 32), 128, 512)
        infos = {name: TensorInfo(shape, "float32") for name, shape in expected(Settings(made, 400, 16_000)).items()}
        config = {"audio": {"sample_rate": 16_000, "hop_length": made.hop}}
        yield Outline(infos, {}, "model", ("model",), {"config_se.json": config})

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is such a speaker encoder.

        Raises:
            OtherFamily: if it is a relative with another network, or larger than an ONNX file.
            Contradiction: if what it and its config say cannot all be true.
        """
        _refuse_relatives(outline)
        if MARK not in outline.tensors:
            return NotMine(f"it has no {MARK}")
        weights = _weights(outline)
        shapes = folded(weights)
        settings, notes, companions = read(outline, shapes)
        parameters = sum(math.prod(weight.shape) for weight in network(settings.network).state_dict().values())
        if (size := 4 * parameters) > MAX_ONNX_BYTES:
            what = f"a speaker encoder of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        _compare(settings, shapes)
        facts = {"weights": stored(weights), "parameters": sum(map(math.prod, shapes.values()))}
        return Claim(self.name, settings, _describe(settings) | facts | {"companions": companions}, tuple(notes))

    def parts(self, _claim: Claim, _recipe: Recipe) -> tuple[Part, ...]:
        """Return the only one, whatever the recipe: its interfaces are voices'."""
        return ("speaker_encoder",)

    def build(self, claim: Claim, outline: Outline, _part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return the network.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
        """
        settings: Settings = claim.settings
        _compare(settings, folded(_weights(outline)))
        made = settings.network
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(made))}",
            title=f"speaker encoder, {settings.sample_rate} Hz, d-vector of {made.width}",
            module=network(made),
            weights=_rules(made),
            inputs=(Port("waveform", "float32", ("windows", "samples")),),
            outputs=(Port("d_vector", "float32", ("windows", made.width)),),
            sample=partial(feed.sound, settings),
            wanted_db={"fp32": WANTED_DB, "fp16": WANTED_DB},
            metadata=feed.metadata(self.name, settings),
            feed=feed.feed(settings),
            names={"waveform": "waveform"},
            interface="speaker_encoder",
            in_half="",
            notes=(IN_FLOAT32,) if "fp16" in recipe.precisions else (),
        )

    def data(self, _claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return nothing."""
        return {}


@lru_cache(maxsize=4)
def network(made: Network) -> nets.SpeakerEncoder:
    """Return the network, in eval mode and without numbers; it is shared, copy it before giving it any."""
    with torch.device("meta"):
        encoder = nets.SpeakerEncoder(**asdict(made))
    return encoder.eval().requires_grad_(requires_grad=False)


def expected(settings: Settings) -> Mapping[str, Shape]:
    """Return name and shape of every tensor of a file, but for counters."""
    shapes: dict[str, Shape] = {}
    for name, weight in network(settings.network).state_dict().items():
        if name.endswith(AFFINE):
            shapes |= {name.removesuffix(AFFINE) + each: tuple(weight.shape[1:2]) for each in BATCH_NORM}
        else:
            shapes[name] = tuple(weight.shape)
    del shapes[TRANSFORM]
    return shapes | {WINDOW: (settings.window,)}


def _rules(made: Network) -> dict[str, Rule]:
    """Return how each of the network's weights is got."""
    return {name: _rule(name, made) for name in network(made).state_dict()}


def _rule(name: str, made: Network) -> Rule:
    if name == TRANSFORM:
        return Computed(windowed, (WINDOW,), (made.n_fft,))
    if name.endswith(AFFINE):
        return Computed(affine, tuple(name.removesuffix(AFFINE) + each for each in BATCH_NORM))
    return AsIs(name)


def _refuse_relatives(outline: Outline) -> None:
    """Refuse speaker encoders of another network.

    Raises:
        OtherFamily: if it is one.
    """

    def has(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in outline.tensors)

    what = None
    if any(all(map(has, beginnings)) for beginnings in LSTM):
        what = "a speaker encoder of Coqui's with an LSTM, another network than that of YourTTS"
    elif MARK in outline.tensors and not has(FRONT_END):
        what = "a speaker encoder without its own mel spectrogram (use_torch_spec is not true)"
    if what is not None:
        raise OtherFamily(what=what, families=SpeakerEncoder.title)


def _weights(outline: Outline) -> dict[str, TensorInfo]:
    """Return all tensors but the counters of batch norms."""
    return {name: info for name, info in outline.tensors.items() if not name.endswith(COUNTER)}


def _compare(settings: Settings, shapes: Mapping[str, Shape]) -> None:
    """Refuse tensors that are not exactly those of the network."""
    if problems := compare(expected(settings), shapes):
        raise contradiction(problems)


def _describe(settings: Settings) -> dict[str, Any]:
    """Return what `inspect` shows."""
    made = settings.network
    return {
        "family": SpeakerEncoder.name,
        "version": "1",
        "sample_rate": settings.sample_rate,
        "hop": made.hop,
        "f0": False,
        "speakers": 0,
        "checkpoint": "speaker encoder",
        "mels": made.mels,
        "n_fft": made.n_fft,
        "window": settings.window,
        "d_vector_width": made.width,
    }
