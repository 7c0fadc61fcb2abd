"""Files beside a model that say what its tensors do not: which of them are asked, and how each value is read.

One under the model's own name is the model's: if it says what cannot be, the model is refused. One of a general name
(`config.json`) may be another model's in a folder of many: it has to fit, or it is left aside and the person is told;
a model that cannot be heard rightly without it is refused (`Companion.refused`).
Everything in it is somebody's text, so each value is of the wanted kind and of a bounded size, or it cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from voicekiln.errors import Contradiction, WrongCompanion, plain
from voicekiln.families.base import Outline
from voicekiln.families.rvc_config import read_rate, shown
from voicekiln.families.tensors import Shape, listed

CONFIG = ("config.json",)
"""The general name of most companions; a model's own one ends as it does."""
SPEAKERS = ("speaker_ids.json", "speaker_ids.pth", "speakers.json", "speakers.pth")
LANGUAGES = ("language_ids.json", "language_ids.pth")
TABLES = (*SPEAKERS, *LANGUAGES)
"""General names of tables of speakers and of languages; a model's own one ends in a point and one of these."""
_GENERAL = frozenset({*CONFIG, "config_se.json"})
_OF_A_TABLE = tuple(f".{name}" for name in TABLES)

MAX_NUMBER = 65_536
MAX_LIST = 16
MAX_NAMES = 1000
"""Speakers, or languages; so-vits-svc makes room for 200 speakers. All that is told of so many stays below
`worker.wire.MAX_LINE`."""
MAX_NAME = 60
"""Characters of a speaker's name."""
MAX_TEXT = 100
"""Characters."""
RATES_HZ = range(8_000, 192_001)

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that could be the model's."""

    name: str
    values: Any
    """What is in it, plain data; None if it cannot be read."""
    own: bool
    """Whether it bears the model's name."""

    def unread(self) -> str:
        """Return the sentence on one that cannot be read."""
        return f"{shown(self.name)}, which lies beside it, cannot be read and was left aside."

    def table(self) -> Table:
        """Return what is in it, to be asked value by value; what is no table says nothing."""
        return Table(self.name, self.values if isinstance(self.values, dict) else {})

    def another(self, problem: Contradiction) -> str:
        """Return the sentence on one that does not fit.

        Raises:
            WrongCompanion: if it is the model's own.
        """
        if self.own:
            raise self.refused(problem) from problem
        return f"{shown(self.name)}, which lies beside it, is not this model's: {problem.found['what']}."

    def refused(self, problem: Contradiction) -> WrongCompanion:
        """Return the refusal for one that does not fit and that the model cannot do without."""
        return WrongCompanion(name=shown(self.name), what=problem.found["what"])


def is_table(name: str) -> bool:
    """Return whether a companion of this name is a table of speakers or languages, in any case."""
    return f".{name.casefold()}".endswith(_OF_A_TABLE)


def beside(outline: Outline, general: Sequence[str] = CONFIG) -> Iterator[Companion]:
    """Give the companions that could be the model's: its own ones first, then those of general names in their order."""
    endings = tuple({name[name.rindex(".") :] for name in general})
    order = {name: place for place, name in enumerate(general)}
    others = _GENERAL - order.keys()
    names = [
        name
        for name in outline.beside
        if (low := name.casefold()).endswith(endings) and low not in others and not is_table(name)
    ]
    for name in sorted(names, key=lambda name: order.get(name.casefold(), -1)):
        yield Companion(name, outline.beside[name], own=name.casefold() not in order)


def tables(outline: Outline, general: Sequence[str]) -> Iterator[Companion]:
    """Give the tables of these names that could be the model's: its own ones first, each kind in the names' order.

    Args:
        outline: of the model.
        general: some of `TABLES`.
    """
    lowered = {name: name.casefold() for name in outline.beside}
    for own, wanted in product((True, False), general):
        for name, low in lowered.items():
            if low.endswith(f".{wanted}") if own else low == wanted:
                yield Companion(name, outline.beside[name], own=own)


def first(
    candidates: Iterable[Companion], read: Callable[[Companion], _Value | None], notes: list[str]
) -> _Value | None:
    """Return what is read of the first companion that fits; None if none does.

    Args:
        candidates: in the order in which they are asked.
        read: returns what a companion says; None if that is nothing, `Contradiction` if it does not fit.
        notes: gets a sentence for each one before it that cannot be read or does not fit.

    Raises:
        WrongCompanion: if one that is the model's own does not fit.
    """
    for companion in candidates:
        if companion.values is None:
            notes.append(companion.unread())
            continue
        try:
            if (found := read(companion)) is not None:
                return found
        except Contradiction as problem:
            notes.append(companion.another(problem))
    return None


