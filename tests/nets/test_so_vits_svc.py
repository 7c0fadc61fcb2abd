"""The networks make of the reference voices what so-vits-svc's original code made of them, and mistakes are heard.

The bars are those that come with the references: the original adds up its phase in float32, so its sound is met to
80 dB, and to 105 with its own excitation; what it predicts as f0 to 0.005 Hz.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

import reference_voices
import tiny_sovits
from outlines import outline, tensors
from plain_export import network as with_numbers
from reference_voices import ac_snr_db
from voicekiln.convert.graph import export
from voicekiln.families.base import Claim
from voicekiln.families.so_vits_svc import SoVitsSvc
from voicekiln.families.so_vits_svc_network import copies, expected, network
from voicekiln.job import Part, Recipe
from voicekiln.nets.causal import FFT
from voicekiln.nets.f0_decoder import centred, to_hz, to_lf0
from voicekiln.nets.flow import WN, ResidualCouplingBlock
from voicekiln.nets.noise import Noise
from voicekiln.nets.snake import Snake
from voicekiln.nets.so_vits_svc import coarse

NAMES = ("sovits-40", "sovits-41", "sovits-41-tflow", "sovits-41-tiny", "sovits-41-vol-snake", "sovits-fork")
MIXED = ("sovits-40", "sovits-41", "sovits-41-vol-snake", "sovits-fork")
"""Those of more than one speaker."""
SOUND_DB, OWN_SOURCE_DB, OWN_F0_DB = 80, 105, 50
F0_HZ = 0.005

DETOURS = {"If", "Loop", "Scan", "NonZero", "ScatterND", "ScatterElements", "Expand"}
"""What the exporter writes where it does not know a size, or a network asks for it unawares."""

Arrays = dict[str, NDArray[Any]]


@lru_cache(maxsize=3)
def voice(name: str, part: Part = "so-vits-svc", *, mix: bool = False) -> Any:
    """Return one of a reference voice's networks with its numbers and without the source's noise."""
    checkpoint = reference_voices.checkpoint(name)
    seen, family = outline(checkpoint), SoVitsSvc()
    claim = family.recognise(seen)
    assert isinstance(claim, Claim)
    exportable = family.build(claim, seen, part, Recipe("any", speaker_mix=mix))
    return silenced(with_numbers(exportable, tensors(checkpoint)))


def silenced(module: nn.Module) -> nn.Module:
    """Let the noise in a network be zeros."""
    for noise in module.modules():
        if isinstance(noise, Noise):
            noise.forward = torch.zeros_like  # type: ignore[method-assign,assignment]
    return module


def said(run: Arrays, **other: torch.Tensor) -> list[torch.Tensor]:
    """Return the inputs of a run in their order, some of them in another's place."""
    inputs = {name: torch.from_numpy(run[name]) for name in ("c", "f0", "mel2ph", "uv")}
    inputs["noise"] = torch.from_numpy(run["noise"] * run["noise_scale"])
    inputs |= {name: torch.from_numpy(run[name]) for name in ("sid", "vol") if name in run}
    return list((inputs | other).values())


def heard(network: nn.Module, inputs: list[torch.Tensor]) -> NDArray[Any]:
    """Return the audio."""
    with torch.no_grad():
        got = network(*inputs)
    return (got[0] if isinstance(got, tuple) else got).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_sounds_like_the_original(name: str) -> None:
    """At both lengths, with an unvoiced gap in each; and with the pitch that the original predicted."""
    for run in reference_voices.arrays(name):
        assert ac_snr_db(run["audio"], heard(voice(name), said(run))) >= SOUND_DB
        sung = said(run, f0=torch.from_numpy(run["f0_auto"]))
        assert ac_snr_db(run["audio_auto"], heard(voice(name), sung)) >= SOUND_DB


@pytest.mark.parametrize("name", NAMES)
def test_is_the_original_with_its_excitation(name: str) -> None:
    """What is left of the difference is the phase, which we add up more exactly."""
    network = voice(name)
    for run in reference_voices.arrays(name):
        source = torch.from_numpy(run["source"])
        hook = network.dec.m_source.register_forward_hook(lambda *_, source=source: source)
        got = heard(network, said(run))
        hook.remove()
        assert ac_snr_db(run["audio"], got) >= OWN_SOURCE_DB


