"""What is done once and needs no folders to watch: convert, inspect, sample, templates."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from voicekiln import report, values
from voicekiln.commands.common import (
    FOR_LIMITS,
    FOR_RECIPES,
    NOT_DONE,
    OK,
    settings_or_defaults,
    tell_failure,
    templates_folder,
)
from voicekiln.commands.parsing import Commands
from voicekiln.commands.terminal import complain, progress, say
from voicekiln.errors import Refusal, ShareAwayError, plain
from voicekiln.folders.outbox import StagingLostError
from voicekiln.job import INTERFACES, PRECISIONS, Interface, Recipe
from voicekiln.oneoff import Desk, NotDoneError


def add(commands: Commands) -> None:
    """Describe the commands of this module to the parser."""
    sample = commands.add(
        "sample",
        "write a voice with random weights, to try things out",
        _sample,
        wish="First steps",
        example="voicekiln sample trial           # writes trial/sample.pth",
        config=None,
    )
    sample.add_argument("folder", type=Path, metavar="DIR", help="where to write it; made if it is missing")

    inspect = commands.add(
        "inspect",
        "say what a file is",
        _inspect,
        wish="First steps",
        example="voicekiln inspect voice.pth",
        config=FOR_LIMITS,
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help="a voice (.pth), or what belongs to one (.pt, .pkl)")
    inspect.add_argument("--json", action="store_true", help="for programs")

    convert = commands.add(
        "convert",
        "convert files once, without folders to watch",
        _convert,
        wish="First steps",
        example="voicekiln convert voice.pth\nvoicekiln convert *.pth --out results --precision fp16",
        config=FOR_RECIPES,
    )
    convert.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="voices (.pth), or what belongs to them (.pt, .pkl)"
    )
    convert.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: beside each file)")
    convert.add_argument("--recipe", metavar="NAME", help="a recipe of the configuration (default: default)")
    convert.add_argument(
        "--precision",
        choices=[*PRECISIONS, "both"],
        help="fp32: exact; fp16: half the size (default: as the recipe says, fp32 without a configuration)",
    )
    convert.add_argument(
        "--interface",
        type=_interfaces,
        metavar="NAME[,NAME]",
        help=f"the programs that shall open it, of {', '.join(INTERFACES)} (default: as the recipe says, else rvc)",
    )

    templates = commands.add(
        "templates",
        "list, build or clear the graphs that voices share",
        _templates,
        wish="Made easier",
        more="All voices of one kind have the same graph, which is made with the first of them, in some seconds, and "
        "kept; build makes those of the usual kinds beforehand.",
        example="voicekiln templates build    # takes about half a minute",
        config="work on the daemon's folder and recipes, as this configuration has them (default: on your own)",
    )
    templates.add_argument(
        "verb", choices=["list", "build", "clear"], metavar="list|build|clear", help="which of the three"
    )


def _convert(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    if options.recipe not in (None, *settings.recipes):
        named = "" if options.config else "; those of your configuration with --config FILE"
        complain(f"There is no recipe {plain(options.recipe, 60)}, only {', '.join(settings.recipes)}{named}.")
        return NOT_DONE
    recipe = _recipe(settings.recipes[options.recipe or "default"], options.precision, options.interface)
    status = OK
    with Desk(settings, templates_folder(options, settings)) as desk:
        for path in options.files:
            out = options.out or path.absolute().parent
            try:
                path.stat()  # before a folder is made for a slip of the pen
                out.mkdir(parents=True, exist_ok=True)
                with progress(path.name) as tell:
                    conversion, files = desk.convert(path, out, recipe, tell)
            except (Refusal, NotDoneError, ShareAwayError, StagingLostError, OSError) as error:
                tell_failure(path, error)
                status = NOT_DONE
                continue
            for line in report.conversion(path, conversion, [out / file.path for file in files]):
                say(line)
    return status


def _interfaces(text: str) -> tuple[Interface, ...]:
    try:
        return values.interfaces(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _recipe(recipe: Recipe, precision: str | None, interfaces: tuple[Interface, ...] | None) -> Recipe:
    """Return the recipe with what was named beside it."""
    recipe = recipe if interfaces is None else replace(recipe, interfaces=interfaces)
    if precision is None:
        return recipe
    return replace(recipe, precisions=tuple(p for p in PRECISIONS if precision in (p, "both")))


def _inspect(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    with Desk(settings, templates_folder(options, settings)) as desk:
        try:
            looked = desk.inspect(options.file)
        except Refusal as refusal:
            if options.json:
                say(json.dumps({"code": refusal.code, "message": refusal.text, "hint": refusal.advice}, indent=2))
            else:
                tell_failure(options.file, refusal)
            return NOT_DONE
        except (NotDoneError, ShareAwayError, OSError) as error:
            tell_failure(options.file, error)
            return NOT_DONE
    if options.json:
        say(json.dumps({"model": looked.model, "notes": looked.notes}, indent=2, ensure_ascii=False))
    else:
        for line in report.model(options.file, looked.model, looked.notes):
            say(line)
    return OK


def _templates(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    folder = templates_folder(options, settings)
    try:
        with Desk(settings, folder) as desk, progress("templates") as tell:
            found = desk.templates(options.verb, tuple(settings.recipes.values()), tell)
    except NotDoneError as error:
        tell_failure(folder, error)
        return NOT_DONE
    for line in report.templates(folder, found):
        say(line)
    if (trouble := found.get("trouble")) is not None:
        complain(plain(str(trouble)))
        return NOT_DONE
    return OK


def _sample(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    target = options.folder / "sample.pth"
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with Desk(settings, templates_folder(options, settings)) as desk:
            desk.sample(target)
    except (NotDoneError, OSError) as error:
        tell_failure(target, error)
        return NOT_DONE
    target.chmod(0o666 & ~_umask())  # the worker keeps what it writes to itself
    say(f"{target}: an RVC v2 voice, 40 kHz, with random weights; it converts, but does not speak.")
    return OK


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
