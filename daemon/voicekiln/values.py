"""How single values are written in the configuration: `90s`, `2GB`, `25%`, `"0644"`, `never`.

Every reader takes the text as the person wrote it and raises ValueError with a sentence that says what to write.
`read` finds the reader by the hint of the field in `settings`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from voicekiln.errors import plain
from voicekiln.folders.names import Folder, judge_name
from voicekiln.job import PRECISIONS, Precision

_Word = TypeVar("_Word", bound=str)

NOTHING = frozenset({"", "~", "null", "Null", "NULL"})

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 100 * 365 * 86400
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([kmgt]?)(i?)b", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,9})?) ?%", re.ASCII)
_MODE = re.compile(r"(?:0o?)?([0-7]{3,4})")
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_FOLDER_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,62}[\w+-])?")
_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that no folder can have on Windows."""


def read(hint: Any, text: str) -> object:  # noqa: ANN401 - type hints are of many types
    """Return the value of a field with that type hint.

    Raises:
        ValueError: with what is wrong and what to write.
    """
    if text in NOTHING and hint is not _GROUP_HINT:
        pass
    if get_origin(hint) is Literal:
        return one_of(text, get_args(hint))
    return _READERS[hint.__metadata__[0] if get_origin(hint) is Annotated else hint](text)
