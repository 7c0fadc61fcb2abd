"""What a so-vits-svc voice's tensors tell of its network: sizes, and which options it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voicekiln.families import vits
from voicekiln.families.tensors import Shape, axes, numbered


def measure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return those of the settings that can be read from shapes, weight norm folded.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    ssl_dim, sizes = vits.measure(shapes, ("pre.weight", 3), "enc_p.enc_")
    return sizes | {
        "ssl_dim": ssl_dim,
        "vol": _any(shapes, "emb_vol."),
        "snake": _any(shapes, "dec.snakes."),
        "f0_decoder": _any(shapes, "f0_decoder."),
        "f0_layers": numbered(shapes, r"f0_decoder\.decoder\.self_attn_layers\.([0-9]{1,3})\."),
        **_flow(shapes, sizes["heads"]),
    }


def _flow(shapes: Mapping[str, Shape], heads: int) -> dict[str, Any]:
    """Return the settings of the flow; its inner layers are a WaveNet's or a transformer's."""
    transformer = _any(shapes, "flow.flows.0.enc.self_attn_layers.")
    inner = "self_attn_layers" if transformer else "in_layers"
    fed, _, kernel = axes(shapes, "flow.flows.0.enc.ffn_layers.0.conv_1.weight", 3) if transformer else (0, 0, 0)
    return {
        "flow_layers": numbered(shapes, rf"flow\.flows\.0\.enc\.{inner}\.([0-9]{{1,3}})\."),
        "depthwise": _any(shapes, "flow.flows.0.enc.in_layers.0.depth_conv."),
        "shared_flow": _any(shapes, "flow.wn."),
        "transformer_flow": transformer,
        "flow_filter_channels": fed,
        "flow_kernel": kernel,
        "flow_heads": heads if transformer else 0,
    }


def _any(shapes: Mapping[str, Shape], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)
