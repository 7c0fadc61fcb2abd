"""Exports of small RVC voices as other tools make them, right ones and such with the faults that those have."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from tiny_voices import write_tiny
from voicekiln.judge.original import Voice, open_voice

FRAMES = 24
"""Traced."""

RVC = ("phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd")
W_OKADA = ("feats", "p_len", "pitch", "pitchf", "sid")
FORKED = (*W_OKADA, "skip_head", "return_length", "formant_length")
VIETNAMESE = ("phone", "phone_lengths", "sid", "rate", "pitch", "nsff0")
OBS = ("phone", "pitch", "pitchf")

SAME = {"feats": "phone", "p_len": "phone_lengths", "sid": "ds", "nsff0": "pitchf"}


@cache
def voice(**facts: Any) -> Voice:
    """Return an opened small voice; do not change it."""
    with TemporaryDirectory() as folder:
        return open_voice(write_tiny(Path(folder, "voice.pth"), **facts))


def changed(spoken: Voice, change: Callable[[Any], object]) -> nn.Module:
    """Return a copy of a voice's network, changed."""
    network: nn.Module = copy.deepcopy(spoken.network)
    change(network)
    return network


class OldSine(nn.Module):
    """The source as RVC had it first: every sample is summed up, and the sum is kept small where a turn is full."""

    def __init__(self, sample_rate: int, hop: int, *, half: bool = False) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.half_phase = sample_rate, hop, half

    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        """Return (frames, hop, 1), as `SineGen` does."""
        step = torch.remainder(f0.unsqueeze(1) / self.sample_rate, 1)  # (1, 1, frames)
        sums = functional.interpolate(
            torch.cumsum(step, 2) * self.hop, scale_factor=float(self.hop), mode="linear", align_corners=True
        )
        each = functional.interpolate(step, scale_factor=float(self.hop), mode="nearest")
        wrapped = torch.remainder(sums, 1)
        full = (wrapped[:, :, 1:] - wrapped[:, :, :-1]) < 0
        added = each + functional.pad(full.to(each.dtype) * -1.0, (1, 0))
        phase = torch.cumsum(added.half() if self.half_phase else added, 2)
        voiced = functional.interpolate(
            (f0 > 0).to(each.dtype).unsqueeze(1), scale_factor=float(self.hop), mode="nearest"
        )
        sine = torch.sin(phase * 2 * torch.pi).float() * 0.1 * voiced
        noise = (0.003 * voiced + 0.1 / 3 * (1 - voiced)) * torch.randn_like(sine)
        return (sine + noise).reshape(-1, self.hop, 1)


class LonelySine(nn.Module):
    """The source of an exporter that sums up nothing and draws nothing."""

    def __init__(self, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop

    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        """Return (frames, hop, 1), as `SineGen` does."""
        turns = functional.interpolate(f0.unsqueeze(1) / self.sample_rate, scale_factor=float(self.hop), mode="nearest")
        voiced = functional.interpolate((f0 > 0).float().unsqueeze(1), scale_factor=float(self.hop), mode="nearest")
        return (torch.sin(turns * 2 * torch.pi) * 0.1 * voiced).reshape(-1, self.hop, 1)


def with_source(spoken: Voice, source: nn.Module) -> nn.Module:
    """Return a copy of a voice's network with another sine."""
    return changed(spoken, lambda net: setattr(net.dec.m_source, "l_sin_gen", source))


class Mask(nn.Module):
    """Calls a voice through a face: takes that face's inputs in their order and gives its output."""

    def __init__(self, network: nn.Module, names: Sequence[str], rank: int, *, scale: float) -> None:
        super().__init__()
        self.network, self.names, self.rank, self.scale = network, names, rank, scale

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        """Return audio of the face's rank."""
        given = {SAME.get(name, name): value for name, value in zip(self.names, arguments, strict=True)}
        net: Any = self.network
        weight = net.emb_g.weight
        phone = given["phone"].to(weight.dtype)
        frames = phone.shape[1]
        speaker = given.get("ds", torch.zeros(1, dtype=torch.int64))
        mask = phone[0, :, 0] * 0 + 1
        if "phone_lengths" in given:
            mask = (torch.arange(frames) < given["phone_lengths"]).to(weight.dtype)
        g = net.emb_g(speaker).unsqueeze(-1)
        mean, deviation = net.enc_p(phone, mask, given.get("pitch"))
        noise = given["rnd"] if "rnd" in given else torch.randn_like(mean) * self.scale
        z = net.flow((mean + torch.exp(deviation) * noise) * mask, mask, g)
        f0 = given.get("pitchf")
        if "rate" in given:
            first = (frames * (1 - given["rate"])).to(torch.int64)
            z, f0 = z[:, :, first:], None if f0 is None else f0[:, first:]
        if "skip_head" in given:
            first, last = given["skip_head"], given["skip_head"] + given["return_length"]
            z, f0 = z[:, :, first:last], None if f0 is None else f0[:, first:last]
        audio: torch.Tensor = net.dec(z, g, f0)
        if "formant_length" in given:
            audio = audio * (given["formant_length"] / given["return_length"])
        return audio if self.rank == 3 else audio.reshape(-1).clamp(-1, 1)


def arguments(names: Sequence[str], features: int, channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return inputs of the traced length."""
    rng = torch.Generator().manual_seed(1)
    values = {
        "phone": torch.randn(1, FRAMES + 24, features, generator=rng, dtype=dtype),
        "phone_lengths": torch.tensor([FRAMES + 24]),
        "pitch": torch.full((1, FRAMES + 24), 40),
        "pitchf": torch.full((1, FRAMES + 24), 220.0),
        "ds": torch.tensor([0]),
        "rnd": torch.randn(1, channels, FRAMES + 24, generator=rng, dtype=dtype),
        "rate": torch.tensor([1.0]),
        "skip_head": torch.tensor(24),
        "return_length": torch.tensor(FRAMES),
        "formant_length": torch.tensor(FRAMES),
    }
    return tuple(values[SAME.get(name, name)] for name in names)


def export(  # noqa: PLR0913 - what exporters differ in
    spoken: Voice,
    names: Sequence[str] = RVC,
    *,
    rank: int = 3,
    fixed: bool = False,
    scale: float = 0.66666,
    network: nn.Module | None = None,
    half: bool = False,
    called: Sequence[str] = (),
) -> onnx.ModelProto:
    """Return the file that the usual exporter makes of a voice with a face.

    Args:
        spoken: the voice.
        names: the face's inputs.
        rank: of the output.
        fixed: leave all lengths as they were traced.
        scale: of the noise that is drawn inside.
        network: in place of the voice's own.
        half: take features and noise in half precision.
        called: other names for the inputs.
    """
    own = spoken.network if network is None else network
    given = arguments(
        names, spoken.settings.features, spoken.settings.channels, torch.float16 if half else torch.float32
    )
    file, called = io.BytesIO(), called or names
    axes = {name: {1: "frames"} for name in called if SAME.get(name, name) in ("phone", "pitch", "pitchf")}
    axes |= {name: {2: "frames"} for name in called if name == "rnd"}
    axes |= {
        new: {2 if old == "rnd" else 1: "frames"}
        for new, old in zip(called, names, strict=True)
        if SAME.get(old, old) in ("phone", "pitch", "pitchf", "rnd")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Mask(own, names, rank, scale=scale).eval(),
            given,
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=list(called),
            output_names=["audio"],
            dynamic_axes={} if fixed else axes,
        )
    return onnx.load_from_string(file.getvalue())
