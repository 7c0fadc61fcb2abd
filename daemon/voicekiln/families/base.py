"""What a family of voices must tell, and the words in which it does.

A family sees names, shapes and plain metadata, never a number: it says what network a file is for and by which
rule each weight is got from the file. Exactly one family may claim a file (`voicekiln.families.choose`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from voicekiln.families.weights import Rule
from voicekiln.job import Data, Part, Port, Precision, Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

PLAIN = Recipe("default")
MAX_ONNX_BYTES = 2**31 - 2**24
"""What one file can hold, less some room for the graph itself."""
NO_TEXT = "it is for voices that read text (Coqui, YourTTS)"
"""Why other voices do not have the faces `job.OF_TEXT`."""
WANTED_DB: Mapping[Precision, float] = {"fp32": 100.0, "fp16": 55.0}
"""Of most families; see `Exportable.wanted_db`."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: str
    """`float16`, `float32`, `bfloat16`, `int64` ..."""


class Cleaned(str):
    """A text out of a file in which something was replaced for reading (see `errors.plain`); `exact` is how it was."""

    __slots__ = ("exact",)

    exact: str


def exact(text: str) -> str:
    """Return the text as it stands in the file, whatever was replaced in it for reading. No person may see it."""
    return text.exact if isinstance(text, Cleaned) else text


@dataclass(frozen=True, slots=True)
class DVectors:
    """A companion with a vector for each speaker, the mean of his clips; the numbers themselves are a tensor."""

    names: tuple[str, ...]
    """The speakers, in the order of the rows; texts as `exact` knows them."""
    clips: tuple[int, ...]
    """Of how many vectors each is the mean."""
    width: int
    tensor: str
    """By this name rules read them: float32, (speakers, width)."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A checkpoint as `recognise` sees it."""

    tensors: Mapping[str, TensorInfo]
    """The model's tensors by name; weight norm in its older spelling (`weight_g`, `weight_v`) whatever the file has."""
    rest: Mapping[str, Any]
    """Everything else at the file's top level that is plain data: numbers, text, lists and mappings of them."""
    tensor_key: str | None
    """The top-level key under which the tensors lie (`weight`, `model`); None if they are the top level itself."""
    keys: tuple[str, ...]
    """All top-level keys, also those that hold neither tensors nor plain data."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Companions, parsed, by their file names: plain data or `DVectors`; None for one that cannot be read."""


@dataclass(frozen=True, slots=True)
class NotMine:
    """The family declines; `reason` completes the sentence «not a voice of family X: …»."""

    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The family knows this file and can build it."""

    family: str
    settings: Any
    """The family's own frozen dataclass: all that `build` needs beside the tensors."""
    model: Mapping[str, Any]
    """What `inspect` and the sidecar show (JSON values)."""
    notes: tuple[str, ...] = ()
    """Sentences for the person: what was assumed, ignored or rebuilt."""


@dataclass(frozen=True, slots=True)
class Exportable:
    """A network ready to be exported, and how it gets a voice's numbers."""

    graph_key: str
    """Equal for voices that share a graph: the family and all that the network is built from, as text."""
    title: str
    """Of the network, as a person reads it: `RVC v2, 40000 Hz, f0`."""
    module: torch.nn.Module
    """In eval mode, without numbers: its parameters lie on torch's meta device. Called with the inputs in their order;
    the only randomness inside is drawn by `nets.noise.Noise` modules."""
    weights: Mapping[str, Rule]
    """How each of the module's parameters is got from the checkpoint's tensors."""
    inputs: tuple[Port, ...]
    """The single source for dynamic axes, sample inputs, the interface check and the sidecar."""
    outputs: tuple[Port, ...]
    sample: Callable[[int, np.random.Generator], dict[str, np.ndarray]]
    """`sample(frames, rng)` draws *plausible* inputs of that length (an f0 glide with an unvoiced gap, not noise)."""
    wanted_db: Mapping[Precision, float]
    """The least signal-to-noise ratio (AC part, dB) with which a file of that precision may be published."""
    metadata: Mapping[str, str]
    """For the ONNX file's `metadata_props`."""
    feed: Mapping[str, Any]
    """For the sidecar: how to feed the ONNX, whatever its face (JSON values)."""
    names: Mapping[str, str | None] = field(default_factory=dict)
    """For the sidecar: under which name each thing is fed; None for what is not, because the file makes it itself."""
    interface: Part = "rvc"
    """Of the graph; faces that share one file say the same."""
    client: Mapping[str, Any] = field(default_factory=dict)
    """What the face's client reads in a file of its own (JSON values), but for the voice's name; empty if nothing."""
    in_float32: str | None = None
    """Path of the submodule (`dec.m_source`) that stays in float32 in an fp16 file, with all that leads to its output;
    None if there is none."""
    in_half: str | None = None
    """Path of the only submodule that is not in float32 in an fp16 file, but for what leads to `in_float32`; None if
    all of the network is half, empty if nothing is. A network that repeats a step (`nets.loop`) has to name one, within
    the step."""
    noises: tuple[str, ...] = field(default=())
    """Paths of the `nets.noise.Noise` submodules, in the order in which they draw."""
    replays: Mapping[str, str] = field(default_factory=dict)
    """Path of a submodule that passes its input on unchanged, and the name of the output that carries it. A network
    that predicts f0 and then adds it up as phase multiplies the last digit's difference: the prediction is compared by
    itself, and what follows from it with both sides on the file's prediction."""
    rounds: bool = False
    """Whether the length of what comes out is a prediction of the network's, rounded: two that agree to the last digit
    but one may then differ by a frame, once in a great while."""
    notes: tuple[str, ...] = ()
    """Sentences for the person: what the recipe wants and this network does not do."""


class Family(Protocol):
    """A kind of voice model."""

    name: str
    """As a person reads it in the sidecar: `rvc`."""
    title: str
    """As a person reads it in a sentence: `RVC (v1 and v2)`."""

    def usual(self) -> Iterable[Outline]:
        """Return outlines of the files that most people have, one for each network."""
        ...

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this file is of the family.

        Raises:
            Refusal: if it is, or belongs to it, but cannot be converted: a discriminator, a foreign vocoder,
                shapes that contradict each other.
        """
        ...

    def parts(self, claim: Claim, recipe: Recipe) -> tuple[Part, ...]:
        """Return which networks the recipe wants of that file, the main one first; `build` may not have them all."""
        ...

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return one of the file's networks, without its numbers: the main one if no other is asked for.

        Raises:
            Refusal: `Contradiction` if a tensor is missing, superfluous or of another shape; `NoSuchFace` if there
                cannot be this part of it.
        """
        ...

    def data(self, claim: Claim, outline: Outline, recipe: Recipe) -> Mapping[Data, Rule]:
        """Return what is published as mere numbers, and how each is got from the checkpoint's tensors."""
        ...
