"""How single values are written in the configuration: `90s`, `2GB`, `25%`, `"0644"`, `never`.

Every reader takes the text as the person wrote it and raises ValueError with a sentence that says what to write.
`read` finds the reader by the hint of the field in `settings`.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from voicekiln.errors import plain
from voicekiln.folders.names import WINDOWS, Folder, judge_name
from voicekiln.job import INTERFACES, PRECISIONS, Interface, Precision

_Word = TypeVar("_Word", bound=str)

NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
"""What YAML calls no value."""

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 100 * 365 * 86400
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([kmgt]?)(i?)b", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,9})?) ?%", re.ASCII)
_MODE = re.compile(r"(?:0o?)?([0-7]{3})")
"""Without setgid and its like: systemd's RestrictSUIDSGID forbids the daemon to set them."""
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_MAX_GID = 2**32 - 2
_SCHEDULER = re.compile(r"(?:tls|tcp)://(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", re.ASCII)
_FOLDER_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,62}[\w+-])?")
_SHELL = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&>"})


def read(hint: Any, text: str) -> object:  # noqa: ANN401 - type hints are of many types
    """Return the value of a field with that type hint.

    Raises:
        ValueError: with what is wrong and what to write.
    """
    if get_origin(hint) is Literal:
        return one_of(text, get_args(hint))
    return _READERS[hint.__metadata__[0] if get_origin(hint) is Annotated else hint](text)


def one_of(text: str, words: Sequence[_Word]) -> _Word:
    """Return the one of `words` that `text` is."""
    for word in words:
        if text == word:
            return word
    raise ValueError(f"{_quoted(text)} is not one of {', '.join(words)}")


def whole(text: str, allowed: range) -> int:
    """Return a whole number out of `allowed`."""
    if not _WHOLE.fullmatch(text) or int(text) not in allowed:
        raise ValueError(f"{_quoted(text)} is no whole number from {allowed[0]} to {allowed[-1]}")
    return int(text)


def duration(text: str) -> float:
    """Return seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{_quoted(text)} is no duration; write it like 90s, 5m, 1h or 7d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError(f"{_quoted(text)} has to be more than nothing and at most 100 years")
    return seconds


def duration_or_never(text: str) -> float | None:
    """Return seconds, None for `never`."""
    try:
        return None if text == "never" else duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, or write never") from error


def size(text: str) -> int:
    """Return bytes; `kB`, `MB`, `GB` count in thousands, `KiB`, `MiB`, `GiB` in 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_quoted(text)} is no size; write it like 500MB or 2GB")
    count = int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])
    if count < 1:
        raise ValueError(f"{_quoted(text)} has to be more than nothing")
    return count


def share(text: str) -> float:
    """Return a fraction of one."""
    match = _PERCENT.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"{_quoted(text)} is no share; write it like 25%, up to 100%")
    return float(match[1]) / 100


def file_mode(text: str) -> int:
    """Return the permission bits of files."""
    return _mode(text, 0o600, '"0644"')


def folder_mode(text: str) -> int:
    """Return the permission bits of folders."""
    return _mode(text, 0o700, '"0755"')


def _mode(text: str, needed: int, example: str) -> int:
    match = _MODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_quoted(text)} is no mode; write it like {example}")
    mode = int(match[1], 8)
    if mode & needed != needed:
        raise ValueError(f"{_quoted(text)} would lock out voicekiln itself; write it like {example}")
    return mode


def truth(text: str) -> bool:
    """Return whether it is true."""
    return one_of(text, ("true", "false")) == "true"


def group(text: str) -> str | None:
    """Return a group's name or number, None where none is given."""
    if text in NOTHING:
        return None
    if text.isdecimal() and not (text.isascii() and int(text) <= _MAX_GID):
        raise ValueError(f"{_quoted(text)} is no number of a group")
    return text


def folder(text: str) -> Path:
    """Return a path, relative where it was given so; `~` at the beginning is the user's own folder."""
    if text in NOTHING or "\0" in text:
        raise ValueError("wants the path of a folder")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError("holds characters that no path can have") from error
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user as in {_quoted(text)}; write the whole path") from error


def local_file(text: str) -> Path | None:
    """Return an absolute path, None where none is given."""
    if text in NOTHING:
        return None
    path = folder(text)
    if not path.is_absolute():
        raise ValueError(f"{_quoted(text)} is no whole path; write it from / on")
    return path


def command(text: str) -> tuple[str, ...] | None:
    """Return the words of a command, None where none is given. Quotes hold words together; nothing else is special."""
    if text in NOTHING:
        return None
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"{_quoted(text)} has a quote that is not closed") from error
    if not words or not words[0].startswith("/") or "\0" in text:
        raise ValueError(f"{_quoted(text)} has to begin with the whole path of a program, from / on")
    if _SHELL.intersection(words):
        raise ValueError(f"{_quoted(text)} is run without a shell, which alone knows pipes and the like; use a script")
    return words


def board_file(text: str) -> Path | None:
    """Return the path of a file, relative where it lies below the outbox; None for `off`."""
    if text == "off":
        return None
    if text in NOTHING or text.endswith("/"):
        raise ValueError("wants the path of a file, or off")
    path = folder(text)
    if not path.name:
        raise ValueError(f"{_quoted(text)} is a folder; write the path of a file, or off")
    if ".." in path.parts or any(part.startswith(".") for part in path.parts):
        raise ValueError(f"{_quoted(text)}: write a path without .. and without hidden names")
    return path


def scheduler(text: str) -> str | None:
    """Return the address of a Dask scheduler or `local`, None where none is given."""
    if text in NOTHING:
        return None
    if text != "local" and not _SCHEDULER.fullmatch(text):
        raise ValueError(
            f"{_quoted(text)} is no address of a scheduler; write it like tls://gpu1.example:8786, or local"
        )
    return text


def precisions(text: str) -> tuple[Precision, ...]:
    """Return the precisions that a recipe's word asks for."""
    word = one_of(text, (*PRECISIONS, "both"))
    return PRECISIONS if word == "both" else (word,)  # type: ignore[return-value]  # `both` is the only other word


def interfaces(text: str) -> tuple[Interface, ...]:
    """Return the interfaces that a recipe's words ask for, with commas between them."""
    words = tuple(one_of(word.strip(), INTERFACES) for word in text.split(","))
    if len(set(words)) < len(words):
        raise ValueError(f"{_quoted(text)} names one twice")
    return words


def is_folder_name(text: str) -> bool:
    """Say whether a folder can have this name on every kind of share, and is looked into."""
    fits = _FOLDER_NAME.fullmatch(text) and not WINDOWS.fullmatch(text) and unicodedata.is_normalized("NFC", text)
    return bool(fits) and isinstance(judge_name(text, is_dir=True), Folder)


def _quoted(text: str) -> str:
    return f'"{plain(text, 40)}"' if text else "an empty value"


_READERS: dict[Any, Callable[[str], object]] = {
    "duration": duration,
    "duration or never": duration_or_never,
    "size": size,
    "share": share,
    "file mode": file_mode,
    "folder mode": folder_mode,
    "group": group,
    "local file": local_file,
    "local folder": local_file,
    "board file": board_file,
    "command": command,
    "scheduler": scheduler,
    "attempts": lambda text: whole(text, range(1, 101)),
    bool: truth,
}
