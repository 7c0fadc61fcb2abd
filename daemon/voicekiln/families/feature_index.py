"""The feature index of so-vits-svc (`feature_and_index.pkl`): training features, and the lists in which to look.

The graph does what so-vits-svc does with faiss: it looks in the list whose centre is nearest, and mixes the nearest
eight of its vectors. The vectors are published as bare numbers as well, for clients that look themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from voicekiln.families import clusters
from voicekiln.families.base import PLAIN, Claim, Exportable, NotMine, Outline
from voicekiln.families.companions import called, check_count
from voicekiln.families.tensors import compare, contradiction
from voicekiln.families.weights import Rule
from voicekiln.job import Data, Part, Recipe
from voicekiln.nets import clusters as nets

VECTORS = "/vectors"
CENTROIDS = "/centroids"
LISTS = "/lists"
STARTS = "/starts"
"""Endings of the tensors that `convert.checkpoint` makes of each speaker's index."""
DTYPES = {VECTORS: "float32", CENTROIDS: "float32", LISTS: "int64", STARTS: "int64"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file holds."""

    speakers: tuple[str, ...]
    """Numbers or names as they are in the file, in the order in which the graph counts them."""
    vectors: tuple[int, ...]
    """Of each."""
    lists: tuple[int, ...]
    width: int


class FeatureIndex:
    """The family; see `voicekiln.families.base.Family`."""

    name = "feature-index"
    title = "feature index of so-vits-svc"

    def usual(self) -> Iterable[Outline]:
        """Return nothing: each has a size of its own."""
        return ()

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is such an index.

        Raises:
            OtherFamily: if it is larger than an ONNX file.
            Contradiction: if its shapes cannot all be true.
        """
        speakers = tuple(name.removesuffix(VECTORS) for name in outline.tensors if name.endswith(VECTORS))
        if not speakers or f"{speakers[0]}{STARTS}" not in outline.tensors:
            return NotMine(f"it has no {VECTORS.strip('/')}")
        check_count(len(speakers))
        settings = _measure(outline, speakers)
        clusters.check(self.title, settings.width, settings.vectors, settings.lists)
        numbers = {key: int(key) for key in speakers if key.isdecimal()}
        numbering = clusters.numbering(outline, speakers, numbers)
        notes = (*numbering.notes, *clusters.renumbered(numbers.values()), *_probes(outline, speakers))
        return Claim(self.name, settings, _describe(settings, numbering), notes)

    def parts(self, _claim: Claim, _recipe: Recipe) -> tuple[Part, ...]:
        """Return the only one, whatever the recipe: its interfaces are voices'."""
        return ("index",)

    def build(self, claim: Claim, outline: Outline, _part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return what moves features towards the vectors.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
        """
        settings: Settings = claim.settings
        if problems := compare(_shapes(settings), {name: info.shape for name, info in outline.tensors.items()}):
            raise contradiction(problems)
        several = len(settings.speakers) > 1
        sizes = settings.vectors, settings.lists, settings.width
        return Exportable(
            graph_key=f"{self.name} {json.dumps(sizes)}",
            title=f"feature index, {sum(settings.vectors)} vectors of {settings.width} features",
            module=clusters.network(nets.FeatureIndex, *sizes),
            weights={
                "clusters.vectors.weight": _all(settings, VECTORS),
                "clusters.centroids.weight": _all(settings, CENTROIDS),
                "clusters.starts.weight": _all(settings, STARTS),
            },
            inputs=clusters.inputs(settings.width, several=several),
            outputs=clusters.outputs(settings.width),
            sample=clusters.sampler(settings.width, len(settings.speakers)),
            wanted_db=clusters.WANTED_DB,
            metadata={"family": self.name, "feature_width": str(settings.width)},
            feed=_feed(settings, claim.model),
            names=clusters.names(several=several),
            interface="index",
            in_float32="clusters",
            notes=clusters.notes(recipe),
        )

    def data(self, claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return the numbers for clients that look themselves."""
        settings: Settings = claim.settings
        return {
            "vectors": _all(settings, VECTORS),
            "centroids": _all(settings, CENTROIDS),
            "lists": _all(settings, LISTS),
        }


def _measure(outline: Outline, speakers: tuple[str, ...]) -> Settings:
    """Return the settings of which the shapes are.

    Raises:
        Contradiction: if there are none.
    """
    tensors = outline.tensors
    tables = [tensors.get(f"{name}{ending}") for name in speakers for ending in (VECTORS, CENTROIDS)]
    axes = 2
    shapes = [info.shape for info in tables if info is not None and len(info.shape) == axes and 0 not in info.shape]
    widths = {width for _, width in shapes}
    if len(shapes) < len(tables) or len(widths) > 1 or max(widths) > clusters.MAX_WIDTH:
        raise contradiction(["its vectors and their centres are no tables of one width"])
    settings = Settings(
        speakers, tuple(rows for rows, _ in shapes[::2]), tuple(rows for rows, _ in shapes[1::2]), widths.pop()
    )
    if problems := compare(_shapes(settings), {name: info.shape for name, info in tensors.items()}):
        raise contradiction(problems)
    for name, info in tensors.items():
        if info.dtype != DTYPES[f"/{name.rpartition('/')[2]}"]:
            raise contradiction(["its vectors and their centres are no tables of one width"])
    return settings


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return name and shape of all tensors."""
    found: dict[str, tuple[int, ...]] = {}
    for name, vectors, lists in zip(settings.speakers, settings.vectors, settings.lists, strict=True):
        found |= {f"{name}{VECTORS}": (vectors, settings.width), f"{name}{CENTROIDS}": (lists, settings.width)}
        found |= {f"{name}{LISTS}": (vectors,), f"{name}{STARTS}": (lists + 1,)}
    return found


def _all(settings: Settings, ending: str) -> Rule:
    return clusters.joined([f"{name}{ending}" for name in settings.speakers])


def _probes(outline: Outline, speakers: Iterable[str]) -> tuple[str, ...]:
    """Return the sentence for an index that was to be searched more widely."""
    said = [entry.get("probes") for name in speakers if isinstance(entry := outline.rest.get(name), dict)]
    more = max((number for number in said if type(number) is int), default=1)
    if more <= 1:
        return ()
    return (f"It says that {more} lists are to be searched; the graph searches the nearest one, as so-vits-svc does.",)


def _describe(settings: Settings, numbering: clusters.Numbering) -> dict[str, Any]:
    """Return what `inspect` shows."""
    numbers = [numbering.numbers.get(key, at) for at, key in enumerate(settings.speakers)]
    return {
        "family": FeatureIndex.name,
        "version": "1",
        "feature_width": settings.width,
        "sample_rate": None,
        "hop": None,
        "f0": False,
        "speakers": len(settings.speakers),
        "speaker_names": [
            {"id": number, "name": numbering.names.get(number) or called(key)}
            for number, key in zip(numbers, settings.speakers, strict=True)
        ],
        "parameters": (sum(settings.vectors) + sum(settings.lists)) * settings.width,
        "weights": "float",
        "checkpoint": "feature index",
        "vectors": sum(settings.vectors),
        "lists": sum(settings.lists),
        "companions": [*numbering.companions],
    }


def _feed(settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sidecar says on how to feed it."""
    each = zip(model["speaker_names"], _ranges(settings.vectors), _ranges(settings.lists), strict=True)
    return {
        "features": {"width": settings.width, **clusters.FEATURES},
        "formula": "ratio * mix + (1 - ratio) * c; the mix is of the 8 vectors that are nearest to c in the list whose "
        "centroid is, each by (1 / d^2)^2, d being its distance; in an empty list, c stays",
        "speakers": [
            {"sid": number, **who, "vectors": vectors, "centroids": centroids}
            for number, (who, vectors, centroids) in enumerate(each)
        ],
        "arrays": "lists says for each row of vectors in which list it is, counted from the speaker's first centroid",
    }


def _ranges(counts: tuple[int, ...]) -> list[list[int]]:
    """Return the first row of each speaker and the one after its last."""
    return [[first, end] for first, end in pairwise(accumulate(counts, initial=0))]
