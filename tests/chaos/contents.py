"""What the writers bring: small voices in the real layout, and files that are none.

A content is named by its kind and a number, so that a seed tells all the bytes of a run.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from arrivals import noise
from tiny_voices import tiny

VOICES = ("v2", "v2", "v2", "v1")
"""Two architectures, so that two graphs are made in a run and every other voice flows through one of them."""
WAS_HERE = Path(tempfile.gettempdir(), "voicekiln-was-here")
"""What the hostile files try to make."""
BAD = ("page", "cut off", "empty", "noise", "plain", "hostile", "nan")


class Hostile:
    """Would run a program where it is unpickled carelessly."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {WAS_HERE}",)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a file, by their kind and a number."""

    kind: str
    number: int

    @property
    def good(self) -> bool:
        return self.kind in VOICES

    @property
    def data(self) -> bytes:
        return _data(self.kind, self.number)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def draw(cls, dice: random.Random, *, good: float, numbers: int) -> Content:
        """Return a voice with the chance `good`, or else a file that is none; few `numbers` make many twins."""
        kind = dice.choice(VOICES) if dice.random() < good else dice.choice(BAD)
        return cls(kind, dice.randrange(numbers))


@lru_cache(maxsize=64)
def _data(kind: str, number: int) -> bytes:
    if kind in VOICES:
        return _saved(tiny(kind, seed=number))
    return _MAKE[kind](number)


def _saved(what: object) -> bytes:
    out = io.BytesIO()
    torch.save(what, out)
    return out.getvalue()


def _not_a_number(seed: int) -> bytes:
    voice = tiny("v2", seed=seed)
    voice["weight"]["emb_g.weight"][0, 0] = float("nan")
    return _saved(voice)


_MAKE: dict[str, Callable[[int], bytes]] = {
    "page": lambda number: b"<!DOCTYPE html><html>Not found: %d</html>" % number,
    "cut off": lambda number: _data("v2", number)[:120_000],
    "empty": lambda _: b"",
    "noise": lambda number: noise(50_000, number),
    "plain": lambda number: _saved({"number": torch.tensor(number)}),
    "hostile": lambda number: _saved({"weight": Hostile(), "number": number}),
    "nan": _not_a_number,
}
