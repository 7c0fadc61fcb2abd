"""What a VITS voice that reads text is made of: tensors, its config, and tables of speakers and languages beside it.

Sizes are measured in the tensors; what they do not tell (rates, dilations, symbols) the config has to say, so there is
none without. It may lie beside the voice under its name, in the checkpoint itself, or beside it as `config.json`, and
the first of these is believed. A `config.json` that contradicts the weights is refused even where the checkpoint has
one that fits: a folder of one model is one bundle, and somebody mixed up the parts of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from voicekiln.errors import Contradiction, NoCompanion, plain
from voicekiln.families.base import DVectors, Outline
from voicekiln.families.companions import CONFIG, Companion, Table, beside
from voicekiln.families.coqui_config import Config, read_config
from voicekiln.families.coqui_names import Layout, canonical, layout
from voicekiln.families.coqui_network import Settings, expected
from voicekiln.families.coqui_sizes import check, check_upsampling, convolutions, measure
from voicekiln.families.coqui_speakers import named, read_tables
from voicekiln.families.rvc_config import shown
from voicekiln.families.tensors import Shape, compare, contradiction, folded

INNER = "its own config"
"""How a person is told of the one within the checkpoint."""
NO_SYMBOLS = (
    "Its config does not say enough to tell which symbol has which number, so there is no token map for it. Whoever "
    "trained the voice knows it (voices of MMS have it in vocab.txt)."
)
UNHEARD = "duration_predictor.cond."
"""By these tensors a plain duration predictor would be told the speaker. Coqui makes them even where it is not."""
SIZES = (
    *("symbols", "hidden", "channels", "filter_channels", "heads", "layers", "kernel", "flow_kernel", "flow_layers"),
    *("initial", "block_kernels", "up_kernels", "block", "stochastic"),
)
"""Settings that every voice has and configs know."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a voice is made of, and how that is known. Texts may be `base.Cleaned`."""

    settings: Settings
    config: Config
    """The one that was used."""
    names: Mapping[str, str]
    """The network's name of each tensor of the file, by the file's; without what is not used."""
    d_vectors: DVectors | None
    speakers: Mapping[int, str] | None
    """Names by row of `emb_g`."""
    languages: Mapping[int, str] | None
    """Names by row of `emb_l`."""
    companions: tuple[str, ...]
    """Names of the files beside the voice that were used."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Tensors:
    """What is known without a config."""

    layout: Layout
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]
    sizes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known with one."""

    config: Config
    tensors: _Tensors
    settings: Settings
    speakers: Mapping[int, str] | None
    companions: tuple[str, ...]


def read(outline: Outline) -> Reading:
    """Return what the voice is made of.

    Args:
        outline: of a file whose names `coqui_names.layout` knows.

    Raises:
        Contradiction: if the tensors, or they and what lies beside them, cannot all be true, or there is no config.
    """
    notes: list[str] = []
    told = _configured(outline, _tensors(outline), notes)
    check(told.settings)
    if problems := compare(expected(told.settings), told.tensors.shapes):
        raise contradiction(problems)
    tables = read_tables(outline, told.settings, told.speakers)
    if told.config.tokens is None:
        notes.append(NO_SYMBOLS)
    return Reading(
        settings=told.settings,
        config=told.config,
        names=told.tensors.names,
        d_vectors=tables.d_vectors,
        speakers=tables.speakers,
        languages=tables.languages,
        companions=(*told.companions, *tables.companions),
        notes=(*notes, *tables.notes),
    )


def facts(s: Settings) -> dict[str, Any]:
    """Return what configs claim of a voice, by the names in their claims; what it has nothing of is left out."""
    found = {name: getattr(s, name) for name in SIZES} | {
        "told_language": s.languages > 0,
        "told_speaker_id": s.speaker == "speaker_id",
        "told_d_vector": s.speaker == "d_vector",
    }
    if s.speaker != "none":
        found["duration_by_speaker"] = s.duration_by_speaker
    if s.speaker == "d_vector":
        found["d_vector_width"] = s.gin_channels
    if s.speaker == "speaker_id":
        found |= {"speaker_channels": s.gin_channels, "speakers": s.speakers}
    if s.languages:
        found["language_channels"] = s.language_channels
    if s.spectrum:
        found |= {name: getattr(s, name) for name in ("spectrum", "posterior_kernel", "posterior_layers")}
        found["fft_size"] = 2 * (s.spectrum - 1)
    return found


