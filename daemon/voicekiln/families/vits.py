"""What the tensors of a VITS voice with a HiFi-GAN decoder tell of its sizes, and which sizes can be built at all.

RVC and so-vits-svc call their features' embedding and their encoder differently; the rest is one network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mode
from typing import TYPE_CHECKING, Any

from voicekiln.families.tensors import Shape, axes, contradiction, numbered

if TYPE_CHECKING:
    from voicekiln.families import coqui_network, rvc_network, so_vits_svc_network

MAX_WINDOW = 1000
"""Frames; real voices have 10 at most."""
MAX_REACH = 10_000
"""Samples to each side that one convolution of the decoder may see; real voices have 25. Far more, and a small file
fills any memory: dilations leave no trace in the weights."""


def measure(shapes: Mapping[str, Shape], embedding: tuple[str, int], encoder: str) -> tuple[int, dict[str, Any]]:
    """Return the width of the speech features, and the sizes that can be read from shapes, by the settings' names.

    Args:
        shapes: weight norm folded.
        embedding: name and number of axes of the tensor that takes the features.
        encoder: what the names of the text encoder's tensors begin with.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    decoder = measure_decoder(shapes, "dec", "convs1")
    width, features, *_ = axes(shapes, *embedding)
    latent = measure_latent(shapes, width, "enc_p.proj.weight", encoder, "dec.conv_pre.weight")
    speakers, gin_channels = axes(shapes, "emb_g.weight", 2)
    return features, latent | decoder | {"speakers": speakers, "gin_channels": gin_channels}


def measure_decoder(shapes: Mapping[str, Shape], decoder: str, convs: str) -> dict[str, Any]:
    """Return the sizes of the decoder.

    Args:
        shapes: weight norm folded.
        decoder: what the names of its tensors begin with.
        convs: what its residual blocks call their convolutions.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    steps = numbered(shapes, rf"{decoder}\.ups\.([0-9]{{1,3}})\.")
    blocks = numbered(shapes, rf"{decoder}\.resblocks\.([0-9]{{1,3}})\.")
    per_step = blocks // max(steps, 1)
    if blocks != steps * per_step or not blocks:
        raise contradiction([f"its decoder has {steps} upsampling steps and {blocks} residual blocks"])
    kernels = [axes(shapes, f"{decoder}.resblocks.{i}.{convs}.0.weight", 3)[2] for i in range(per_step)]
    return {
        "initial": axes(shapes, f"{decoder}.conv_pre.weight", 3)[0],
        "up_kernels": tuple(axes(shapes, f"{decoder}.ups.{i}.weight", 3)[2] for i in range(steps)),
        "block_kernels": tuple(kernels),
    }


def measure_latent(shapes: Mapping[str, Shape], width: int, proj: str, encoder: str, decoded: str) -> dict[str, Any]:
    """Return the sizes of the text encoder and the flow; `hidden` are all channels of the encoder's layers.

    Args:
        shapes: weight norm folded.
        width: how many channels enter the encoder.
        proj: name of the tensor that makes means and log deviations of what leaves it.
        encoder: what the names of its layers' tensors begin with.
        decoded: name of the decoder's first tensor.

    Raises:
        Contradiction: if a tensor that has to be there is not, or is of another kind.
    """
    twice, normed, _ = axes(shapes, proj, 3)
    half = axes(shapes, "flow.flows.0.pre.weight", 3)[1]
    filter_channels, fed, kernel = axes(shapes, f"{encoder}.ffn_layers.0.conv_1.weight", 3)
    _, offsets, head = axes(shapes, f"{encoder}.attn_layers.0.emb_rel_k", 3)
    # Taken by majority, so that one wrong tensor is found out and not all the others.
    hidden = mode((width, normed, fed))
    channels = mode((axes(shapes, decoded, 3)[1], twice // 2, half * 2))
    if hidden % head or offsets % 2 == 0 or offsets == 1:
        raise contradiction([f"relative attention of the size {offsets} x {head} does not fit {hidden} channels"])
    return {
        "channels": channels,
        "hidden": hidden,
        "filter_channels": filter_channels,
        "heads": hidden // head,
        "layers": numbered(shapes, rf"{re.escape(encoder)}\.attn_layers\.([0-9]{{1,3}})\."),
        "kernel": kernel,
        "window": offsets // 2,
        # Every other step of the flow is a flip, which has no tensors.
        "flows": (numbered(shapes, r"flow\.flows\.([0-9]{1,3})\.") + 1) // 2,
    }


def check(
    s: rvc_network.Settings | so_vits_svc_network.Settings | coqui_network.Settings, centred: Iterable[int]
) -> None:
    """See that convolutions can be laid out; `centred` are the widths of those that see as far to both sides.

    Raises:
        Contradiction: if they cannot.
    """
    if len(s.dilations) != len(s.block_kernels):
        raise contradiction(
            [f"its settings have {len(s.dilations)} residual blocks a step, its decoder {len(s.block_kernels)}"]
        )
    if s.channels % 2 or s.initial >> len(s.rates) < 1 or not all(k % 2 for k in (*centred, *s.block_kernels)):
        raise contradiction(["the sizes of its layers cannot be halved or centred as they have to be"])
    check_reach(s.block_kernels, s.dilations)
    if s.window > MAX_WINDOW:
        raise contradiction([f"its relative attention sees {s.window} frames to each side"])


def check_reach(kernels: Sequence[int], dilations: Sequence[Sequence[int]]) -> None:
    """See that no residual block's convolution sees so far that a small file fills any memory.

    Raises:
        Contradiction: if one does.
    """
    reach = max(kernel // 2 * max(steps, default=0) for kernel, steps in zip(kernels, dilations, strict=True))
    if reach > MAX_REACH:
        raise contradiction([f"a convolution of its decoder sees {reach} samples to each side"])
