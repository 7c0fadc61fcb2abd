"""The duration predictors say what Coqui's say of the same text with the same weights, and mistakes are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

import reference_voices
from plain_export import plain
from voicekiln.convert.graph import export
from voicekiln.families import weights
from voicekiln.families.base import Exportable
from voicekiln.job import Port
from voicekiln.nets import durations, spline
from voicekiln.nets.attention import Encoder, LayerNorm
from voicekiln.nets.durations import ConvFlow, DurationPredictor, StochasticDurationPredictor

NAMES = ("coqui-yourtts", "coqui-vits-single", "coqui-vits-multispeaker")
FRAMES = 1e-4
"""By how much `w` may differ from the reference's."""
TRAINING = ("post_", "flows.1.")
"""What the names of a predictor's tensors begin with that speech has no use for."""
DETOURS = {"If", "Loop", "Scan", "NonZero", "ScatterND", "ScatterElements", "GatherND", "Expand", "RandomNormalLike"}
"""What the exporter writes where it does not know a size, or a network asks for it unawares."""

Predictor = DurationPredictor | StochasticDurationPredictor
Arrays = dict[str, NDArray[Any]]


@cache
def voice(name: str, module: str = "") -> dict[str, torch.Tensor]:
    """Return a reference's weights, or one module's under its own names; weight norm folded."""
    tensors = reference_voices.tensors(name)
    folded = {key: weights.read(rule, tensors) for key, rule in weights.rules(tensors).items()}
    return {key.removeprefix(module): tensor for key, tensor in folded.items() if key.startswith(module)}


def predictor(name: str) -> Predictor:
    """Return a reference's predictor; strictly loaded, so that every name and shape is as in the file."""
    tensors = voice(name, "duration_predictor.")
    gin, language = (tensors[key].shape[1] if key in tensors else 0 for key in ("cond.weight", "cond_lang.weight"))
    made: Predictor
    if "flows.0.log_scale" in tensors:
        channels = tensors["pre.weight"].shape[1]
        made = StochasticDurationPredictor(channels, 192, 3, 3, 4, 10, gin, language)
    else:
        made = DurationPredictor(192, 256, 3, gin, language, glow_norm=True)
    made.load_state_dict({key: tensor for key, tensor in tensors.items() if not key.startswith(TRAINING)})
    return made.eval().requires_grad_(requires_grad=False)


@dataclass(slots=True)
class Told:
    """What a predictor is told, at full length."""

    x: torch.Tensor
    noise: torch.Tensor | None
    g: torch.Tensor | None
    language: torch.Tensor | None

    def w(self, made: Predictor, mask: torch.Tensor | None = None) -> NDArray[Any]:
        """Return each token's frames before they are rounded, (1, 1, tokens)."""
        mask = torch.ones(self.x.shape[2]) if mask is None else mask
        noise = [] if self.noise is None else [self.noise]
        with torch.no_grad():
            logw: torch.Tensor = made(self.x, mask, *noise, self.g, self.language)
        frames: NDArray[Any] = logw.exp().numpy()
        return frames


def told(name: str, run: Arrays) -> Told:
    """Return what a reference's predictor is told in a run, its text encoder included."""
    given = {key: torch.from_numpy(array) for key, array in run.items()}
    x = voice(name)["text_encoder.emb.weight"][given["tokens"]].transpose(1, 2) * math.sqrt(192)
    g = language = None
    if "language_id" in given:
        language = voice(name)["emb_l.weight"][given["language_id"]].unsqueeze(2)
        x = torch.cat([x, language.expand(-1, -1, x.shape[2])], dim=1)
    if "d_vector" in given:
        g = F.normalize(given["d_vector"]).unsqueeze(2)
    elif "speaker_id" in given:
        g = voice(name)["emb_g.weight"][given["speaker_id"]].unsqueeze(2)
    tensors = voice(name, "text_encoder.encoder.")
    encoder = Encoder(x.shape[1], 768, 2, sum(key.endswith("emb_rel_k") for key in tensors), 3, 4)
    encoder.load_state_dict(tensors)
    with torch.no_grad():
        return Told(encoder(x, torch.ones(x.shape[2])), given.get("dp_noise"), g, language)


