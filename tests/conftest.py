"""For all tests."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker

os.environ["LC_ALL"] = "C.UTF-8"  # what voicekiln says to people depends on it
# In the background of a shell it is ignored, and would be by all programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def quick_disk() -> Iterator[Path]:
    """A disk in memory, where there is one: a story commits a hundred times, and is told hundreds of times."""
    memory = Path("/dev/shm")  # noqa: S108 - only where to make a folder of one's own
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
