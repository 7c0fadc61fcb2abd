"""YourTTS and every other voice of Coqui's VITS, and what has the same network: the original VITS and MMS.

A file is known by its tensors' names. What it is made of is measured in them; what they do not tell - symbols, rates -
stands in the config, within the checkpoint or beside it. By default it becomes two files, `encoder` and `decoder`, so
that the caller makes whole numbers of the durations, and has all randomness in his hands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

from voicekiln.errors import NoSuchFace, OtherFamily
from voicekiln.families import coqui_feed as feeding
from voicekiln.families import coqui_sidecar as sidecar
from voicekiln.families.base import MAX_ONNX_BYTES, PLAIN, WANTED_DB, Claim, Exportable, NotMine, Outline
from voicekiln.families.coqui_names import canonical, layout
from voicekiln.families.coqui_network import Made, Settings, expected, network
from voicekiln.families.coqui_settings import UNHEARD, Reading, read
from voicekiln.families.coqui_usual import SINGLE, VCTK, YOURTTS, outline
from voicekiln.families.tensors import compare, contradiction, folded, stored
from voicekiln.families.weights import AsIs, Rule, rules
from voicekiln.job import Data, Part, Recipe

READING = (
    *("symbols", "filter_channels", "heads", "layers", "kernel", "window", "languages", "language_channels"),
    *("stochastic", "duration_channels", "duration_kernel", "duration_layers", "duration_flows", "duration_bins"),
    *("duration_by_speaker", "duration_by_language", "glow_norm"),
)
"""Settings of what reads the text."""
SPEAKING = (
    *("flows", "flow_layers", "flow_kernel", "flow_dilation", "initial", "rates", "up_kernels", "block_kernels"),
    *("dilations", "sample_rate", "encoder_rate"),
)
"""Settings of what speaks it."""
HEARING = ("spectrum", "posterior_layers", "posterior_kernel", "posterior_dilation")
"""Settings of what hears another speaker."""
WITHOUT: Mapping[Made, tuple[str, ...]] = {
    "encoder": SPEAKING + HEARING,
    "decoder": READING + HEARING,
    "single": HEARING,
    "voice-conversion": READING,
}
"""Which settings a part has nothing of, and which so do not tell its graphs apart."""

IN_HALF = "waveform_decoder"
"""All that is half in an fp16 file: nearly all of the work, and 3 dB better than with the flow."""

LICENCE = "A converted voice stays under the terms of the voice that it was made from."
YOURTTS_LICENCE = (
    "The YourTTS weights that Coqui released are under CC BY-NC-ND 4.0: do not pass on files that were made from them."
)
IN_FLOAT32 = (
    "The encoder is float32 in its fp16 file as well: durations are rounded up, and half precision would now and then "
    "make one longer or shorter."
)
NO_ROOM = "Its {symbols} symbols are more than there is room for in the sidecar; they are those of its config."
CLEANED = (
    "Its symbols are what its text cleaner, {cleaner}, makes of a text, and of that the file knows nothing: "
    "let a text go through it first."
)
NO_LIVE = "w-okada's client converts voices and does not read texts"
NO_MOEVS = "MoeVoiceStudio does not open Coqui's voices through this interface"
NO_POSTERIOR = "the part that listens, the posterior encoder, is not in the file; the training checkpoint has it"
ONE_SPEAKER = "it knows one speaker, so there is nobody to convert"
TWO_RATES = "its decoder works at another sample rate than the rest, and so it cannot listen to what it says"


class CoquiVits:
    """The family; see `voicekiln.families.base.Family`."""

    name = "coqui-vits"
    title = "Coqui VITS and YourTTS (text to speech)"

    def usual(self) -> Iterable[Outline]:
        """Return YourTTS, and what Coqui's VITS is by default, for one speaker and for VCTK's."""
        return map(outline, (YOURTTS, SINGLE, VCTK))

    def recognise(self, outline: Outline) -> Claim | NotMine:
        """Say whether this is such a voice.

        Raises:
            OtherFamily: if it is larger than an ONNX file.
            Contradiction: if its tensors, its config and its companions cannot all be true.
        """
        if layout(outline.tensors) is None:
            return NotMine("it has no text_encoder.emb.weight and no enc_p.emb.weight")
        found = read(outline)
        if (size := 4 * _parameters(found.settings)) > MAX_ONNX_BYTES:
            what = f"a VITS voice of {size / 1e9:.1f} GB in float32, more than one ONNX file can hold"
            raise OtherFamily(what=what, families=self.title)
        symbols = len(found.config.tokens or ())
        crowded = () if sidecar.has_room(found) else (NO_ROOM.format(symbols=symbols),)
        unknown = () if found.config.use_phonemes is not None else (CLEANED.format(cleaner=found.config.cleaner),)
        return Claim(self.name, found, _describe(outline, found), found.notes + crowded + unknown)

    def parts(self, _claim: Claim, recipe: Recipe) -> tuple[Part, ...]:
        """Return decoder and encoder for the family's own face, and the recipe's other ones."""
        faces: Iterable[tuple[Part, ...]] = (
            ("decoder", "encoder") if face == "rvc" else (face,) for face in recipe.interfaces
        )
        return tuple(part for face in faces for part in face)

    def build(self, claim: Claim, outline: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
        """Return one of the voice's networks, the decoder by default.

        Raises:
            Contradiction: if the tensors are not the ones that were claimed.
            NoSuchFace: if it is for clients of other voices, or what it needs is not in this one.
        """
        found: Reading = claim.settings
        _compare(found, outline)
        graph = _graph(found.settings, part or "decoder")
        made, told = _bare(found.settings, graph), found.config
        module, weights = network(made, graph), _weights(found.names)
        terms = (LICENCE, YOURTTS_LICENCE) if _is_yourtts(found.settings) else (LICENCE,)
        still_whole = graph == "encoder" and "fp16" in recipe.precisions
        noises = ("dp_noise", "noise") if found.settings.stochastic else ("noise",)
        return Exportable(
            graph_key=f"{self.name} {json.dumps(asdict(made))} {graph}",
            title=_title(found.settings, graph),
            module=module,
            weights={name: weights[name] for name in module.state_dict()},
            inputs=tuple(each.port for each in feeding.fed(found.settings, told, graph)),
            outputs=feeding.outputs(found.settings, graph),
            sample=feeding.sampler(found.settings, told, graph),
            wanted_db=WANTED_DB,
            metadata=sidecar.metadata(found, graph),
            feed=sidecar.feed(found),
            names=feeding.names(found.settings, told, graph),
            interface=graph,
            in_half="" if graph == "encoder" else IN_HALF,
            noises=noises if graph == "single" else (),
            rounds=graph == "single",
            notes=(*terms, IN_FLOAT32) if still_whole else terms,
        )

    def data(self, claim: Claim, _outline: Outline, _recipe: Recipe) -> Mapping[Data, Rule]:
        """Return the speakers' vectors, if they lie beside the voice."""
        vectors = claim.settings.d_vectors
        return {} if vectors is None else {"d_vectors": AsIs(vectors.tensor)}


