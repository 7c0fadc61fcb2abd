"""The real worker process, which leaves a note among the templates whenever it exports a graph.

A Dask worker that loads this first (`dask worker --preload counted_exports`) starts it in the place of the real one. It
lies in `tests/cluster`, which has to be among the places to import from.

Where there is a file `MEET` among the templates, an export waits until two processes have asked for a template, so that
whoever would export beside another one surely does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

MEET = "meet"
ASKED, EXPORTED = "asked-", "exported-"

PATIENCE_S = 30.0


def dask_setup(_: object) -> None:
    """Take the place of the real one; Dask calls this in a worker that loads this first, and nobody else does."""
    from voicekiln.worker import parent  # noqa: PLC0415 - the process that notes exports has no use for it

    real = parent._child_command
    parent._child_command = lambda *about: [sys.executable, "-P", __file__, *real(*about)[4:]]


def main() -> int:
    """Be the worker process."""
    from voicekiln.worker import child  # noqa: PLC0415 - where a Dask worker loads this, it is not wanted

    workshop = child._workshop

    def counted(templates: Path) -> object:
        made = workshop(templates)
        count(templates)
        return made

    child._workshop = counted  # type: ignore[assignment]  # as above
    return child.main(sys.argv[1:])


def count(templates: Path) -> None:
    """Leave notes from now on; torch is there already."""
    from voicekiln.convert import template  # noqa: PLC0415 - as above
    from voicekiln.convert.cache import Cache  # noqa: PLC0415 - as above

    export, ask = template.float32, Cache.template

    def noted(*about: object) -> object:
        note(templates, EXPORTED)
        by = time.monotonic() + PATIENCE_S
        while (templates / MEET).exists() and len(list(templates.glob(f"{ASKED}*"))) < 2 and time.monotonic() < by:
            time.sleep(0.02)
        return export(*about)  # type: ignore[arg-type]  # whatever they are

    def asked(*about: object) -> object:
        if not asking:
            asking.append(True)
            note(templates, ASKED)
        return ask(*about)  # type: ignore[arg-type]  # as above

    asking: list[bool] = []
    template.float32 = noted  # type: ignore[assignment]  # as above
    Cache.template = asked  # type: ignore[assignment,method-assign]  # as above


def note(templates: Path, what: str) -> None:
    """Leave a note."""
    with tempfile.NamedTemporaryFile(prefix=what, dir=templates, delete=False):
        pass


if __name__ == "__main__":
    sys.exit(main())
