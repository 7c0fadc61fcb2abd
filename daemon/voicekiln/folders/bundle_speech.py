"""How the parts of a voice that reads text plug together: a clip of somebody and tokens in, and sound out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from voicekiln.folders.bundle_parts import (
    SPOKEN,
    Member,
    Members,
    Role,
    Step,
    chained,
    differing,
    graph,
    number,
    size,
    table,
    taking,
    texts,
    useless,
)
from voicekiln.job import Port

PARTS: tuple[Role, ...] = ("speaker_encoder",)
"""What such a voice has a use for."""
D_VECTORS: Mapping[str, str] = {
    "d_vector": "",
    "source_d_vector": "of a clip of the source",
    "target_d_vector": "of a clip of the target",
}
"""Under what a speaker's vector is fed, and whose it is; a graph that changes one into the other takes two."""


def told(chosen: Members) -> dict[str, Any]:
    """Return what the bundle says beside its parts; features and their interpolation are for voices that sing."""
    model = chosen["voice"].conversion.model
    return {
        "features": {},
        "interpolation": {},
        "sample_rate": number(model.get("sample_rate")),
        "hop": number(model.get("hop")),
        "chain": list(chained(chosen, _steps(chosen))),
        "disagreements": list(_disagreements(chosen)),
    }


def _steps(chosen: Members) -> Iterator[Step]:
    """Give the networks from clip and tokens to sound, in their order.

    Of a voice with several faces the chain has the one that leaves most to the caller: encoder and decoder.
    """
    if "speaker_encoder" in chosen and _taker(chosen["voice"]) is not None:
        hears = chosen["speaker_encoder"]
        mean = _rule(hears, "d_vector", "of_a_clip")
        rules = {name: ": ".join(filter(None, (whose, mean))) for name, whose in D_VECTORS.items()}
        yield Step("speaker_encoder", None, dict.fromkeys(D_VECTORS, 0), rules, {"waveform": _windows(hears)})
    voice = chosen["voice"]
    part = next(part for part in SPOKEN if graph(voice, part) is not None)
    if part == "decoder":
        rule = _rule(voice, "durations", "rule")
        yield Step("voice", "encoder", {"mean": 0, "log_deviation": 1, "durations": 2}, {"durations": rule})
    yield Step("voice", part, {})


def _rule(member: Member, of: str, name: str) -> str:
    """Return what the sidecar's `feed` says is done to an output; nothing where it does not say."""
    return texts(table(member.conversion.feed, of), (name,)).get(name, "")


def _windows(hears: Member) -> str:
    """Return how a clip is cut for a speaker encoder; nothing where its sidecar does not say."""
    told = table(hears.conversion.feed, "windows")
    said, samples = texts(told, ("starts", "shorter")), number(told.get("samples"))
    if samples is None or said.keys() < {"starts", "shorter"}:
        return ""
    cut = f"windows of {samples} samples of the clip, which begin at {said['starts']}; {said['shorter']}"
    loud = texts(table(hears.conversion.feed, "loudness"), ("rule",)).get("rule")
    return f"{cut}; first, {loud}" if loud else cut


def _disagreements(chosen: Members) -> Iterator[str]:
    """Give a sentence for each thing in which the voice and the speaker encoder differ.

    Their sample rates need not be equal: the encoder hears a clip, not the voice.
    """
    port = _taker(chosen["voice"])
    yield from useless(chosen, PARTS if port is not None else ())
    if port is not None and "speaker_encoder" in chosen:
        yield from differing("d-vectors", " wide", {"voice": size(port), "speaker_encoder": _made(chosen)})


def _taker(voice: Member) -> Port | None:
    """Return the input of a voice that takes d-vectors."""
    ports = (taking(voice, part, *D_VECTORS) for part in SPOKEN)
    return next((port for port in ports if port is not None), None)


def _made(chosen: Members) -> int | None:
    """Return how wide the d-vectors are that the speaker encoder makes."""
    found = graph(chosen["speaker_encoder"], None)
    return size(found[0].outputs[0]) if found is not None and found[0].outputs else None
