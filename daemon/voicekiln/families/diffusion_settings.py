"""What a shallow diffusion model is made of, read from tensor shapes and the `diffusion.yaml` beside it.

Shapes win: sizes are measured, and the YAML is asked for what leaves no trace in them (how deep the model has learnt to
go, sample rate and hop, encoder, speakers' names, how it was sampled). A file without one is taken to be of the kind
that nearly all are, and the person is told. `config.yaml` and `diffusion.yaml` may be another model's: they have to
agree in every size, or are left aside. What lies under the model's own name is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from voicekiln.errors import Contradiction, plain
from voicekiln.families.base import Outline
from voicekiln.families.diffusion_network import BUFFERS, DENOISER, LIMITS, SHIFT, Settings, expected
from voicekiln.families.rvc_config import read_rate, shown
from voicekiln.families.so_vits_svc_config import SILENT, Config
from voicekiln.families.so_vits_svc_units import ENCODERS, Units, units
from voicekiln.families.tensors import Shape, axes, contradiction, numbered

ENDINGS = (".yaml", ".yml")
GENERAL = ("diffusion", "config")
"""Companions of these names may be another model's."""

SAMPLE_RATE = 44_100
HOP = 512
METHODS = ("ddim", "dpm-solver++")
"""Samplers in the file, by their numbers; the last one is so-vits-svc's own choice."""
SPEEDUP = 10
"""Times in a step, where nobody says otherwise."""

MAX_MELS = 1024
LEAST_CHANNELS = 4
LEAST_TIMES = 2
MAX_NUMBER = 65_536
MAX_TEXT = 100
"""Characters."""

SIZES = {
    "encoder_out_channels": "width",
    "n_hidden": "hidden",
    "n_chans": "channels",
    "n_layers": "layers",
    "n_spk": "speakers",
    "timesteps": "timesteps",
}
"""Sizes that the YAML tells as well, and the settings that they are."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the YAML says beside sizes; the values are what is assumed without one."""

    sample_rate: int = SAMPLE_RATE
    """Hz."""
    hop: int = HOP
    """Samples a frame."""
    config: Config = SILENT
    """What is known of the speech features, in the words of the voice's config."""
    speakers: Mapping[int, str] | None = None
    """Names by number, in the order of the numbers."""
    vocoder: str | None = None
    method: str = METHODS[-1]
    speedup: int = SPEEDUP


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model is made of, and how that is known."""

    settings: Settings
    told: Told
    notes: tuple[str, ...]
    companions: tuple[str, ...]
    """Names of the files beside the model that were used."""
    shift: bool
    """Whether it has `SHIFT`."""

    @property
    def expected(self) -> Mapping[str, Shape]:
        """Name and shape of every tensor of its checkpoint."""
        shift = {SHIFT: (self.settings.hidden, 1)} if self.shift else {}
        return {**expected(self.settings), **shift}

    @property
    def units(self) -> Units:
        """The speech features that it wants."""
        return units(self.told.config, self.settings.width)

    @property
    def method(self) -> int:
        """Number of the sampler that is nearest to the one of its training tool."""
        return METHODS.index(self.told.method) if self.told.method in METHODS else len(METHODS) - 1


def read(outline: Outline, shapes: Mapping[str, Shape]) -> Reading:
    """Return what the model is made of.

    Args:
        outline: with the companions.
        shapes: of the tensors.

    Raises:
        Contradiction: if the shapes, or they and the model's own YAML, cannot all be true.
    """
    found = measure(shapes)
    notes: list[str] = []
    names = (name for name in outline.beside if name.casefold().endswith(ENDINGS))
    for name in sorted(names, key=_rank):
        if (raw := outline.beside[name]) is None:
            notes.append(f"{shown(name)}, which lies beside it, cannot be read and was left aside.")
            continue
        try:
            settings, told = _completed(found, _Yaml.of(name, raw))
        except Contradiction as problem:
            if _rank(name) < 0:
                raise
            notes.append(f"{shown(name)}, which lies beside it, is not this model's: {problem.found['what']}.")
            continue
        if told.method not in METHODS:
            notes.append(
                f"{shown(name)} asks for the sampler {told.method}, which the ONNX file does not have; "
                f"{METHODS[-1]} stands in for it."
            )
        return Reading(settings, told, tuple(notes), (name,), SHIFT in shapes)
    return Reading(found, Told(), (*notes, _assumed(found)), (), SHIFT in shapes)


def measure(shapes: Mapping[str, Shape]) -> Settings:
    """Return what can be read from shapes; as deep as there are times.

    Raises:
        Contradiction: if no network has such shapes.
    """
    hidden, width = axes(shapes, "unit_embed.weight", 2)
    channels, mels, _ = axes(shapes, f"{DENOISER}input_projection.weight", 3)
    layers = numbered(shapes, rf"{DENOISER}residual_layers\.([0-9]{{1,3}})\.")
    (timesteps,) = axes(shapes, BUFFERS[0], 1)
    speakers = axes(shapes, "spk_embed.weight", 2)[0] if "spk_embed.weight" in shapes else 1
    limits = axes(shapes, LIMITS[0], 3)[2]
    if channels % 2 or channels < LEAST_CHANNELS or not layers or mels > MAX_MELS or limits not in (1, mels):
        what = f"its denoiser has {channels} channels, {layers} layers and {mels} mel bands in {limits} ranges"
        raise contradiction([what])
    if timesteps < LEAST_TIMES:
        raise contradiction(["its schedule has a single time"])
    return Settings(width, hidden, channels, layers, mels, limits, speakers, timesteps, timesteps)


def _rank(name: str) -> int:
    """Return where a companion stands in the order in which they are asked: below 0, it is the model's own."""
    stem = name.casefold().rpartition(".")[0]
    return GENERAL.index(stem) if stem in GENERAL else -1


