"""The `config.json` of a VITS voice that reads text: what no tensor tells, and sizes that tensors tell as well.

Coqui's has `model_args` and `audio`, the original's `model` and `data`; beyond the names of things they are read alike.
What tensors tell as well is read so that another voice's config is found out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from voicekiln.errors import Contradiction
from voicekiln.families.companions import Table
from voicekiln.families.coqui_names import Layout
from voicekiln.families.coqui_tokens import Vocabulary, listed_vocabulary, vocabulary
from voicekiln.families.rvc_config import shown
from voicekiln.families.tensors import Shape, listed

MODEL = "vits"
"""As a Coqui config says whose it is; those of its other models may have the same parts."""
LETTERS = (None, "basic_cleaners", "transliteration_cleaners")
"""Cleaners of the original VITS that make no phonemes, and none at all."""
NOISE_SCALES = (0.0, 10.0)
LENGTH_SCALES = (0.1, 10.0)
"""Bounds of the scales with which a voice speaks if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What one of the two tools calls things."""

    parts: tuple[str, str]
    """The tables of the network and of the sound."""
    sizes: Mapping[str, str]
    """Of the network, and the settings that they are."""
    lists: Mapping[str, str]
    block: str
    rates: str
    dilations: str
    sample_rate: str
    fft_size: str
    noise_scale_dp: float
    """What is taken where it says nothing."""
    vocabulary: Callable[[Table, int], Vocabulary | None]


_DIALECTS: Mapping[Layout, _Dialect] = {
    "coqui": _Dialect(
        parts=("model_args", "audio"),
        sizes={
            "hidden_channels": "hidden",
            "hidden_channels_ffn_text_encoder": "filter_channels",
            "num_heads_text_encoder": "heads",
            "num_layers_text_encoder": "layers",
            "kernel_size_text_encoder": "kernel",
            "kernel_size_flow": "flow_kernel",
            "num_layers_flow": "flow_layers",
            "kernel_size_posterior_encoder": "posterior_kernel",
            "num_layers_posterior_encoder": "posterior_layers",
            "out_channels": "spectrum",
            "upsample_initial_channel_decoder": "initial",
            "d_vector_dim": "d_vector_width",
            "speaker_embedding_channels": "speaker_channels",
            "embedded_language_dim": "language_channels",
        },
        lists={"resblock_kernel_sizes_decoder": "block_kernels", "upsample_kernel_sizes_decoder": "up_kernels"},
        block="resblock_type_decoder",
        rates="upsample_rates_decoder",
        dilations="resblock_dilation_sizes_decoder",
        sample_rate="sample_rate",
        fft_size="fft_size",
        noise_scale_dp=1.0,
        vocabulary=vocabulary,
    ),
    "vits": _Dialect(
        parts=("model", "data"),
        sizes={
            "inter_channels": "channels",
            "hidden_channels": "hidden",
            "filter_channels": "filter_channels",
            "n_heads": "heads",
            "n_layers": "layers",
            "kernel_size": "kernel",
            "upsample_initial_channel": "initial",
            "gin_channels": "speaker_channels",
        },
        lists={"resblock_kernel_sizes": "block_kernels", "upsample_kernel_sizes": "up_kernels"},
        block="resblock",
        rates="upsample_rates",
        dilations="resblock_dilation_sizes",
        sample_rate="sampling_rate",
        fft_size="filter_length",
        noise_scale_dp=0.8,
        vocabulary=listed_vocabulary,
    ),
}
SWITCHES = {
    "use_sdp": "stochastic",
    "condition_dp_on_speaker": "duration_by_speaker",
    "use_language_embedding": "told_language",
}
SPEAKER_SWITCHES = {"use_speaker_embedding": "told_speaker_id", "use_d_vector_file": "told_d_vector"}


@dataclass(frozen=True, slots=True)
class Config:
    """What is read of it."""

    claims: tuple[tuple[str, str, Any], ...]
    """What tensors tell as well: its name for it, that in `coqui_settings.facts`, and what it says."""
    rates: Shape
    """Of the decoder's steps."""
    dilations: tuple[Shape, ...]
    flow_dilation: int
    posterior_dilation: int
    sample_rate: int
    """Hz, of what is heard."""
    encoder_rate: int
    """Hz, of the sound whose spectrogram the posterior encoder takes."""
    stretched: bool
    """Whether the latent sound is brought from that rate to the other by interpolation, and not by the decoder."""
    fft_size: int | None
    win_length: int | None
    hop_length: int | None
    """Samples, of that spectrogram."""
    tokens: Mapping[str, int] | None
    """Exact symbols; None if it does not say enough to tell them."""
    pad: int | None
    blank: int | None
    bos: int | None
    eos: int | None
    add_blank: bool
    """Whether the blank goes between all symbols and around them."""
    use_eos_bos: bool
    """Whether the symbols of the beginning and the end go around all that."""
    use_phonemes: bool | None
    """None where only the code of a cleaner would tell."""
    cleaner: str | None
    phonemizer: str | None
    phoneme_language: str | None
    noise_scale: float
    noise_scale_dp: float
    length_scale: float
    """What the voice is spoken with if nobody says otherwise."""
    speakers: object
    """Of the original's: names, or a table of their numbers; whatever stands there."""

    @property
    def latent_rate(self) -> int:
        """Hz, of the latent sound as it is when the decoder gets it, but for what the decoder brings it to itself."""
        return self.encoder_rate if self.stretched else self.sample_rate


