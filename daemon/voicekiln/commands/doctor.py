"""`doctor`: everything that a helper would ask for, in one block to paste.

What it looks at may be broken in any way, so each question is asked apart from the others and may fail, hang or be
left without an answer; the line then says so. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from voicekiln import config, report
from voicekiln.commands import discreet, machine, premises
from voicekiln.commands.aside import Asked, Found
from voicekiln.commands.common import NOT_DONE, OK
from voicekiln.commands.parsing import DEFAULT_CONFIG, WIDTH, Commands
from voicekiln.commands.terminal import complain, progress, say
from voicekiln.errors import ConfigError
from voicekiln.oneoff import Desk, NotDoneError
from voicekiln.settings import FOLDERS, Settings
from voicekiln.supervisor.hiring import HERE

ANSWER_S = 20.0
"""For all questions but the one to the worker, which loads PyTorch."""
WORKER_S = 90.0

NO_CONFIG = "there is no {path}; name yours with --config FILE"
NOT_ASKED = (
    "Nothing looks wrong with this machine. Folders and daemon were not looked at:\n"
    "that needs a configuration, which you name with --config FILE."
)

MARGIN = 12
"""Characters before what was found."""


def add(commands: Commands) -> None:
    """Describe the command of this module to the parser."""
    commands.add(
        "doctor",
        "look for what is wrong and print all that a helper would ask for",
        _doctor,
        wish="When something is wrong",
        more="Changes nothing and sends nothing. Passwords and the arguments of commands are left out; names of files "
        "and folders are not, so look it over before you paste it. Exit status 1 if something looks wrong.",
        example="voicekiln doctor > doctor.txt\nvoicekiln doctor --config config.example.yaml",
    )


def _doctor(options: argparse.Namespace) -> int:
    settings, understood = _settings(options.config)
    asked = Asked.all(_questions(settings, options.config))
    until = time.monotonic() + ANSWER_S
    worker = _worker(settings or Settings.in_folder(Path.cwd()))
    found = {"config": understood} | {what: each.answer(until) for what, each in asked.items()}
    found["worker"] = worker
    wrong = list(dict.fromkeys(line for each in found.values() for line in each.wrong))
    for line in _block(found, wrong):
        say(line)
    complain("Paste this where you ask for help; look it over first for names that you want to keep to yourself.")
    return NOT_DONE if wrong else OK


def _settings(path: Path) -> tuple[Settings | None, Found]:
    """Return the settings if there are any, and what is to be said of the configuration."""
    if path == DEFAULT_CONFIG and not os.path.exists(path):  # noqa: PTH110 - never raises
        return None, Found([NO_CONFIG.format(path=path)])
    try:
        settings = config.load(path)
    except ConfigError as error:
        wrong = [
            f"The configuration {path} cannot be used. Put this right: {_discreetly(line)}" for line in error.problems
        ]
        return None, Found([f"{path} cannot be used"], wrong)
    return settings, Found(
        [f"{path}; other than the defaults:", *(list(discreet.changed(settings, path)) or ["nothing"])]
    )


def _discreetly(problem: str) -> str:
    """Return a problem without the value that it quotes, where that is a command."""
    key, _, what = problem.partition(":")
    return f"{key}: is not written as it should be" if "command" in key else f"{key}:{what}"


def _questions(settings: Settings | None, path: Path) -> dict[str, Callable[[], Found]]:
    questions: dict[str, Callable[[], Found]] = {
        "software": machine.software,
        "system": machine.system,
        "user": machine.user,
        "clock": machine.clock,
        "graphics": machine.graphics,
        "service": machine.service,
    }
    if settings is None:
        return questions
    if settings.workers.engine == "dask" and settings.workers.scheduler != "local":
        questions["cluster"] = partial(premises.cluster, settings)
    folders = {name: partial(premises.folder, name, getattr(settings, name)) for name in FOLDERS}
    return (
        questions
        | folders
        | {
            "rights": partial(premises.access, settings),
            "events": partial(premises.events, settings),
            "watches": partial(premises.watches, settings),
            "daemon": partial(premises.daemon, settings, path),
        }
    )


def _worker(settings: Settings) -> Found:
    """Start a worker, in rooms of its own, and return what it says of itself."""
    limits = replace(settings.worker, deadlines=replace(settings.worker.deadlines, start=WORKER_S))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="voicekiln-") as templates,
            Desk(replace(settings, worker=limits), Path(templates)) as desk,
            progress("doctor"),
        ):
            ready = desk.greeting()
    except (NotDoneError, OSError) as error:
        return Found([f"cannot start: {error}"], [f"No voice can be converted: the worker cannot start ({error})."])
    found = Found(list(report.machine(ready)))
    if (why := ready.device.get("why_cpu")) and settings.worker.device != "cpu" and HERE.gpus():
        found.wrong.append(f"There is an NVIDIA GPU, but it is not used: {why}.")
    return found


def _block(found: dict[str, Found], wrong: list[str]) -> Iterator[str]:
    """Yield the lines to paste, between marks that keep them as they are where Markdown is understood."""
    home = ""
    with suppress(RuntimeError):
        home = str(Path.home())
    yield "```text"
    nothing = "Nothing looks wrong." if "daemon" in found else NOT_ASKED
    yield "Looks wrong:" if wrong else nothing
    for line in wrong:
        yield from textwrap.wrap(_safe(line, home), WIDTH, initial_indent="- ", subsequent_indent="  ")
    yield ""
    for what, each in found.items():
        for number, line in enumerate(each.lines):
            yield f"{what if not number else '':<{MARGIN}}{_safe(line, home)}"
    yield "```"


def _safe(line: str, home: str) -> str:
    return discreet.hide(line, home).replace("```", "'''")