def _assumed(found: Settings) -> str:
    return (
        f"It comes without its diffusion.yaml; what most models of this kind have was assumed: {SAMPLE_RATE} Hz, {HOP} "
        f"samples a frame, and that it has learnt all of its {found.timesteps} times (k_step_max). Once its "
        "diffusion.yaml lies beside it, it is converted again."
    )


@dataclass(frozen=True, slots=True)
class _Yaml:
    """A companion, read value by value."""

    name: str
    sizes: Mapping[str, Any]
    """What stands under `data` and `model`."""
    infer: Mapping[str, Any]
    vocoder: Mapping[str, Any]
    speakers: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, raw: Any) -> Self:  # noqa: ANN401 - whatever lies there
        """Return the companion with empty tables for those that it need not have.

        Raises:
            Contradiction: if it is no config of a diffusion model.
        """
        whole = raw if isinstance(raw, dict) else {}
        if not all(isinstance(whole.get(table), dict) for table in ("data", "model")):
            raise Contradiction(what=f"{shown(name)} is no config of a diffusion model")
        others = (table if isinstance(table := whole.get(key), dict) else {} for key in ("infer", "vocoder", "spk"))
        return cls(name, whole["data"] | whole["model"], *others)

    def number(self, table: Mapping[str, Any], key: str, least: int) -> int | None:
        value = table.get(key)
        if value is not None and not (type(value) is int and least <= value <= MAX_NUMBER):
            raise self.wrong(key, value)
        return value

    def text(self, table: Mapping[str, Any], key: str) -> str | None:
        value = table.get(key)
        return plain(value[:MAX_TEXT]) if isinstance(value, str) and value else None

    def agree(self, key: str, said: object, found: object) -> None:
        """Refuse if the weights know better."""
        if said != found:
            raise Contradiction(what=f"{shown(self.name)} has {key} {shown(said)}, the weights have {found}")

    def wrong(self, key: str, value: object) -> Contradiction:
        return Contradiction(what=f"{shown(self.name)} has {key} {shown(value)}, which cannot be")


def _completed(found: Settings, told: _Yaml) -> tuple[Settings, Told]:
    """Return the settings as a YAML completes them, and what else it says.

    Raises:
        Contradiction: if it cannot be the model's.
    """
    for key, name in SIZES.items():
        if (said := told.sizes.get(key)) is not None:
            told.agree(key, 1 if (name, said) == ("speakers", 0) else said, getattr(found, name))
    # 0 is how the original says that all times have been learnt.
    depth = told.number(told.sizes, "k_step_max", 0) or found.timesteps
    asked = told.number(told.infer, "k_step", 0) or 1
    if depth > found.timesteps:
        raise told.wrong("k_step_max", depth)
    if asked > depth:
        raise told.wrong("k_step", asked)
    if (rate := read_rate(told.sizes.get("sampling_rate", SAMPLE_RATE))) is None:
        raise told.wrong("sampling_rate", told.sizes["sampling_rate"])
    encoder = told.text(told.sizes, "encoder")
    if (known := ENCODERS.get(encoder or "")) is not None and known.width != found.width:
        what = f"{shown(told.name)} has the encoder {encoder}, which gives {known.width} features a unit"
        raise Contradiction(what=f"{what}, the weights want {found.width}")
    stretch = told.text(told.sizes, "unit_interpolate_mode") or "left"
    return replace(found, k_step_max=depth), Told(
        sample_rate=rate,
        hop=told.number(told.sizes, "block_size", 1) or HOP,
        config=Config({}, encoder=encoder, stretch=stretch),
        speakers=_speakers(told, found.speakers),
        vocoder=told.text(told.vocoder, "type"),
        method=told.text(told.infer, "method") or METHODS[-1],
        speedup=told.number(told.infer, "speedup", 1) or SPEEDUP,
    )


def _speakers(told: _Yaml, rows: int) -> dict[int, str] | None:
    """Return the speakers' names by number; None if it names none."""
    numbers = list(told.speakers.values())
    if not all(type(number) is int and number >= 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise Contradiction(what=f"{shown(told.name)} has speakers (spk) without a number of their own")
    if (last := max(numbers, default=0)) >= rows:
        raise Contradiction(what=f"{shown(told.name)} has a speaker {last}, the weights have {rows}, counted from 0")
    named = sorted(told.speakers.items(), key=lambda speaker: speaker[1])
    return {number: plain(str(name)[:MAX_TEXT]) for name, number in named} or None
