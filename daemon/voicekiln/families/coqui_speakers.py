"""Who can speak with a voice, and in which languages: the tables beside it that name the rows of its embeddings.

A table that does not fit the weights is refused and not left aside: nobody would see that a voice speaks as somebody
else, or reads one language as another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from voicekiln.errors import Contradiction
from voicekiln.families.base import DVectors, Outline, exact
from voicekiln.families.companions import LANGUAGES, SPEAKERS, Companion, called, check_count, tables
from voicekiln.families.coqui_network import Settings
from voicekiln.families.rvc_config import shown

MAX_EXACT = 200
"""Characters of a name that is remembered as it was; a longer one is nobody's."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables beside a voice say of it."""

    d_vectors: DVectors | None
    speakers: Mapping[int, str] | None
    """Names by row of `emb_g`."""
    languages: Mapping[int, str] | None
    """Names by row of `emb_l`."""
    companions: tuple[str, ...]
    """Names of the files that were used."""
    notes: tuple[str, ...]


def read_tables(outline: Outline, settings: Settings, told: Mapping[int, str] | None) -> Tables:
    """Return what the tables beside a voice say of it.

    Args:
        outline: of the voice.
        settings: what it is made of.
        told: speakers' names, if its config has them; a table of its speakers knows better.

    Raises:
        Contradiction: if a table is of the kind that the voice wants and does not fit it.
    """
    notes: list[str] = []
    who = _first(outline, SPEAKERS, lambda table: _unwanted_speakers(table, settings), notes)
    tongues = _first(outline, LANGUAGES, lambda _: _unwanted_languages(settings), notes)
    found = Tables(
        d_vectors=_fitting(who, settings.gin_channels) if who and settings.speaker == "d_vector" else None,
        speakers=_names(who, "speakers", settings.speakers, every=False)
        if who and settings.speaker == "speaker_id"
        else told,
        languages=_names(tongues, "languages", settings.languages, every=True) if tongues else None,
        companions=tuple(table.name for table in (who, tongues) if table is not None),
        notes=tuple(notes),
    )
    return replace(found, notes=(*notes, *_unnamed(outline, found, settings)))


def named(name: str, kind: str, raw: object, rows: int) -> dict[int, str]:
    """Return names by row, as they stand in a table of numbers, or in a list.

    Args:
        name: of the file.
        kind: of what is named.
        raw: whatever stands there.
        rows: of the weights.

    Raises:
        Contradiction: if two have one number, one has none, or the weights have no such row.
    """
    found = raw.items() if isinstance(raw, dict) else ()
    pairs = [*enumerate(raw)] if isinstance(raw, list) else [(row, each) for each, row in found]
    numbers = {row for row, each in pairs if type(row) is int and isinstance(each, str)}
    if not pairs or len(numbers) < len(pairs):
        raise Contradiction(what=f"{shown(name)} has {kind} without a number of their own")
    check_count(len(pairs))
    if wrong := [row for row in numbers if not 0 <= row < rows]:
        what = f"{shown(name)} gives one of its {kind} the number {shown(wrong[0])}, the weights have {rows}"
        raise Contradiction(what=f"{what}, counted from 0")
    return {row: _brief(each) for row, each in sorted(pairs)}


def _first(
    outline: Outline, general: tuple[str, ...], unwanted: Callable[[Companion], str | None], notes: list[str]
) -> Companion | None:
    """Return the first table that the voice wants; to `notes` goes a sentence for each one before it."""
    for table in tables(outline, general):
        if table.values is None:
            notes.append(table.unread())
        elif (why := unwanted(table)) is not None:
            notes.append(f"{shown(table.name)}, which lies beside it, {why} and was left aside.")
        else:
            return table
    return None


def _unwanted_speakers(table: Companion, settings: Settings) -> str | None:
    """Complete the sentence on a table of speakers that the voice has no use for."""
    match settings.speaker, isinstance(table.values, DVectors):
        case "none", _:
            return "names speakers, of whom this voice has only one,"
        case "d_vector", False:
            return "has no d-vectors, which this voice wants,"
        case "speaker_id", True:
            return "has d-vectors, where this voice wants numbers of speakers,"
    return None


def _unwanted_languages(settings: Settings) -> str | None:
    return None if settings.languages else "names languages, which this voice is not told,"


def _fitting(table: Companion, width: int) -> DVectors:
    """Return the d-vectors of a table.

    Raises:
        Contradiction: if they are too wide or too narrow, and what can be done about it.
    """
    vectors: DVectors = table.values
    if vectors.width != width:
        what = f"{shown(table.name)} has d-vectors of {vectors.width} numbers, the weights take {width}"
        raise table.refused(Contradiction(what=what))
    return vectors


def _names(table: Companion, kind: str, rows: int, *, every: bool) -> dict[int, str]:
    """Return what a table names.

    Args:
        table: of numbers by name.
        kind: of what is named.
        rows: of the weights.
        every: whether each of them has to have a name.

    Raises:
        Contradiction: if it does not fit them, and what can be done about it.
    """
    count = len(table.values) if isinstance(table.values, dict) else 0
    if every and count != rows:
        what = f"{shown(table.name)} names {count} {kind}, the weights have {rows}"
        raise table.refused(Contradiction(what=what))
    try:
        return named(table.name, kind, table.values, rows)
    except Contradiction as problem:
        raise table.refused(problem) from problem


def _unnamed(outline: Outline, found: Tables, settings: Settings) -> Iterator[str]:
    """Give a sentence for each thing that the voice is told and that nothing beside it names.

    A table that cannot be read has a sentence of its own, and is not asked for.
    """
    speakers_readable, languages_readable = (
        all(table.values is not None for table in tables(outline, kind)) for kind in (SPEAKERS, LANGUAGES)
    )
    if speakers_readable and settings.speaker == "d_vector" and found.d_vectors is None:
        yield (
            "It comes without its speakers.json, so no d-vector of it is known. Put its speakers.json beside it, or "
            "find d-vectors with its speaker encoder (model_se.pth)."
        )
    if speakers_readable and settings.speakers > 1 and found.speakers is None:
        yield _numbers("speakers", settings.speakers, "speaker_ids.json")
    if languages_readable and settings.languages > 1 and found.languages is None:
        yield _numbers("languages", settings.languages, "language_ids.json")


def _numbers(kind: str, rows: int, name: str) -> str:
    return (
        f"Nothing names its {rows} {kind}, so they have numbers, counted from 0. Put its {name} beside it, and it is "
        "converted again with their names."
    )


def _brief(name: str) -> str:
    """Return a name as a person may read it, which remembers what it was unless it is very long."""
    return name if len(exact(name)) <= MAX_EXACT else called(name)
