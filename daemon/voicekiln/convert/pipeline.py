"""One voice from its checkpoint to verified files in the job's staging folder, stage by stage.

Files are written before they are verified, because what is verified are the bytes on disk. The staging folder is
the job's own: what a refusal or a failure leaves in it, the supervisor clears away.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from voicekiln import __version__, families
from voicekiln.convert import device
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.graph import export, stamp
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.convert.verify import verify
from voicekiln.errors import NotFaithful, plain
from voicekiln.families.base import Exportable
from voicekiln.job import Conversion, OnnxFile, Precision, Recipe, Stage

MAX_FACT = 20_000
"""Characters of one value in an ONNX file's metadata."""


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


def convert(  # noqa: PLR0913, PLR0917 - a job's parts, and the clock for tests
    source: Path,
    sha256: str,
    recipe: Recipe,
    staging: Path,
    entered: Callable[[Stage], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Conversion:
    """Make the recipe's files in `staging`, synced to disk and verified, and return all that there is to say of them.

    Args:
        source: the checkpoint on local disk; it must not change meanwhile.
        sha256: of the source, for the files' metadata.
        recipe: which files are wanted.
        staging: an empty folder; afterwards it holds `fp32.onnx`, `fp16.onnx` or both, and nothing else.
        entered: called as each stage begins.
        clock: seconds, for the time that each stage takes.

    Raises:
        Refusal: if the file cannot be converted, or the result is not faithful.
        BadGraphError: if the tools made something that they should not.
        OSError, MemoryError: if the machine fails.
    """
    stages = Stages(entered, clock)
    with stages.stage("load"):
        checkpoint = open_checkpoint(source)
        family, claim = families.choose(checkpoint.outline)
    with stages.stage("build"):
        exportable = family.build(claim, checkpoint.tensors)
    facts = {**exportable.metadata, "source_sha256": sha256, "voicekiln_version": __version__}
    bench = _Bench(exportable, recipe, staging, facts, stages)
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


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where one network becomes files."""

    exportable: Exportable
    recipe: Recipe
    staging: Path
    facts: Mapping[str, str]
    """For each file's metadata."""
    stages: Stages

    def files(self) -> tuple[tuple[OnnxFile, ...], tuple[str, ...]]:
        """Return the recipe's files, each of them verified, and notes on how they came about."""
        wanted = self.recipe.precisions
        finished: list[OnnxFile] = []
        notes: list[str] = []
        with self.stages.stage("export"):
            model = export(self.exportable, self.recipe.opset)
            if "fp32" in wanted:
                self._write(model, "fp32", "float32")
        if "fp32" in wanted:
            finished.append(self._verified("fp32"))
        if "fp16" in wanted:
            file, note = self._halved(model)
            finished.append(file)
            notes += note
        return tuple(finished), tuple(notes)

    def _halved(self, model: onnx.ModelProto) -> tuple[OnnxFile, list[str]]:
        """Return the half file: half arithmetic if that is faithful, else half numbers and float32 arithmetic."""
        with self.stages.stage("halve"):
            self._write(halve(model, self.exportable.in_float32), "fp16", "half")
        try:
            return self._verified("fp16"), []
        except NotFaithful as unfaithful:
            found = unfaithful.found
        with self.stages.stage("halve"):
            self._write(store_as_half(model, self.exportable.in_float32), "fp16", "float32")
        note = (
            "The half-precision file keeps its numbers in half precision but computes in float32, because half "
            f"arithmetic would have been too far from the network ({found['snr_db']} dB on {found['provider']}, "
            f"at least {found['wanted_db']} dB is wanted)."
        )
        return self._verified("fp16"), [note]

    def _write(self, model: onnx.ModelProto, precision: Precision, arithmetic: str) -> None:
        """Write the model with its metadata, synced. Equal models give equal bytes."""
        facts = {**self.facts, "precision": precision, "arithmetic": arithmetic}
        stamp(model, {key: plain(value, MAX_FACT) for key, value in facts.items()})
        with self._path(precision).open("wb") as file:
            file.write(model.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())

    def _verified(self, precision: Precision) -> OnnxFile:
        """Verify the file and describe it by what lies on disk."""
        path = self._path(precision)
        with self.stages.stage("verify"):
            fidelity = verify(path, self.exportable, precision, device.providers())
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        return OnnxFile(
            name=path.name,
            precision=precision,
            sha256=digest,
            bytes=size,
            opset=self.recipe.opset,
            inputs=self.exportable.inputs,
            outputs=self.exportable.outputs,
            fidelity=fidelity,
        )

    def _path(self, precision: Precision) -> Path:
        return self.staging / f"{precision}.onnx"


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
