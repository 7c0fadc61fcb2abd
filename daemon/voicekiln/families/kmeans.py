"""K-means: cluster centres of a voice's training features, as so-vits-svc trains them (`kmeans_10000.pt`).

The graph moves features towards the nearest centre, for clients that run ONNX alone. Others look for it themselves
in `KMeans.npy`, which has the centres of all speakers one after the other, in the order of their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from voicekiln.errors import plain
from voicekiln.families import clusters
from voicekiln.families.base import PLAIN, Claim, Exportable, NotMine, Outline, TensorInfo
from voicekiln.families.companions import called, check_count
from voicekiln.families.tensors import compare, contradiction
from voicekiln.families.weights import Rule
from voicekiln.job import Data, Part, Recipe
from voicekiln.nets import clusters as nets

MARK = "cluster_centers_"
ENDING = f"/{MARK}"
USUAL_CENTRES = 10_000
USUAL_WIDTHS = (768, 256)
UNEQUAL = "Its speakers have unequal numbers of centres, which MoeVoiceStudio cannot read, so there is no KMeans.npy."


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file holds."""

    speakers: tuple[str, ...]
    """Names as they are in the file, in the order in which the graph counts them."""
    counts: tuple[int, ...]
    """Centres of each."""
    width: int
    in_order: bool
    """Whether the graph counts speakers as the voice does, as far as one knows."""


class KMeans:
    """The family; see `voicekiln.families.base.Family`."""

    name = "kmeans"
    title = "k-means of so-vits-svc"

    def usual(self) -> Iterable[Outline]:
        """Return the usual number of centres of one speaker, for both usual widths of features."""
        for width in USUAL_WIDTHS:
            tensors = {f"speaker{ENDING}": TensorInfo((USUAL_CENTRES, width), "float32")}
            yield Outline(tensors, {"speaker": {"n_features_in_": width, "_n_threads": 1}}, None, ("speaker",))

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether these are cluster centres.

        Raises:
            OtherFamily: if they are larger than an ONNX file.
            Contradiction: if their shapes cannot all be true.
        """
        shapes = {name.removesuffix(ENDING): info for name, info in outline.tensors.items() if name.endswith(ENDING)}
        if not shapes:
            return NotMine(f"it has no {MARK}")
        check_count(len(shapes))
        widths = {info.shape[-1] for info in shapes.values() if _is_table(info)}
        if len(widths) != 1 or not all(map(_is_table, shapes.values())):
            raise contradiction(["its cluster centres are no tables of one width"])
        numbering = clusters.numbering(outline, [*shapes], {})
        speakers = tuple(sorted(shapes, key=lambda name: numbering.numbers.get(name, 0)))
        counts = tuple(shapes[name].shape[0] for name in speakers)
        notes = clusters.renumbered(numbering.numbers[name] for name in speakers) if numbering.numbers else ()
        settings = Settings(speakers, counts, widths.pop(), in_order=not notes)
        clusters.check(self.title, settings.width, counts)
        if not numbering.numbers:
            notes = _assumed(speakers)
        if len(set(counts)) > 1:
            notes = (*notes, UNEQUAL)
        return Claim(self.name, settings, _describe(settings, numbering), (*numbering.notes, *notes))

    def parts(self, _claim: Claim, _recipe: Recipe) -> tuple[Part, ...]:
        """Return the only one, whatever the recipe: its interfaces are voices'."""
        return ("kmeans",)

    def build(self, claim: Claim, outline: Outline, _part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return what moves features towards the centres.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
        """
        settings: Settings = claim.settings
        wanted = {f"{name}{ENDING}": (count, settings.width) for name, count in _each(settings)}
        if problems := compare(wanted, {name: info.shape for name, info in outline.tensors.items()}):
            raise contradiction(problems)
        several = len(settings.speakers) > 1
        return Exportable(
            graph_key=f"{self.name} {json.dumps([settings.counts, settings.width])}",
            title=f"k-means, {', '.join(map(str, settings.counts[:20]))} centres of {settings.width} features",
            module=clusters.network(nets.KMeans, settings.counts, settings.width),
            weights={"clusters.centres.weight": _centres(settings)},
            inputs=clusters.inputs(settings.width, several=several),
            outputs=clusters.outputs(settings.width),
            sample=clusters.sampler(settings.width, len(settings.speakers)),
            wanted_db=clusters.WANTED_DB,
            metadata={"family": self.name, "feature_width": str(settings.width)},
            feed=_feed(settings, claim.model),
            names=clusters.names(several=several),
            interface="kmeans",
            in_float32="clusters",
            notes=clusters.notes(recipe),
        )

    def data(self, claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return all centres, unless a client would take those of another speaker."""
        settings: Settings = claim.settings
        return {"KMeans": _centres(settings)} if _has_array(settings) else {}


def _assumed(speakers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sentence for speakers whose numbers nobody has said."""
    if len(speakers) == 1:
        return ()
    listed = ", ".join(plain(name, 40) for name in speakers[:20])
    return (f"Without its voice's config.json, its speakers are counted in the order of the file: {listed}.",)


def _is_table(info: TensorInfo) -> bool:
    axes = 2
    in_order = info.dtype == "float32" and len(info.shape) == axes
    return in_order and info.shape[0] > 0 and 0 < info.shape[1] <= clusters.MAX_WIDTH


def _each(settings: Settings) -> Iterable[tuple[str, int]]:
    return zip(settings.speakers, settings.counts, strict=True)


def _centres(settings: Settings) -> Rule:
    return clusters.joined([f"{name}{ENDING}" for name in settings.speakers])


def _has_array(settings: Settings) -> bool:
    return settings.in_order and len(set(settings.counts)) == 1


def _describe(settings: Settings, numbering: clusters.Numbering) -> dict[str, Any]:
    """Return what `inspect` shows."""
    named = [
        {"id": numbering.numbers.get(name, number), "name": called(name)}
        for number, name in enumerate(settings.speakers)
    ]
    return {
        "family": KMeans.name,
        "version": "1",
        "feature_width": settings.width,
        "sample_rate": None,
        "hop": None,
        "f0": False,
        "speakers": len(settings.speakers),
        "speaker_names": named,
        "parameters": sum(settings.counts) * settings.width,
        "weights": "float",
        "checkpoint": "k-means",
        "companions": [*numbering.companions],
    }


def _feed(settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sidecar says on how to feed it."""
    told: dict[str, Any] = {
        "features": {"width": settings.width, **clusters.FEATURES},
        "formula": "ratio * centre + (1 - ratio) * c, the centre being the nearest to c",
        "speakers": [
            {"sid": number, **who, "centres": count}
            for number, (who, count) in enumerate(zip(model["speaker_names"], settings.counts, strict=True))
        ],
    }
    if _has_array(settings):
        rows = "the centres of each speaker, one speaker after the other"
        told["KMeans"] = {"rows": rows, "rows_each": settings.counts[0], "header_bytes": 128}
    return told
