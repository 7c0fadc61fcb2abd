"""What an ONNX file says of itself, beside what its voice is: a client believes the file.

The keys are those that exporters write; a file that says nothing is not blamed, but for the one face whose client
then assumes something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from voicekiln.errors import plain

PARTS: Final = ("metadata", "model_info")
"""Keys whose value is a JSON object of its own: w-okada's and Vietnamese-RVC's."""

FACTS: Final[Mapping[str, str]] = {
    "samplingRate": "sample_rate",
    "sample_rate": "sample_rate",
    "sr": "sample_rate",
    "hop": "hop",
    "f0": "f0",
    "embChannels": "feature_width",
    "feature_width": "feature_width",
    "embOutputLayer": "feature_layer",
    "feature_layer": "feature_layer",
    "useFinalProj": "final_projection",
    "final_projection": "final_projection",
    "speakers": "speakers",
    "family": "family",
}
"""What files say, and the fact of the voice that it has to agree with."""
CONFIG_LENGTHS: Final = (18, 19)
MAX_JSON: Final = 100_000
MAX_RATE: Final = 1_000_000
"""Hz."""


def sample_rate(metadata: Mapping[str, str]) -> int | None:
    """Return the rate that a file says it has, in Hz; None if it does not say."""
    for key, value in _facts(metadata):
        if FACTS.get(key) == "sample_rate" and isinstance(rate := _plainly(value), int) and 0 < rate <= MAX_RATE:
            return rate
    return None


def contradictions(metadata: Mapping[str, str], model: Mapping[str, Any], face: str) -> list[str]:
    """Return a sentence for each fact in a file's metadata that its voice proves wrong."""
    said = []
    for key, value in _facts(metadata):
        fact = FACTS.get(key)
        if fact is not None and not _agree(value, model[fact]):
            said.append(f"Its metadata says {key} {plain(str(value), 60)}; the voice has {_shown(model[fact])}.")
        if key == "version" and str(value) in ("v1", "v2") and value != model["version"]:
            said.append(f"Its metadata says version {value}; the voice is {model['version']}.")
    if face.startswith("w-okada") and "metadata" not in metadata:
        said.append("It has no w-okada metadata: that client will take it for a v1 voice with f0 at 48000 Hz.")
    return list(dict.fromkeys(said))


def _facts(metadata: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield what the file says, key by key."""
    for key, text in metadata.items():
        if key in PARTS or key == "config":
            value = _json(text)
            if isinstance(value, dict):
                yield from ((str(inner), fact) for inner, fact in value.items())
            elif key == "config" and isinstance(value, list) and len(value) in CONFIG_LENGTHS:
                yield "sr", value[-1]
        else:
            yield key, _json(text) if text[:1] in '"{[' else text


def _json(text: str) -> Any:  # noqa: ANN401 - decoded JSON
    try:
        return json.loads(text) if len(text) <= MAX_JSON else None
    except (ValueError, RecursionError):
        return None


def _agree(said: object, true: object) -> bool:
    return _plainly(said) == _plainly(true)


def _plainly(value: object) -> object:
    """Return numbers and yes or no as numbers, however they are written: `40k`, `"40000"`, `True`."""
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return int(text == "true")
    if text.endswith("k") and text[:-1].isdecimal():
        return int(text[:-1][:6]) * 1000
    return int(text[:12]) if text.isdecimal() else text


def _shown(value: object) -> str:
    return {"True": "yes", "False": "no"}.get(str(value), str(value))
