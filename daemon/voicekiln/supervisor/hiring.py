"""How many workers there are, on which devices, and with which limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from voicekiln.settings import Worker as WorkerSettings
from voicekiln.worker.parent import Worker

GPUS = "/proc/driver/nvidia/gpus"
"""One folder per GPU, made by the driver."""


def devices(wanted: str, gpus: str = GPUS) -> tuple[str, ...]:
    """Return the device of each worker: one per GPU that the driver lists, one CPU worker where there is none.

    The driver's folder is read and not torch, which would cost the supervisor 200 MB; whether a GPU can really be
    used, the worker finds out and says.
    """
    if wanted == "cpu":
        return ("cpu",)
    try:
        count = sum(1 for _ in Path(gpus).iterdir())
    except OSError:
        count = 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("auto",)


def hire(settings: WorkerSettings, device: str, wake: Callable[[], None]) -> Worker:
    """Return the keeper of a worker on that device; the process starts with the first request."""
    return Worker(
        device=device,
        deadlines=asdict(settings.deadlines),
        idle_s=settings.idle,
        memory_bytes=settings.memory,
        wake=wake,
    )
