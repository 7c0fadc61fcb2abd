"""What a person should not have to look for before pasting a text in public: passwords, tokens, the name of the home.

Nobody can know every secret. So the arguments of commands are not shown at all, and of a configuration only values
that were understood; the patterns here are the net beneath that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from voicekiln.errors import plain
from voicekiln.job import Recipe
from voicekiln.settings import Settings

_SECRETS = (
    re.compile(r"[^\s/:@=,'\"]+:[^\s/]+(?=@)"),  # user:password@, the last @ of several
    re.compile(r"(?<=://)[^\s/]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )\S+"),
    re.compile(r"(?i)(?<![a-z])(?:pass(?:word|wd|phrase)?|token|secret|api_?key|auth|credentials?)\s*[=:]\s*[^\s,;)]+"),
    re.compile(r"(?<![\w/.-])(?=[\w+-]*\d)(?=[\w+-]*[A-Za-z])[\w+-]{32,}={0,2}"),
)
HIDDEN = "[hidden]"


def hide(text: str, home: str) -> str:
    """Return a line without what looks like a secret, and with ~ for the home folder."""
    for secret in _SECRETS:
        text = secret.sub(HIDDEN, text)
    if len(home) > 1:  # of a user without one it may be "/"
        text = re.sub(rf"{re.escape(home.rstrip('/'))}(?![^\s/:;,)'\"])", "~", text)
    return text


def changed(settings: Settings, config: Path) -> Iterator[str]:
    """Yield a line for each setting that is not the default."""
    yield from _changed(settings, Settings.in_folder(config.absolute().parent), "")


def _changed(section: Any, default: Any, at: str) -> Iterator[str]:  # noqa: ANN401 - any dataclass of settings
    for field in fields(section):
        value, usual = getattr(section, field.name), getattr(default, field.name)
        key = f"{at}{field.name}"
        if value == usual or key == "beside":
            continue
        if key == "recipes":
            yield from (f"recipes.{plain(name, 60)}: {_recipe(recipe)}" for name, recipe in value.items())
        elif is_dataclass(value):
            yield from _changed(value, usual, f"{key}.")
        else:
            yield f"{key}: {_shown(value)}"


def _recipe(recipe: Recipe) -> str:
    told = ((f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name != "name")
    return ", ".join(f"{name} {'+'.join(value) if isinstance(value, tuple) else value}" for name, value in told)


def _shown(value: object) -> str:
    match value:
        case (program, *arguments):
            return f"{plain(str(program), 100)}{f' ({len(arguments)} arguments, not shown)' if arguments else ''}"
        case None:
            return "none"
        case _:
            return plain(str(value), 200)
