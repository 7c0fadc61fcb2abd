"""A Dask worker that loads this first has the voicekiln that `VERSION` says, or none where that is empty."""

from __future__ import annotations

import os
from importlib import metadata

VERSION = "ANOTHER_VERSION"


def version(name: str) -> str:
    """See `importlib.metadata.version`."""
    if not os.environ[VERSION]:
        raise metadata.PackageNotFoundError(name)
    return os.environ[VERSION]


def dask_setup(_: object) -> None:
    """Dask calls this in a worker that loads this first, and nobody else does."""
    metadata.version = version  # type: ignore[assignment]  # for all names
