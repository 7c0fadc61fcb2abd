"""One voice from its checkpoint to verified files in the job's staging folder, stage by stage; `bench` makes them.

Files are written before they are verified, because what is verified are the bytes on disk. The staging folder is
the job's own: what a refusal or a failure leaves in it, the supervisor clears away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from voicekiln import __version__, families
from voicekiln.convert import device
from voicekiln.convert.bench import Bench, Stages, sync_folder
from voicekiln.convert.cache import IN_FOLDER, Cache, kind_of
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.companions import NOTHING
from voicekiln.convert.reference import References
from voicekiln.convert.template import ARITHMETICS, Kind, maker
from voicekiln.convert.threads import threads
from voicekiln.errors import NoSuchFace
from voicekiln.families.base import Claim, Exportable, Family, Outline
from voicekiln.job import EXTRAS, Conversion, Part, Recipe, Stage


def inspect(source: Path, beside: Mapping[str, Path | None] = NOTHING) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the file is (JSON values) and sentences about what was assumed.

    Raises:
        Refusal: if it is no voice that can be converted.
        OSError, MemoryError: if the machine fails.
    """
    _, claim = families.choose(open_checkpoint(source, beside).outline)
    return dict(claim.model), claim.notes


class Pipeline:
    """Converts voice after voice, and keeps between them what they share."""

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.perf_counter) -> None:
        self._cache = cache
        self._references = References()
        self._clock = clock
        """Seconds, for the time that each stage takes."""

    def convert(  # noqa: PLR0913, PLR0917 - a job's nouns, and who is told
        self,
        source: Path,
        sha256: str,
        recipe: Recipe,
        staging: Path,
        entered: Callable[[Stage], None],
        beside: Mapping[str, Path | None] = NOTHING,
    ) -> Conversion:
        """Make the recipe's files in `staging`, synced to disk and verified, and return all that there is to say.

        Args:
            source: the checkpoint on local disk; it must not change meanwhile.
            sha256: of the source, for the files' metadata.
            recipe: which files are wanted.
            staging: an empty folder; afterwards it holds the files (`job.staged` says their names) and nothing else.
            entered: called as each stage begins.
            beside: where the companions lie, see `Job`.

        Raises:
            Refusal: if the file cannot be converted, or the result is not faithful.
            BadGraphError: if the tools made something that they should not.
            OSError, MemoryError: if the machine fails.
        """
        stages = Stages(entered, self._clock)
        with stages.stage("load"), threads(1):  # many small pieces of work, which more threads only slow down
            checkpoint = open_checkpoint(source, beside)
            family, claim = families.choose(checkpoint.outline)
            parts, missing = _parts(family, claim, checkpoint.outline, recipe)
            data = family.data(claim, checkpoint.outline, recipe)
        facts = {"source_sha256": sha256, "voicekiln_version": __version__}
        bench = Bench(parts, data, checkpoint.tensors, recipe, staging, facts, self._cache, self._references, stages)
        files, notes = bench.files()
        numbers = bench.numbers()
        names = {part: dict(exportable.names) for part, exportable in parts.items()}
        sync_folder(staging)
        return Conversion(
            files=files,
            model=dict(claim.model),
            feed={**next(iter(parts.values())).feed, "names": names},
            notes=(*claim.notes, *missing, *dict.fromkeys(n for e in parts.values() for n in e.notes), *notes),
            seconds=stages.seconds,
            device=device.device(),
            versions=device.versions(),
            picture=bench.picture(files),
            data=numbers,
        )

    def templates(
        self,
        verb: Literal["list", "build", "clear"],
        recipes: Sequence[Recipe],
        entered: Callable[[Stage, int, int], None],
    ) -> dict[str, Any]:
        """List the kept templates, make those of the usual networks for `recipes`, or remove all; say what is there.

        `entered` is called for each template that is made or found: which of how many.

        Raises:
            BadGraphError: if the tools made something that they should not.
        """
        if verb == "clear":
            return {"removed": self._cache.clear()}
        if verb == "build":
            wanted = [
                (exportable, recipe, precision, arithmetic)
                for family in families.FAMILIES
                for outline in family.usual()
                for exportable, recipe in _usual(family, outline, recipes)
                for precision in recipe.precisions
                for arithmetic in ARITHMETICS[precision]
            ]
            forms = {kind_of(*form).key: form for form in wanted}
            for step, form in enumerate(forms.values(), start=1):
                entered("template", step, len(forms))
                self._cache.template(*form)
        shown = [_shown(path, kind) for path, kind in islice(self._cache.kept(), IN_FOLDER)]
        return {"templates": shown} | ({"trouble": self._cache.trouble} if self._cache.trouble else {})


def _parts(family: Family, claim: Claim, outline: Outline, recipe: Recipe) -> tuple[dict[Part, Exportable], list[str]]:
    """Return the wanted parts that there can be of the file, and a sentence for each other.

    Raises:
        NoSuchFace: if there can be none of them but extra ones.
        Refusal: as `Family.build`.
    """
    parts: dict[Part, Exportable] = {}
    missing: list[NoSuchFace] = []
    for part in family.parts(claim, recipe):
        try:
            parts[part] = family.build(claim, outline, part, recipe)
        except NoSuchFace as refusal:
            missing.append(refusal)
    if parts.keys() <= {*EXTRAS}:
        raise missing[0]
    return parts, [refusal.text for refusal in missing]


def _usual(family: Family, outline: Outline, recipes: Sequence[Recipe]) -> Iterator[tuple[Exportable, Recipe]]:
    """Give the faces of an outline that the family itself has named, recipe by recipe."""
    claim = family.recognise(outline)
    assert isinstance(claim, Claim)  # noqa: S101 - for the type checker; a family knows its own
    for recipe in recipes:
        with suppress(NoSuchFace):
            for exportable in _parts(family, claim, outline, recipe)[0].values():
                yield exportable, recipe


def _shown(path: Path, kind: Kind | None) -> dict[str, Any]:
    """Return what a person wants to know of a kept template."""
    facts: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size if path.exists() else 0}
    if kind is None:
        return facts | {"state": "damaged"}
    state = "ready" if kind.made_by == maker() else "outdated"
    shown = {"title": kind.title, "interface": kind.interface, "precision": kind.precision}
    return facts | shown | {"arithmetic": kind.arithmetic, "opset": kind.opset, "state": state}
