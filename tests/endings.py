"""Endings made by hand, for tests of the folders and the loop that need no model."""

from __future__ import annotations

import hashlib

from voicekiln.job import Conversion, Converted, Fidelity, Interface, Job, OnnxFile, Port, Precision, staged

FACES: tuple[Interface, ...] = ("rvc", "w-okada", "moevs")
"""Those that an RVC voice has."""


def onnx_bytes(job: Job, precision: Precision, interface: Interface = "rvc") -> bytes:
    """Return what stands for an ONNX file: different for each content and precision, and for each kind of graph."""
    graph = " for w-okada" if interface == "w-okada" else ""
    return f"{precision} of {job.sha256}{graph}".encode()


def converted(job: Job) -> Converted:
    """Write the files of a job into its staging folder, as the worker would, and return the ending."""
    files = tuple(
        _file(job, interface, precision) for interface in job.recipe.interfaces for precision in job.recipe.precisions
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


def _file(job: Job, interface: Interface, precision: Precision) -> OnnxFile:
    content, name = onnx_bytes(job, precision, interface), staged(interface, precision)
    (job.staging / name).write_bytes(content)
    fidelity = (Fidelity("CPUExecutionProvider", (40, 97), 123.4, 1e-6, 100.0),)
    port = Port("phone", "float32", (1, "frames", 768))
    return OnnxFile(
        name=name,
        interface=interface,
        client={"Type": "RVC"} if interface == "moevs" else {},
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=17,
        inputs=(port,),
        outputs=(Port("audio", "float32", (1, 1, "samples")),),
        fidelity=fidelity if job.recipe.verify != "off" else (),
    )
