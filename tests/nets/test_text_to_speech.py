"""The networks make of the reference voices what Coqui's original code made of them, and mistakes are heard.

The bars are those that come with the references: another right way differs from the original by far less, and all
that is known to go wrong by far more.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

import reference_voices
import tiny_coqui
from reference_voices import ac_snr_db
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import export
from voicekiln.convert.verify import open_session
from voicekiln.families.base import Exportable
from voicekiln.families.coqui_network import Made, Settings, expected, network
from voicekiln.families.coqui_usual import SINGLE
from voicekiln.families.weights import read, rules
from voicekiln.job import Port
from voicekiln.nets.alignment import whole_frames
from voicekiln.nets.hifigan import WIDE, ResBlock2
from voicekiln.nets.noise import Noise
from voicekiln.nets.text_to_speech import MAX_SAMPLES, Stretch, UnitLength

ONE_SPEAKER = replace(
    SINGLE,
    layers=3,
    glow_norm=True,
    initial=256,
    spectrum=0,
    posterior_layers=0,
    posterior_kernel=0,
    posterior_dilation=0,
)
PLAIN_DURATIONS: dict[str, Any] = {
    "stochastic": False,
    "duration_channels": 256,
    "duration_layers": 0,
    "duration_flows": 0,
    "duration_bins": 0,
}
YOUR_TTS: dict[str, Any] = {
    "languages": 3,
    "language_channels": 4,
    "speaker": "d_vector",
    "duration_by_speaker": True,
    "duration_by_language": True,
}
REFERENCES = {
    "coqui-vits-single": ONE_SPEAKER,
    "coqui-vits-multispeaker": replace(
        ONE_SPEAKER,
        **PLAIN_DURATIONS,
        speaker="speaker_id",
        speakers=10,
        gin_channels=256,
        duration_by_speaker=True,
        initial=128,
    ),
    "coqui-yourtts": replace(
        ONE_SPEAKER,
        **YOUR_TTS,
        symbols=165,
        layers=10,
        gin_channels=512,
        initial=512,
        block=2,
        sample_rate=16000,
        encoder_rate=16000,
    ),
}
SOUND_DB, PRIOR, W = 105, 1e-5, 1e-4
NOISE_SCALE = np.float32(0.667)

DETOURS = {"If", "Loop", "Scan", "NonZero", "ScatterND", "ScatterElements", "GatherND", "Expand"}
"""What the exporter writes where it does not know a size, or a network asks for it unawares."""

Arrays = dict[str, NDArray[Any]]


@cache
def numbers(name: str) -> dict[str, torch.Tensor]:
    """Return a reference voice's weights under our names, weight norm folded, without what only training needs."""
    tensors = {}
    for named, tensor in reference_voices.tensors(name).items():
        if not named.startswith("duration_predictor.post_"):
            ours = re.sub(r"^flow\.flows\.([0-9])", lambda found: f"flow.flows.{2 * int(found[1])}", named)
            tensors[ours.replace("waveform_decoder.cond_layer", "waveform_decoder.cond")] = tensor
    return {named: read(rule, tensors) for named, rule in rules(tensors).items()}


def filled(settings: Settings, part: Made, weights: Mapping[str, torch.Tensor]) -> Any:
    """Return a network with numbers in it."""
    made = copy.deepcopy(network(settings, part)).to_empty(device="cpu")
    made.load_state_dict({name: weights[name].reshape(tensor.shape) for name, tensor in made.state_dict().items()})
    return made


@lru_cache(maxsize=3)
def voice(name: str, part: Made) -> Any:
    """Return one of a reference voice's networks."""
    return filled(REFERENCES[name], part, numbers(name))


def text(name: str, run: Arrays) -> list[torch.Tensor]:
    """Return the inputs of the encoder in their order."""
    speaker = ("d_vector", "speaker_id") if REFERENCES[name].duration_by_speaker else ()
    return _given(run, "tokens", "token_lengths", *speaker, "language_id", "dp_noise")


def prior(run: Arrays) -> list[torch.Tensor]:
    """Return the inputs of the decoder in their order."""
    scaled = run | {"noise": run["noise"] * NOISE_SCALE}
    return _given(scaled, "m_p", "logs_p", "durations", "d_vector", "speaker_id", "noise")


