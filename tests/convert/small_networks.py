"""Small networks with what matters in a voice: a mask, a source that is driven by f0, noise, and an upsampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from voicekiln.convert import verify
from voicekiln.convert.graph import export, noise_nodes, with_numbers
from voicekiln.convert.reference import load
from voicekiln.families.base import Exportable
from voicekiln.families.weights import rules
from voicekiln.job import Port
from voicekiln.nets.noise import Noise
from voicekiln.nets.source import SourceModuleHnNSF

HOP = 40
FEATURES = 12
SOURCE = "dec.m_source"

Numbers = Mapping[str, torch.Tensor]
"""A checkpoint's tensors by name."""


class Decoder(nn.Module):
    """Upsamples and adds what the source sings."""

    def __init__(self) -> None:
        super().__init__()
        self.m_source = SourceModuleHnNSF(4000, HOP)
        self.conv_pre = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 8, 2 * HOP, HOP, padding=HOP // 2)
        self.noise_conv = nn.Conv1d(1, 8, 1)
        self.conv_post = nn.Conv1d(8, 1, 7, padding=3)

    def forward(self, x: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Return audio, (batch, 1, samples)."""
        x = self.up(torch.tanh(self.conv_pre(x))) + 3 * self.noise_conv(self.m_source(f0))
        audio: torch.Tensor = torch.tanh(self.conv_post(x))
        return audio


class Voice(nn.Module):
    """A mask, a linear layer and the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_phone = nn.Linear(FEATURES, 8)
        self.dec = Decoder()
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):  # an offset is no signal, but half precision rounds it all the same
                nn.init.zeros_(parameter)

    def forward(self, phone: torch.Tensor, phone_lengths: torch.Tensor, pitchf: torch.Tensor) -> torch.Tensor:
        """Return audio, (batch, 1, samples)."""
        mask = (torch.arange(phone.shape[1]) < phone_lengths.unsqueeze(1)).to(phone.dtype).unsqueeze(1)
        audio: torch.Tensor = self.dec(self.emb_phone(phone).transpose(1, 2) * mask, pitchf)
        return audio


class TwoNoises(nn.Module):
    """Draws twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Noise(), Noise()

    def forward(self, phone: torch.Tensor) -> torch.Tensor:
        """Return (batch, frames, features)."""
        first: torch.Tensor = self.first(phone)
        second: torch.Tensor = self.second(phone)
        return phone + first + 2 * second * first


def sample(frames: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Draw features, and an f0 glide with a gap."""
    f0 = np.linspace(110, 440, frames, dtype=np.float32)[None]
    f0[:, frames // 3 : frames // 2] = 0
    phone = rng.standard_normal((1, frames, FEATURES), dtype=np.float32)
    return {"phone": phone, "phone_lengths": np.array([frames]), "pitchf": f0}


def voice(module: nn.Module | None = None, **changed: Any) -> Exportable:
    """Return a small voice ready for export; a module of one's own must take the same inputs."""
    made = (module or Voice()).eval().requires_grad_(requires_grad=False).to("meta")
    described = Exportable(
        graph_key="small",
        title="a small voice",
        module=made,
        weights=rules(made.state_dict()),
        inputs=(
            Port("phone", "float32", (1, "frames", FEATURES)),
            Port("phone_lengths", "int64", (1,)),
            Port("pitchf", "float32", (1, "frames")),
        ),
        outputs=(Port("audio", "float32", (1, 1, "samples")),),
        sample=sample,
        wanted_db={"fp32": 100.0, "fp16": 55.0},
        metadata={"family": "small"},
        feed={"noise": 1},
        in_float32=SOURCE,
        noises=(f"{SOURCE}.l_sin_gen.noise",),
    )
    return replace(described, **changed)


def two_noises() -> Exportable:
    """Return a network that draws twice."""
    return voice(
        TwoNoises(),
        inputs=(Port("phone", "float32", (1, "frames", FEATURES)),),
        outputs=(Port("out", "float32", (1, "frames", FEATURES)),),
        in_float32=None,
        noises=("first", "second"),
    )


def numbers(seed: int = 0) -> Numbers:
    """Return a small voice's own weights, as in a checkpoint."""
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Voice().state_dict().items()}


def graph(exportable: Exportable | None = None, opset: int = 17) -> onnx.ModelProto:
    """Return a copy of the network's graph, of the small voice's by default; that one is traced once for all tests."""
    copy = onnx.ModelProto()
    copy.CopyFrom(_graph(opset) if exportable is None else export(exportable, opset))
    return copy


@cache
def _graph(opset: int) -> onnx.ModelProto:
    return export(voice(), opset)


def whole(model: onnx.ModelProto, weights: Numbers) -> onnx.ModelProto:
    """Return a copy of a graph with numbers in it, rounded by NumPy where the graph wants them rounded."""
    full = onnx.ModelProto()
    full.CopyFrom(model)
    for tensor in full.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        largest = np.finfo(dtype).max
        array = np.clip(weights[tensor.name].float().numpy(), -largest, largest).astype(dtype)
        tensor.raw_data = array.tobytes()
    return full


def asked(exportable: Exportable, weights: Numbers, model: onnx.ModelProto) -> verify.Original:
    """Return what a file that was made from `model` has to sound like."""
    network = with_numbers(exportable)
    load(network, exportable, weights)
    return verify.Original(exportable, network, noise_nodes(model.graph))