def read_config(name: str, raw: object, layout: Layout, rows: int) -> Config | None:
    """Return what a config says; None if it is none of a voice of that layout.

    Args:
        name: for the person.
        raw: whatever lies there.
        layout: of the tensors.
        rows: how many symbols they know.

    Raises:
        Contradiction: if it says what cannot be.
    """
    dialect = _DIALECTS[layout]
    if not isinstance(raw, dict) or not all(isinstance(raw.get(part), dict) for part in dialect.parts):
        return None
    whole, model, sound = (Table(name, part) for part in (raw, *(raw[part] for part in dialect.parts)))
    if isinstance(kind := raw.get("model"), str) and kind.casefold() != MODEL:
        return None
    # The configs of singing voices have both parts of the original's, and none of these.
    if layout == "vits" and raw.keys().isdisjoint(("symbols", "speakers")) and _silent(sound):
        return None
    symbols = dialect.vocabulary(whole, rows)
    # The original's blank and pad are always its first symbol, whatever that is.
    first = None if layout == "coqui" else 0
    sample_rate = sound.given(dialect.sample_rate, sound.rate(dialect.sample_rate))
    encoder_rate = model.rate("encoder_sample_rate")
    if encoder_rate is not None and encoder_rate > sample_rate:  # a short text would have no frame left
        raise model.wrong("encoder_sample_rate", encoder_rate)
    config = Config(
        claims=tuple(_claims(dialect, model, sound, known=symbols is not None)),
        rates=model.given(dialect.rates, model.numbers(dialect.rates)),
        dilations=model.given(dialect.dilations, model.lists(dialect.dilations)),
        flow_dilation=model.number("dilation_rate_flow") or 1,
        posterior_dilation=model.number("dilation_rate_posterior_encoder") or 1,
        sample_rate=sample_rate,
        encoder_rate=encoder_rate or sample_rate,
        stretched=encoder_rate is not None and model.switch("interpolate_z") is not False,
        fft_size=sound.number(dialect.fft_size),
        win_length=sound.number("win_length"),
        hop_length=sound.number("hop_length"),
        **_texts(layout, whole, sound, symbols or Vocabulary({}, pad=first, blank=first)),
        tokens=None if symbols is None else symbols.tokens,
        noise_scale=_scale(model, "inference_noise_scale", 0.667),
        noise_scale_dp=_scale(model, "inference_noise_scale_dp", dialect.noise_scale_dp),
        length_scale=model.real("length_scale", *LENGTH_SCALES) or 1.0,
        speakers=raw.get("speakers") if layout == "vits" else None,
    )
    _check_hop(name, config)
    return config


