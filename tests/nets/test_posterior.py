"""The posterior encoder and the voice conversion do what a plain float64 reading of the paper does.

No checkpoint with a posterior encoder is among the references, so that the reading is written out here: Kim et al.
2021, sections 2.1.3 and 2.5, with the WaveNet of Prenger et al. 2019.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.nets.flow import WN, Flip, ResidualCouplingBlock
from voicekiln.nets.hifigan import SmallGenerator
from voicekiln.nets.posterior import PosteriorEncoder
from voicekiln.nets.text_to_speech import VoiceConversion

BINS, HIDDEN, CHANNELS, GIN, FRAMES = 7, 6, 4, 3, 25
RATES = (2, 2)


def loud(module: nn.Module) -> nn.Module:
    """Return it with weights that make every layer heard, in float64."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.double().eval().requires_grad_(requires_grad=False)


def posterior(gin_channels: int = GIN, dilation_rate: int = 1) -> Any:
    """Return one of three layers."""
    wavenet = WN(HIDDEN, 5, 3, gin_channels, dilation_rate=dilation_rate)
    return loud(PosteriorEncoder(BINS, HIDDEN, CHANNELS, wavenet))


def converter() -> Any:
    """Return a whole voice."""
    return loud(
        VoiceConversion(
            emb_g=nn.Embedding(2, GIN),
            posterior_encoder=PosteriorEncoder(BINS, HIDDEN, CHANNELS, WN(HIDDEN, 5, 3, GIN)),
            flow=ResidualCouplingBlock(CHANNELS, HIDDEN, 2, GIN, 3),
            waveform_decoder=SmallGenerator(CHANNELS, 8, RATES, (4, 4), (3,), ((1, 3),), GIN),
        )
    )


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def wavenet(wn: WN, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None, rate: int = 1) -> torch.Tensor:
    """Return the sum of the skip paths, layer by layer as in the paper."""
    width = x.shape[1]
    told = None if g is None else F.conv1d(g, wn.cond_layer.weight, wn.cond_layer.bias)
    total = torch.zeros_like(x)
    for layer, (conv, mix) in enumerate(zip(wn.in_layers, wn.res_skip_layers, strict=True)):
        assert isinstance(conv, nn.Conv1d)
        assert isinstance(mix, nn.Conv1d)
        kernel, dilation = conv.weight.shape[-1], rate**layer
        y = F.conv1d(x, conv.weight, conv.bias, dilation=dilation, padding=dilation * (kernel - 1) // 2)
        if told is not None:
            y = y + told[:, 2 * width * layer : 2 * width * (layer + 1)]
        y = F.conv1d(torch.tanh(y[:, :width]) * torch.sigmoid(y[:, width:]), mix.weight, mix.bias)
        if layer < len(wn.in_layers) - 1:
            x = (x + y[:, :width]) * mask
            total = total + y[:, width:]
        else:
            total = total + y
    return total


def heard(
    encoder: PosteriorEncoder,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor],
    rate: int = 1,
) -> torch.Tensor:
    """Return a draw from the posterior; `given` are the encoder's inputs."""
    spectrogram, mask, g, noise = given
    x = wavenet(encoder.enc, F.conv1d(spectrogram, encoder.pre.weight, encoder.pre.bias) * mask, mask, g, rate)
    mean, log_deviation = F.conv1d(x, encoder.proj.weight, encoder.proj.bias).chunk(2, dim=1)
    return (mean + noise * log_deviation.exp()) * mask


