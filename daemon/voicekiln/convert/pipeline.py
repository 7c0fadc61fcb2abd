"""One voice from its checkpoint to verified files in the job's staging folder, stage by stage.

Files are written before they are verified, because what is verified are the bytes on disk. The staging folder is
the job's own: what a refusal or a failure leaves in it, the supervisor clears away.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from voicekiln import __version__, families
from voicekiln.convert import device
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.graph import export, stamp
from voicekiln.convert.halve import halve
from voicekiln.convert.verify import verify
from voicekiln.errors import plain
from voicekiln.families.base import Exportable
from voicekiln.job import PRECISIONS, Conversion, OnnxFile, Precision, Recipe, Stage

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
        yield
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
    files = {}
    with stages.stage("export"):
        model = export(exportable, recipe.opset)
        facts = dict(exportable.metadata) | {"source_sha256": sha256, "voicekiln_version": __version__}
        if "fp32" in recipe.precisions:
            files["fp32"] = _write(model, staging, "fp32", facts)
    if "fp16" in recipe.precisions:
        with stages.stage("halve"):
            model = halve(model, exportable.in_float32)
            files["fp16"] = _write(model, staging, "fp16", facts)
    del model
    finished = []
    for precision in PRECISIONS:
        if precision in files:
            with stages.stage("verify"):
                finished.append(_finish(files[precision], precision, recipe.opset, exportable))
    _sync_folder(staging)
    return Conversion(
        files=tuple(finished),
        model=dict(claim.model),
        feed=dict(exportable.feed),
        notes=claim.notes,
        seconds=stages.seconds,
        device=device.device(),
        versions=device.versions(),
    )


def _write(model: onnx.ModelProto, staging: Path, precision: Precision, facts: dict[str, str]) -> Path:
    """Write the model with its metadata, synced, and return the path. Equal models give equal bytes."""
    stamp(model, {key: plain(value, MAX_FACT) for key, value in (facts | {"precision": precision}).items()})
    path = staging / f"{precision}.onnx"
    with path.open("wb") as file:
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())
    return path


def _finish(path: Path, precision: Precision, opset: int, exportable: Exportable) -> OnnxFile:
    """Verify the file and describe it by what lies on disk."""
    fidelity = verify(path, exportable, precision, device.providers())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return OnnxFile(
        name=path.name,
        precision=precision,
        sha256=digest,
        bytes=size,
        opset=opset,
        inputs=exportable.inputs,
        outputs=exportable.outputs,
        fidelity=fidelity,
    )


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