@pytest.mark.parametrize("name", NAMES)
def test_durations_are_the_originals(name: str) -> None:
    """Of every token at both lengths; rounded up they are equal."""
    made = predictor(name)
    for run in reference_voices.arrays(name):
        got = told(name, run).w(made)
        assert np.abs(got - run["w"]).max() <= FRAMES
        assert np.array_equal(np.ceil(got[0]), run["durations"])


@pytest.mark.parametrize("name", NAMES[:2])
def test_durations_are_the_originals_in_the_tails(name: str) -> None:
    """The second run has a token whose noise lies where the splines are lines."""
    run = reference_voices.arrays(name)[1]
    assert (run["dp_noise"][0, :, 2] < -spline.TAIL).all()
    assert abs(told(name, run).w(predictor(name)) - run["w"])[0, 0, 2] <= FRAMES


Plant = Callable[[Any, Any, pytest.MonkeyPatch], object]


def _in_training_order(made: Any, *_others: object) -> None:
    made.flows.update({step: made.flows.pop(step) for step in ("4", "3", "2")})


STOCHASTIC_PLANTS: dict[str, Plant] = {
    "another activation": lambda _made, _told, patch: patch.setattr(
        F, "gelu", lambda x, gelu=F.gelu: gelu(x, approximate="tanh")
    ),
    "numbers that do not change places": lambda _made, _told, patch: patch.setattr(torch, "flip", lambda z, _: z),
    "splines in training's order": _in_training_order,
    "the other number for the duration": lambda made, *_: made.flows["0"].register_forward_hook(
        lambda _module, _given, z: z.flip(1)
    ),
    "knots that are not scaled": lambda made, *_: [vars(made.flows[step]).update(scale=1.0) for step in "234"],
    "layers that all look as near": lambda made, *_: [
        vars(conv).update(dilation=(1,), padding=(1,)) for conv in made.convs.convs_sep
    ],
    "tails that begin too early": lambda _made, _told, patch: patch.setattr(spline, "TAIL", 4.5),
    "another least": lambda _made, _told, patch: patch.setattr(spline, "LEAST", 2e-3),
    "noise of another scale": lambda _made, told, _patch: told.noise.mul_(0.9),
    "another speaker's": lambda _made, told, _patch: setattr(told, "g", told.g.flip(1)),
    "in another language": lambda _made, told, _patch: setattr(told, "language", told.language.flip(1)),
}
PLAIN_PLANTS: dict[str, Plant] = {
    "the norm of VITS": lambda _made, _told, patch: patch.setattr(durations, "GLOW_EPSILON", 1e-5),
    "another speaker's": lambda _made, told, _patch: setattr(told, "g", told.g.flip(1)),
    "the speaker not told": lambda made, *_: setattr(made, "cond", None),
}