def moved(flow: ResidualCouplingBlock, z: torch.Tensor, g: torch.Tensor, *, back: bool) -> torch.Tensor:
    """Return it run through the flow: each coupling adds a mean to the second half, or takes it away, then a flip."""
    mask = torch.ones(z.shape[-1], dtype=z.dtype)
    couplings = [step for step in flow.flows if not isinstance(step, Flip)]
    for step in reversed(couplings) if back else couplings:
        assert isinstance(step.enc, WN)
        assert isinstance(step.pre, nn.Conv1d)
        assert isinstance(step.post, nn.Conv1d)
        first, second = (z.flip(1) if back else z).chunk(2, dim=1)
        x = wavenet(step.enc, F.conv1d(first, step.pre.weight, step.pre.bias), mask, g)
        mean = F.conv1d(x, step.post.weight, step.post.bias)
        z = torch.cat([first, second - mean], 1) if back else torch.cat([first, second + mean], 1).flip(1)
    return z


@pytest.mark.parametrize("gin_channels", [0, GIN])
@pytest.mark.parametrize("rate", [1, 2])
def test_is_what_the_paper_says(gin_channels: int, rate: int) -> None:
    """With and without speakers, with layers of equal and of growing dilation; silent beyond the mask."""
    encoder, mask = posterior(gin_channels, rate), (torch.arange(FRAMES) < 20).double()
    spectrogram, noise = drawn(1, BINS, FRAMES), drawn(1, CHANNELS, FRAMES)
    g = drawn(1, GIN, 1) if gin_channels else None
    got = encoder(spectrogram, mask, g, noise)
    torch.testing.assert_close(got, heard(encoder, (spectrogram, mask, g, noise), rate))
    assert not got[..., 20:].any()
    assert not torch.allclose(got, encoder(spectrogram, mask, g, noise / 2), atol=1e-2)


def test_the_flow_onwards_is_the_papers_and_back_again() -> None:
    """Onwards it adds what backwards it takes away, so that one after the other is nothing, if nobody else speaks."""
    flow, z, mask = converter().flow, drawn(1, CHANNELS, FRAMES), torch.ones(FRAMES, dtype=torch.float64)
    one, other = drawn(1, GIN, 1), drawn(GIN, GIN, 1)[:1]
    onwards = flow(z, mask, one, onward=True)
    torch.testing.assert_close(onwards, moved(flow, z, one, back=False))
    torch.testing.assert_close(flow(z, mask, one), moved(flow, z, one, back=True))
    torch.testing.assert_close(flow(onwards, mask, one), z)
    assert not torch.allclose(flow(onwards, mask, other), z, atol=1e-2)


def test_a_voice_is_converted_as_the_paper_says() -> None:
    """Heard as the one, onwards as the one, back and decoded as the other."""
    voice = converter()
    spectrogram, noise = drawn(1, BINS, FRAMES), drawn(1, CHANNELS, FRAMES)
    source, target = (voice.emb_g.weight[row].reshape(1, GIN, 1) for row in (0, 1))
    mask = torch.ones(FRAMES, dtype=torch.float64)
    z = heard(voice.posterior_encoder, (spectrogram, mask, source, noise))
    z = moved(voice.flow, moved(voice.flow, z, source, back=False), target, back=True)
    wanted = voice.waveform_decoder(z, target)
    got = voice(spectrogram, torch.tensor([0]), torch.tensor([1]), noise)
    assert got.shape == (1, 1, FRAMES * RATES[0] * RATES[1])
    torch.testing.assert_close(got, wanted)
    assert not torch.allclose(got, voice(spectrogram, torch.tensor([1]), torch.tensor([0]), noise), atol=1e-2)


def test_a_conversion_to_oneself_is_the_decoded_posterior() -> None:
    """The flow there and back changes nothing."""
    voice = converter()
    spectrogram, noise = drawn(1, BINS, FRAMES), drawn(1, CHANNELS, FRAMES)
    g = voice.emb_g.weight[1].reshape(1, GIN, 1)
    z = voice.posterior_encoder(spectrogram, torch.ones(FRAMES, dtype=torch.float64), g, noise)
    same = torch.tensor([1])
    torch.testing.assert_close(voice(spectrogram, same, same, noise), voice.waveform_decoder(z, g))
