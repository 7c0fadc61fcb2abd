"""Endings made by hand, for tests of the folders and the loop that need no model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from voicekiln.job import Conversion, Converted, Fidelity, Job, OnnxFile, Port, Precision


def onnx_bytes(job: Job, precision: Precision) -> bytes:
    """Return what stands for an ONNX file: different for each content and precision."""
    return f"{precision} of {job.sha256}".encode()


def converted(job: Job) -> Converted:
    """Write the files of a job into its staging folder, as the worker would, and return the ending."""
    files = tuple(
        _file(job.staging, precision, onnx_bytes(job, precision), verified=job.recipe.verify != "off")
        for precision in job.recipe.precisions
    )
    return Converted(
        Conversion(
            files=files,
            model={"family": "rvc", "version": "v2", "sample_rate": 40000},
            feed={"hop": 400},
            notes=("Made by hand.",),
            seconds={"load": 0.1, "template": 1.5},
            device={"kind": "cpu", "name": "a test"},
            versions={"torch": "0"},
        )
    )


def _file(staging: Path, precision: Precision, content: bytes, *, verified: bool) -> OnnxFile:
    (staging / f"{precision}.onnx").write_bytes(content)
    port = Port("phone", "float32", (1, "frames", 768))
    return OnnxFile(
        name=f"{precision}.onnx",
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=17,
        inputs=(port,),
        outputs=(Port("audio", "float32", (1, 1, "samples")),),
        fidelity=(Fidelity("CPUExecutionProvider", (40, 97), 123.4, 1e-6, 100.0),) if verified else (),
    )
