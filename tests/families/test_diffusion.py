"""Shallow diffusion keeps the family contract; what no tensor tells comes from the YAML beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

import plain_export
import reference_voices
import tiny_diffusion
from families.contract import FamilyContract
from outlines import named, outline, tensors
from reference_voices import Arrays
from voicekiln.convert.cache import Cache
from voicekiln.convert.device import CPU
from voicekiln.convert.fill import fill
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.convert.template import ARITHMETICS, Arithmetic
from voicekiln.convert.verify import LENGTHS, Original, open_session, verify
from voicekiln.errors import Contradiction, NotFaithful, OtherFamily
from voicekiln.families import choose, diffusion
from voicekiln.families.base import PLAIN, Claim, Exportable, NotMine, Outline
from voicekiln.families.diffusion import ONE_SPEAKER, ShallowDiffusion
from voicekiln.families.diffusion_network import PARTS
from voicekiln.families.weights import Schedule, read
from voicekiln.job import PRECISIONS, Part, Precision, Recipe

FAMILY = ShallowDiffusion()
NAME = "sovits-diffusion"
CLOSE = 0.001
"""What the reference allows."""
MIX = Recipe("mix", speaker_mix=True)
HALVED = ("diffusion", "denoise")
LARGEST_HALF = 65504

Change = Callable[[dict[str, Any]], Any]


def recognised(seen: Outline) -> Claim:
    """Return the family's claim."""
    answer = FAMILY.recognise(seen)
    assert isinstance(answer, Claim), answer
    return answer


def refused(seen: Outline) -> str:
    """Return in which words the file is refused as one that contradicts itself."""
    with pytest.raises(Contradiction) as refusal:
        FAMILY.recognise(seen)
    return refusal.value.text


