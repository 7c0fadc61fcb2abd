"""The steps of a voice from «seen» to «source retired», named, so that a test can stop the daemon at each.

The code calls `passed` at every point after which a crash would find the folders or the ledger in another state.
A test that kills the daemon at each member of `Step` has therefore tried every order in which power can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """In the order in which a voice passes them."""

    SEEN = "seen"
    COPIED = "copied to the spool"
    SPOOLED = "spooled, ledger written"
    STARTED = "attempt counted"
    SENT = "handed to the worker"
    ENDED = "ending in the ledger"
    TEMP_WRITTEN = "temporary files in the outbox"
    OLD_SIDECAR_GONE = "older sidecar removed"
    ONNX_RENAMED = "first file under its final name"
    SIDECAR_RENAMED = "sidecar under its final name"
    PUBLISHED = "publication in the ledger"
    SPOOL_CLEARED = "spool and staging cleared"
    FILES_SWEPT = "results swept, ledger not written"
    SOURCE_SWEPT = "source swept, ledger not written"


def _go_on(_: Step) -> None:
    pass


on_passed: Callable[[Step], None] = _go_on
"""What happens at each step; nothing, but for a test that replaces it."""


def passed(step: Step) -> None:
    """Say that `step` lies behind; called from the loop and from the thread that touches the shares."""
    on_passed(step)
