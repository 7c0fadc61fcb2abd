"""How the parts of a voice that sings plug together: features of speech in, and sound out, refined by diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from voicekiln.folders.bundle_parts import (
    ROLES,
    Member,
    Members,
    Role,
    Step,
    chained,
    differing,
    number,
    size,
    table,
    taking,
    texts,
    useless,
)

PARTS: tuple[Role, ...] = ("diffusion", "kmeans", "index", "vocoder")
"""What such a voice has a use for."""
FACTS = {"sample_rate": ("sample rate", "Hz"), "hop": ("hop", "samples a frame")}
"""What all parts with sound in them share, and how people call it."""


def told(chosen: Members) -> dict[str, Any]:
    """Return what the bundle says beside its parts."""
    feed, model = chosen["voice"].conversion.feed, chosen["voice"].conversion.model
    return {
        "features": _features(feed, model),
        "interpolation": texts(table(feed, "stretch"), ("rule", "formula")),
        **{name: number(model.get(name)) for name in FACTS},
        "chain": list(chained(chosen, _steps(chosen))),
        "disagreements": list(_disagreements(chosen)),
    }


def _features(feed: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return which speech features the voice is fed."""
    wanted = table(feed, "features")
    numbers = {
        "layer": number(wanted.get("layer")),
        "width": number(wanted.get("width")) or number(model.get("feature_width")),
        "units_per_second": number(wanted.get("frames_per_second")),
    }
    return texts(wanted, ("encoder",)) | {name: value for name, value in numbers.items() if value is not None}


def _steps(chosen: Members) -> Iterator[Step]:
    """Give the networks from features to sound, in their order.

    Centres and index stand for the same step, as in so-vits-svc, which takes one of them. Without diffusion, nothing
    has to go through a mel spectrogram.
    """
    if "kmeans" in chosen or "index" in chosen:
        yield Step("kmeans" if "kmeans" in chosen else "index", None, {"features": 0})
    yield Step("voice", None, {"audio": 0})
    if "diffusion" in chosen:
        if "vocoder" in chosen:
            yield Step("vocoder", "mel", {"mel": 0})
        yield Step("diffusion", None, {"mel": 0})
        if "vocoder" in chosen:
            yield Step("vocoder", None, {"audio": 0})


def _disagreements(chosen: Members) -> Iterator[str]:
    """Give a sentence for each thing in which parts that feed each other differ."""
    if "kmeans" in chosen and "index" in chosen:
        yield (
            "There are k-means centres and a feature index; one of them is used at a time. The chain has the centres; "
            "the index can take their place."
        )
    sounding = [role for role in ROLES if role in ("voice", "diffusion", "vocoder") and role in chosen]
    for fact, (what, unit) in FACTS.items():
        known: dict[str, object] = {role: number(chosen[role].conversion.model.get(fact)) for role in sounding}
        yield from differing(what, f" {unit}", known)
    wide = [role for role in ROLES if role in chosen and role in ("voice", "diffusion", "kmeans", "index")]
    yield from differing("features", " wide", {role: _width(chosen[role]) for role in wide})
    yield from differing("mel spectrograms", " bands", _bands(chosen))
    sung = {role: chosen[role] for role in sounding if role != "vocoder"}
    yield from differing("speech encoder", "", {role: _encoder(member) for role, member in sung.items()})
    rules = {role: texts(table(member.conversion.feed, "stretch"), ("rule",)) for role, member in sung.items()}
    yield from differing(
        "way in which units become frames", "", {role: rule.get("rule") for role, rule in rules.items()}
    )
    if "diffusion" in chosen and "vocoder" not in chosen:
        yield "There is no vocoder in this folder, and diffusion makes mel spectrograms: take the one it was made for."
    yield from useless(chosen, PARTS)


def _width(member: Member) -> int | None:
    """Return how wide the features are that the main graph takes, or those that the sidecar tells of."""
    model, feed = member.conversion.model, member.conversion.feed
    port = taking(member, None, "features")
    says = (number(model.get("feature_width")), number(table(feed, "features").get("width")))
    return next((n for n in (None if port is None else size(port), *says) if n is not None), None)


def _bands(chosen: Members) -> dict[str, object]:
    """Return how many mel bands diffusion makes and the vocoder takes."""
    roles: tuple[Role, ...] = ("diffusion", "vocoder")
    ports = {role: taking(chosen[role], None, "mel") for role in roles if role in chosen}
    return {role: size(port) for role, port in ports.items() if port is not None}


def _encoder(member: Member) -> str | None:
    says = {**table(member.conversion.feed, "features"), "embedder": member.conversion.model.get("embedder")}
    return next(iter(texts(says, ("encoder", "embedder")).values()), None)
