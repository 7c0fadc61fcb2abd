"""The yardstick: RVC's network as exporters usually have it, and what they do with it for every voice.

Written from the papers (VITS, Kim et al. 2021; relative positions, Shaw et al. 2018, skewed as in Huang et al. 2018;
HiFi-GAN, Kong et al. 2020; NSF, Wang et al. 2019) under the checkpoint's own names, so that the same file loads
strictly. It shares no layer with `voicekiln.nets`, and so stays where it is when that gets better: weight norm is
computed in the graph, convolutions have three dimensions, attention embeds all 2 * frames - 1 offsets, the phase is
summed up sample by sample. Its graph is if anything lighter than the real one's (about 4,900 nodes raw): nothing is
in it that the numbers do not need.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxsim  # type: ignore[import-untyped, import-not-found, unused-ignore]  # untyped, and an extra
import torch
from onnxconverter_common import float16
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.convert.device import CPU
from voicekiln.convert.verify import difference
from voicekiln.families.rvc_feed import sampler
from voicekiln.families.rvc_network import Settings
from voicekiln.families.sample import V2_40K
from voicekiln.job import Precision
from voicekiln.nets.noise import Noise

TRACED_FRAMES = 200
"""What the usual exporters trace."""
COMPARED_FRAMES = 40
"""Few, because a phase that is summed up in float32 loses digits with every turn."""
INPUTS = {"phone": 1, "phone_lengths": None, "pitch": 1, "pitchf": 1, "ds": None, "rnd": 2}
"""By name, with the place of the dynamic axis."""
SILENT = 1e-20
"""Scale for a noise node; exactly zero makes ONNX Runtime's CPU provider abort."""


def usual(folder: Path, source: Path, precision: Precision) -> None:
    """Make `fp32.onnx` in `folder` the usual way, and `fp16.onnx` from it if that is wanted; nothing is checked."""
    model, _ = onnxsim.simplify(trace(load(source)))
    onnx.save(model, folder / "fp32.onnx")
    if precision == "fp16":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells each number that half precision cannot hold
            half = float16.convert_float_to_float16(model, keep_io_types=True)
        onnx.save(half, folder / "fp16.onnx")


def likeness_db(source: Path, graph: Path) -> float:
    """Return how closely this network agrees with our file of the same voice, the source's noise left out of both."""
    sample = sampler(V2_40K)(COMPARED_FRAMES, np.random.default_rng(0))
    net, model = load(source), onnx.load(graph)
    net.dec.m_source.noise.replay = torch.zeros(1)
    with torch.no_grad():
        audio = net(*(torch.from_numpy(sample[name]) for name in INPUTS)).numpy()
    for node in model.graph.node:
        if node.op_type == "RandomNormalLike":
            node.attribute.append(onnx.helper.make_attribute("scale", SILENT))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    return difference(audio, session.run(None, sample)[0]).snr_db


def load(source: Path) -> Voice:
    """Return the network with a checkpoint's weights, loaded strictly."""
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older weight norm, whose names checkpoints have
        net = Voice(V2_40K)
    net.load_state_dict({name: tensor.float() for name, tensor in checkpoint["weight"].items()})
    return net.eval().requires_grad_(requires_grad=False)


def trace(net: Voice) -> onnx.ModelProto:
    """Return what the TorchScript exporter makes of it."""
    sample = sampler(V2_40K)(TRACED_FRAMES, np.random.default_rng(0))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it announces its own end
        torch.onnx.export(
            net,
            tuple(torch.from_numpy(sample[name]) for name in INPUTS),
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes open files, its stub does not say so
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,  # as the original's exporter has it
            input_names=list(INPUTS),
            output_names=["audio"],
            dynamic_axes={name: {axis: "frames"} for name, axis in INPUTS.items() if axis} | {"audio": {2: "samples"}},
        )
    return onnx.load_from_string(buffer.getvalue())