def _given(run: Arrays, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(run[name]) for name in names if name in run]


def heard(module: nn.Module, inputs: Iterable[torch.Tensor]) -> Any:
    """Return what comes out, as an array or several."""
    with torch.no_grad():
        got = module(*inputs)
    return tuple(one.numpy() for one in got) if isinstance(got, tuple) else got.numpy()


@pytest.mark.parametrize("name", REFERENCES)
def test_reads_as_the_original_does(name: str) -> None:
    """At both lengths: prior and durations of each token, noise beyond the spline's tails included."""
    for run in reference_voices.arrays(name):
        mean, log_deviation, w = heard(voice(name, "encoder"), text(name, run))
        assert np.abs(mean - run["m_p"]).max() <= PRIOR
        assert np.abs(log_deviation - run["logs_p"]).max() <= PRIOR
        assert np.abs(w - run["w"]).max() <= W
        assert np.array_equal(whole_frames(torch.from_numpy(w))[0], run["durations"])


@pytest.mark.parametrize("name", REFERENCES)
def test_sounds_like_the_original(name: str) -> None:
    """At both lengths."""
    for run in reference_voices.arrays(name):
        assert ac_snr_db(run["waveform"], heard(voice(name, "decoder"), prior(run))) >= SOUND_DB


@pytest.mark.parametrize("name", REFERENCES)
def test_a_checkpoint_has_the_expected_tensors(name: str) -> None:
    """Names and shapes, the step of the durations' flow that is left out included."""
    found = {named: tuple(tensor.shape) for named, tensor in numbers(name).items()}
    assert expected(REFERENCES[name]) == found
    assert any(named.startswith("duration_predictor.flows.1.") for named in found) == REFERENCES[name].stochastic


Plant = Callable[[Any, list[torch.Tensor]], object]


def _no_flow(module: Any, _inputs: object) -> None:
    for layer in module.flow.flows[::2]:
        layer.post.weight.data.zero_()
        layer.post.bias.data.zero_()