def built(seen: Outline, part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
    """Return one of the model's networks."""
    return FAMILY.build(recognised(seen), seen, part, recipe)


def reference() -> Outline:
    """Return the reference's outline, its YAML beside it."""
    return tiny_diffusion.beside(reference_voices.outline(NAME), reference_voices.spec(NAME)["config_yaml"])


class TestWhole(FamilyContract):
    """The contract for the graph with the loop."""

    family = FAMILY

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one twice, one of other sizes, and one with a range for each band."""
        one = tiny_diffusion.tiny(layers=2, speakers=1, mels=8, shift=False)
        return [tiny_diffusion.tiny(0), tiny_diffusion.tiny(1), one, tiny_diffusion.tiny(limits=12, timesteps=30)]

    def common(self) -> Sequence[Outline]:
        """Return what so-vits-svc's template trains, its sizes as they stand there."""
        shapes = tiny_diffusion.settings(
            width=768, hidden=256, channels=512, layers=20, mels=128, speakers=1, timesteps=1000
        )
        model = {"n_layers": 20, "n_chans": 512, "n_hidden": 256, "timesteps": 1000, "k_step_max": 100, "n_spk": 1}
        data = {"sampling_rate": 44100, "block_size": 512, "encoder": "vec768l12", "encoder_out_channels": 768}
        described = diffusion.outline(shapes, "vec768l12")
        return [tiny_diffusion.beside(described, {"data": data, "model": {"type": "Diffusion"} | model})]


class TestMix(TestWhole):
    """The contract for the graph that is fed shares."""

    recipe = MIX


class TestEncoder(TestWhole):
    """The contract for the condition alone."""

    part: Part | None = "encoder"

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one twice and one for a single speaker."""
        return [tiny_diffusion.tiny(0), tiny_diffusion.tiny(1), tiny_diffusion.tiny(speakers=1)]


class TestDenoise(TestEncoder):
    """The contract for the denoiser alone."""

    part = "denoise"


class TestPred(TestEncoder):
    """The contract for a step alone, whose numbers are the schedule's: voices share them."""

    part: Part | None = "pred"

    def test_shares_one_graph_between_equal_settings(self) -> None:
        """The graphs of two models are the same, numbers and all."""
        first, second = (model.SerializeToString(deterministic=True) for _, model in self.exported()[:2])
        assert first == second


class TestAfter(TestPred):
    """The contract for the way back alone; its numbers are the same for all, too."""

    part = "after"


def test_the_reference_is_recognised_without_a_remark() -> None:
    """By this family alone; with its YAML nothing has to be assumed."""
    family, claim = choose(reference())
    assert (family.name, claim.notes) == (FAMILY.name, ())
    model = dict(claim.model)
    parameters = model.pop("parameters")
    drawn = [row for row in reference_voices.spec(NAME)["tensors"].values() if "values" not in row]
    assert parameters == sum(int(np.prod(row["shape"])) for row in drawn) - 32  # but for the shift's
    assert model == {
        "family": "shallow-diffusion",
        "version": "Unit2Mel",
        "feature_width": 256,
        "hidden_size": 32,
        "channels": 64,
        "layers": 20,
        "mels": 128,
        "timesteps": 1000,
        "k_step_max": 100,
        "speedup": 10,
        "sampler": "dpm-solver++",
        "sample_rate": 44_100,
        "hop": 512,
        "f0": True,
        "speakers": 2,
        "weights": "float",
        "checkpoint": "voice",
        "companions": ["diffusion.yaml"],
        "embedder": "vec256l9",
        "feature_layer": 9,
        "final_projection": True,
        "stretch": "nearest",
        "vocoder": "nsf-hifigan",
        "speaker_names": [{"id": 0, "name": "tenor"}, {"id": 1, "name": "alto"}],
        "iteration": 500_000,
    }
    assert FAMILY.parts(claim, PLAIN) == PARTS
    assert FAMILY.data(claim, reference(), PLAIN) == {}


def test_without_its_yaml_all_depths_are_open_and_said_to_be_assumed() -> None:
    """Nothing in the tensors says how deep it has learnt to go."""
    claim = recognised(outline(tiny_diffusion.tiny()))
    assert (claim.model["k_step_max"], claim.model["companions"]) == (200, [])
    note, encoder = claim.notes
    assert all(said in note for said in ("44100 Hz", "512 samples", "200 times", "diffusion.yaml"))
    assert "vec256l9 was taken" in encoder


# What the YAML says.


def beside_tiny(change: Change, name: str = "diffusion.yaml") -> Outline:
    """Return a tiny model with a changed YAML beside it."""
    written = json.loads(json.dumps(tiny_diffusion.config()))
    change(written)
    return tiny_diffusion.beside(outline(tiny_diffusion.tiny()), written, name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda y: y["model"].update(k_step_max=0), {"k_step_max": 200}, id="0 is all"),
        pytest.param(lambda y: y["model"].pop("k_step_max"), {"k_step_max": 200}, id="silent on the depth"),
        pytest.param(lambda y: y["model"].update(k_step_max=200), {"k_step_max": 200}, id="all"),
        pytest.param(lambda y: y["model"].update(k_step_max=7), {"k_step_max": 7}, id="shallow"),
        pytest.param(lambda y: y["data"].update(sampling_rate=48_000), {"sample_rate": 48_000}, id="rate"),
        pytest.param(lambda y: y["data"].update(block_size=256), {"hop": 256}, id="hop"),
        pytest.param(lambda y: y["data"].update(encoder="hubertsoft"), {"embedder": "hubertsoft"}, id="encoder"),
        pytest.param(lambda y: y["data"].pop("unit_interpolate_mode"), {"stretch": "left"}, id="the older stretch"),
        pytest.param(
            lambda y: y["infer"].update(method="ddim", speedup=5), {"sampler": "ddim", "speedup": 5}, id="ddim"
        ),
        pytest.param(lambda y: y.pop("infer"), {"sampler": "dpm-solver++", "speedup": 10}, id="no infer"),
        pytest.param(lambda y: y.pop("spk"), {"speakers": 2}, id="no names"),
        pytest.param(lambda y: y.update(vocoder={"type": "nsf-hifigan"}), {"vocoder": "nsf-hifigan"}, id="vocoder"),
    ],
)
def test_what_the_yaml_says_is_taken(change: Change, told: dict[str, Any]) -> None:
    """Value by value, without a remark; where it is silent, the original's own default."""
    claim = recognised(beside_tiny(change))
    assert claim.model["companions"] == ["diffusion.yaml"]
    assert claim.notes == ()
    assert {key: claim.model[key] for key in told} == told


