"""Companions: small text files beside a voice that belong to it, may come after it, and then complete it.

`x.json`, `x.yaml` and `x.yml` are those of `x.pth` alone; `config.*` and `diffusion.*` are those of every voice in the
folder. What they are at a moment goes into the voice's stamp as one short text (`digest`), so that a companion that
comes, changes or goes is a change of the voice and needs no case of its own. They are known by their names, compared as
`names.fold` does; of several that are one on some file system (`Config.json` beside `config.json`) one is taken, and
always the same. `inbox` finds them, `spool` copies them, and what they say is for the worker to read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple

from voicekiln.folders.names import fold, stem_of
from voicekiln.job import FileStamp

ENDINGS = (".json", ".yaml", ".yml")
GENERAL = ("config.json", "config.yaml", "config.yml", "diffusion.yaml", "diffusion.yml")
"""Of all voices in a folder."""

MAX_BYTES = 1 << 20
"""A larger one is no text of a training tool; that it is there is known, what it says is not."""


def may_be_companion(name: str) -> bool:
    """Return whether a file of this name belongs to a voice, if there is one that it fits."""
    return name.lower().endswith(ENDINGS)


class Neighbours:
    """The files of one folder among which companions are looked for."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are those that `may_be_companion`."""
        self._names = frozenset(names)
        self._folded: dict[str, str] = {}
        for name in sorted(self._names):
            self._folded.setdefault(fold(name), name)
        self._general = self._found(GENERAL)

    def of(self, voice: str) -> tuple[str, ...]:
        """Return the names of the companions of the voice `voice` (a bare name), its own ones first."""
        if len(self._folded) == len(self._general):
            return self._general
        own = self._found([f"{stem_of(voice)}{ending}" for ending in ENDINGS])
        return tuple(dict.fromkeys((*own, *self._general)))

    def _found(self, wanted: Iterable[str]) -> tuple[str, ...]:
        found = (name if name in self._names else self._folded.get(fold(name)) for name in wanted)
        return tuple(name for name in found if name is not None)


def digest(stamps: Mapping[str, FileStamp]) -> str:
    """Return a text that is another one when a companion comes, changes or goes; empty where there is none."""
    facts = json.dumps([(name, *astuple(stamp)) for name, stamp in sorted(stamps.items())])
    return hashlib.sha256(facts.encode()).hexdigest()[:16] if stamps else ""
