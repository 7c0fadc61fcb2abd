"""Which number each symbol of a voice has.

Coqui makes its list of symbols out of the characters in the config, by rules of which the config names one (its
`characters_class`); the original VITS writes the list itself. A symbol that is there twice has two rows in the weights
and is always given the last one's number. How many symbols a rule makes and how many rows the weights have has to be
the same: that is how a rule is checked, or found where none is named.

Symbols are exact texts: some of them (a no-break space, a joiner) nobody could read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voicekiln.families.base import exact
from voicekiln.families.companions import Table

BLANK = "<BLNK>"
"""What Coqui's VITS voices call the symbol between symbols."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The numbers of a voice's symbols, and of those that have a purpose; None for one that it does not have."""

    tokens: Mapping[str, int]
    pad: int | None = None
    blank: int | None = None
    bos: int | None = None
    eos: int | None = None


def vocabulary(config: Table, rows: int) -> Vocabulary | None:
    """Return the symbols of a Coqui config; None if what it says is not enough to tell them.

    Args:
        config: all of it.
        rows: of the embedding.

    Raises:
        Contradiction: if it says by which rule they are found, and they are not as many as the weights have.
    """
    raw = config.values.get("characters")
    if not isinstance(raw, dict):
        return None
    if given := raw.get("vocab_dict"):
        config.agree("symbols", len(given) if isinstance(given, list | dict) else 0, rows)
        return _purposes(raw, _numbers(config, given))
    kind = str(raw.get("characters_class") or "").rpartition(".")[2]
    asked = RULES.keys() if not kind else RULES.keys() & {kind}
    made = {name: list(RULES[name](raw)) for name in RULES if name in asked}
    fitting = [(name, symbols) for name, each in made.items() for symbols in each if len(symbols) == rows]
    if kind and made.get(kind) and not fitting:
        config.agree("symbols", len(made[kind][0]), rows)
    found = {tuple(numbered(symbols).items()): _named(name, raw, symbols) for name, symbols in fitting}
    return found.popitem()[1] if len(found) == 1 else None


def listed_vocabulary(config: Table, rows: int) -> Vocabulary | None:
    """Return the symbols of an original VITS config, which puts the first of them between all; None if it has none.

    Raises:
        Contradiction: if they are not as many as the weights have.
    """
    symbols = config.values.get("symbols")
    if not symbols:
        return None
    config.agree("symbols", len(symbols) if isinstance(symbols, list | dict) else 0, rows)
    return Vocabulary(_numbers(config, symbols), pad=0, blank=0)


def numbered(symbols: Sequence[str]) -> dict[str, int]:
    """Return the number of each symbol, the last one's where it is there several times; an empty one is in no text."""
    return {symbol: number for number, symbol in enumerate(symbols) if symbol}


def _vits(raw: Mapping[str, Any]) -> Iterator[list[str]]:
    pad, letters = _text(raw, "pad"), _text(raw, "characters")
    if pad is not None and letters is not None:
        yield [pad, *(_text(raw, "punctuations") or ""), *letters, *(_text(raw, "phonemes") or ""), BLANK]


def _graphemes(raw: Mapping[str, Any]) -> Iterator[list[str]]:
    return _base(raw, _text(raw, "characters"))


def _phonemes(raw: Mapping[str, Any]) -> Iterator[list[str]]:
    phonemes = _text(raw, "phonemes")
    return _base(raw, _text(raw, "characters") if phonemes is None else phonemes)


RULES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[list[str]]]] = {
    "VitsCharacters": _vits,
    "IPAPhonemes": _phonemes,
    "Graphemes": _graphemes,
}
"""By the names of Coqui's classes: each gives the lists of symbols that the config may mean, the likeliest first."""


def _base(raw: Mapping[str, Any], letters: str | None) -> Iterator[list[str]]:
    """Give letters behind the symbols that have a purpose, and marks of punctuation last."""
    if letters is None:
        return
    purposes = [text for key in ("pad", "eos", "bos", "blank") if (text := _text(raw, key))]
    in_order = raw.get("is_sorted") is not False
    for each_once in _each_once(raw):
        if each_once and not in_order and len(set(letters)) > 1:
            continue  # the original takes them as a set happens to give them
        some: Sequence[str] = sorted(set(letters)) if each_once else letters
        yield [*purposes, *(sorted(some) if in_order else some), *(_text(raw, "punctuations") or "")]


def _each_once(raw: Mapping[str, Any]) -> tuple[bool, ...]:
    """Return whether letters that are there twice count once, or both ways if that is not said."""
    said = tuple(value for key in ("is_unique", "unique") if isinstance(value := raw.get(key), bool))
    return said[:1] or (True, False)


def _named(rule: str, raw: Mapping[str, Any], symbols: Sequence[str]) -> Vocabulary:
    tokens = numbered(symbols)
    # Of the four, this rule knows the pad alone, and has a blank of its own.
    return _purposes({"pad": raw.get("pad"), "blank": BLANK} if rule == "VitsCharacters" else raw, tokens)


def _purposes(raw: Mapping[str, Any], tokens: Mapping[str, int]) -> Vocabulary:
    return Vocabulary(tokens, **{key: tokens.get(_text(raw, key) or "") for key in ("pad", "blank", "bos", "eos")})


def _numbers(config: Table, given: object) -> dict[str, int]:
    """Return the numbers of symbols that a config lists, or gives in a table.

    Raises:
        Contradiction: if it does neither, or not all numbers are theirs.
    """
    if isinstance(given, list) and all(isinstance(symbol, str) for symbol in given):
        return numbered([exact(symbol) for symbol in given])
    if isinstance(given, dict):
        numbers = list(given.values())
        if all(type(number) is int and 0 <= number < len(given) for number in numbers):
            return {exact(symbol): number for symbol, number in given.items() if symbol}
    raise config.wrong("symbols", given)


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    """Return a text as it is in the file; what is none counts as not said."""
    value = raw.get(key)
    return exact(value) if isinstance(value, str) else None