@pytest.mark.parametrize("name", NAMES)
def test_predicts_the_originals_pitch(name: str) -> None:
    """And sings it."""
    network = voice(name, "autof0")
    for run in reference_voices.arrays(name):
        with torch.no_grad():
            audio, f0 = network(*said(run))
        assert np.ptp(run["f0_auto"]) > 1000 * F0_HZ
        assert np.abs(f0.numpy() - run["f0_auto"]).max() <= F0_HZ
        assert ac_snr_db(run["audio_auto"], audio.numpy()) >= OWN_F0_DB


@pytest.mark.parametrize("name", MIXED)
def test_mixes_speakers_as_the_original_does(name: str) -> None:
    """In equal shares throughout and from one to the other; speakers without a share change nothing."""
    network = voice(name, mix=True)
    for run in reference_voices.arrays(name):
        shares = torch.from_numpy(run["spk_mix"])
        shares = F.pad(shares, (0, len(network.emb_g.weight) - shares.shape[1]))
        assert ac_snr_db(run["audio_mix"], heard(network, said(run, sid=shares))) >= SOUND_DB


Plant = Callable[[Any, list[torch.Tensor]], object]


def _forwards(module: Any, _inputs: object) -> None:
    for layer in module.flow.flows[::2]:
        layer.post.weight.data.neg_()
        layer.post.bias.data.neg_()


