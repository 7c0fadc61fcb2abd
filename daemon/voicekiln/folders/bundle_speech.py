"""How the parts of a voice that reads text plug together: a clip of somebody and tokens in, and sound out."""

from __future__ import annotations

from collections.abc import Iterator
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
D_VECTORS = ("d_vector", "source_d_vector", "target_d_vector")
"""Under what a speaker's vector is fed; the last two to a graph that changes one into the other, a clip of each."""


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
        rule = _rule(chosen["speaker_encoder"], "d_vector", "of_a_clip")
        yield Step("speaker_encoder", None, dict.fromkeys(D_VECTORS, 0), dict.fromkeys(D_VECTORS, rule))
    voice = chosen["voice"]
    part = next(part for part in SPOKEN if graph(voice, part) is not None)
    if part == "decoder":
        rule = _rule(voice, "durations", "rule")
        yield Step("voice", "encoder", {"mean": 0, "log_deviation": 1, "durations": 2}, {"durations": rule})
    yield Step("voice", part, {})


def _rule(member: Member, of: str, name: str) -> str:
    """Return what the sidecar's `feed` says is done to an output; nothing where it does not say."""
    return texts(table(member.conversion.feed, of), (name,)).get(name, "")


def _disagreements(chosen: Members) -> Iterator[str]:
    """Give a sentence for each thing in which the voice and the speaker encoder differ.

    Their sample rates need not be equal: the encoder hears a clip, not the voice.
    """
    yield from useless(chosen, ("diffusion", "kmeans", "index", "vocoder"))
    if "speaker_encoder" in chosen:
        if (port := _taker(chosen["voice"])) is not None:
            yield from differing("d-vectors", " wide", {"voice": size(port), "speaker_encoder": _made(chosen)})
        else:
            yield from useless(chosen, PARTS)


def _taker(voice: Member) -> Port | None:
    """Return the input of a voice that takes d-vectors."""
    ports = (taking(voice, part, *D_VECTORS) for part in SPOKEN)
    return next((port for port in ports if port is not None), None)


def _made(chosen: Members) -> int | None:
    """Return how wide the d-vectors are that the speaker encoder makes."""
    found = graph(chosen["speaker_encoder"], None)
    return size(found[0].outputs[0]) if found is not None and found[0].outputs else None
