"""What a Coqui VITS voice's tensors tell of its networks, and which of their sizes can be built at all.

Names of tensors are our networks' (see `coqui_names`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voicekiln.families import vits
from voicekiln.families.companions import MAX_NAMES
from voicekiln.families.coqui_network import Settings, Speaker
from voicekiln.families.rvc_config import shown
from voicekiln.families.tensors import Shape, axes, contradiction, listed, numbered

MAX_HOP = 4096
"""Samples of one latent frame; real voices have 256 or 512."""
MAX_BINS = 32
"""Of the splines of a stochastic duration predictor; real voices have 10, and 1000 leave each no width."""


def measure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return those of the settings that can be read from shapes, weight norm folded.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    block = 2 if any(".convs.0." in name and "resblocks" in name for name in shapes) else 1
    decoder = vits.measure_decoder(shapes, "waveform_decoder", _convs(block))
    symbols, width = axes(shapes, "text_encoder.emb.weight", 2)
    languages, language_channels = _rows(shapes, "emb_l.weight")
    told = width + language_channels
    latent = vits.measure_latent(
        shapes, told, "text_encoder.proj.weight", "text_encoder.encoder", "waveform_decoder.conv_pre.weight"
    )
    speakers, _ = _rows(shapes, "emb_g.weight")
    gin_channels = axes(shapes, "waveform_decoder.cond.weight", 3)[1] if _has(shapes, "waveform_decoder.cond.") else 0
    return (
        latent
        | decoder
        | _durations(shapes)
        | _wavenets(shapes)
        | {
            "symbols": symbols,
            "hidden": latent["hidden"] - language_channels,
            "languages": languages,
            "language_channels": language_channels,
            "speaker": _speaker(speakers, gin_channels),
            "speakers": speakers,
            "gin_channels": gin_channels,
            "block": block,
        }
    )


def convolutions(shapes: Mapping[str, Shape], sizes: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many dilated convolutions each of a step's residual blocks has."""
    return tuple(
        numbered(shapes, rf"waveform_decoder\.resblocks\.{at}\.{_convs(sizes['block'])}\.([0-9]{{1,3}})\.")
        for at in range(len(sizes["block_kernels"]))
    )


def check(s: Settings) -> None:
    """Refuse what cannot be laid out, or would fill any memory.

    Raises:
        Contradiction: if it is so.
    """
    if min(s.layers, s.flows, s.flow_layers, s.hidden) < 1 or (s.spectrum and s.posterior_layers < 1):
        raise contradiction(["layers of the text encoder, the flow or the posterior encoder are missing"])
    vits.check(s, (s.kernel, s.flow_kernel, s.duration_kernel, s.posterior_kernel or 1))
    if s.languages > MAX_NAMES:
        raise contradiction([f"it has {s.languages} languages, {MAX_NAMES} at most are taken"])
    _check_durations(s)
    flow = s.flow_kernel // 2 * s.flow_dilation ** (s.flow_layers - 1)
    posterior = s.posterior_kernel // 2 * s.posterior_dilation ** max(s.posterior_layers - 1, 0)
    _check_reach("flow", flow)
    _check_reach("posterior encoder", posterior)


def check_upsampling(s: Settings) -> None:
    """Refuse upsampling that the decoder's convolutions cannot do, or that makes far too much of a frame.

    Raises:
        Contradiction: if it is so.
    """
    if len(s.rates) != len(s.up_kernels):
        raise contradiction([f"its settings have {len(s.rates)} upsampling steps, its decoder {len(s.up_kernels)}"])
    odd = any(kernel < rate or (kernel - rate) % 2 for kernel, rate in zip(s.up_kernels, s.rates, strict=True))
    # A latent frame may be stretched before the decoder makes samples of it.
    if odd or s.hop * s.sample_rate > MAX_HOP * s.encoder_rate:
        raise contradiction([f"its upsampling is {listed(s.rates)} by {listed(s.up_kernels)}"])


