"""The steps of a voice from «seen» to «source retired», named, so that a test can stop the daemon at each.

The code calls `passed` at every point after which a crash would find the shares or the ledger in another state; the
ledger does so itself after every transaction. A test that stops the daemon wherever it is called has therefore tried
every order in which power can fail. `tests/test_steps.py` reads the code for changes without a step.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """In the order in which a voice passes them."""

    COMMITTED = "a change in the ledger"
    """Each of them, whatever it says; the others that speak of the ledger name the ones on a voice's way."""
    SEEN = "seen, ledger not written"
    COPYING = "copy written under its temporary name"
    COPIED = "copied to the spool"
    SPOOLED = "spooled, ledger written"
    STARTED = "attempt counted"
    SENT = "handed to the worker"
    ENDED = "ending in the ledger"
    FOLDER_MADE = "folder made in the outbox"
    TEMP_WRITTEN = "a temporary file in the outbox"
    OLD_SIDECAR_GONE = "older sidecar removed"
    ONNX_RENAMED = "an ONNX file, or what a client wants beside it, under its final name"
    STALE_REMOVED = "an older file removed that the result replaces"
    FOLDER_REMOVED = "a folder of ours removed that has become empty"
    SIDECAR_RENAMED = "sidecar or refusal under its final name"
    PUBLISHED = "publication in the ledger"
    SPOOL_CLEARED = "spool and staging cleared"
    BOARD_RENAMED = "status page, its JSON or a bundle under its final name"
    BOARD_REMOVED = "the same removed from where it shall not be any more"
    FILE_SWEPT = "a result or a source swept, ledger not written"
    LITTER_REMOVED = "a temporary file of a killed daemon removed"


def _go_on(_: Step) -> None:
    pass


on_passed: Callable[[Step], None] = _go_on
"""What happens at each step; nothing, but for a test that replaces it."""


def passed(step: Step) -> None:
    """Say that `step` lies behind; called from the loop and from the thread that touches the shares."""
    on_passed(step)
