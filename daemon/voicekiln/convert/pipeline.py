"""One voice from its checkpoint to verified files in the job's staging folder, stage by stage.

Files are written before they are verified, because what is verified are the bytes on disk. The staging folder is
the job's own: what a refusal or a failure leaves in it, the supervisor clears away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import torch

from voicekiln import __version__, families
from voicekiln.convert import device
from voicekiln.convert.cache import IN_FOLDER, Cache
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.fill import fill
from voicekiln.convert.graph import noise_nodes
from voicekiln.convert.reference import References
from voicekiln.convert.template import ARITHMETICS, Arithmetic, Kind, Template, maker
from voicekiln.convert.threads import threads
from voicekiln.convert.verify import LENGTHS, Original, verify
from voicekiln.errors import NotFaithful, plain
from voicekiln.families import weights
from voicekiln.families.base import Claim, Exportable, Family, Outline
from voicekiln.job import Conversion, Fidelity, OnnxFile, Precision, Recipe, Stage

MAX_FACT = 20_000
"""Characters of one value in an ONNX file's metadata."""


UNVERIFIED: Final = (
    "The files were not compared with the original network: this recipe says verify: off. "
    "They were made from a checked template, but nobody has listened to them."
)
STORED_AS_HALF: Final = (
    "The half-precision file keeps its numbers in half precision but computes in float32, because half "
    "arithmetic would have been too far from the network ({snr_db} dB on {provider}, at least {wanted_db} dB is "
    "wanted)."
)


class Stages:
    """Announces the stages of a job and sums up the seconds that each takes."""

    def __init__(self, entered: Callable[[Stage], None], clock: Callable[[], float]) -> None:
        self._entered = entered
        self._clock = clock
        self.seconds: dict[str, float] = {}
        """Wall seconds by stage, in the order in which they were first entered."""

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Announce the stage, and time what is done in it; a stage may be entered again."""
        self._entered(name)
        begun = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + self._clock() - begun, 3)


def inspect(source: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the file is (JSON values) and sentences about what was assumed.

    Raises:
        Refusal: if it is no voice that can be converted.
        OSError, MemoryError: if the machine fails.
    """
    _, claim = families.choose(open_checkpoint(source).outline)
    return dict(claim.model), claim.notes


class Pipeline:
    """Converts voice after voice, and keeps between them what they share."""

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.perf_counter) -> None:
        self._cache = cache
        self._references = References()
        self._clock = clock
        """Seconds, for the time that each stage takes."""

    def convert(
        self, source: Path, sha256: str, recipe: Recipe, staging: Path, entered: Callable[[Stage], None]
    ) -> Conversion:
        """Make the recipe's files in `staging`, synced to disk and verified, and return all that there is to say.

        Args:
            source: the checkpoint on local disk; it must not change meanwhile.
            sha256: of the source, for the files' metadata.
            recipe: which files are wanted.
            staging: an empty folder; afterwards it holds `fp32.onnx`, `fp16.onnx` or both, and nothing else.
            entered: called as each stage begins.

        Raises:
            Refusal: if the file cannot be converted, or the result is not faithful.
            BadGraphError: if the tools made something that they should not.
            OSError, MemoryError: if the machine fails.
        """
        stages = Stages(entered, self._clock)
        with stages.stage("load"), threads(1):  # many small pieces of work, which more threads only slow down
            checkpoint = open_checkpoint(source)
            family, claim = families.choose(checkpoint.outline)
            exportable = family.build(claim, checkpoint.outline)
        facts = {**exportable.metadata, "source_sha256": sha256, "voicekiln_version": __version__}
        bench = _Bench(exportable, checkpoint.tensors, recipe, staging, facts, self._cache, self._references, stages)
        files, notes = bench.files()
        _sync_folder(staging)
        return Conversion(
            files=files,
            model=dict(claim.model),
            feed=dict(exportable.feed),
            notes=(*claim.notes, *notes),
            seconds=stages.seconds,
            device=device.device(),
            versions=device.versions(),
        )

    def templates(
        self, verb: Literal["list", "build", "clear"], recipes: Sequence[Recipe], entered: Callable[[Stage], None]
    ) -> dict[str, Any]:
        """List the kept templates, make those of the usual networks for `recipes`, or remove all; say what is there.

        Raises:
            BadGraphError: if the tools made something that they should not.
        """
        entered("template")
        if verb == "clear":
            return {"removed": self._cache.clear()}
        if verb == "build":
            for family in families.FAMILIES:
                for outline in family.usual():
                    self._build(family, outline, recipes)
        shown = [_shown(path, kind) for path, kind in islice(self._cache.kept(), IN_FOLDER)]
        return {"templates": shown} | ({"trouble": self._cache.trouble} if self._cache.trouble else {})

    def _build(self, family: Family, outline: Outline, recipes: Sequence[Recipe]) -> None:
        claim = family.recognise(outline)
        assert isinstance(claim, Claim)  # noqa: S101 - for the type checker; a family knows its own
        exportable = family.build(claim, outline)
        for recipe in recipes:
            for precision in recipe.precisions:
                for arithmetic in ARITHMETICS[precision]:
                    self._cache.template(exportable, recipe, precision, arithmetic)