class Voice(nn.Module):
    """The whole network; inputs as `voicekiln.nets.rvc.PitchedSynthesizer` has them."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.enc_p = Prior(s)
        self.flow = Flow(s)
        self.dec = Decoder(s)
        self.emb_g = nn.Embedding(s.speakers, s.gin_channels)

    def forward(  # noqa: PLR0913, PLR0917 - the six inputs that clients know, in their order
        self, phone: Tensor, phone_lengths: Tensor, pitch: Tensor, pitchf: Tensor, ds: Tensor, rnd: Tensor
    ) -> Tensor:
        """Return audio within -1 .. 1, (batch, 1, samples)."""
        g = self.emb_g(ds).unsqueeze(-1)
        mean, log_deviation, mask = self.enc_p(phone, pitch, phone_lengths)
        z = self.flow((mean + torch.exp(log_deviation) * rnd) * mask, mask, g)
        audio: Tensor = self.dec(z * mask, pitchf, g)
        return audio


class Prior(nn.Module):
    """The text encoder: mean and log deviation of the prior, and the sequence mask."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.hidden, self.channels = s.hidden, s.channels
        self.emb_phone = nn.Linear(s.features, s.hidden)
        self.emb_pitch = nn.Embedding(256, s.hidden)
        self.encoder = Transformer(s)
        self.proj = nn.Conv1d(s.hidden, 2 * s.channels, 1)

    def forward(self, phone: Tensor, pitch: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, log deviation and mask, (batch, channels or 1, frames)."""
        x = (self.emb_phone(phone) + self.emb_pitch(pitch)) * math.sqrt(self.hidden)
        x = torch.transpose(F.leaky_relu(x, 0.1), 1, -1)  # (batch, hidden, frames)
        places = torch.arange(x.size(2), dtype=lengths.dtype, device=lengths.device)
        mask = torch.unsqueeze(places.unsqueeze(0) < lengths.unsqueeze(1), 1).to(x.dtype)
        mean, log_deviation = torch.split(self.proj(self.encoder(x * mask, mask)) * mask, self.channels, dim=1)
        return mean, log_deviation, mask


class Transformer(nn.Module):
    """Layers of attention and convolutions, each added to its input and normalised after that."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(Attention(s) for _ in range(s.layers))
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(s.hidden) for _ in range(s.layers))
        self.ffn_layers = nn.ModuleList(FeedForward(s) for _ in range(s.layers))
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(s.hidden) for _ in range(s.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, hidden, frames)."""
        pairs = mask.unsqueeze(2) * mask.unsqueeze(-1)
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attend, norm_1, feed, norm_2 in layers:
            x = norm_1(x + attend(x, pairs))
            x = norm_2(x + feed(x, mask))
        return x * mask


class Attention(nn.Module):
    """Self-attention with keys and values for every offset, zero beyond the window, skewed by padding and reshaping."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.heads, self.size, self.window = s.heads, s.hidden // s.heads, s.window
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(s.hidden, s.hidden, 1) for _ in range(4))
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * s.window + 1, self.size))
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * s.window + 1, self.size))

    def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
        """Return (batch, hidden, frames); `pairs` is 0 where a position must not be looked at."""
        batch, hidden, frames = x.size()
        query, key, value = (
            conv(x).view(batch, self.heads, self.size, frames).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        query = query / math.sqrt(self.size)
        scores = torch.matmul(query, key.transpose(-2, -1))
        by_offset = torch.matmul(query, self._offsets(self.emb_rel_k, frames).transpose(-2, -1))
        scores = (scores + self._to_positions(by_offset, frames)).masked_fill(pairs == 0, -1e4)
        weights = F.softmax(scores, dim=-1)
        found = torch.matmul(weights, value)
        found = found + torch.matmul(self._to_offsets(weights, frames), self._offsets(self.emb_rel_v, frames))
        merged: Tensor = self.conv_o(found.transpose(2, 3).contiguous().view(batch, hidden, frames))
        return merged

    def _offsets(self, embedding: Tensor, frames: int) -> Tensor:
        """Return (1, 1, 2 * frames - 1, size): the table with zeros before and behind."""
        table = F.pad(embedding, (0, 0, frames, frames))
        return table[:, self.window + 1 : self.window + 2 * frames].unsqueeze(0)

    def _to_positions(self, x: Tensor, frames: int) -> Tensor:
        """(batch, heads, frames, 2 * frames - 1) -> (batch, heads, frames, frames)."""
        flat = F.pad(x, (0, 1)).view(x.size(0), self.heads, frames * 2 * frames)
        rows = F.pad(flat, (0, frames - 1)).view(x.size(0), self.heads, frames + 1, 2 * frames - 1)
        return rows[:, :, :frames, frames - 1 :]

    def _to_offsets(self, x: Tensor, frames: int) -> Tensor:
        """(batch, heads, frames, frames) -> (batch, heads, frames, 2 * frames - 1)."""
        flat = F.pad(x, (0, frames - 1)).view(x.size(0), self.heads, frames * (2 * frames - 1))
        return F.pad(flat, (frames, 0)).view(x.size(0), self.heads, frames, 2 * frames)[:, :, :, 1:]


class FeedForward(nn.Module):
    """Two convolutions, padded explicitly as VITS does to allow for causal ones."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.sides = ((s.kernel - 1) // 2, s.kernel // 2)
        self.conv_1 = nn.Conv1d(s.hidden, s.filter_channels, s.kernel)
        self.conv_2 = nn.Conv1d(s.filter_channels, s.hidden, s.kernel)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, hidden, frames)."""
        x = torch.relu(self.conv_1(F.pad(x * mask, self.sides)))
        return self.conv_2(F.pad(x * mask, self.sides)) * mask  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """Layer norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels, frames)."""
        return F.layer_norm(x.transpose(1, -1), (self.channels,), self.gamma, self.beta, 1e-5).transpose(1, -1)


class Flow(nn.Module):
    """Couplings at the even places, flips at the odd ones; run backwards."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(s.flows):
            self.flows.extend((Coupling(s), nn.Identity()))

    def forward(self, x: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """Return (batch, channels, frames)."""
        for step in reversed(self.flows):
            x = step(x, mask, g) if isinstance(step, Coupling) else torch.flip(x, [1])
        return x


class Coupling(nn.Module):
    """Takes from one half of the channels what the other half says."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.moves = s.channels // 2
        self.pre = nn.Conv1d(self.moves, s.hidden, 1)
        self.enc = WaveNet(s)
        self.post = nn.Conv1d(s.hidden, self.moves, 1)

    def forward(self, x: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """Return (batch, channels, frames)."""
        kept, moved = torch.split(x, [self.moves] * 2, 1)
        mean = self.post(self.enc(self.pre(kept) * mask, mask, g)) * mask
        return torch.cat([kept, (moved - mean) * mask], 1)


class WaveNet(nn.Module):
    """Gated convolutions with weight norm, conditioned on the speaker."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.hidden, last = s.hidden, s.flow_layers - 1
        widths = [s.hidden if i == last else 2 * s.hidden for i in range(s.flow_layers)]
        self.in_layers = nn.ModuleList(normed(nn.Conv1d(s.hidden, 2 * s.hidden, 5, padding=2)) for _ in widths)
        self.res_skip_layers = nn.ModuleList(normed(nn.Conv1d(s.hidden, width, 1)) for width in widths)
        self.cond_layer = normed(nn.Conv1d(s.gin_channels, 2 * s.hidden * s.flow_layers, 1))

    def forward(self, x: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """Return (batch, hidden, frames)."""
        output = torch.zeros_like(x)
        conditions = self.cond_layer(g)
        for i, (conv, mix) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            both = conv(x) + conditions[:, 2 * self.hidden * i : 2 * self.hidden * (i + 1)]
            mixed = mix(torch.tanh(both[:, : self.hidden]) * torch.sigmoid(both[:, self.hidden :]))
            if i < len(self.in_layers) - 1:
                x = (x + mixed[:, : self.hidden]) * mask
                mixed = mixed[:, self.hidden :]
            output = output + mixed
        return output * mask


class Source(nn.Module):
    """Sines that follow f0, their phase summed up sample by sample, and noise."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.rate, self.hop = s.sample_rate, s.hop
        self.noise = Noise()
        self.l_linear = nn.Linear(1, 1)

    def forward(self, f0: Tensor) -> Tensor:
        """Return (batch, 1, samples)."""
        hz = F.interpolate(f0.unsqueeze(1), scale_factor=float(self.hop), mode="nearest").transpose(1, 2)
        voiced = (hz > 0).to(hz.dtype)
        sines = torch.sin(torch.cumsum(torch.fmod(hz / self.rate, 1), 1) * 2 * math.pi) * 0.1
        noise = (voiced * 0.003 + (1 - voiced) * 0.1 / 3) * self.noise(sines)
        return torch.tanh(self.l_linear(sines * voiced + noise)).transpose(1, 2)


class Decoder(nn.Module):
    """HiFi-GAN with a source, weight norm on all that it trains with."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        widths = [s.initial >> step for step in range(len(s.rates) + 1)]
        self.kinds = len(s.block_kernels)
        self.m_source = Source(s)
        self.conv_pre = nn.Conv1d(s.channels, s.initial, 7, padding=3)
        self.cond = nn.Conv1d(s.gin_channels, s.initial, 1)
        self.ups, self.noise_convs, self.resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for step, (rate, kernel) in enumerate(zip(s.rates, s.up_kernels, strict=True)):
            wide, narrow = widths[step : step + 2]
            self.ups.append(normed(nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)))
            left = math.prod(s.rates[step + 1 :])
            size, padding = (2 * left, left // 2) if left > 1 else (1, 0)
            self.noise_convs.append(nn.Conv1d(1, narrow, size, left, padding=padding))
            for width, dilations in zip(s.block_kernels, s.dilations, strict=True):
                self.resblocks.append(Block(narrow, width, dilations))
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor) -> Tensor:
        """Return audio, (batch, 1, samples)."""
        excitation = self.m_source(f0)
        x = self.conv_pre(x) + self.cond(g)
        for step, (up, join) in enumerate(zip(self.ups, self.noise_convs, strict=True)):
            x = up(F.leaky_relu(x, 0.1)) + join(excitation)
            blocks = self.resblocks[step * self.kinds : (step + 1) * self.kinds]
            x = torch.stack([block(x) for block in blocks]).sum(0) / self.kinds
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class Block(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1, self.convs2 = (
            nn.ModuleList(
                normed(nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2)) for d in each
            )
            for each in (dilations, (1,) * len(dilations))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            x = x + conv2(F.leaky_relu(conv1(F.leaky_relu(x, 0.1)), 0.1))
        return x


def normed(layer: nn.Module) -> Any:  # noqa: ANN401 - torch's own word for it
    """Return the layer with weight norm, computed anew in each run."""
    return nn.utils.weight_norm(layer)