def _silent(sound: Table) -> bool:
    """Say whether nothing in the table is about text."""
    return sound.values.keys().isdisjoint(("text_cleaners", "cleaned_text", "add_blank"))


def _claims(dialect: _Dialect, model: Table, sound: Table, *, known: bool) -> Iterator[tuple[str, str, Any]]:
    """Give what tensors tell as well.

    Args:
        dialect: of the config.
        model: table of the network.
        sound: and of the sound.
        known: whether the symbols are. The original overwrites num_chars with their number, so it may be any then.
    """
    told: list[tuple[str, str, Any]] = [(key, name, model.number(key, 0)) for key, name in dialect.sizes.items()]
    told += [(key, name, model.numbers(key)) for key, name in dialect.lists.items()]
    told += [(key, name, model.switch(key)) for key, name in SWITCHES.items()]
    if not all(model.switch(key) for key in SPEAKER_SWITCHES):  # else the tensors know which of them it is
        told += [(key, name, model.switch(key)) for key, name in SPEAKER_SWITCHES.items()]
    told += [
        (dialect.block, "block", _block(model, dialect.block)),
        (dialect.fft_size, "fft_size", sound.number(dialect.fft_size)),
        ("n_speakers", "speakers", sound.number("n_speakers", 0)),
        ("num_chars", "symbols", None if known else model.number("num_chars", 0)),
    ]
    return ((key, name, said) for key, name, said in told if said is not None)


def _block(model: Table, key: str) -> int | None:
    """Return the kind of residual block, which tools write as a text or as a number."""
    said = model.values.get(key)
    if str(said) not in {"1", "2", "None"}:
        raise model.wrong(key, said)
    return None if said is None else int(said)


def _texts(layout: Layout, whole: Table, sound: Table, symbols: Vocabulary) -> dict[str, Any]:
    """Return how a text becomes symbols, but for most of their numbers."""
    cleaners = sound.values.get("text_cleaners")
    first = Table(whole.name, {"first": cleaners[0]} if isinstance(cleaners, list) and cleaners else {})
    added = {whole.switch("add_blank"), sound.switch("add_blank")}
    cleaner = whole.text("text_cleaner") or first.text("first")
    # The original has no such switch: some of its cleaners make phonemes, and everybody adds cleaners of his own.
    phonemes = None if layout == "vits" and cleaner not in LETTERS else whole.switch("use_phonemes") is True
    return {
        "pad": symbols.pad,
        "blank": symbols.blank,
        "bos": symbols.bos,
        "eos": symbols.eos,
        "add_blank": False not in added,
        "use_eos_bos": whole.switch("enable_eos_bos_chars") is True,
        "use_phonemes": phonemes,
        "cleaner": cleaner,
        "phonemizer": whole.text("phonemizer"),
        "phoneme_language": whole.text("phoneme_language"),
    }


def _scale(model: Table, key: str, usual: float) -> float:
    return usual if (said := model.real(key, *NOISE_SCALES)) is None else said


def _check_hop(name: str, config: Config) -> None:
    """Refuse a decoder that does not make as many samples of a frame as went into it.

    Raises:
        Contradiction: if it is so.
    """
    made, rate = math.prod(config.rates), config.encoder_rate if not config.stretched else config.sample_rate
    if config.hop_length is not None and made * rate != config.hop_length * config.sample_rate:
        what = f"{shown(name)} has hop_length {config.hop_length} and the upsampling {listed(config.rates)}"
        raise Contradiction(what=f"{what}, which makes {made} samples a frame")
