"""What clients of a voice that reads text have to know beside its ONNX files, for the sidecar and in the files.

Symbols and names are a stranger's texts, and some symbols cannot be shown (a no-break space, a joiner): those stand in
a table of their own, by code points. What is told of speakers is bounded, and symbols are only listed if there is room:
an answer has at most `worker.wire.MAX_LINE` bytes, a sidecar `folders.sidecar.MAX_VALUES` values.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from voicekiln.errors import plain
from voicekiln.families.base import exact
from voicekiln.families.companions import called
from voicekiln.families.coqui_config import Config
from voicekiln.families.coqui_network import Made, Settings
from voicekiln.families.coqui_settings import Reading
from voicekiln.nets.alignment import MAX_TOKEN_FRAMES

MAX_VALUES = 19_000
"""Of symbols, speakers and languages, as the sidecar counts; the rest is for all else that it says."""
MAX_BYTES = 800_000
"""Of the tables of symbols and of speakers."""
MAX_RAW = 400
"""Bytes of a name as it is in the file."""
SCALES = ("noise_scale", "length_scale", "noise_scale_dp")
"""In the order in which `single` is fed them."""
TEXT = ("blank", "pad", "bos", "eos", "add_blank", "use_eos_bos", "use_phonemes", "cleaner", "phonemizer")
"""Facts on how a text becomes tokens, by their names in the config; one that is None is left out."""
ORDER = (
    "symbols to numbers, unknown ones left out; add_blank: the blank before, between and after them; use_eos_bos: bos "
    "before and eos after all that"
)
UNKNOWN = "unknown"
"""What a file says of a language that nobody names; clients refuse to read nothing."""


def feed(found: Reading) -> dict[str, Any]:
    """Return what the sidecar says on how to feed the ONNX files, but for the names."""
    settings, told = found.settings, found.config
    facts: dict[str, Any] = {
        "sample_rate": settings.sample_rate,
        **length(settings),
        **text(found),
        "scales": {name: getattr(told, name) for name in SCALES},
        "durations": {
            "rule": f"min(ceil(w * length_scale), {MAX_TOKEN_FRAMES})",
            "frames": "max(1, the sum of the durations)",
            "most_frames_of_single": settings.most_frames,
        },
        "noise": {"distribution": "standard normal, multiplied by noise_scale"},
    }
    if settings.stochastic:
        facts["duration_noise"] = {"distribution": "standard normal, multiplied by noise_scale_dp"}
    if settings.languages:
        facts["languages"] = languages(found)
    if settings.gin_channels:
        facts["speakers"] = speakers(found)
    if settings.speaker == "d_vector":
        facts["d_vector"] = {
            "width": settings.gin_channels,
            "rule": "a row of d_vectors, or the mean of what a speaker encoder makes of windows of a clip; of any "
            "length, as the voice divides it by its length",
        }
    return facts | (_spectrogram(told, settings) if settings.spectrum else {})


def text(found: Reading) -> dict[str, Any]:
    """Return what turns a text into tokens; without the symbols if nobody knows them or there is no room for them."""
    facts = {name: getattr(found.config, name) for name in TEXT}
    facts["phoneme_language"] = found.config.phoneme_language
    told = {name: _plain(fact) for name, fact in facts.items() if fact is not None}
    told["tokens_rule"] = ORDER
    return (symbols(found.config.tokens or {}) if has_room(found) else {}) | told


def symbols(tokens: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the table from symbol to number, and that of symbols that cannot be shown, by their code points."""
    shown = {symbol: number for symbol, number in tokens.items() if plain(symbol, len(symbol)) == symbol}
    hidden = {points(symbol): number for symbol, number in tokens.items() if symbol not in shown}
    return ({"tokens": shown} if shown else {}) | ({"tokens_by_code_point": hidden} if hidden else {})


def points(symbol: str) -> str:
    """Return a symbol's code points in hexadecimal, joined by plus signs."""
    return "+".join(f"{ord(c):x}" for c in symbol)