@dataclass(frozen=True, slots=True)
class Table:
    """A companion, or a table in it, read value by value; None stands for what it does not say."""

    name: str
    """Of the file."""
    values: Mapping[str, Any]

    def number(self, key: str, low: int = 1, high: int = MAX_NUMBER) -> int | None:
        """Return a whole number within its bounds."""
        return None if (value := self.values.get(key)) is None else self._size(key, value, low, high)

    def real(self, key: str, low: float, high: float) -> float | None:
        """Return a number within its bounds, whole or not."""
        value = self.values.get(key)
        # Written so that a NaN fails: every comparison with it is false.
        if value is not None and not (type(value) in {int, float} and low <= value <= high):
            raise self.wrong(key, value)
        return None if value is None else float(value)

    def rate(self, key: str) -> int | None:
        """Return a sample rate."""
        rate = read_rate(value := self.values.get(key))
        if value is not None and rate not in RATES_HZ:
            raise self.wrong(key, value)
        return rate

    def numbers(self, key: str) -> Shape | None:
        """Return a list of whole numbers."""
        return None if (value := self.values.get(key)) is None else self._sizes(key, value)

    def lists(self, key: str) -> tuple[Shape, ...] | None:
        """Return a list of such lists."""
        value = self.values.get(key)
        return None if value is None else tuple(self._sizes(key, each) for each in self._list(key, value))

    def text(self, key: str) -> str | None:
        """Return a text, as a person may read it; what is none counts as not said."""
        value = self.values.get(key)
        return plain(value[:MAX_TEXT]) if isinstance(value, str) and value else None

    def switch(self, key: str) -> bool | None:
        """Return whether something is so; what is neither counts as not said."""
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def given(self, key: str, value: _Value | None) -> _Value:
        """Return a value that has to be there.

        Raises:
            Contradiction: if it is not.
        """
        if value is None:
            raise self.silent(key)
        return value

    def agree(self, key: str, said: object, found: object) -> None:
        """Refuse if the weights know better."""
        if said != found:
            told = listed(said) if isinstance(said, tuple) else shown(said)
            raise Contradiction(what=f"{shown(self.name)} has {key} {told}, the weights have {listed(found)}")

    def silent(self, key: str) -> Contradiction:
        """Return the refusal of a companion that lacks what it has to say."""
        return Contradiction(what=f"{shown(self.name)} does not say {key}")

    def wrong(self, key: str, value: object) -> Contradiction:
        """Return the refusal of a value."""
        return Contradiction(what=f"{shown(self.name)} has {key} {shown(value)}, which cannot be")

    def _sizes(self, key: str, value: object) -> Shape:
        return tuple(self._size(key, each, 1, MAX_NUMBER) for each in self._list(key, value))

    def _list(self, key: str, value: object) -> list[object]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST:
            raise self.wrong(key, value)
        return value

    def _size(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, value)
        return value


def speakers(name: str, raw: object) -> dict[int, str] | None:
    """Return the speakers' names by number, as they stand in a companion of that name; None if it names none.

    Raises:
        Contradiction: if two have one number, one has none, or they are too many.
    """
    if not isinstance(raw, dict) or not raw:
        return None
    check_count(len(raw))
    numbers = list(raw.values())
    whole = all(type(number) is int and 0 <= number < MAX_NUMBER for number in numbers)
    if not whole or len(set(numbers)) < len(numbers):
        raise Contradiction(what=f"{shown(name)} has speakers (spk) without a number of their own")
    return {number: called(speaker) for speaker, number in sorted(raw.items(), key=lambda it: it[1])}


def called(speaker: object) -> str:
    """Return a speaker's name as a person may read it."""
    return plain(str(speaker), MAX_NAME)


def check_count(count: int) -> None:
    """Refuse more speakers than can be told of."""
    if count > MAX_NAMES:
        raise Contradiction(what=f"it has {count} speakers, {MAX_NAMES} at most are taken")


def check_speakers(name: str, named: Mapping[int, str] | None, rows: int) -> None:
    """Refuse names for more speakers than the weights have."""
    if (last := max(named or (0,))) >= rows:
        raise Contradiction(what=f"{shown(name)} has a speaker {last}, the weights have {rows}, counted from 0")
