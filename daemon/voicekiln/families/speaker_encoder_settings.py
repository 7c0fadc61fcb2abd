"""What a speaker encoder is made of, read from tensor shapes and the `config_se.json` beside it.

Shapes win. The config is asked for what leaves no trace in them: the sample rate and the hop. A release has it in
`config_se.json`, a checkpoint as it was trained within itself; a file without either is taken to be of the kind that
all released ones are, and the person is told. The filter of the pre-emphasis, the window and the mel bands are tensors
of the checkpoint, and whatever the config says of them is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from voicekiln.errors import OtherFamily
from voicekiln.families.base import Outline
from voicekiln.families.companions import RATES_HZ, Companion, Table, beside, first
from voicekiln.families.tensors import Shape, axes, contradiction, numbered

GROUPS = (1, 2, 3, 4)
MAX_MELS = 256
MAX_TRANSFORM = 4096
"""Samples of a Fourier transform; the real ones have 512."""

LEVELS_DB = -99.0, 0.0

OWN_CONFIG = "config_se.json"
"""Of the one speaker encoder that a folder has."""
CONFIGS = (OWN_CONFIG, "config.json")
MODEL = "speaker_encoder"
"""As a config says whose it is."""
INSIDE = "its config"
"""That of the checkpoint itself, as a person reads it."""


@dataclass(frozen=True, slots=True)
class Network:
    """All that the network is built from."""

    n_fft: int
    """Samples, as `hop`."""
    hop: int
    mels: int
    filters: Shape
    """Channels of each group of blocks."""
    blocks: Shape
    """How many there are in each group."""
    reduced: Shape
    """Channels within the squeeze and excitation of each group."""
    attention: int
    """Channels within the attention."""
    width: int
    """Of the d-vector."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the whole file."""

    network: Network
    window: int
    """Samples."""
    sample_rate: int
    """Hz."""
    rms_db: float | None = None
    """How loud Coqui makes a whole clip before it is heard: its root mean square, where full scale is 0 dB. None: as
    it is."""


HOP = 160
"""Of all released ones; so are the next two."""
SAMPLE_RATE = 16_000
RMS_DB = -27.0


def read(outline: Outline, shapes: Mapping[str, Shape]) -> tuple[Settings, list[str], list[str]]:
    """Return the settings, sentences for the person about what was assumed, and the companions that were used.

    Args:
        outline: with the companions.
        shapes: of the tensors.

    Raises:
        Contradiction: if the shapes, or they and the encoder's own config, cannot all be true.
        OtherFamily: if the config asks for what this encoder does not do.
    """
    found = _measure(shapes)
    notes: list[str] = []
    told = first(_configs(outline), lambda each: (_told(each.table(), found), [each.name]), notes)
    if told is not None:
        settings, used = told
        return settings, notes, used
    inside = outline.rest.get("config")
    if isinstance(inside, dict) and "audio" in inside:
        return _told(Table(INSIDE, inside), found), notes, []
    unread = any(companion.values is None for companion in _configs(outline))
    return found, [*notes, _assumed(found, unread=unread)], []


def _configs(outline: Outline) -> Iterator[Companion]:
    """Give the companions that could be its config; a voice's `config.json` is the voice's and needs no word."""
    for companion in beside(outline, CONFIGS):
        if companion.own or companion.name.casefold() == OWN_CONFIG:
            yield replace(companion, own=True)
        elif isinstance(companion.values, dict) and companion.values.get("model") == MODEL:
            yield companion


def _measure(shapes: Mapping[str, Shape]) -> Settings:
    """Return what can be read from shapes, and for the rest what is usual."""
    bins, mels = axes(shapes, "torch_spec.1.mel_scale.fb", 2)
    n_fft, [window] = 2 * (bins - 1), axes(shapes, "torch_spec.1.spectrogram.window", 1)
    if not 0 < window <= n_fft <= MAX_TRANSFORM or mels > MAX_MELS:
        raise contradiction([f"it makes {mels} mel bands of {bins} frequencies under a window of {window} samples"])
    network = Network(
        n_fft=n_fft,
        hop=HOP,
        mels=mels,
        filters=tuple(axes(shapes, f"layer{group}.0.conv1.weight", 4)[0] for group in GROUPS),
        blocks=tuple(numbered(shapes, rf"layer{group}\.([0-9]{{1,3}})\.") for group in GROUPS),
        reduced=tuple(axes(shapes, f"layer{group}.0.se.fc.0.weight", 2)[0] for group in GROUPS),
        attention=axes(shapes, "attention.0.weight", 3)[0],
        width=axes(shapes, "fc.weight", 2)[0],
    )
    return Settings(network, window, SAMPLE_RATE, RMS_DB)


def _told(config: Table, found: Settings) -> Settings:
    """Return the settings as the config completes them."""
    audio, params = _table(config, "audio"), _table(config, "model_params")
    made = found.network
    if audio is None:
        raise config.silent("audio")
    if params is not None:
        _check_kind(params)
        _agree(params, {"input_dim": made.mels, "proj_dim": made.width})
    _agree(audio, {"num_mels": made.mels, "fft_size": made.n_fft, "win_length": found.window})
    rate = config.given("sample_rate", audio.number("sample_rate", RATES_HZ[0], RATES_HZ[-1]))
    hop = config.given("hop_length", audio.number("hop_length", 1, made.n_fft))
    loud = config.given("db_level", audio.real("db_level", *LEVELS_DB)) if audio.switch("do_rms_norm") else None
    return replace(found, network=replace(made, hop=hop), sample_rate=rate, rms_db=loud)


def _table(config: Table, key: str) -> Table | None:
    values: Any = config.values.get(key)
    return Table(config.name, values) if isinstance(values, dict) else None


def _check_kind(params: Table) -> None:
    """Refuse a config of another network, or of one that does not take the logarithm of its mel bands."""
    params.agree("model_name", params.text("model_name") or "resnet", "resnet")
    params.agree("use_torch_spec", params.switch("use_torch_spec") is not False, found=True)
    if not params.switch("log_input"):
        what = "a speaker encoder that does not take the logarithm of its mel spectrogram (log_input is not true)"
        raise OtherFamily(what=what, families="speaker encoder of YourTTS")


def _agree(said: Table, found: Mapping[str, int]) -> None:
    """Refuse if the weights know better than what is said; what is not said does not matter."""
    for key, size in found.items():
        said.agree(key, said.number(key) or size, size)


def _assumed(settings: Settings, *, unread: bool) -> str:
    """Return the sentence on what nobody says; that a config cannot be read is said by another."""
    rate, hop = settings.sample_rate, settings.network.hop
    if unread:
        return f"What all released speaker encoders have was assumed: {rate} Hz and {hop} samples a frame."
    return (
        "It comes without its config_se.json; what all released speaker encoders have was assumed: "
        f"{rate} Hz and {hop} samples a frame."
    )