def has_room(found: Reading) -> bool:
    """Say whether the table of symbols fits into the sidecar, beside the speakers and languages."""
    tokens = found.config.tokens or {}
    listed = 2 * len(tokens) + 9 * len(speakers(found)) + 5 * found.settings.languages
    text = json.dumps([symbols(tokens), speakers(found)], ensure_ascii=False)
    return listed <= MAX_VALUES and len(text.encode()) <= MAX_BYTES


def languages(found: Reading) -> list[dict[str, Any]]:
    """Return the languages by number; those that nobody names without a name."""
    known = found.languages or {}
    return [{"id": row} | (_named(known[row]) if row in known else {}) for row in range(found.settings.languages)]


def speakers(found: Reading) -> list[dict[str, Any]]:
    """Return the speakers that somebody names: by row of the vectors beside it, or by their number in the voice."""
    if found.d_vectors is not None:
        each = zip(found.d_vectors.names, found.d_vectors.clips, strict=True)
        return [{"row": row, **_named(name), "clips": clips} for row, (name, clips) in enumerate(each)]
    return [{"id": number, **_named(name)} for number, name in sorted((found.speakers or {}).items())]


def _named(name: str) -> dict[str, str]:
    """Return a name for reading and, if that is not all of it, what it is as Python escapes it.

    Backslashes are doubled then, so that a newline and a backslash before an n are told apart.
    """
    whole = exact(name)
    shown = called(whole).strip()
    raw = "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in whole)
    return {"name": shown} | ({"raw": raw} if shown != whole and len(raw.encode()) <= MAX_RAW else {})


def _plain(fact: object) -> object:
    return plain(fact) if isinstance(fact, str) else fact


def length(settings: Settings) -> dict[str, Any]:
    """Return how long the sound is: samples a frame, and, where that is no whole number, how to count them."""
    per_frame = hop(settings)
    if per_frame.denominator == 1:
        return {"hop": int(per_frame)}
    ratio = Fraction(settings.sample_rate, settings.encoder_rate)
    rule = f"floor(frames * {ratio.numerator} / {ratio.denominator}) * {settings.hop}"
    return {"hop": round(float(per_frame), 6), "samples": rule}


def hop(settings: Settings) -> Fraction:
    """Return how many samples are made of a frame; the latent sound may be stretched on its way."""
    return settings.hop * Fraction(settings.sample_rate, settings.encoder_rate)


def _spectrogram(told: Config, settings: Settings) -> dict[str, Any]:
    """Return of what a conversion is made."""
    sizes = {"bins": settings.spectrum, "fft_size": told.fft_size, "window": told.win_length, "hop": told.hop_length}
    return {
        "spectrogram": {
            **{name: size for name, size in sizes.items() if size is not None},
            "sample_rate": told.encoder_rate,
            "formula": "sqrt(re^2 + im^2 + 1e-6), Hann window",
            "padding": "mirrored by (fft_size - hop) / 2 at each end",
            "noise": "standard normal",
        }
    }


def metadata(found: Reading, part: Made) -> dict[str, str]:
    """Return what a client needs, for the ONNX files themselves; `single` says it in sherpa-onnx' words as well."""
    settings, told = found.settings, found.config
    facts: dict[str, Any] = {
        "family": "coqui-vits",
        "sample_rate": settings.sample_rate,
        "hop": length(settings)["hop"],
        "speaker": settings.speaker,
        "n_speakers": settings.speakers,
        "languages": settings.languages,
        "add_blank": int(told.add_blank),
        "blank_id": told.blank,
        "pad_id": told.pad,
        "bos_id": told.bos,
        "eos_id": told.eos,
        "use_eos_bos": int(told.use_eos_bos),
        **{name: getattr(told, name) for name in SCALES},
    }
    if part == "single":
        punctuation = [symbol for symbol in told.tokens or {} if unicodedata.category(symbol[0]).startswith("P")]
        facts |= {
            "model_type": "vits",
            "comment": "coqui",
            "version": 1,
            "frontend": {True: "", False: "characters", None: None}[told.use_phonemes],
            "voice": told.phoneme_language if told.use_phonemes else None,
            "language": told.phoneme_language or (found.languages or {}).get(0) or UNKNOWN,
            "punctuation": " ".join(punctuation),
        }
    return {key: str(value) for key, value in facts.items() if value is not None}
