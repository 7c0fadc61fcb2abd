"""What a worker is given of the machine: three folders, and the variables of the surroundings that its work needs.

Both are lists of what is let in, because nobody can list what has to stay out: a token may have any name. Variables
that steer the libraries go in (which GPU, how many threads, where libraries lie); PATH does not, since a worker starts
no programs; HOME and the folders for caches lead nowhere, so that no library makes files behind anybody's back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LET_IN = re.compile(
    r"""(LANG | LANGUAGE | LC_\w+ | TZ
    | LD_LIBRARY_PATH | LD_PRELOAD | GLIBC_TUNABLES | MALLOC_\w+
    | PYTHON\w* | COVERAGE_\w+ | COV_CORE_\w+
    | OMP_\w+ | GOMP_\w+ | KMP_\w+ | MKL_\w+ | OPENBLAS_\w+ | ONEDNN_\w+ | ATEN_\w+
    | CUDA_\w+ | CUDNN_\w+ | CUBLAS\w* | NVIDIA_VISIBLE_DEVICES | NVIDIA_TF32_OVERRIDE
    | TORCH_\w+ | PYTORCH_\w+ | ORT_\w+)""",
    re.VERBOSE,
)
"""The language of messages, how memory is had, Python itself (and what measures its tests), threads, the GPU."""

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)
"""What no variable may have in its name, whatever it begins with."""

ALWAYS = {
    "HOME": "/nonexistent",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""ONNX Runtime 1.31 keeps an identifier of the machine in the user's cache folder and reports every session to its
maker, unless it is told not to before it is loaded. What a voice looks like is nobody's business."""

UNLESS_SET = {
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Threads that wait busily for the next bit of work take the cores from those that have some."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The folders that a worker may use; nothing else of the user's files is open to it."""

    templates: Path
    """Where it keeps the graphs that voices share: to read and to write."""
    sources: Path
    """Where the copies of voices lie: to read."""
    staging: Path
    """In which the folders of jobs lie: to read and to write."""


def environment(around: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a worker, of those that the daemon has."""
    let_in = {name: value for name, value in around.items() if LET_IN.fullmatch(name) and not SECRET.search(name)}
    return UNLESS_SET | let_in | ALWAYS