def _check_durations(s: Settings) -> None:
    if not s.stochastic:
        return
    if s.duration_layers < 1 or s.duration_flows < 2 or not 1 < s.duration_bins <= MAX_BINS:  # noqa: PLR2004 - see there
        layers, flows, bins = s.duration_layers, s.duration_flows, s.duration_bins
        what = f"its stochastic duration predictor has {layers} layers, {flows} splines and {bins} bins in each"
        raise contradiction([what])
    # Each layer's dilation is the kernel times that of the one before.
    _check_reach("duration predictor", s.duration_kernel // 2 * s.duration_kernel ** (s.duration_layers - 1))


def _check_reach(part: str, reach: int) -> None:
    if reach > vits.MAX_REACH:
        raise contradiction([f"a convolution of its {part} sees {shown(reach)} frames to each side"])


def _durations(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the settings of the duration predictor; it is known by its tensors which of the two it is."""
    stochastic = _has(shapes, "duration_predictor.flows.")
    told = {
        "stochastic": stochastic,
        "duration_by_speaker": _has(shapes, "duration_predictor.cond."),
        "duration_by_language": _has(shapes, "duration_predictor.cond_lang."),
    }
    if not stochastic:
        inner, _, kernel = axes(shapes, "duration_predictor.conv_1.weight", 3)
        glow = len(shapes.get("duration_predictor.norm_1.gamma", ())) > 1
        none = dict.fromkeys(("duration_layers", "duration_flows", "duration_bins"), 0)
        return told | none | {"duration_channels": inner, "duration_kernel": kernel, "glow_norm": glow}
    thirds, rest = divmod(axes(shapes, "duration_predictor.flows.1.proj.weight", 3)[0] + 1, 3)
    if rest:
        raise contradiction([f"a spline of its duration predictor is given {3 * thirds + rest - 1} numbers"])
    return told | {
        "duration_channels": axes(shapes, "duration_predictor.pre.weight", 3)[0],
        "duration_kernel": axes(shapes, "duration_predictor.convs.convs_sep.0.weight", 3)[2],
        "duration_layers": numbered(shapes, r"duration_predictor\.convs\.convs_sep\.([0-9]{1,3})\."),
        # The one before the first spline has no number: it scales and shifts.
        "duration_flows": numbered(shapes, r"duration_predictor\.flows\.([0-9]{1,3})\.pre\.") - 1,
        "duration_bins": thirds,
        "glow_norm": False,
    }


def _wavenets(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the settings of the flow's layers and the posterior encoder's; 0 where that is not in the file."""
    heard = _has(shapes, "posterior_encoder.")
    return {
        "flow_layers": numbered(shapes, r"flow\.flows\.0\.enc\.in_layers\.([0-9]{1,3})\."),
        "flow_kernel": axes(shapes, "flow.flows.0.enc.in_layers.0.weight", 3)[2],
        "spectrum": axes(shapes, "posterior_encoder.pre.weight", 3)[1] if heard else 0,
        "posterior_layers": numbered(shapes, r"posterior_encoder\.enc\.in_layers\.([0-9]{1,3})\."),
        "posterior_kernel": axes(shapes, "posterior_encoder.enc.in_layers.0.weight", 3)[2] if heard else 0,
    }


def _speaker(speakers: int, gin_channels: int) -> Speaker:
    if speakers:
        return "speaker_id"
    return "d_vector" if gin_channels else "none"


def _rows(shapes: Mapping[str, Shape], name: str) -> Shape:
    """Return rows and columns of an embedding; both are 0 where there is none."""
    return axes(shapes, name, 2) if name in shapes else (0, 0)


def _convs(block: int) -> str:
    """Return what residual blocks of a kind call their dilated convolutions."""
    return "convs" if block == 2 else "convs1"  # noqa: PLR2004 - the kind's number


def _has(shapes: Mapping[str, Shape], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)