def _shown(path: Path, kind: Kind | None) -> dict[str, Any]:
    """Return what a person wants to know of a kept template."""
    facts: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size if path.exists() else 0}
    if kind is None:
        return facts | {"state": "damaged"}
    state = "ready" if kind.made_by == maker() else "outdated"
    shown = {"title": kind.title, "precision": kind.precision, "arithmetic": kind.arithmetic, "opset": kind.opset}
    return facts | shown | {"state": state}


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where one voice becomes files."""

    exportable: Exportable
    tensors: Mapping[str, torch.Tensor]
    recipe: Recipe
    staging: Path
    facts: Mapping[str, str]
    """For each file's metadata."""
    cache: Cache
    references: References
    stages: Stages

    def files(self) -> tuple[tuple[OnnxFile, ...], tuple[str, ...]]:
        """Return the files, and sentences about what was special."""
        finished: list[OnnxFile] = []
        notes: list[str] = [UNVERIFIED] if self.recipe.verify == "off" else []
        if "fp32" in self.recipe.precisions:
            finished.append(self._file("fp32", "float32"))
        if "fp16" in self.recipe.precisions:
            try:
                finished.append(self._file("fp16", "half"))
            except NotFaithful as unfaithful:
                finished.append(self._file("fp16", "float32"))
                notes.append(STORED_AS_HALF.format_map(unfaithful.found))
        return tuple(finished), tuple(notes)

    def _file(self, precision: Precision, arithmetic: Arithmetic) -> OnnxFile:
        """Write a file with its metadata, verify it and describe it. Equal voices give equal bytes."""
        path = self.staging / f"{precision}.onnx"
        with self.stages.stage("template"):
            template = self.cache.template(self.exportable, self.recipe, precision, arithmetic)
        with self.stages.stage("fill"), threads(1):
            facts = {**self.facts, "precision": precision, "arithmetic": arithmetic}
            facts = {key: plain(value, MAX_FACT) for key, value in facts.items()}
            filled = fill(template.model, self._weight, facts, path)
        return OnnxFile(
            name=path.name,
            precision=precision,
            sha256=filled.sha256,
            bytes=filled.bytes,
            opset=self.recipe.opset,
            inputs=self.exportable.inputs,
            outputs=self.exportable.outputs,
            fidelity=self._verified(path, precision, template),
        )

    def _weight(self, name: str) -> torch.Tensor:
        return weights.read(self.exportable.weights[name], self.tensors)

    def _verified(self, path: Path, precision: Precision, template: Template) -> tuple[Fidelity, ...]:
        """Return how faithful the file is, unless nobody wants to know."""
        if not (lengths := LENGTHS[self.recipe.verify]):
            return ()
        with self.stages.stage("verify"):
            network = self.references.load(self.exportable, self.tensors)
            voice = Original(self.exportable, network, noise_nodes(template.model.graph))
            return verify(path, voice, precision, device.providers(), lengths)


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