def test_an_encoder_that_nobody_names_is_guessed_and_said_to_be() -> None:
    """From the width of the features, as for the voices."""
    claim = recognised(beside_tiny(lambda y: y["data"].pop("encoder")))
    assert claim.model["embedder"] == "vec256l9"
    [note] = claim.notes
    assert "vec256l9 was taken" in note


def test_an_encoder_that_nobody_here_knows_is_told() -> None:
    """It is passed on as it is written."""
    claim = recognised(beside_tiny(lambda y: y["data"].update(encoder="hubert-of-mine")))
    assert claim.model["embedder"] == "hubert-of-mine"
    assert claim.notes == ("Nobody here knows the speech encoder hubert-of-mine; its name is passed on as written.",)


WRONG: list[tuple[Change, str]] = [
    (lambda y: y["model"].update(k_step_max=201), "k_step_max 201, which cannot be"),
    (lambda y: y["model"].update(k_step_max=-1), "k_step_max -1, which cannot be"),
    (lambda y: y["model"].update(k_step_max="100"), "k_step_max 100, which cannot be"),
    (lambda y: y["model"].update(k_step_max=True), "k_step_max True, which cannot be"),
    (lambda y: y["model"].update(k_step_max=1e300), "k_step_max a huge number, which cannot be"),
    (lambda y: y["infer"].update(k_step=101), "k_step 101, which cannot be"),
    (lambda y: y["infer"].update(speedup=0), "speedup 0, which cannot be"),
    (lambda y: y["data"].update(sampling_rate=[44_100]), "sampling_rate a list, which cannot be"),
    (lambda y: y["data"].update(sampling_rate=1), "sampling_rate 1, which cannot be"),
    (lambda y: y["data"].update(sampling_rate=10**6), "sampling_rate 1000000, which cannot be"),
    (lambda y: y["data"].update(block_size=1), "block_size 1, which cannot be"),
    (lambda y: y["data"].update(block_size=65_536), "block_size 65536, which cannot be"),
    (lambda y: y.update(spk={str(n): n for n in range(1001)}), "it has 1001 speakers, 1000 at most"),
    (lambda y: y["data"].update(block_size=0), "block_size 0, which cannot be"),
    (
        lambda y: y["data"].update(encoder="vec768l12"),
        "vec768l12, which gives 768 features a unit, the weights want 256",
    ),
    (lambda y: y["data"].update(encoder_out_channels=768), "encoder_out_channels 768, the weights have 256"),
    (lambda y: y["model"].update(n_layers=20), "n_layers 20, the weights have 3"),
    (lambda y: y["model"].update(n_spk=3), "n_spk 3, the weights have 2"),
    (lambda y: y["model"].update(n_spk=0), "n_spk 1, the weights have 2"),
    (lambda y: y["model"].update(timesteps=1000), "timesteps 1000, the weights have 200"),
    (lambda y: y["spk"].update(bass=2), "a speaker 2, the weights have 2, counted from 0"),
    (lambda y: y["spk"].update(bass=1), "without a number of their own"),
    (lambda y: y["spk"].update(bass="2"), "without a number of their own"),
    (lambda y: y.pop("model"), "is no config of a diffusion model"),
    (lambda y: y.update(data=[]), "is no config of a diffusion model"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_its_own_yaml_has_to_be_true(change: Change, said: str) -> None:
    """What lies under the model's own name is the model's: the file is refused, and why is said."""
    assert said in refused(beside_tiny(change, "singer.yaml"))


@pytest.mark.parametrize("name", ["diffusion.yaml", "Config.YML"])
@pytest.mark.parametrize(("change", "said"), WRONG)
def test_anothers_yaml_is_left_aside(change: Change, said: str, name: str) -> None:
    """A general name may be another model's in the same folder: the model is taken as if it were alone, with a note."""
    claim = recognised(beside_tiny(change, name))
    assert claim.model["companions"] == []
    assert claim.settings.settings == recognised(outline(tiny_diffusion.tiny())).settings.settings
    remark, assumed, _ = claim.notes
    assert remark.startswith(f"{name}, which lies beside it, is not this model's: ")
    assert said in remark
    assert "was assumed" in assumed


def test_the_best_of_several_companions_is_taken() -> None:
    """Its own one first, then diffusion.yaml, then config.yaml; what cannot be read is told; JSON is the voice's."""
    seen, mine = outline(tiny_diffusion.tiny()), tiny_diffusion.config()
    companions = {"config.json": {}, "config.yaml": mine, "diffusion.yml": mine, "singer.yml": mine}
    for taken in ("singer.yml", "diffusion.yml", "config.yaml"):
        claim = recognised(replace(seen, beside=companions))
        assert (claim.model["companions"], claim.notes) == ([taken], ())
        del companions[taken]
    claim = recognised(replace(seen, beside={"diffusion.yaml": None, "config.yaml": mine}))
    assert claim.model["companions"] == ["config.yaml"]
    assert claim.notes == ("diffusion.yaml, which lies beside it, cannot be read and was left aside.",)


@pytest.mark.parametrize("method", ["unipc", "pndm", "dpm-solver"])
def test_a_sampler_that_is_not_in_the_file_is_told(method: str) -> None:
    """The nearest one stands in for it."""
    claim = recognised(beside_tiny(lambda y: y["infer"].update(method=method)))
    assert claim.model["sampler"] == "dpm-solver++"
    [note] = claim.notes
    assert method in note


@pytest.mark.parametrize("raw", [[], "text", 7, {"data": {"encoder": ["x"]}, "model": {"type": {}}}, {1: 2}])
def test_any_yaml_is_survived(raw: object) -> None:
    """Whatever plain data lies there."""
    recognised(tiny_diffusion.beside(outline(tiny_diffusion.tiny()), raw))


# Files that are none, or not quite.


def changed(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Outline:
    """Return a tiny model's outline with one tensor of another shape."""
    seen = outline(tiny_diffusion.tiny())
    info = replace(seen.tensors["unit_embed.weight"], shape=shape, dtype=dtype)
    return replace(seen, tensors=dict(seen.tensors) | {name: info})


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (changed("decoder.betas", (1,)), "a single time"),
        (changed("decoder.betas", (200, 1)), "2 axes"),
        (changed("decoder.betas", (200,), "float16"), "too coarse"),
        (changed("decoder.alphas_cumprod", (200,), "bfloat16"), "too coarse"),
        (changed("decoder.alphas_cumprod", (100,)), "100"),
        (changed("decoder.spec_min", (1, 1, 5)), "5 ranges"),
        (changed("decoder.denoise_fn.input_projection.weight", (3, 12, 1)), "3 channels"),
        (changed("decoder.denoise_fn.input_projection.weight", (2, 12, 1)), "2 channels"),
        (changed("decoder.denoise_fn.input_projection.weight", (16, 60_000, 1)), "60000 mel bands"),
        (changed("decoder.denoise_fn.residual_layers.63.dilated_conv.weight", (32, 16, 3)), "missing"),
        (changed("unit_embed.weight", (0, 256)), "which no weight has"),
        (changed("unit_embed.weight", (16,)), "1 axes"),
        (changed("aug_shift_embed.weight", (17, 1)), "aug_shift_embed"),
        (changed("decoder.denoise_fn.residual_layers.0.dilated_conv.weight", (32, 16, 5)), "dilated_conv"),
        (changed("stowaway.weight", (2, 2)), "stowaway"),
    ],
)
def test_what_cannot_be_is_refused(seen: Outline, said: str) -> None:
    """In words that name what is wrong."""
    assert said in refused(seen)


FLAT, FALL = torch.full((200,), 0.5), torch.linspace(0.9, 0.1, 200)


@pytest.mark.parametrize(
    ("name", "numbers", "way"),
    [
        ("decoder.betas", FALL, "rising"),
        ("decoder.betas", FALL.flip(0) - 0.1, "rising"),
        ("decoder.betas", FALL.flip(0) + 0.1, "rising"),
        ("decoder.betas", torch.randn(200), "rising"),
        ("decoder.alphas_cumprod", FALL.flip(0), "falling"),
        ("decoder.alphas_cumprod", FLAT, "falling"),
        ("decoder.alphas_cumprod", FALL - 0.1, "falling"),
        ("decoder.alphas_cumprod", FALL + 0.1, "falling"),
        ("decoder.alphas_cumprod", torch.full((200,), torch.nan), "falling"),
    ],
)
def test_a_schedule_that_is_none_is_refused(name: str, numbers: torch.Tensor, way: str) -> None:
    """In words, as soon as its numbers are read: a sampler makes nothing of it that could be compared."""
    checkpoint = tiny_diffusion.tiny()
    made = built(outline(checkpoint))
    checkpoint["model"][name] = numbers
    with pytest.raises(Contradiction, match=f"{name} is no schedule: its numbers are not {way} between 0 and 1"):
        read(made.weights[name], tensors(checkpoint))


@pytest.mark.parametrize("part", PARTS)
def test_every_schedule_in_a_file_is_looked_at(part: Part) -> None:
    """Whichever piece it is for; equal betas are a schedule."""
    checkpoint = tiny_diffusion.tiny()
    checkpoint["model"]["decoder.betas"] = FLAT
    checkpoint["model"]["decoder.alphas_cumprod"] = FALL
    weights, numbers = built(outline(checkpoint), part).weights, tensors(checkpoint)
    for name in weights.keys() & {"decoder.betas", "decoder.alphas_cumprod"}:
        assert read(weights[name], numbers) is numbers[name]
        assert weights[name] == Schedule(name, falling=name != "decoder.betas")


def test_more_speakers_than_can_be_told_are_refused() -> None:
    """Their names alone would be longer than all that the worker may say."""
    with pytest.raises(Contradiction, match="it has 1001 speakers, 1000 at most"):
        FAMILY.recognise(outline(tiny_diffusion.tiny(speakers=1001)))


def test_a_giant_is_refused() -> None:
    """It would not fit into an ONNX file; nothing is built for it."""
    with pytest.raises(OtherFamily, match="GB in float32"):
        FAMILY.recognise(diffusion.outline(tiny_diffusion.settings(channels=8192, layers=20), "vec256l9"))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("unit_embed.weight", "decoder.decoder.layers.0.weight"), "naive"),
        (("model.fs2.txt_embed.weight", "model.diffusion.denoise_fn.mlp.0.weight"), "DiffSinger"),
    ],
)
def test_relatives_are_told_by_sight(names: tuple[str, ...], what: str) -> None:
    """The person learns what the file is."""
    with pytest.raises(OtherFamily, match=what):
        choose(named(*names))
    assert isinstance(FAMILY.recognise(named(*names)), NotMine)


