"""The whole network: what lies behind the end is never heard, and its graph is small and without detours."""

from __future__ import annotations

import io
import warnings

import onnx
import pytest
import torch
from torch import nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from voicekiln.nets.attention import Encoder
from voicekiln.nets.flow import ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.rvc import PitchedSynthesizer, TextEncoder
from voicekiln.nets.source import SourceModuleHnNSF

FRAMES, FEATURES, CHANNELS, HOP = 24, 6, 4, 16
MOST_NODES = 800
"""A real voice has as many as this one, and ONNX Runtime takes the longer to open a file the more there are."""
DETOURS = {"If", "Loop", "Scan", "NonZero", "ScatterND", "ScatterElements", "Expand"}
"""What the exporter writes where it does not know a size, or a network asks for it unawares."""


def voice() -> PitchedSynthesizer:
    """Return a network with all the layers of a real one, each of them thin."""
    torch.manual_seed(0)
    encoder = Encoder(8, 12, heads=2, layers=6, kernel=3, window=10)
    dilations = [(1, 3, 5)] * 3
    source = SourceModuleHnNSF(1600, HOP)
    network = PitchedSynthesizer(
        enc_p=TextEncoder(encoder, FEATURES, 8, CHANNELS, pitch=True),
        flow=ResidualCouplingBlock(CHANNELS, 8, layers=3, gin_channels=4, steps=4),
        dec=Generator(CHANNELS, 16, [2] * 4, [4] * 4, [3, 7, 11], dilations, gin_channels=4, source=source),
        speakers=2,
        gin_channels=4,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(requires_grad=False)


def inputs(frames: int, length: int) -> tuple[torch.Tensor, ...]:
    """Return inputs of which `length` frames count; those are the same whatever `frames` is, the others are loud."""
    rng = torch.Generator().manual_seed(1)
    phone, rnd = (torch.randn(1, size, FRAMES, generator=rng)[..., :frames] for size in (FEATURES, CHANNELS))
    loud = 1 + 1e4 * (torch.arange(frames) >= length)
    pitch, pitchf = torch.full((1, frames), 40), torch.full((1, frames), 220.0)
    return (phone * loud).transpose(1, 2), torch.tensor([length]), pitch, pitchf, torch.tensor([1]), rnd * loud


def heard(network: PitchedSynthesizer, frames: int, length: int) -> torch.Tensor:
    """Return what the decoder is given, (1, channels, frames)."""
    given: list[torch.Tensor] = []
    hook = network.dec.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    network(*inputs(frames, length))
    hook.remove()
    return given[0]


@pytest.mark.parametrize("length", [1, 13, 23])
def test_frames_behind_the_end_are_not_heard(length: int) -> None:
    """The decoder is given what it would be given without them, and zeros after it."""
    network = voice()
    got = heard(network, FRAMES, length)
    torch.testing.assert_close(got[..., :length], heard(network, length, length), atol=1e-5, rtol=1e-4)
    assert not got[..., length:].any()
    assert got[..., :length].std() > 0.1


@pytest.mark.parametrize("opset", [17, 20])
def test_the_graph_is_small(opset: int) -> None:
    """No branch, no loop, no size computed without need; the size of the batch is known to the end."""
    file = io.BytesIO()
    names = ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]
    axes = {name: {1: "frames"} for name in ("phone", "pitch", "pitchf")} | {"rnd": {2: "frames"}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the exporter's own, about itself
        warnings.filterwarnings("error", category=TracerWarning)
        torch.onnx.export(
            voice(),
            inputs(FRAMES, FRAMES),
            file,  # type: ignore[arg-type]  # the stub does not know that files will do
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            export_params=False,
            input_names=names,
            output_names=["audio"],
            dynamic_axes=axes | {"audio": {2: "samples"}},
        )
    graph = onnx.load_from_string(file.getvalue()).graph
    assert not DETOURS.intersection(node.op_type for node in graph.node)
    assert len(graph.node) <= MOST_NODES
    assert [dim.dim_value or dim.dim_param for dim in graph.output[0].type.tensor_type.shape.dim] == [1, 1, "samples"]
