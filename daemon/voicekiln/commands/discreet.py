"""What a person should not have to look for before pasting a text in public: passwords, tokens, the name of the home.

Nobody can know every secret. So the arguments of commands are not shown at all, and of a configuration only values
that were understood; the patterns here are the net beneath that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

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
    hints = get_type_hints(type(section), include_extras=True)
    for field in fields(section):
        value, usual = getattr(section, field.name), getattr(default, field.name)
        key = f"{at}{field.name}"
        if value == usual or key == "beside":
            continue
        if key == "recipes":
            own = {name: recipe for name, recipe in value.items() if recipe != usual.get(name)}
            yield from (f"recipes.{plain(name, 60)}: {_recipe(recipe)}" for name, recipe in own.items())
            yield from (f"recipes.{name}: is not there" for name in usual.keys() - value.keys())
        elif is_dataclass(value):
            yield from _changed(value, usual, f"{key}.")
        else:
            yield f"{key}: {_shown(hints[field.name], value)}"


def _recipe(recipe: Recipe) -> str:
    precision = "both" if len(recipe.precisions) > 1 else recipe.precisions[0]
    told = {"precision": precision, "opset": recipe.opset, "interface": _several(recipe.interfaces)}
    told |= {"verify": recipe.verify} | ({"speaker_mix": "true"} if recipe.speaker_mix else {})
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _several(words: tuple[str, ...]) -> str:
    return f"[{', '.join(words)}]" if len(words) > 1 else words[0]


def _shown(hint: Any, value: Any) -> str:  # noqa: ANN401 - any field of settings
    """Return a value as the configuration writes it; of a command the program alone."""
    kind = hint.__metadata__[0] if get_origin(hint) is Annotated else ""
    match kind, value:
        case _, bool():
            said = str(value).lower()
        case _, None:
            said = {"duration or never": "never", "board file": "off"}.get(kind, "null")
        case "command", (program, *arguments):
            said = f"{plain(str(program), 100)}{f' ({len(arguments)} arguments, not shown)' if arguments else ''}"
        case "duration" | "duration or never", _:
            said = _counted(value, (("d", 86400), ("h", 3600), ("m", 60))) or f"{value:.12g}s"
        case "size", _:
            said = _counted(value, (("TB", 10**12), ("GB", 10**9), ("MB", 10**6))) or f"{value}B"
        case "share", _:
            said = f"{value * 100:.10g}%"
        case "file mode" | "folder mode", _:
            said = f'"{value:04o}"'
        case _:
            said = plain(str(value), 200)
    return said


def _counted(value: float, units: tuple[tuple[str, int], ...]) -> str:
    """Return a value in the largest unit of which it is a whole number; nothing if it is none of any."""
    return next((f"{value / size:.0f}{unit}" for unit, size in units if value % size == 0), "")
