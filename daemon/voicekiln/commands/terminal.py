"""How a command speaks: answers on standard output, complaints and progress bars on standard error.

The only door to rich, which is loaded when there are bars to draw and not before. Bars are drawn where a person
watches standard error; they go away when the work is done, so that what stays is what a pipe or a log would get, too.
Risk accepted: a command that SIGTERM or SIGKILL ends while there are bars leaves the terminal without its cursor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from voicekiln.errors import plain

if TYPE_CHECKING:
    from rich import progress as rich

NAME_WIDTH = 30
"""Characters of a name beside a bar."""


class Tell(Protocol):
    """Takes the news of the work under way."""

    def __call__(self, stage: str, step: int = 0, steps: int = 0) -> None:
        """Say that a stage begins, or the step of a stage that has so many `steps`; 0 where nobody knows."""
        ...


def say(text: str) -> None:
    """Write a line to standard output; what its encoding lacks (a name of another) is written as on standard error."""
    try:
        print(text, flush=True)  # noqa: T201 - this is how a command speaks
    except UnicodeEncodeError as error:
        print(text.encode(error.encoding, "backslashreplace").decode(error.encoding), flush=True)  # noqa: T201 - as above


def complain(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - as above


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Tell how far the work on `what` is: by a bar for each stage on a terminal, elsewhere by a line for each."""
    if not _is_watched():
        yield _Lines(plain(what))
        return
    with _bars(plain(what)) as tell:
        yield tell


def _is_watched() -> bool:
    """Say whether bars can be drawn and seen. Without a colour (NO_COLOR) they can; rich heeds that by itself."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, stage: str, step: int = 0, steps: int = 0) -> None:
        say(f"{self._what}: {stage}{f' {step} of {steps}' if steps else ''} ...")


@contextmanager
def _bars(what: str) -> Iterator[Tell]:
    from rich import progress as rich  # noqa: PLC0415 - a tenth of a second that most commands need not pay
    from rich.console import Console  # noqa: PLC0415 - as above

    short = what if len(what) <= NAME_WIDTH else f"{what[: NAME_WIDTH - 12]}…{what[-11:]}"
    columns = (
        rich.TextColumn("{task.description}", style="none", markup=False),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[count]}", markup=False),
        rich.TimeElapsedColumn(),
    )
    # Standard output must stay what it is: rich would send it to where the bars are.
    with rich.Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as drawn:
        yield _Bars(drawn, short)


class _Bars:
    def __init__(self, drawn: rich.Progress, what: str) -> None:
        self._drawn = drawn
        self._what = what
        self._stage = ""
        self._bar: rich.TaskID
        self("start")  # until the first stage is entered the worker is getting ready, for some seconds

    def __call__(self, stage: str, step: int = 0, steps: int = 0) -> None:
        if stage != self._stage:
            if self._stage:
                self._drawn.update(self._bar, total=1, completed=1)
            self._stage = stage
            self._bar = self._drawn.add_task(f"{self._what}: {stage}", total=None, count="")
        if steps:  # the step that begins is not done yet
            self._drawn.update(self._bar, total=steps, completed=step - 1, count=f"{step} of {steps}")