# How it is fed.


def test_one_speaker_is_not_asked_for() -> None:
    """Neither by number nor by share; who wanted a mix is told."""
    seen = tiny_diffusion.beside(outline(tiny_diffusion.tiny(speakers=1)), None)
    for part in ("diffusion", "encoder"):
        ports = {port.name for port in built(seen, part, MIX).inputs}
        assert not ports & {"sid", "spk_mix"}
    assert built(seen, None, MIX).notes == (ONE_SPEAKER,)
    assert built(seen).notes == ()
    assert "speaker" not in built(seen).feed


def test_the_names_of_the_pieces_are_the_exporters() -> None:
    """As so-vits-svc's and Diffusion-SVC's exporters have them, in their order; but for the time, a float."""
    seen = outline(tiny_diffusion.tiny())
    found = {
        part: ([port.name for port in made.inputs], [port.name for port in made.outputs])
        for part in PARTS[1:]
        for made in [built(seen, part)]
    }
    assert found == {
        "encoder": (["hubert", "mel2ph", "f0", "volume", "spk_mix"], ["mel_pred"]),
        "denoise": (["noise", "time", "condition"], ["noise_pred"]),
        "pred": (["noise", "noise_pred", "time", "time_prev"], ["noise_pred_o"]),
        "after": (["x"], ["mel_out"]),
        "alpha": (["time"], ["alphas_cumprod"]),
    }
    assert built(seen, "denoise").inputs[1].dtype == "float32"


