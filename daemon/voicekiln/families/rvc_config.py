"""The `config` of an RVC checkpoint: 18 values without names, 19 in the files of ddPn08's fork.

Only what leaves no trace in the tensors' shapes is believed; the rest is read so that disagreement can be told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from voicekiln.errors import Contradiction, UnknownVocoder, plain

LENGTHS = (18, 19)
"""The fork puts the width of the features before the sample rate; all that is read here stands before both or last."""
MAX_RATE = 400_000
"""Hz."""
MAX_NUMBER = 65_536
MAX_LIST = 16


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
    if str(raw[9]) != "1":
        raise UnknownVocoder(vocoder=f"HiFi-GAN with residual blocks of kind {plain(str(raw[9])[:20])}")
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
        dilations=tuple(_numbers(_list(raw, 11), at) for at in range(len(_list(raw, 11)))),
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


def _number(raw: list[object] | tuple[object, ...], at: int) -> int:
    value = raw[at]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_NUMBER:
        raise _wrong(at, value)
    return value


def _list(raw: list[object] | tuple[object, ...], at: int) -> list[object] | tuple[object, ...]:
    value = raw[at]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_LIST:
        raise _wrong(at, value)
    return value


def _numbers(raw: list[object] | tuple[object, ...], at: int) -> tuple[int, ...]:
    value = _list(raw, at)
    return tuple(_number(value, i) for i in range(len(value)))


def _wrong(at: int, value: object) -> Contradiction:
    """Return the refusal for the value at a position, counted from 1 for the person."""
    shown = plain(value[:40]) if isinstance(value, str) else type(value).__name__
    if isinstance(value, int | float):
        shown = f"{value:.6g}" if abs(value) < MAX_RATE * 100 else "a huge number"
    return Contradiction(what=f"value {at + 1} of its settings (config) is {shown}, which cannot be")