@pytest.mark.parametrize(
    ("name", "plant"),
    [("coqui-yourtts", plant) for plant in STOCHASTIC_PLANTS.values()]
    + [("coqui-vits-multispeaker", plant) for plant in PLAIN_PLANTS.values()],
    ids=[*STOCHASTIC_PLANTS, *(f"plain: {name}" for name in PLAIN_PLANTS)],
)
def test_a_mistake_is_found(name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is beyond the bar."""
    run = reference_voices.arrays(name)[1]
    made, given = predictor(name), told(name, run)
    plant(made, given, monkeypatch)
    assert np.abs(given.w(made) - run["w"]).max() > 1.5 * FRAMES


def test_what_is_left_out_says_nothing() -> None:
    """The original's first spline, last in this direction, moves the number that is thrown away."""
    run = reference_voices.arrays("coqui-vits-single")[0]
    made: Any = predictor("coqui-vits-single")
    given = told("coqui-vits-single", run)
    first = ConvFlow(192, 3, 3, 10)
    first.load_state_dict(voice("coqui-vits-single", "duration_predictor.flows.1."))
    before = given.w(made)
    made.flows["0"].register_forward_pre_hook(lambda _, z: (first(z[0], z[1], z[2]), *z[1:]))
    assert np.array_equal(given.w(made), before)


def tiny(kind: str, gin_channels: int = 5, language_channels: int = 3) -> Predictor:
    """Return one with random weights: `stochastic`, or `glow` or `vits` for its norms."""
    torch.manual_seed(0)
    made: Predictor
    if kind == "stochastic":
        made = StochasticDurationPredictor(6, 8, 3, 2, 3, 4, gin_channels, language_channels)
    else:
        made = DurationPredictor(6, 8, 3, gin_channels, language_channels, glow_norm=kind == "glow")
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made.eval().requires_grad_(requires_grad=False)


def sample(tokens: int, rng: np.random.Generator) -> Arrays:
    """Draw what a tiny predictor is told; some of the noise lies in the tails, and the last tokens are masked."""
    shapes = {"x": (1, 6, tokens), "noise": (1, 2, tokens), "g": (1, 5, 1), "language": (1, 3, 1)}
    drawn: Arrays = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    drawn["noise"] *= 3
    return drawn | {"mask": (np.arange(tokens) < tokens - tokens // 5).astype(np.float32)}


def tiny_told(kind: str, tokens: int = 12) -> Told:
    """Return what a tiny predictor of that kind is told."""
    drawn = {key: torch.from_numpy(array) for key, array in sample(tokens, np.random.default_rng(1)).items()}
    return Told(drawn["x"], drawn["noise"] if kind == "stochastic" else None, drawn["g"], drawn["language"])


KINDS = ("stochastic", "glow", "vits")


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_beyond_the_mask_change_nothing(kind: str) -> None:
    """The others last as long as without them, and of those the logarithm is 0."""
    made, given, cut = tiny(kind), tiny_told(kind), tiny_told(kind)
    cut.x, cut.noise = cut.x[..., :8], None if cut.noise is None else cut.noise[..., :8]
    got = given.w(made, (torch.arange(12) < 8).float())
    np.testing.assert_allclose(got[..., :8], cut.w(made), atol=1e-6)
    assert (got[..., 8:] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_told_matters(kind: str) -> None:
    """Speaker and language do where there are such layers, each by itself; elsewhere None will do."""
    for gin, language in ((5, 3), (5, 0), (0, 3), (0, 0)):
        made, given = tiny(kind, gin, language), tiny_told(kind)
        given.g, given.language = given.g if gin else None, given.language if language else None
        before = given.w(made)
        for each in (given.g, given.language):
            if each is not None:
                each.add_(1)
                assert np.abs(given.w(made) - before).max() > 1e-3
                each.sub_(1)


def test_the_norm_of_vits() -> None:
    """It is that of the text encoder, with the shapes of the original."""
    made = tiny("vits")
    assert isinstance(made.norm_1, LayerNorm)
    assert made.norm_1.gamma.shape == (8,)
    assert tiny("glow").state_dict()["norm_1.gamma"].shape == (1, 8, 1)


def described(kind: str) -> Exportable:
    """Return a tiny predictor ready for export."""
    names = ["x", "mask", "noise", "g", "language"] if kind == "stochastic" else ["x", "mask", "g", "language"]
    fixed = {"g": (1, 5, 1), "language": (1, 3, 1)}
    axes = {"x": (1, 6, "tokens"), "mask": ("tokens",), "noise": (1, 2, "tokens"), **fixed}
    made = tiny(kind).to("meta")
    return Exportable(
        graph_key=kind,
        title=kind,
        module=made,
        weights=weights.rules(made.state_dict()),
        inputs=tuple(Port(name, "float32", axes[name]) for name in names),
        outputs=(Port("logw", "float32", (1, 1, "tokens")),),
        sample=lambda tokens, rng: {name: sample(tokens, rng)[name] for name in names},
        wanted_db={},
        metadata={},
        feed={},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_has_no_detours(kind: str) -> None:
    """No branch, no size computed without need, nothing picked by a condition; no constant is made of weights."""
    graph = export(described(kind), 17).graph
    assert not DETOURS.intersection(node.op_type for node in graph.node)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_says_the_same_at_any_length(kind: str) -> None:
    """The one that was traced, shorter ones and longer ones."""
    made = tiny(kind)
    model = plain(described(kind), made).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for tokens in (1, 2, 7, 24, 100):
        given = described(kind).sample(tokens, np.random.default_rng(tokens))
        want = made(*map(torch.from_numpy, given.values())).numpy()
        np.testing.assert_allclose(session.run(None, given)[0], want, rtol=0, atol=1e-5)
