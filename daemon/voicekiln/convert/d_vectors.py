"""Tables of speakers and languages beside a voice, as Coqui writes them: numbers by name, or a vector for each clip.

Vectors are too many for plain data. Those of one speaker become their mean, which is what Coqui feeds for him, and the
means of a table one tensor, which rules read as they do the checkpoint's. Tables lie there as JSON or pickled; a pickle
goes through the same door as a checkpoint. Whatever is odd about one, it cannot be read, and nothing else comes of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from voicekiln.convert.companions import UNREADABLE, is_ours, json_in
from voicekiln.convert.data import NotPlainError, plain_data
from voicekiln.errors import Refusal, plain
from voicekiln.families.base import DVectors
from voicekiln.families.companions import MAX_NAMES

WIDTHS: Final = range(2, 4097)
MAX_NAME: Final = 200
"""Characters."""
MAX_CLIPS: Final = 200_000
MAX_SIGNS: Final = {b"{": MAX_CLIPS + 1, b"[": 2 * MAX_CLIPS, b":": 8 * MAX_CLIPS}
"""In JSON. Of tables, lists and keys Python makes up to 30 times their size; of 64 MiB within these bounds 1.2 GB."""
LEAST_BYTES: Final = 2
"""A number takes as much of a file: a digit and a comma, or half precision."""


_Ids = dict[str, int]
_Vectors = tuple[DVectors, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables beside a voice say."""

    values: dict[str, _Ids | DVectors | None] = field(default_factory=dict)
    """Numbers by name, or what there is to know of vectors; None if it cannot be read. By file names, made plain."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """The vectors, by `DVectors.tensor`."""


def read(copies: Mapping[str, Path | None], load: Callable[[Path], Any], taken: Container[str]) -> Tables:
    """Return what the tables say.

    A sidecar of our own is none, as in `companions.read`.

    Args:
        copies: where each lies on local disk, by its name; None where nobody could read it.
        load: opens a pickle as a checkpoint is opened.
        taken: the names of the checkpoint's tensors, which none of the vectors gets.

    Raises:
        OSError, MemoryError: if the machine fails.
    """
    tables = Tables()
    for name, path in copies.items():
        shown = plain(name)
        try:
            said = None if path is None else _decoded(name, path, load)
            if is_ours(said):
                continue
            numbers = 0 if path is None else path.stat().st_size // LEAST_BYTES
            found = _table(said, numbers, _free(f"beside/{shown}", taken))
        except (Refusal, *UNREADABLE):
            found = None
        if isinstance(found, tuple):
            tables.values[shown], tables.tensors[found[0].tensor] = found
        else:
            tables.values[shown] = found
    return tables


def _free(name: str, taken: Container[str]) -> str:
    """Return the name, or one like it that is not taken."""
    while name in taken:
        name += "'"
    return name


def _decoded(name: str, path: Path, load: Callable[[Path], Any]) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what stands in a table."""
    if name.casefold().endswith(".pth"):
        return load(path)
    text = path.read_bytes()
    if any(text.count(sign) > most for sign, most in MAX_SIGNS.items()):
        raise NotPlainError
    return json_in(text)


def _table(said: Any, numbers: int, tensor: str) -> _Ids | _Vectors:  # noqa: ANN401 - as above
    """Return what a table says whose file has room for so many numbers; raises one of `UNREADABLE` if it is none."""
    if not isinstance(said, dict) or len(said) > MAX_CLIPS:
        raise NotPlainError
    clips = [*dict.values(said)]
    if clips and all(isinstance(clip, dict) for clip in clips):
        return _means(clips, numbers, tensor)
    ids = plain_data(said)
    if len(ids) < len(clips) or not all(type(number) is int and number >= 0 for number in ids.values()):
        raise NotPlainError
    return dict(ids)


def _means(clips: Iterable[dict[Any, Any]], numbers: int, tensor: str) -> _Vectors:
    """Return the mean of each speaker's vectors, the speaker first who comes first."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    width = 0
    for clip in clips:
        name, vector = _name(dict.get(clip, "name")), _vector(dict.get(clip, "embedding"))
        width = width or len(vector)
        numbers -= width  # one list may stand in many places, which takes a few bytes each time
        if len(vector) != width or numbers < 0:
            raise NotPlainError
        sums[name] = sums[name] + vector if name in sums else vector
        counts[name] = counts.get(name, 0) + 1
        if len(sums) > MAX_NAMES:
            raise NotPlainError
    vectors = torch.stack([sums[name] / counts[name] for name in sums]).to(torch.float32)
    if not vectors.isfinite().all():
        raise NotPlainError
    names = tuple(plain_data(name) for name in sums)
    return DVectors(names, tuple(counts.values()), width, tensor), vectors


def _name(said: Any) -> str:  # noqa: ANN401 - as above
    if not isinstance(said, str) or len(said) > MAX_NAME:
        raise NotPlainError
    return said


def _vector(said: Any) -> torch.Tensor:  # noqa: ANN401 - as above
    """Return the vector of a clip, float64."""
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], list):
        [said] = said
    if isinstance(said, list) and len(said) in WIDTHS and {*map(type, said)} <= {int, float}:
        return torch.frombuffer(array("d", said), dtype=torch.float64)
    if isinstance(said, torch.Tensor) and said.is_floating_point() and said.layout == torch.strided:
        width = said.numel()
        if width in WIDTHS and said.shape in ((width,), (1, width)):
            return said.detach().reshape(-1).to(torch.float64)
    raise NotPlainError
