"""The `config.json` of a so-vits-svc voice: what no tensor tells, and sizes that tensors tell as well.

Only what leaves no trace in the tensors is believed; the rest is read so that disagreement can be told. Every version
and fork leaves some of it out, so each value may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from voicekiln.errors import Contradiction
from voicekiln.families.companions import Table, speakers
from voicekiln.families.rvc_config import shown
from voicekiln.families.so_vits_svc_network import Settings
from voicekiln.families.tensors import Shape

NUMBERS = {
    "ssl_dim": "ssl_dim",
    "hidden_channels": "hidden",
    "inter_channels": "channels",
    "filter_channels": "filter_channels",
    "n_heads": "heads",
    "n_layers": "layers",
    "kernel_size": "kernel",
    "n_flow_layer": "flows",
    "upsample_initial_channel": "initial",
    "gin_channels": "gin_channels",
    "n_speakers": "speakers",
}
"""Sizes under `model`, and the settings that they are."""
LISTS = {"upsample_kernel_sizes": "up_kernels", "resblock_kernel_sizes": "block_kernels"}
SWITCHES = {
    "vol_embedding": "vol",
    "use_depthwise_conv": "depthwise",
    "flow_share_parameter": "shared_flow",
    "use_transformer_flow": "transformer_flow",
    "use_automatic_f0_prediction": "f0_decoder",
}
VOCODERS = {"nsf-hifigan": False, "nsf-snake-hifigan": True}
"""Names under `vocoder_name`, and whether that decoder has periodic activations; to the original, others are the first.
"""


@dataclass(frozen=True, slots=True)
class Config:
    """What is read of it; None where it says nothing."""

    sizes: Mapping[str, Any]
    """Those of the settings that the tensors tell as well, by their names."""
    rates: Shape | None = None
    dilations: tuple[Shape, ...] | None = None
    hop: int | None = None
    """Samples a frame."""
    sample_rate: int | None = None
    """Hz."""
    encoder: str | None = None
    """Of the speech features."""
    stretch: str | None = None
    """How units become frames."""
    speakers: Mapping[int, str] | None = None
    """Names by number, in the order of the numbers."""
    version: str | None = None


SILENT = Config({})
"""That of a voice without one."""


def read_config(name: str, raw: Any) -> Config | None:  # noqa: ANN401 - whatever lies there
    """Return what a companion says; None if it is no config of so-vits-svc at all.

    Raises:
        Contradiction: if it says what cannot be.
    """
    if not isinstance(raw, dict) or not all(isinstance(raw.get(part), dict) for part in ("model", "data")):
        return None
    model, data = Table(name, raw["model"]), Table(name, raw["data"])
    if model.text("resblock") not in (None, "1"):
        raise Contradiction(what=f"{shown(name)} asks for residual blocks of kind 2, which so-vits-svc does not have")
    return Config(
        sizes=dict(_sizes(model)),
        rates=model.numbers("upsample_rates"),
        dilations=model.lists("resblock_dilation_sizes"),
        hop=data.number("hop_length"),
        sample_rate=data.rate("sampling_rate"),
        encoder=model.text("speech_encoder"),
        stretch=data.text("unit_interpolate_mode"),
        speakers=speakers(name, raw.get("spk")),
        version=_version(model.values),
    )


def config(settings: Settings, speakers: tuple[str, ...], encoder: str | None) -> dict[str, Any]:
    """Return what the training tool writes for a voice of these settings: 4.1's template if it names an encoder."""
    told = {key: getattr(settings, name) for key, name in NUMBERS.items()}
    told |= {key: list(getattr(settings, name)) for key, name in LISTS.items()}
    told |= {"resblock": "1", "upsample_rates": list(settings.rates)}
    told |= {"resblock_dilation_sizes": [list(steps) for steps in settings.dilations]}
    data: dict[str, Any] = {"sampling_rate": settings.sample_rate, "hop_length": settings.hop}
    if encoder is not None:
        told |= {key: getattr(settings, name) for key, name in SWITCHES.items()}
        told |= {"speech_encoder": encoder, "vocoder_name": list(VOCODERS)[settings.snake]}
        data |= {"unit_interpolate_mode": "nearest"}
    return {"model": told, "data": data, "spk": {name: number for number, name in enumerate(speakers)}}


def _sizes(model: Table) -> Iterator[tuple[str, Any]]:
    """Give what tensors tell as well."""
    told: dict[str, Any] = {name: model.number(key) for key, name in NUMBERS.items()}
    told |= {name: model.numbers(key) for key, name in LISTS.items()}
    told |= {name: model.switch(key) for key, name in SWITCHES.items()}
    told |= {"snake": VOCODERS.get(model.text("vocoder_name") or "")}
    return ((name, value) for name, value in told.items() if value is not None)


def _version(model: Mapping[str, Any]) -> str:
    """Return which tool wrote it: each has entries that the others do not."""
    if "type_" in model:
        return "4.0 (fork)"
    return "4.1" if "vocoder_name" in model else "4.0"