@pytest.mark.parametrize("part", PARTS)
def test_every_name_that_is_told_is_an_input(part: Part) -> None:
    """The sidecar names exactly what is fed."""
    for seen in (outline(tiny_diffusion.tiny()), outline(tiny_diffusion.tiny(speakers=1))):
        made = built(seen, part)
        assert sorted(filter(None, made.names.values())) == sorted(port.name for port in made.inputs)


@pytest.mark.parametrize("lengths", [lengths for lengths in LENGTHS.values() if lengths])
def test_a_verification_runs_both_samplers(lengths: tuple[int, ...]) -> None:
    """One at each of its lengths."""
    sample = built(outline(tiny_diffusion.tiny())).sample
    assert {int(sample(frames, np.random.default_rng(0))["method"][0]) for frames in lengths} == {0, 1}


# What is published.


class Second:
    """A model that comes after another one of its sizes, whose templates were made."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.folder = Cache(folder / "templates"), folder
        first, self.seen = (outline(tiny_diffusion.tiny(seed)) for seed in (1, 2))
        self.tensors = tensors(tiny_diffusion.tiny(2))
        for part in PARTS:
            for precision in PRECISIONS:
                for arithmetic in ARITHMETICS[precision]:
                    self.cache.template(built(first, part), PLAIN, precision, arithmetic)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Second:
    """Return the second model."""
    return Second(tmp_path_factory.mktemp("second"))


@pytest.mark.parametrize("part", PARTS)
def test_a_second_model_is_its_own_export(second: Second, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first one's templates: every byte of what the exporter makes of it alone, in each arithmetic."""
    monkeypatch.setattr("voicekiln.convert.template.export", None)
    made = built(second.seen, part)
    own = plain_export.plain(made, plain_export.network(made, second.tensors))
    whole = plain_export.tidied(own, made, {})
    stored = store_as_half(whole, made.in_float32, made.in_half)
    for tensor in stored.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            numbers = np.frombuffer(tensor.raw_data, np.float32)
            tensor.raw_data = np.clip(numbers, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).tobytes()
    halved = halved_whole(whole, made)
    path = second.folder / "model.onnx"
    forms: tuple[tuple[Precision, Arithmetic, onnx.ModelProto], ...] = (
        ("fp32", "float32", whole),
        ("fp16", "half", halved),
        ("fp16", "float32", stored),
    )
    for precision, arithmetic, wanted in forms:
        template = second.cache.template(made, PLAIN, precision, arithmetic)
        fill(template.model, lambda name: read(made.weights[name], second.tensors), {}, path)
        assert path.read_bytes() == wanted.SerializeToString(deterministic=True)
        kinds = {tensor.data_type for tensor in wanted.graph.initializer}
        assert (TensorProto.FLOAT16 in kinds) == (precision == "fp16" and part in HALVED)