def _graph(settings: Settings, part: Part) -> Made:
    """Return which network a part is.

    Raises:
        NoSuchFace: if there cannot be one.
    """
    match part:
        case "encoder" | "decoder" | "single":
            return part
        case "voice-conversion":
            if (why := _deaf(settings)) is not None:
                raise NoSuchFace(interface=part, why=why)
            return part
        case _:
            raise NoSuchFace(interface=part, why=NO_MOEVS if part == "moevs" else NO_LIVE)


def _is_yourtts(settings: Settings) -> bool:
    """Say whether a voice is what the paper of that name describes: told languages, and who speaks by d-vectors."""
    return settings.speaker == "d_vector" and settings.languages > 0


def _deaf(settings: Settings) -> str | None:
    """Return why a voice cannot be another's, if it cannot."""
    if settings.speaker == "none":
        return ONE_SPEAKER
    if not settings.spectrum:
        return NO_POSTERIOR
    return TWO_RATES if settings.encoder_rate != settings.sample_rate else None


def _bare(settings: Settings, graph: Made) -> Settings:
    """Return the settings with nothing of what the graph has nothing of, and of the two rates only their ratio."""
    ratio = Fraction(settings.sample_rate, settings.encoder_rate)
    rates = replace(settings, sample_rate=ratio.numerator, encoder_rate=ratio.denominator)
    return replace(rates, **{name: type(getattr(settings, name))() for name in WITHOUT[graph]})


def _compare(found: Reading, outline: Outline) -> None:
    """Refuse tensors that are not exactly those of the voice."""
    names = canonical(outline.tensors)
    used = {theirs: name for theirs, name in names.items() if theirs in found.names or not name.startswith(UNHEARD)}
    if problems := compare(expected(found.settings), folded({used[name]: outline.tensors[name] for name in used})):
        raise contradiction(problems)


def _weights(names: Mapping[str, str]) -> dict[str, Rule]:
    """Return the rule for each weight, by its name in the network; the file may call it otherwise."""
    return {
        names[name] if name in names else names[f"{name}_v"].removesuffix("_v"): rule
        for name, rule in rules(names).items()
    }


def _parameters(settings: Settings) -> int:
    return sum(map(math.prod, expected(settings).values()))


def _describe(outline: Outline, found: Reading) -> dict[str, Any]:
    """Return what `inspect` shows."""
    settings = found.settings
    vectors = len(found.d_vectors.names) if found.d_vectors else 0
    told: dict[str, Any] = {
        "family": CoquiVits.name,
        "version": "YourTTS" if _is_yourtts(settings) else "VITS",
        "sample_rate": settings.sample_rate,
        "hop": sidecar.length(settings)["hop"],
        "f0": False,
        "speaker": settings.speaker,
        # Who is told by d-vector may be anybody: counted are those that a table names.
        "speakers": vectors if settings.speaker == "d_vector" else settings.speakers or 1,
        "languages": [language.get("name") for language in sidecar.languages(found)],
        "symbols": settings.symbols,
        "hidden_size": settings.hidden,
        "layers": settings.layers,
        "heads": settings.heads,
        "window": settings.window,
        "stochastic_durations": settings.stochastic,
        "residual_blocks": settings.block,
        "voice_conversion": _deaf(settings) is None,
        "parameters": _parameters(settings),
        "weights": stored(outline.tensors),
        "weight_norm": any(name.endswith(".weight_g") for name in outline.tensors),
        "checkpoint": "training" if any(name.startswith("disc.") for name in outline.tensors) else "voice",
        "companions": [*found.companions],
    }
    if settings.encoder_rate != settings.sample_rate:
        told["encoder_sample_rate"] = settings.encoder_rate
    return told


def _title(settings: Settings, graph: Made) -> str:
    """Return what a person reads of a graph."""
    speaker = {"none": "one speaker", "d_vector": f"d-vectors of {settings.gin_channels}"}
    told = [
        speaker.get(settings.speaker, f"{settings.speakers} speakers"),
        f"{settings.languages or 1} language{'s' * (settings.languages > 1)}",
        "stochastic durations" if settings.stochastic else "plain durations",
    ]
    return f"Coqui VITS, {graph}, {settings.sample_rate} Hz, {', '.join(told)}"