PLANTS: dict[str, Plant] = {
    "the flow run forwards": _forwards,
    "noise of another scale": lambda _, inputs: inputs[4].mul_(0.35 / 0.4),
    "features one too early": lambda _, inputs: inputs[2].sub_(1),
    "no word of what is voiced": lambda _, inputs: inputs[3].zero_(),
    "a pitch one row too high": lambda module, _: module.enc_p.f0_emb.weight.data.copy_(
        module.enc_p.f0_emb.weight.data.roll(-1, 0)
    ),
    "overtones of another voice": lambda module, _: module.dec.m_source.l_linear.weight.data.copy_(
        module.dec.m_source.l_linear.weight.data.flip(1)
    ),
    "attention that looks one frame aside": lambda module, _: [
        layer.emb_rel_v.data.copy_(layer.emb_rel_v.data.roll(1, 1)) for layer in module.enc_p.enc_.attn_layers
    ],
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_mistake_is_heard(plant: Plant) -> None:
    """Each of them is far below the bar."""
    run = reference_voices.arrays("sovits-41")[0]
    network, inputs = voice("sovits-41"), [value.clone() for value in said(run)]
    right = {name: value.clone() for name, value in network.state_dict().items()}
    plant(network, inputs)
    got = heard(network, inputs)
    network.load_state_dict(right)
    assert ac_snr_db(run["audio"], got) < 60


F0_PLANTS: dict[str, Plant] = {
    "another speaker's": lambda _, inputs: inputs[5].sub_(1).abs_(),
    "unvoiced frames counted into the mean": lambda module, _: module.f0_decoder.register_forward_pre_hook(
        lambda _, given: (given[0], given[1], torch.ones_like(given[2]), given[3])
    ),
    "frames to come are seen": lambda module, _: [
        layer.register_forward_pre_hook(lambda _, given: (given[0], torch.zeros_like(given[1])))
        for layer in module.f0_decoder.decoder.self_attn_layers
    ],
}


@pytest.mark.parametrize("plant", F0_PLANTS.values(), ids=F0_PLANTS)
def test_a_mistaken_pitch_is_found(plant: Plant) -> None:
    """Each of them is far from the bar."""
    voice.cache_clear()  # the hooks stay
    run = reference_voices.arrays("sovits-41")[0]
    network, inputs = voice("sovits-41", "autof0"), [value.clone() for value in said(run)]
    plant(network, inputs)
    with torch.no_grad():
        _, f0 = network(*inputs)
    voice.cache_clear()
    assert np.abs(f0.numpy() - run["f0_auto"]).max() > 10 * F0_HZ


def test_rows_of_the_pitch_embedding() -> None:
    """From unvoiced over lowest to highest and beyond, evenly in mel; what is no number has a row, too."""
    hz = [0.0, 1.0, 50.0, 1100.0, 1101.0, 5000.0]
    assert coarse(torch.tensor(hz)).tolist() == [1, 1, 1, 255, 255, 255]
    f0 = np.linspace(50, 1100, 2000)
    lowest, highest = (1127 * math.log(1 + end / 700) for end in (50, 1100))
    rows = (1127 * np.log(1 + f0 / 700) - lowest) * 254 / (highest - lowest) + 1
    safe = np.abs(rows % 1 - 0.5) > 1e-3
    assert np.array_equal(coarse(torch.from_numpy(f0).float()).numpy()[safe], rows.round()[safe])
    strange = coarse(torch.tensor([math.nan, math.inf, -math.inf, -1000.0]))
    assert all(1 <= row <= 255 for row in strange.tolist())


def tiny(variant: str = "default", part: Part = "so-vits-svc", *, mix: bool = False) -> Any:
    """Return a tiny network with random numbers and no noise of its own."""
    torch.manual_seed(0)
    made = copy.deepcopy(network(tiny_sovits.settings(variant), part, mix=mix)).to_empty(device="cpu")
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return silenced(made)


def inputs(frames: int, width: int = tiny_sovits.TINY.ssl_dim) -> dict[str, torch.Tensor]:
    """Return what a tiny network is fed, but for the loudness."""
    rng = torch.Generator().manual_seed(1)
    f0 = torch.linspace(100, 400, frames)[None]
    f0[:, frames // 3 : frames // 2] = 0
    return {
        "c": torch.randn(1, frames // 2 + 1, width, generator=rng),
        "f0": f0,
        "mel2ph": 1 + torch.arange(frames)[None] // 2,
        "uv": (f0 > 0).float(),
        "noise": 0.4 * torch.randn(1, tiny_sovits.TINY.channels, frames, generator=rng),
        "sid": torch.tensor([1]),
    }


def test_features_are_counted_from_one() -> None:
    """0 is a row of zeros, 1 the first feature, and each frame has the one that is named."""
    network, given = tiny(), inputs(9)
    which = torch.tensor([[0, 1, 5, 2, 2, 0, 3, 4, 1]])
    wanted = F.pad(given["c"], (0, 0, 1, 0))[:, which[0]]
    every = torch.arange(1, 10)[None]
    got, want = (
        heard(network, list((given | {"c": c, "mel2ph": to}).values()))
        for c, to in ((given["c"], which), (wanted, every))
    )
    assert np.array_equal(got, want)
    assert not np.array_equal(got, heard(network, list((given | {"mel2ph": which.clamp(min=1)}).values())))


def test_the_whole_share_is_the_speaker() -> None:
    """In every frame; in another's frames it is the other."""
    one, mixed = tiny("three-speakers").double(), tiny("three-speakers", mix=True).double()
    mixed.load_state_dict(one.state_dict())
    given = {name: value.double() if value.is_floating_point() else value for name, value in inputs(9).items()}
    shares = F.one_hot(torch.ones(9, dtype=torch.long), 3).double()
    alone = heard(one, list(given.values()))
    np.testing.assert_allclose(heard(mixed, list((given | {"sid": shares}).values())), alone, atol=1e-10)
    shares[4] = torch.tensor([0.0, 0.0, 1.0])
    assert np.abs(heard(mixed, list((given | {"sid": shares}).values())) - alone).max() > 1e-3


@pytest.mark.parametrize("variant", ["tiny", "shared-transformer"])
def test_shared_layers_are_held_once(variant: str) -> None:
    """A checkpoint has them once more for each coupling, under names that are known; all couplings hear of a change."""
    settings, made = tiny_sovits.settings(variant), tiny(variant)
    again = copies(settings)
    assert set(again.values()) == {name for name in made.state_dict() if name.startswith("flow.wn.")}
    assert {name for name in made.state_dict() if ".enc." in name} == set()
    assert set(again) == {name for name in expected(settings) if ".enc." in name}
    assert len(again) == settings.flows * len(set(again.values()))


@pytest.mark.parametrize(
    "inner", [lambda: WN(8, 3, 2, 4), lambda: FFT(8, 12, 2, 2, 3, 4)], ids=["wavenet", "transformer"]
)
def test_a_shared_flow_is_one_with_equal_layers(inner: Callable[[], nn.Module]) -> None:
    """What all couplings share does what layers of their own do that have the same numbers."""
    torch.manual_seed(0)
    shared = ResidualCouplingBlock(6, 8, 2, 4, 3, inner=inner, shared=True)
    own = ResidualCouplingBlock(6, 8, 2, 4, 3, inner=inner)
    assert shared.wn is not None
    for mine, other in zip(own.flows[::2], shared.flows[::2], strict=True):
        mine.load_state_dict(other.state_dict() | {f"enc.{name}": w for name, w in shared.wn.state_dict().items()})
    x, mask, g = torch.randn(1, 6, 7), torch.ones(7), torch.randn(1, 4, 1)
    assert torch.equal(own(x, mask, g), shared(x, mask, g))
    assert not torch.allclose(own(x, mask, g), x, atol=1e-2)


def test_frames_to_come_are_not_seen() -> None:
    """Whatever comes after a frame, the causal transformer says the same there; what came before matters."""
    torch.manual_seed(0)
    layers = FFT(8, 12, heads=2, layers=2, kernel=3, gin_channels=4)
    x, g = torch.randn(1, 8, 9), torch.randn(1, 4, 1)
    other = x.clone()
    other[..., 5] += 1
    before, after = layers(x, None, g), layers(other, None, g)
    torch.testing.assert_close(before[..., :5], after[..., :5])
    assert (before - after)[..., 5:].abs().amin() > 0


def test_pitch_is_counted_from_the_mean_of_what_is_voiced() -> None:
    """Unvoiced frames have a say in nothing; where none is voiced, nothing is taken away."""
    f0, uv = torch.tensor([[0.0, 200, 400, 0]]), torch.tensor([[0.0, 1, 1, 0]])
    lf0 = to_lf0(f0)
    torch.testing.assert_close(to_hz(lf0), f0, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(centred(lf0, uv), lf0 - lf0[:, 1:3].mean())
    assert torch.equal(centred(lf0, torch.zeros_like(uv)), lf0)


@pytest.mark.parametrize("variant", ["default", "vol", "snake", "tiny", "shared-transformer"])
def test_the_graph_has_no_detours(variant: str) -> None:
    """No branch, no loop, no size computed without need, whatever is in the network, pitch and mix included."""
    seen, family = outline(tiny_sovits.tiny(variant)), SoVitsSvc()
    claim = family.recognise(seen)
    assert isinstance(claim, Claim)
    graph = export(family.build(claim, seen, "autof0", Recipe("any", speaker_mix=True)), 17).graph
    assert not DETOURS.intersection(node.op_type for node in graph.node)


def test_the_periodic_activation_is_what_its_definition_says() -> None:
    """Doubled rate, x + sin(a x)^2 / b, halved rate, each channel by itself; in either shape."""
    torch.manual_seed(0)
    snake, x = Snake(3), torch.randn(1, 3, 20)
    for parameter in snake.parameters():
        nn.init.normal_(parameter, std=0.3)
    up, down = snake.upsample.filter, snake.downsample.lowpass.filter
    a, b = (row.exp()[None, :, None] for row in (snake.act.alpha, snake.act.beta))
    with torch.no_grad():
        doubled = torch.zeros(1, 3, 60)
        doubled[..., ::2] = F.pad(x, (5, 5), mode="replicate")
        doubled = F.conv1d(F.pad(doubled, (11, 11)), 2 * up.flip(2).expand(3, 1, 12), groups=3)[..., 15 : 15 + 40]
        bent = doubled + (a * doubled).sin() ** 2 / b
        want = F.conv1d(F.pad(bent, (5, 6), mode="replicate"), down.expand(3, 1, 12), stride=2, groups=3)
        torch.testing.assert_close(snake(x), want, atol=1e-5, rtol=1e-5)
        assert torch.equal(snake(x.unsqueeze(2)), snake(x).unsqueeze(2))
