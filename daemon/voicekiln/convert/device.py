"""What this process runs on: said once in the log, and in every sidecar.

Voices are exported on the CPU. A GPU is used to verify, and only if ONNX Runtime really starts its CUDA provider: a
driver, a library or a permission that is missing turns it into a CPU silently, so a trial session is asked.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import onnx
import onnxruntime
import torch

from voicekiln import __version__
from voicekiln.convert.graph import BadGraphError
from voicekiln.convert.verify import ORT_ERRORS, open_session

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


@cache
def why_cpu() -> str | None:
    """Return why no GPU is used, as a person can act on it; None if one is."""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no usable NVIDIA GPU: no driver, or the device is hidden from this process"
    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime was built without CUDA (the package onnxruntime-gpu has it)"
    onnxruntime.preload_dlls()
    try:
        open_session(_trial(), CUDA)
    except (BadGraphError, *ORT_ERRORS) as error:
        return f"ONNX Runtime cannot start its CUDA provider: {str(error)[:200]}"
    return None


def providers() -> tuple[str, ...]:
    """Return the ONNX Runtime providers on which files are verified."""
    return (CPU,) if why_cpu() else (CPU, CUDA)


def device() -> dict[str, Any]:
    """Return `kind` (`cpu` or `cuda`), `name`, `providers`, and `why_cpu` where there is no GPU."""
    reason = why_cpu()
    facts: dict[str, Any] = {"kind": "cpu" if reason else "cuda", "providers": list(providers())}
    if reason:
        return facts | {"name": _processor(), "why_cpu": reason}
    return facts | {"name": torch.cuda.get_device_name(0)}


def versions() -> dict[str, str]:
    """Return the versions of all that has a part in a file's bytes."""
    return {
        "voicekiln": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "onnxconverter-common": metadata.version("onnxconverter-common"),
    }


def _processor() -> str:
    """Return the processor's name as Linux knows it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _trial() -> bytes:
    """Return a model that any provider can run."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "trial", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