SOUND_PLANTS: dict[str, Plant] = {
    "no flow": _no_flow,
    "the flow run onwards": lambda module, _: module.flow.register_forward_pre_hook(
        lambda _, args, _options: (args, {"onward": True}), with_kwargs=True
    ),
    "noise of another scale": lambda _, inputs: inputs[4].mul_(0.66 / 0.667),
    "a token that is too long by a frame": lambda _, inputs: inputs[2][0, :2].add_(torch.tensor([1, -1])),
    "a d-vector as it came": lambda module, _: setattr(module, "unit_length", nn.Identity()),
    "a last leaky ReLU like the others": lambda module, _: module.waveform_decoder.conv_post.register_forward_pre_hook(
        lambda _, args: torch.where(args[0] < 0, args[0] * 10, args[0])
    ),
    "residual blocks that are not dilated": lambda module, _: [
        vars(block.convs[1]).update(dilation=(1, 1), padding=(0, block.convs[1].kernel_size[1] // 2))
        for block in module.waveform_decoder.resblocks[:3]
    ],
}


@pytest.mark.parametrize("plant", SOUND_PLANTS.values(), ids=SOUND_PLANTS)
def test_a_mistake_is_heard(plant: Plant) -> None:
    """Each of them is far below the bar."""
    run = reference_voices.arrays("coqui-yourtts")[0]
    module, inputs = copy.deepcopy(voice("coqui-yourtts", "decoder")), [one.clone() for one in prior(run)]
    plant(module, inputs)
    assert ac_snr_db(run["waveform"], heard(module, inputs)) < SOUND_DB - 40


TEXT_PLANTS: dict[str, tuple[str, Plant]] = {
    "another language": ("m_p", lambda _, inputs: inputs[3].sub_(1).abs_()),
    "symbols as they come": ("m_p", lambda module, _: setattr(module.text_encoder, "hidden", 1)),
    "a d-vector as it came": ("w", lambda module, _: setattr(module, "unit_length", nn.Identity())),
    "no word of the language to the durations": (
        "w",
        lambda module, _: setattr(module.duration_predictor, "cond_lang", None),
    ),
    "noise of another scale": ("w", lambda _, inputs: inputs[4].mul_(0.99)),
}


@pytest.mark.parametrize(("result", "plant"), TEXT_PLANTS.values(), ids=TEXT_PLANTS)
def test_a_mistake_is_read(result: str, plant: Plant) -> None:
    """Each of them is far beyond the bar."""
    run = reference_voices.arrays("coqui-yourtts")[0]
    module, inputs = (
        copy.deepcopy(voice("coqui-yourtts", "encoder")),
        [one.clone() for one in text("coqui-yourtts", run)],
    )
    plant(module, inputs)
    mean, _, w = heard(module, inputs)
    assert np.abs({"m_p": mean, "w": w}[result] - run[result]).max() > 10 * {"m_p": PRIOR, "w": W}[result]


VARIANTS = ("yourtts", "single", "speakers", "speakers-languages", "untold-durations", "whole-stretch", "odd-stretch")
"""Tiny voices that differ in what they are fed, or in their layers."""
GRAPHS = ("yourtts", "speakers", "untold-durations", "odd-stretch")
"""Those of them whose graphs are made, so that each kind of input and layer is in one."""
FACES: list[tuple[str, Made]] = [
    *((variant, part) for variant in GRAPHS for part in ("encoder", "decoder", "single")),
    *((variant, "voice-conversion") for variant in ("hearing", "hearing-speakers")),
]


def tiny(variant: str, part: Made, **overrides: Any) -> Any:
    """Return one of a tiny voice's networks with numbers, which are the same for all of them."""
    made = tiny_coqui.settings(variant, **overrides)
    drawn = tiny_coqui.draw(made, seed=0)
    return filled(made, part, {name: read(rule, drawn) for name, rule in rules(drawn).items()})


def ports(s: Settings, part: Made) -> tuple[Port, ...]:
    """Return a face's inputs."""

    def who(*names: str) -> list[Port]:
        kinds = {"d_vector": ("float32", (1, s.gin_channels)), "speaker_id": ("int64", (1,))}
        return [Port(name, *kinds[s.speaker]) for name in names] if s.speaker in kinds else []

    language = [Port("language_id", "int64", (1,))] if s.languages else []
    drawn = [Port("dp_noise", "float32", (1, 2, "tokens"))] if s.stochastic else []
    tokens = [Port("tokens", "int64", (1, "tokens")), Port("token_lengths", "int64", (1,))]
    priors = [Port(name, "float32", (1, s.channels, "tokens")) for name in ("m_p", "logs_p")]
    noise = Port("noise", "float32", (1, s.channels, "frames"))
    spectrogram = Port("spectrogram", "float32", (1, s.spectrum, "frames"))
    every: dict[str, list[Port]] = {
        "encoder": [*tokens, *(who("speaker") if s.duration_by_speaker else []), *language, *drawn],
        "decoder": [*priors, Port("durations", "int64", (1, "tokens")), *who("speaker"), noise],
        "single": [*tokens, Port("scales", "float32", (3,)), *who("speaker"), *language],
        "voice-conversion": [spectrogram, *who("source", "target"), noise],
    }
    return tuple(every[part])


def sample(inputs: Iterable[Port], length: int, rng: np.random.Generator) -> Arrays:
    """Draw inputs of so many tokens and three times as many frames, which the durations do not quite fill."""
    sizes = {"tokens": length, "frames": 3 * length + 1}
    fixed = {
        "tokens": rng.integers(0, tiny_coqui.TINY.symbols, (1, length)),
        "token_lengths": np.array([length]),
        "durations": rng.permutation(1 + np.arange(length) % 5)[None],
        "scales": np.array([0, 1.2, 0], np.float32),
        **dict.fromkeys(("speaker", "source"), np.array([1])),
        **dict.fromkeys(("target", "language_id"), np.array([2])),
    }

    def one(port: Port) -> NDArray[Any]:
        if port.name in fixed and (port.dtype == "int64" or port.name == "scales"):
            return fixed[port.name]
        return rng.standard_normal([axis if isinstance(axis, int) else sizes[axis] for axis in port.axes]).astype(
            np.float32
        )

    return {port.name: one(port) for port in inputs}


def exportable(variant: str, part: Made) -> Exportable:
    """Return one of a tiny voice's networks ready for export."""
    s = tiny_coqui.settings(variant)
    made, inputs = network(s, part), ports(s, part)
    found = {"m_p": s.channels, "logs_p": s.channels, "w": 1}
    told = tuple(Port(name, "float32", (1, height, "tokens")) for name, height in found.items())
    return Exportable(
        graph_key=f"{variant} {part}",
        title=f"{variant}, {part}",
        module=made,
        weights=rules(made.state_dict()),
        inputs=inputs,
        outputs=told if part == "encoder" else (Port("waveform", "float32", (1, 1, "samples")),),
        sample=partial(sample, inputs),
        wanted_db={},
        metadata={},
        feed={},
        noises=tuple(name for name, module in made.named_modules() if isinstance(module, Noise)),
    )


def session(graph: onnx.ModelProto, module: nn.Module) -> Any:
    """Return a session that runs a graph with the numbers of a network."""
    weights = module.state_dict()
    for tensor in graph.graph.initializer:
        tensor.raw_data = weights[tensor.name].numpy().tobytes()
    return open_session(graph.SerializeToString(), CPU)


@pytest.mark.parametrize(("variant", "part"), FACES)
def test_the_graph_says_what_the_network_does(variant: str, part: Made) -> None:
    """At lengths that were not traced, without a branch, a loop or a size computed without need."""
    made, module = exportable(variant, part), tiny(variant, part)
    graph = export(made, 17)
    assert not DETOURS.intersection(node.op_type for node in graph.graph.node)
    assert bool(made.noises) == (part == "single")
    opened = session(graph, module)
    for length in (1, 2, 9, 40):
        fed = made.sample(length, np.random.default_rng(length))
        wanted = heard(module, [torch.from_numpy(fed[port.name]) for port in made.inputs])
        for got, want in zip(opened.run(None, fed), wanted if isinstance(wanted, tuple) else [wanted], strict=True):
            assert want.any()
            np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_single_graph_is_the_other_two(variant: str) -> None:
    """With the same noises, each scaled by its own number, and the durations stretched: the same samples."""
    rng, s = np.random.default_rng(0), tiny_coqui.settings(variant)
    encoder, decoder, single = (tiny(variant, part) for part in ("encoder", "decoder", "single"))
    fed = {
        name: torch.from_numpy(value)
        for part in ("encoder", "decoder")
        for name, value in sample(ports(s, part), 9, rng).items()
    }
    scales = torch.tensor([0.5, 1.7, 0.8])
    who, language = ([fed[name]] if name in fed else [] for name in ("speaker", "language_id"))
    inputs = {port.name: fed[port.name] for port in ports(s, "encoder")}
    if s.stochastic:
        single.dp_noise.replay = inputs["dp_noise"]
        inputs["dp_noise"] = inputs["dp_noise"] * scales[2]
    mean, log_deviation, w = encoder(*inputs.values())
    durations = torch.ceil(w * scales[1]).long()[0]
    noise = single.noise.replay = torch.randn(
        1, s.channels, int(durations.sum()), generator=torch.Generator().manual_seed(0)
    )
    wanted = decoder(mean, log_deviation, durations, *who, noise * scales[0])
    got = single(fed["tokens"], fed["token_lengths"], scales, *who, *language)
    assert wanted.std() > 0.01
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(("log_w", "most"), [(math.nan, False), (math.inf, True), (-math.inf, False), (50, True)])
def test_no_prediction_fills_the_memory(log_w: float, *, most: bool) -> None:
    """Whatever the durations are, the whole is bounded and never empty, in the file as in the network."""
    made, module = exportable("speakers", "single"), tiny("speakers", "single")
    nn.init.constant_(module.duration_predictor.proj.bias, log_w)
    fed = made.sample(20, np.random.default_rng(0))
    samples = MAX_SAMPLES if most else tiny_coqui.TINY.hop
    assert heard(module, [torch.from_numpy(fed[port.name]) for port in made.inputs]).shape == (1, 1, samples)
    assert session(export(made, 17), module).run(None, fed)[0].shape == (1, 1, samples)


@pytest.mark.parametrize("variant", ["yourtts", "speakers"])
def test_tokens_behind_the_end_are_not_read(variant: str) -> None:
    """The others are read as without them, and they last no time."""
    module, fed = (
        tiny(variant, "encoder"),
        sample(ports(tiny_coqui.settings(variant), "encoder"), 9, np.random.default_rng(0)),
    )
    fed["token_lengths"] = np.array([6])
    whole = heard(module, map(torch.from_numpy, fed.values()))
    shorter = {name: value[..., :6] if name in ("tokens", "dp_noise") else value for name, value in fed.items()}
    for got, want in zip(whole, heard(module, map(torch.from_numpy, shorter.values())), strict=True):
        np.testing.assert_allclose(got[..., :6], want, atol=1e-5)
        assert want.any()
        assert not got[..., 6:].any()


@pytest.mark.parametrize("flows", [1, 2])
def test_frames_behind_the_last_token_are_not_heard(flows: int) -> None:
    """However loud the noise is there, and the sound before it is what it is without it."""
    module = tiny("single", "decoder", flows=flows)
    fed = sample(ports(tiny_coqui.settings("single"), "decoder"), 9, np.random.default_rng(0))
    spoken = int(fed["durations"].sum())
    given: list[torch.Tensor] = []
    module.waveform_decoder.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    for noise in (fed["noise"] * (1 + 1e4 * (np.arange(28) >= spoken)).astype(np.float32), fed["noise"][..., :spoken]):
        heard(module, map(torch.from_numpy, (fed | {"noise": noise}).values()))
    assert not given[0][..., spoken:].any()
    torch.testing.assert_close(given[0][..., :spoken], given[1], atol=1e-5, rtol=1e-5)


def test_a_d_vector_is_a_direction() -> None:
    """Its length has no say; without any it is still a number."""
    vector = torch.randn(1, 5)
    unit = UnitLength()
    torch.testing.assert_close(unit(3 * vector), vector / vector.norm())
    assert torch.equal(unit(torch.zeros(1, 5)), torch.zeros(1, 5))


@pytest.mark.parametrize(("rate", "encoder_rate"), [(32000, 16000), (24000, 16000), (44100, 16000), (22050, 24000)])
def test_another_rate_is_a_repetition_of_frames(rate: int, encoder_rate: int) -> None:
    """Each frame is the one that is due then, none is made up, and the end is cut."""
    for frames in (1, 2, 7, 480):
        wanted = [i * encoder_rate // rate for i in range(frames * rate // encoder_rate)]
        got = Stretch(Fraction(rate, encoder_rate))(torch.arange(frames).reshape(1, 1, -1))
        assert got.flatten().tolist() == wanted


def test_a_voice_of_two_rates_is_heard_at_the_decoders() -> None:
    """A frame of its text is half as long again for the decoder."""
    s = tiny_coqui.settings("odd-stretch")
    fed = sample(ports(s, "decoder"), 9, np.random.default_rng(0))
    frames = fed["noise"].shape[2]
    audio = heard(tiny("odd-stretch", "decoder"), map(torch.from_numpy, fed.values()))
    assert audio.shape == (1, 1, frames * s.sample_rate // s.encoder_rate * s.hop)
    assert s.sample_rate == 1.5 * s.encoder_rate


@pytest.mark.parametrize("channels", [6, 128])
def test_the_second_kind_of_residual_block(channels: int) -> None:
    """Two convolutions, each with the dilation of its own, each added to what came in; a third has no say."""
    torch.manual_seed(0)
    block: Any = ResBlock2(channels, 5, (1, 3, 5))
    assert len(block.convs) == 2
    x = wanted = torch.randn(1, channels, 30)
    for conv, dilation in zip(block.convs, (1, 3), strict=True):
        weight = conv.weight.reshape(channels, channels, 5)
        bent = torch.where(wanted > 0, wanted, 0.1 * wanted)
        wanted = wanted + F.conv1d(bent, weight, conv.bias, padding=2 * dilation, dilation=dilation)
    wide = channels >= WIDE
    torch.testing.assert_close(block(x.unsqueeze(2)).squeeze(2) if wide else block(x), wanted, atol=1e-5, rtol=1e-5)
