"""What the commands have in common: exit statuses, where the settings come from, how a failure is told."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from voicekiln import config, loop
from voicekiln.commands.terminal import complain
from voicekiln.errors import ConfigError, NameTaken, Refusal, plain
from voicekiln.folders.ledger import Ledger
from voicekiln.settings import Settings

OK = 0
NOT_DONE = 1
"""A file was refused, or what was asked for is not there or cannot be done now."""

FOR_RECIPES = "take recipes and limits from this configuration (default: the built-in ones)"
FOR_LIMITS = "take the limits from this configuration (default: the built-in ones)"
"""What a configuration is for where no folders are watched."""


def settings_or_defaults(path: Path | None) -> Settings:
    """Return the settings of a configuration, or those of an empty one."""
    return config.load(path) if path is not None else Settings.in_folder(Path.cwd())


def templates_folder(options: argparse.Namespace, settings: Settings) -> Path:
    """Return the daemon's folder if there is a configuration, else one of the user's own."""
    if options.config is not None:
        return settings.templates
    wanted = Path(os.environ.get("XDG_CACHE_HOME", "")), Path(os.path.expanduser("~/.cache"))  # noqa: PTH111 - never raises
    nowhere = Path(os.devnull)  # a user without a home keeps nothing
    return next((path for path in wanted if path.is_absolute()), nowhere) / "voicekiln" / "templates"


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger of the state folder.

    Raises:
        ConfigError: if there is none.
    """
    path = settings.state / loop.LEDGER
    if not path.exists():
        raise ConfigError([f"state: voicekiln has never run with the state folder {plain(str(path.parent))}"])
    return Ledger(path)


def tell_failure(path: Path, error: Exception) -> None:
    """Complain of what kept a file from being done, with the advice that there is."""
    match error:
        case NameTaken():
            complain(f"{path}: there already is a {error.found['name']} that was not made from it.")
            complain("  Move or rename that file, or name another folder with --out.")
        case Refusal():
            complain(f"{path}: {error.text}")
            complain(f"  {error.advice}")
        case OSError():
            complain(in_words(error))
        case _:
            complain(f"{path}: {plain(str(error))}")


def in_words(error: Exception) -> str:
    """Return an error of the system as a person says it: which file, and what of it."""
    if isinstance(error, PermissionError) and error.filename:
        return f"{plain(str(error.filename))}: not allowed; try it as the user that voicekiln runs as"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{plain(str(error.filename))}: {error.strerror}"
    return plain(str(error))
