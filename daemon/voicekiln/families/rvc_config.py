"""The `config` of an RVC checkpoint: 18 values without names, 19 in the files of ddPn08's fork.

Only what leaves no trace in the tensors' shapes is believed; the rest is read so that disagreement can be told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard

from voicekiln.errors import Contradiction, UnknownVocoder, plain

LENGTHS = (18, 19)
"""The fork puts the width of the features before the sample rate; all that is read here stands before both or last."""
MAX_RATE = 400_000
"""Hz."""
HUGE = 1e15
MAX_NUMBER = 65_536
MAX_LIST = 16

Values = list[object] | tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What is read of it."""

    channels: int
    hidden: int
    filter_channels: int
    heads: int
    layers: int
    kernel: int
    block_kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    rates: tuple[int, ...]
    initial: int
    up_kernels: tuple[int, ...]
    speakers: int
    gin_channels: int
    sample_rate: int
    """Hz."""


def read_config(raw: object) -> Config:
    """Return what stands in the file under `config`.

    Raises:
        Contradiction: if it is not what RVC writes.
        UnknownVocoder: if it asks for a residual block that RVC does not have.
    """
    if not isinstance(raw, list | tuple) or len(raw) not in LENGTHS:
        raise Contradiction(what="its settings (config) are not the 18 values that RVC writes")
    match raw[9]:
        case "1" | 1:
            pass
        case "2" | 2:
            raise UnknownVocoder(vocoder="HiFi-GAN with residual blocks of kind 2")
        case other:
            raise _wrong(9, other)
    rate = read_rate(raw[-1])
    if rate is None:
        raise _wrong(len(raw) - 1, raw[-1])
    return Config(
        channels=_number(raw, 2),
        hidden=_number(raw, 3),
        filter_channels=_number(raw, 4),
        heads=_number(raw, 5),
        layers=_number(raw, 6),
        kernel=_number(raw, 7),
        block_kernels=_numbers(raw, 10),
        dilations=_lists(raw, 11),
        rates=_numbers(raw, 12),
        initial=_number(raw, 13),
        up_kernels=_numbers(raw, 14),
        speakers=_number(raw, 15),
        gin_channels=_number(raw, 16),
        sample_rate=rate,
    )


def read_rate(raw: object) -> int | None:
    """Return a sample rate in Hz, written as 40000, "40000" or "40k"; None if it is nothing of the kind."""
    if isinstance(raw, str) and (match := re.fullmatch(r"([0-9]{1,6})(k?)", raw.strip().lower())):
        raw = int(match[1]) * (1000 if match[2] else 1)
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw <= MAX_RATE else None


def shown(value: object) -> str:
    """Return any value from a file as a person may read it: short, on one line, and without work for huge numbers."""
    match value:
        case str():
            return plain(value[:60])
        case bool() | None:
            return str(value)
        case int() | float() if abs(value) < HUGE:
            return str(value)
        case int() | float():
            return "a huge number"
        case _:
            return f"a {type(value).__name__}"


def _number(raw: Values, at: int) -> int:
    value = raw[at]
    if not _fits(value):
        raise _wrong(at, value)
    return value


def _list(raw: Values, at: int) -> Values:
    value = raw[at]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_LIST:
        raise _wrong(at, value)
    return value


def _numbers(raw: Values, at: int) -> tuple[int, ...]:
    return _checked(_list(raw, at), at)


def _lists(raw: Values, at: int) -> tuple[tuple[int, ...], ...]:
    values = _list(raw, at)
    return tuple(_checked(_list(values, i), at) for i in range(len(values)))


def _checked(values: Values, at: int) -> tuple[int, ...]:
    for value in values:
        if not _fits(value):
            raise _wrong(at, value)
    return tuple(value for value in values if _fits(value))


def _fits(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER


def _wrong(at: int, value: object) -> Contradiction:
    """Return the refusal for the value at a position, counted from 1 for the person."""
    return Contradiction(what=f"value {at + 1} of its settings (config) is {shown(value)}, which cannot be")
