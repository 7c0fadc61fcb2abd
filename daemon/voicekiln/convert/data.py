"""Plain data out of strangers' files: numbers, texts, lists and tables of them, and no more of them than is sane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from voicekiln.errors import plain
from voicekiln.families.base import Cleaned, exact

MAX_VALUES: Final = 20_000
"""In all, those in lists and tables counted each; what holds more counts as no plain data."""
MAX_DEPTH: Final = 12
MAX_TEXT: Final = 20_000
"""Characters of one text."""


class NotPlainError(Exception):
    """A value that is not plain data, or too much of it."""


def plain_data(value: Any) -> Any:  # noqa: ANN401 - plain data of any kind
    """Return plain data as new objects of the basic types.

    Texts are cleaned for reading (`Cleaned` remembers what they were), and infinity and NaN become texts, so that all
    of it can be written as JSON.

    Raises:
        NotPlainError: if it is something else.
    """
    return _copy(value, MAX_DEPTH, iter(range(MAX_VALUES)))


def _copy(value: Any, depth: int, budget: Iterator[int]) -> Any:  # noqa: ANN401 - as above
    if depth == 0 or next(budget, None) is None:
        raise NotPlainError
    match value:
        case None | bool():
            return value
        case int() if abs(value) < 2**63:
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case str() if len(value) <= MAX_TEXT:
            return _cleaned(value, MAX_TEXT)
        case list() | tuple():
            return [_copy(item, depth - 1, budget) for item in value]
        case dict() if all(isinstance(key, str | int) for key in dict.keys(value)):
            return {_cleaned(str(key), 200): _copy(item, depth - 1, budget) for key, item in dict.items(value)}
        case _:
            raise NotPlainError


def _cleaned(text: str, limit: int) -> str:
    """Return the text as a person may read it."""
    if (clean := plain(text, limit)) == text:
        return clean
    found = Cleaned(clean)
    found.exact = exact(text)
    return found