def halved_whole(whole: onnx.ModelProto, made: Exportable) -> onnx.ModelProto:
    """Return a model with numbers in half precision; those of a loop, the converter does not see."""
    halved = halve(whole, made.in_float32, made.in_half)
    for tensor in halved.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and len(tensor.raw_data) == 4 * int(np.prod(tensor.dims)):
            tensor.raw_data = np.frombuffer(tensor.raw_data, np.float32).astype(np.float16).tobytes()
    return halved


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Part, Precision], Path]:
    """Return the reference's files, each verified."""
    folder, seen, numbers = tmp_path_factory.mktemp("files"), reference(), reference_voices.tensors(NAME)
    cache, made = Cache(folder / "templates"), {}
    for part in PARTS:
        exportable = built(seen, part)
        network = plain_export.network(exportable, numbers)
        for precision in PRECISIONS:
            path = made[part, precision] = folder / f"{part}.{precision}.onnx"
            template = cache.template(exportable, PLAIN, precision, ARITHMETICS[precision][0])
            fill(template.model, network.state_dict().__getitem__, {}, path)
            verify(path, Original(exportable, network, ()), precision, [CPU], LENGTHS["quick"])
    return made


Files = dict[tuple[Part, Precision], Path]


def session(files: Files, part: Part, precision: Precision = "fp32") -> onnxruntime.InferenceSession:
    """Return a published file, ready to run."""
    return open_session(files[part, precision], CPU)


@pytest.fixture(params=[0, 1])
def run(request: pytest.FixtureRequest) -> Arrays:
    """Return one of the reference's runs."""
    found: Arrays = reference_voices.arrays(NAME)[request.param]
    return found


def sung(run: Arrays) -> Arrays:
    """Return what a run feeds to the whole, but for its three numbers."""
    return {name: run[name] for name in ("c", "mel2ph", "f0", "volume", "mel", "noise")} | {"sid": run["spk_id"]}


