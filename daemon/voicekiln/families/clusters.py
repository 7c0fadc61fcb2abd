"""What cluster centres and feature indexes have in common: how they are fed, and how their speakers are numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voicekiln.errors import Contradiction, OtherFamily, plain
from voicekiln.families.base import MAX_ONNX_BYTES, Outline
from voicekiln.families.companions import Companion, beside, called, first
from voicekiln.families.rvc_config import shown
from voicekiln.families.rvc_feed import Sampler
from voicekiln.families.so_vits_svc_config import read_config
from voicekiln.families.weights import AsIs, Joined, Rule
from voicekiln.job import Port, Precision, Recipe
from voicekiln.nets.clusters import Whole

MAX_WIDTH = 65_536
"""Of the features; real ones have 256 to 1280."""
MAX_UNEQUAL = 63
"""Speakers whose tables differ in size; of more, the graph would need a long table of its own."""
WANTED_DB: Mapping[Precision, float] = {"fp32": 100.0, "fp16": 100.0}
"""The file is float32 in any case, and whoever takes another centre is far off."""
STAYS = "Its numbers stay in float32, whatever the recipe says: in half precision, others would be the nearest."
FEATURES = {
    "source": "the encoder of the voice",
    "place": "before they are stretched to frames or after, as each is looked at by itself",
    "ratio": "0 leaves them as they are, 1 replaces them",
}
"""What the sidecar says of both."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """How speakers are numbered."""

    numbers: Mapping[str, int]
    """In the voice, by the names under which they are in the file; empty if nothing says so."""
    names: Mapping[int, str]
    """By number."""
    notes: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    """Names of the files beside it that were used."""


def numbering(outline: Outline, keys: Sequence[str], numbers: Mapping[str, int]) -> Numbering:
    """Return what the voice's config, if it lies beside the file, says of the speakers in it.

    Args:
        outline: with the companions.
        keys: under which the speakers are in the file: names, or numbers as texts.
        numbers: those that are known without.

    Raises:
        Contradiction: if the file's own config cannot be its own.
    """
    notes: list[str] = []

    def read(companion: Companion) -> Numbering | None:
        config = read_config(companion.name, companion.values)
        if config is None or config.speakers is None:
            return None
        known = _found(companion.name, config.speakers, keys, numbers)
        return Numbering(known, config.speakers, tuple(notes), (companion.name,))

    return first(beside(outline), read, notes) or Numbering(numbers, {}, tuple(notes))


def _found(name: str, speakers: Mapping[int, str], keys: Iterable[str], numbers: Mapping[str, int]) -> dict[str, int]:
    """Return the speakers' numbers if a config, that of the name, has them all."""
    common = Counter(speakers.values())
    told = {speaker: number for number, speaker in speakers.items() if common[speaker] == 1}
    found: dict[str, int] = {}
    for key in keys:
        number = numbers.get(key) if numbers else told.get(called(key))
        # Long names are cut, and two of them may then be one.
        if number is None or number not in speakers or number in found.values():
            raise Contradiction(what=f"{shown(name)} has no speaker {plain(key, 40)}")
        found[key] = number
    return found


def renumbered(numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the sentence for speakers that are counted otherwise in the graph than in the voice."""
    said = tuple(numbers)
    if said == tuple(range(len(said))) or len(said) == 1:
        return ()
    listed = ", ".join(map(str, said[:20]))
    return (f"In the voice these speakers have the numbers {listed}; here they are counted from 0 in this order.",)


def check(title: str, width: int, *tables: Sequence[int]) -> None:
    """Refuse what no graph can hold.

    Args:
        title: the family's.
        width: of all tables.
        tables: the rows of each speaker, for each kind of table.

    Raises:
        OtherFamily: if it is too much.
    """
    if (size := 4 * width * sum(map(sum, tables))) > MAX_ONNX_BYTES:
        what = f"a set of cluster centres or vectors of {size / 1e9:.1f} GB, more than one ONNX file can hold"
        raise OtherFamily(what=what, families=title)
    for counts in tables:
        if len(counts) > MAX_UNEQUAL and len(set(counts)) > 1:
            what = f"a set of cluster centres or vectors of {len(counts)} speakers who have unequally many"
            raise OtherFamily(what=what, families=title)


def inputs(width: int, *, several: bool) -> tuple[Port, ...]:
    """Return the inputs in their order."""
    ports = (Port("c", "float32", (1, "frames", width)), Port("ratio", "float32", (1,)))
    return (*ports, Port("sid", "int64", (1,))) if several else ports


def outputs(width: int) -> tuple[Port, ...]:
    """Return what comes out."""
    return (Port("c_out", "float32", (1, "frames", width)),)


def names(*, several: bool) -> dict[str, str | None]:
    """Return under which name each thing is fed, for the sidecar."""
    fed: dict[str, str | None] = {"features": "c", "ratio": "ratio"}
    return fed | {"speaker": "sid"} if several else fed


def sampler(width: int, speakers: int) -> Sampler:
    """Return the function that draws features and how far they are moved."""

    def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        drawn: dict[str, NDArray[Any]] = {
            "c": rng.standard_normal((1, frames, width), dtype=np.float32),
            "ratio": rng.uniform(0.3, 0.7, 1).astype(np.float32),
        }
        return drawn | {"sid": rng.integers(speakers, size=1)} if speakers > 1 else drawn

    return sample


def network(clusters: type[torch.nn.Module], *sizes: object) -> Whole:
    """Return the network, in eval mode and without numbers."""
    with torch.device("meta"):
        whole = Whole(clusters(*sizes))
    return whole.eval().requires_grad_(requires_grad=False)


def joined(names: Sequence[str]) -> Rule:
    """Return the rule for a table of several speakers."""
    return AsIs(names[0]) if len(names) == 1 else Joined(tuple(map(AsIs, names)))


def notes(recipe: Recipe) -> tuple[str, ...]:
    """Return what the recipe wants and neither of them does."""
    return (STAYS,) if "fp16" in recipe.precisions else ()