def _tensors(outline: Outline) -> _Tensors:
    """Return what the tensors tell.

    Raises:
        Contradiction: if they are no voice's.
    """
    whose = layout(outline.tensors)
    if whose is None:
        raise contradiction(["its tensors are those of no voice that reads text"])
    names = canonical(outline.tensors)
    ours: dict[str, str] = {}
    for theirs, name in names.items():
        if ours.setdefault(name, theirs) != theirs:
            both = f"{plain(ours[name], 120)} and {plain(theirs, 120)}"
            raise contradiction([f"{both} are two names of one tensor"])
    shapes = folded({name: outline.tensors[theirs] for name, theirs in ours.items()})
    return _Tensors(whose, names, shapes, measure(shapes))


def _configured(outline: Outline, tensors: _Tensors, notes: list[str]) -> _Told:
    """Return what is known with the voice's config; sentences about others go to `notes`.

    Raises:
        Contradiction: if there is none, or one that does not fit.
    """
    there: _Told | None = None
    for companion in beside(outline):
        name = shown(companion.name)
        if companion.values is None:
            notes.append(companion.unread())
        elif (told := _beside(companion, tensors)) is None:
            notes.append(
                f"{name}, which lies beside it, is no config of a VITS voice that reads text and was left aside."
            )
        elif companion.own:
            return told
        else:
            there = told
    inner = _told(INNER, outline.rest.get("config"), tensors)
    if inner is None:
        if there is None:
            raise _no_config(outline)
        return there
    if there is not None and _spoken(inner.config) != _spoken(there.config):
        notes.append(_otherwise(shown(there.companions[0])))
    return inner


def _no_config(outline: Outline) -> NoCompanion:
    """Return the refusal of a voice of which no config, within or beside it, is of any use."""
    lack = "there is none beside it"
    for companion in beside(outline):
        unread = companion.values is None
        lack = f"the one beside it {'cannot be read' if unread else 'is no config of a VITS voice that reads text'}"
    return NoCompanion(name=CONFIG[0], what=f"{lack}, and its tensors tell neither its sample rate nor its symbols")


def _beside(companion: Companion, tensors: _Tensors) -> _Told | None:
    """Return what is known with a companion; None if it is no config of such a voice.

    Raises:
        Contradiction: if it is one and does not fit, and what can be done about it.
    """
    try:
        told = _told(companion.name, companion.values, tensors)
    except Contradiction as problem:
        raise companion.refused(problem) from problem
    return told and replace(told, companions=(companion.name,))


def _told(name: str, raw: object, tensors: _Tensors) -> _Told | None:
    """Return what is known with a config; None if it is none of such a voice.

    Raises:
        Contradiction: if it does not fit the tensors.
    """
    config = read_config(name, raw, tensors.layout, tensors.sizes["symbols"])
    if config is None:
        return None
    heard = _heard(config, tensors)
    sizes, counts = heard.sizes, convolutions(heard.shapes, heard.sizes)
    settings = Settings(
        **sizes,
        rates=config.rates,
        # Configs may list more of them than residual blocks of their kind have.
        dilations=tuple(steps[:count] for steps, count in zip(config.dilations, counts, strict=False)),
        flow_dilation=config.flow_dilation,
        posterior_dilation=config.posterior_dilation if sizes["spectrum"] else 0,
        sample_rate=config.sample_rate,
        encoder_rate=config.latent_rate,
    )
    found, said_in = facts(settings), Table(name, {})
    for key, fact, said in config.claims:
        if fact in found:
            said_in.agree(key, said, found[fact])
    said_in.agree("dilations", tuple(map(len, settings.dilations)), counts)
    check_upsampling(settings)
    speakers = (
        named(name, "speakers", config.speakers, settings.speakers) if config.speakers and settings.speakers else None
    )
    return _Told(config, heard, settings, speakers, ())


def _heard(config: Config, tensors: _Tensors) -> _Tensors:
    """Return the tensors without `UNHEARD`, if the config says that they are not used."""
    unheard = any(fact == "duration_by_speaker" and not said for _, fact, said in config.claims)
    if tensors.sizes["stochastic"] or not unheard:
        return tensors
    return replace(
        tensors,
        names={theirs: name for theirs, name in tensors.names.items() if not name.startswith(UNHEARD)},
        shapes={name: shape for name, shape in tensors.shapes.items() if not name.startswith(UNHEARD)},
        sizes={**tensors.sizes, "duration_by_speaker": False},
    )


def _spoken(config: Config) -> tuple[object, ...]:
    """Return what of a config two voices of one network may differ in, as far as anybody would hear it at once."""
    return config.tokens, config.add_blank, config.rates, config.sample_rate, config.latent_rate


def _otherwise(name: str) -> str:
    return (
        f"{name}, which lies beside it, says other symbols or rates than the config in the checkpoint, and that was "
        f"believed. If {name} is right, put it beside the voice under the voice's own name."
    )