def numbers(k_step: int, speedup: int, method: int) -> Arrays:
    """Return the three numbers as they are fed."""
    return {"k_step": np.array([k_step]), "speedup": np.array([speedup]), "method": np.array([method])}


def far(one: Any, other: Any) -> float:
    """Return the largest difference."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def test_the_whole_is_the_originals(files: Files, run: Arrays) -> None:
    """The published file, run by ONNX Runtime, for both samplers and depths, and no deeper than was learnt."""
    whole = session(files, "diffusion")
    for method, name in enumerate(("ddim", "dpm")):
        for k_step in (100, 50):
            [mel] = whole.run(None, sung(run) | numbers(k_step, 10, method))
            assert far(mel, run[f"mel_{name}_{k_step}"]) < CLOSE
        [deeper] = whole.run(None, sung(run) | numbers(1000, 10, method))
        assert far(deeper, run[f"mel_{name}_100"]) < CLOSE


def test_in_half_precision_it_is_nearly_so(files: Files, run: Arrays) -> None:
    """The denoiser alone is half: what it hears is, but not what is made of it."""
    [mel] = session(files, "diffusion", "fp16").run(None, sung(run) | numbers(100, 10, 0))
    assert far(mel, run["mel_ddim_100"]) < 20 * CLOSE


def test_the_pieces_are_the_originals(files: Files, run: Arrays) -> None:
    """Condition and denoiser by themselves, and the ten steps of ddim that a client takes with the five of them."""
    shares = np.eye(2, dtype=np.float32)[np.repeat(run["spk_id"], run["f0"].shape[1])]
    fed = {"hubert": run["c"], "spk_mix": shares} | {name: run[name] for name in ("mel2ph", "f0", "volume")}
    [condition] = session(files, "encoder").run(None, fed)
    assert far(condition, run["condition"]) < CLOSE
    denoise, pred = session(files, "denoise"), session(files, "pred")
    [heard] = denoise.run(None, {"noise": run["noise"], "time": run["time"], "condition": condition})
    assert far(heard, run["noise_pred"]) < CLOSE
    [alpha] = session(files, "alpha").run(None, {"time": np.array([99])})
    x = np.sqrt(alpha) * ((run["mel"] + 12) / 7 - 1).transpose(0, 2, 1)[:, None] + np.sqrt(1 - alpha) * run["noise"]
    for time in range(90, -1, -10):
        [heard] = denoise.run(None, {"noise": x, "time": np.array([time], np.float32), "condition": condition})
        times = {"time": np.array([time]), "time_prev": np.array([time - 10])}
        [x] = pred.run(None, {"noise": x, "noise_pred": heard} | times)
    [mel] = session(files, "after").run(None, {"x": x})
    assert far(mel.transpose(0, 2, 1), run["mel_ddim_100"]) < CLOSE


def test_a_file_with_a_step_too_few_is_not_published(files: Files, tmp_path: Path) -> None:
    """The verification runs the loop: one that stops early is found out."""
    exportable = built(reference())
    network = plain_export.network(exportable, reference_voices.tensors(NAME))
    model = onnx.load(files["diffusion", "fp32"])
    at = next(at for at, node in enumerate(model.graph.node) if node.op_type == "Loop")
    one = onnx.helper.make_node("Constant", [], ["one"], value_int=1)
    fewer = onnx.helper.make_node("Sub", [model.graph.node[at].input[0], "one"], ["fewer"])
    model.graph.node[at].input[0] = "fewer"
    for node in (fewer, one):
        model.graph.node.insert(at, node)
    path = tmp_path / "wrong.onnx"
    onnx.save(model, path)
    with pytest.raises(NotFaithful):
        verify(path, Original(exportable, network, ()), "fp32", [CPU], LENGTHS["full"])


def test_an_optimizer_is_training_and_is_left_out() -> None:
    """A checkpoint with the state of its training is the same model."""
    checkpoint = tiny_diffusion.tiny() | {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    claim = recognised(outline(checkpoint))
    assert claim.model["checkpoint"] == "training"
    assert claim.settings == recognised(outline(tiny_diffusion.tiny())).settings
