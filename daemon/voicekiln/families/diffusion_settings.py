"""What a shallow diffusion model is made of, read from tensor shapes and the `diffusion.yaml` beside it.

Shapes win: sizes are measured, and the YAML is asked for what leaves no trace in them (how deep the model has learnt to
go, sample rate and hop, encoder, speakers' names, how it was sampled). A file without one is taken to be of the kind
that nearly all are, and the person is told. `config.yaml` and `diffusion.yaml` may be another model's: they have to
agree in every size, or are left aside. What lies under the model's own name is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from voicekiln.errors import Contradiction
from voicekiln.families.base import Outline
from voicekiln.families.companions import Companion, Table, beside, check_count, check_speakers, first, speakers
from voicekiln.families.diffusion_network import BUFFERS, DENOISER, LIMITS, SHIFT, Settings, expected
from voicekiln.families.rvc_config import shown
from voicekiln.families.so_vits_svc_config import SILENT, Config
from voicekiln.families.so_vits_svc_units import Units, check_width, units
from voicekiln.families.tensors import Shape, axes, contradiction, numbered

GENERAL = ("diffusion.yaml", "diffusion.yml", "config.yaml", "config.yml")
"""Companions of these names may be another model's."""

SAMPLE_RATE = 44_100
HOP = 512
HOPS = range(16, 4097)
"""Samples a frame; real models have 128 to 512. Nothing in the tensors tells."""
METHODS = ("ddim", "dpm-solver++")
"""Samplers in the file, by their numbers; the last one is so-vits-svc's own choice."""
SPEEDUP = 10
"""Times in a step, where nobody says otherwise."""

MAX_MELS = 1024
LEAST_CHANNELS = 4
LEAST_TIMES = 2

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

    def completed(companion: Companion) -> tuple[Settings, Told, str]:
        return *_completed(found, companion.name, companion.values), companion.name

    if (fitting := first(beside(outline, GENERAL), completed, notes)) is not None:
        settings, told, name = fitting
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
    check_count(speakers)
    limits = axes(shapes, LIMITS[0], 3)[2]
    if channels % 2 or channels < LEAST_CHANNELS or not layers or mels > MAX_MELS or limits not in (1, mels):
        what = f"its denoiser has {channels} channels, {layers} layers and {mels} mel bands in {limits} ranges"
        raise contradiction([what])
    if timesteps < LEAST_TIMES:
        raise contradiction(["its schedule has a single time"])
    return Settings(width, hidden, channels, layers, mels, limits, speakers, timesteps, timesteps)


def _assumed(found: Settings) -> str:
    return (
        f"It comes without its diffusion.yaml; what most models of this kind have was assumed: {SAMPLE_RATE} Hz, {HOP} "
        f"samples a frame, and that it has learnt all of its {found.timesteps} times (k_step_max). Once its "
        "diffusion.yaml lies beside it, it is converted again."
    )


def _completed(found: Settings, name: str, raw: Any) -> tuple[Settings, Told]:  # noqa: ANN401 - whatever lies there
    """Return the settings as a YAML of that name completes them, and what else it says.

    Raises:
        Contradiction: if it is no config of a diffusion model, or cannot be the model's.
    """
    whole = raw if isinstance(raw, dict) else {}
    if not all(isinstance(whole.get(table), dict) for table in ("data", "model")):
        raise Contradiction(what=f"{shown(name)} is no config of a diffusion model")
    sizes = Table(name, whole["data"] | whole["model"])
    infer, vocoder = (Table(name, at if isinstance(at := whole.get(key), dict) else {}) for key in ("infer", "vocoder"))
    for key, setting in SIZES.items():
        if (said := sizes.values.get(key)) is not None:
            sizes.agree(key, 1 if (setting, said) == ("speakers", 0) else said, getattr(found, setting))
    # 0 is how the original says that all times have been learnt.
    depth = sizes.number("k_step_max", 0) or found.timesteps
    asked = infer.number("k_step", 0) or 1
    if depth > found.timesteps:
        raise sizes.wrong("k_step_max", depth)
    if asked > depth:
        raise infer.wrong("k_step", asked)
    stretch = sizes.text("unit_interpolate_mode") or "left"
    config = Config({}, encoder=sizes.text("encoder"), stretch=stretch)
    check_width(name, config, found.width)
    names = speakers(name, whole.get("spk"))
    check_speakers(name, names, found.speakers)
    return replace(found, k_step_max=depth), Told(
        sample_rate=sizes.rate("sampling_rate") or SAMPLE_RATE,
        hop=sizes.number("block_size", HOPS[0], HOPS[-1]) or HOP,
        config=config,
        speakers=names,
        vocoder=vocoder.text("type"),
        method=infer.text("method") or METHODS[-1],
        speedup=infer.number("speedup") or SPEEDUP,
    )
