"""Companions: files beside a voice that belong to it, may come after it, and then complete it.

`x.json`, `x.yaml` and `x.yml` are those of `x.pth` alone, and so are `x.speakers.json` and the like; `config.*`,
`diffusion.*`, `speakers.*` and others are those of every voice in the folder. What they are at a moment goes into the
voice's stamp as one short text (`digest`), so that a companion that comes, changes or goes is a change of the voice and
needs no case of its own. They are known by their names, compared as `names.fold` does; of several that are one on some
file system (`Config.json` beside `config.json`) one is taken, and always the same. `inbox` finds them, `spool` copies
them, and what they say is for the worker to read. Accepted: of a voice that is called `x.speakers.pth`, the config
`x.speakers.json` is read as a table of speakers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from operator import attrgetter

from voicekiln.folders.names import PICKLED_TABLES, TABLES, fold, is_pickled_table, stem_of
from voicekiln.job import FileStamp

ENDINGS = (".json", ".yaml", ".yml")
OWN = (*ENDINGS, *(f".{name}.json" for name in TABLES))
"""What follows the voice's stem."""
GENERAL = (
    *("config.json", "config.yaml", "config.yml", "diffusion.yaml", "diffusion.yml", "config_se.json"),
    *(f"{name}.json" for name in TABLES),
    *PICKLED_TABLES,
)
"""Of all voices in a folder."""

MAX_BYTES = 1 << 20
"""A larger one is no text of a training tool; that it is there is known, what it says is not."""
MAX_VECTORS_BYTES = 64 << 20
"""The same, of one that may hold a vector for each clip of each speaker: 10 kB of text a clip."""


_all_of = attrgetter(*(field.name for field in fields(FileStamp)))
"""`dataclasses.astuple`, which looks for more dataclasses within, takes half as long as a whole scan."""


def may_be_companion(name: str) -> bool:
    """Return whether a file of this name belongs to a voice, if there is one that it fits."""
    return name.lower().endswith(ENDINGS) or is_pickled_table(name)


def most_bytes(name: str) -> int:
    """Return how large a companion of this name may be to be read."""
    vectors = f".{fold(name)}".endswith((".speakers.json", ".speakers.pth"))
    return MAX_VECTORS_BYTES if vectors else MAX_BYTES


class Neighbours:
    """The files of one folder among which companions are looked for."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are those that `may_be_companion`."""
        self._names = frozenset(names)
        self._folded: dict[str, str] = {}
        for name in sorted(self._names):
            self._folded.setdefault(fold(name), name)
        self._general = self._found("", GENERAL)

    def of(self, voice: str) -> tuple[str, ...]:
        """Return the names of the companions of the voice `voice` (a bare name), its own ones first."""
        if len(self._folded) == len(self._general):
            return self._general
        return tuple(dict.fromkeys((*self._found(stem_of(voice), OWN), *self._general)))

    def _found(self, stem: str, endings: Iterable[str]) -> tuple[str, ...]:
        """Return the names that are there, one at most for each of the endings, which are folded."""
        folded = fold(f"{stem}-").removesuffix("-")  # so that a dot or space at its end stays, as before an ending
        found = (
            name if (name := f"{stem}{ending}") in self._names else self._folded.get(f"{folded}{ending}")
            for ending in endings
        )
        return tuple(name for name in found if name is not None)


def digest(stamps: Mapping[str, FileStamp]) -> str:
    """Return a text that is another one when a companion comes, changes or goes; empty where there is none."""
    facts = json.dumps([(name, *_all_of(stamp)) for name, stamp in sorted(stamps.items())])
    return hashlib.sha256(facts.encode()).hexdigest()[:16] if stamps else ""
