"""What a so-vits-svc voice's tensors tell of its network: sizes, and which options it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mode
from typing import Any

from voicekiln.families.tensors import Shape, axes, contradiction, numbered


def measure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return those of the settings that can be read from shapes, weight norm folded.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    steps = numbered(shapes, r"dec\.ups\.([0-9]{1,3})\.")
    blocks = numbered(shapes, r"dec\.resblocks\.([0-9]{1,3})\.")
    per_step = blocks // max(steps, 1)
    if blocks != steps * per_step or not blocks:
        raise contradiction([f"its decoder has {steps} upsampling steps and {blocks} residual blocks"])
    width, ssl_dim, _ = axes(shapes, "pre.weight", 3)
    twice, normed, _ = axes(shapes, "enc_p.proj.weight", 3)
    half = axes(shapes, "flow.flows.0.pre.weight", 3)[1]
    filter_channels, fed, kernel = axes(shapes, "enc_p.enc_.ffn_layers.0.conv_1.weight", 3)
    _, offsets, head = axes(shapes, "enc_p.enc_.attn_layers.0.emb_rel_k", 3)
    initial, decoded, _ = axes(shapes, "dec.conv_pre.weight", 3)
    speakers, gin_channels = axes(shapes, "emb_g.weight", 2)
    # Taken by majority, so that one wrong tensor is found out and not all the others.
    hidden, channels = mode((width, normed, fed)), mode((decoded, twice // 2, half * 2))
    if hidden % head or offsets % 2 == 0 or offsets == 1:
        raise contradiction([f"relative attention of the size {offsets} x {head} does not fit {hidden} channels"])
    return {
        "ssl_dim": ssl_dim,
        "hidden": hidden,
        "channels": channels,
        "filter_channels": filter_channels,
        "heads": hidden // head,
        "layers": numbered(shapes, r"enc_p\.enc_\.attn_layers\.([0-9]{1,3})\."),
        "kernel": kernel,
        "window": offsets // 2,
        "initial": initial,
        "up_kernels": tuple(axes(shapes, f"dec.ups.{i}.weight", 3)[2] for i in range(steps)),
        "block_kernels": tuple(axes(shapes, f"dec.resblocks.{i}.convs1.0.weight", 3)[2] for i in range(per_step)),
        "speakers": speakers,
        "gin_channels": gin_channels,
        "vol": _any(shapes, "emb_vol."),
        "snake": _any(shapes, "dec.snakes."),
        "f0_decoder": _any(shapes, "f0_decoder."),
        "f0_layers": numbered(shapes, r"f0_decoder\.decoder\.self_attn_layers\.([0-9]{1,3})\."),
        **_flow(shapes, hidden // head),
    }


def _flow(shapes: Mapping[str, Shape], heads: int) -> dict[str, Any]:
    """Return the settings of the flow; its inner layers are a WaveNet's or a transformer's."""
    transformer = _any(shapes, "flow.flows.0.enc.self_attn_layers.")
    inner = "self_attn_layers" if transformer else "in_layers"
    fed, _, kernel = axes(shapes, "flow.flows.0.enc.ffn_layers.0.conv_1.weight", 3) if transformer else (0, 0, 0)
    return {
        # Every other step of the flow is a flip, which has no tensors.
        "flows": (numbered(shapes, r"flow\.flows\.([0-9]{1,3})\.") + 1) // 2,
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
