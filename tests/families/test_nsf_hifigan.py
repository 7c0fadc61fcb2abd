"""NSF-HiFiGAN keeps the family contract, reads the config beside it with care, and gives a second part: `mel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import plain_export
import reference_voices
from families.contract import FamilyContract
from outlines import outline
from tiny_vocoders import config, tiny_vocoder
from voicekiln.convert.cache import Cache
from voicekiln.convert.device import CPU
from voicekiln.convert.fill import fill
from voicekiln.convert.halve import halve
from voicekiln.convert.kept import assert_source_in_float32
from voicekiln.convert.pipeline import Pipeline
from voicekiln.convert.template import Arithmetic
from voicekiln.convert.verify import open_session
from voicekiln.errors import Contradiction, OtherFamily
from voicekiln.families import choose
from voicekiln.families.base import Claim, Exportable, Outline
from voicekiln.families.nsf_hifigan import NsfHifiGan
from voicekiln.families.nsf_hifigan_settings import ASSUMED
from voicekiln.families.weights import Computed, read
from voicekiln.job import Precision, Recipe
from voicekiln.nets.mel import dft_weights, mel_weights

REFERENCE = "sovits-nsf-hifigan"


def beside(checkpoint: dict[str, Any], companions: dict[str, Any] | None = None) -> Outline:
    """Return the outline of a vocoder with companions; with its own `config.json` by default."""
    return replace(outline(checkpoint), beside={"config.json": config()} if companions is None else companions)


def claimed(seen: Outline) -> Claim:
    """Return the family's claim."""
    answer = NsfHifiGan().recognise(seen)
    assert isinstance(answer, Claim), answer
    return answer


def refused(seen: Outline) -> str:
    """Return in which words the file is refused as one that contradicts itself."""
    with pytest.raises(Contradiction) as refusal:
        NsfHifiGan().recognise(seen)
    return refusal.value.text


class TestVocoder(FamilyContract):
    """The contract, without any config."""

    family = NsfHifiGan()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one twice, and one of other sizes."""
        other = tiny_vocoder(mels=10, initial=64, rates=(8, 8, 4, 2), up_kernels=(16, 16, 8, 4))
        return [tiny_vocoder(0), tiny_vocoder(1), other]

    def common(self) -> Sequence[Outline]:
        """Return openvpi's, which so-vits-svc ships."""
        told = {"config.json": reference_voices.spec(REFERENCE)["config_json"]}
        return [replace(reference_voices.outline(REFERENCE), beside=told)]


def test_what_inspect_shows() -> None:
    """All the figures, and which companion was believed."""
    model = dict(claimed(beside(tiny_vocoder())).model)
    weights = tiny_vocoder()["generator"]
    assert model.pop("parameters") == sum(t.numel() for name, t in weights.items() if not name.endswith("_g"))
    assert model == {
        "family": "nsf-hifigan",
        "version": "1",
        "sample_rate": 44_100,
        "hop": 512,
        "f0": True,
        "speakers": 0,
        "weights": "float",
        "weight_norm": True,
        "checkpoint": "vocoder",
        "mels": 8,
        "n_fft": 2048,
        "window": 2048,
        "low_hz": 40.0,
        "high_hz": 16_000.0,
        "companions": ["config.json"],
    }


def test_it_is_chosen_among_all_families() -> None:
    """Nothing else claims it, and no other kind is seen in it."""
    family, claim = choose(beside(tiny_vocoder()))
    assert (family.name, claim.notes) == ("nsf-hifigan", ())


def test_what_was_assumed_is_said() -> None:
    """Without a config the usual one is taken, and the person told; the claim is the same but for that."""
    told, untold = claimed(beside(tiny_vocoder())), claimed(beside(tiny_vocoder(), {}))
    assert told.settings == untold.settings
    assert (untold.settings.analysis, untold.model["companions"]) == (ASSUMED, [])
    assert "44100 Hz, 512 samples a frame, upsampling 8, 8, 2, 2, 2," in untold.notes[0]


def test_the_config_is_believed_where_tensors_are_silent() -> None:
    """Sample rate, first upsampling rate, dilations and the mel spectrogram."""
    checkpoint = tiny_vocoder(rates=(10, 8, 2, 2, 2), up_kernels=(20, 16, 4, 4, 4))
    facts = {
        "upsample_rates": [10, 8, 2, 2, 2],
        "upsample_kernel_sizes": [20, 16, 4, 4, 4],
        "hop_size": 640,
        "sampling_rate": 48_000,
        "resblock_dilation_sizes": [[1, 2, 4], [1, 3, 5]],
        "n_fft": 1024,
        "win_size": 800,
        "fmin": 0,
        "fmax": None,
    }
    seen = beside(checkpoint, {"config.json": config(**facts)})
    claim = claimed(seen)
    made, how = claim.settings.network, claim.settings.analysis
    assert (made.hop, made.sample_rate, made.dilations) == (640, 48_000, ((1, 2, 4), (1, 3, 5)))
    assert (how.n_fft, how.window, how.low_hz, how.high_hz) == (1024, 800, 0, 24_000)
    mel = NsfHifiGan().build(claim, seen, "mel").weights
    assert mel["log_mel.basis.weight"] == Computed(mel_weights, (), (48_000, 1024, 8, 0.0, 24_000.0))
    assert mel["log_mel.dft.conv.weight"] == Computed(dft_weights, (), (1024, 800))


def test_what_cannot_be_assumed_is_refused() -> None:
    """Another first upsampling rate than the usual hop needs would give a wrong voice without any error."""
    checkpoint = tiny_vocoder(rates=(10, 8, 2, 2, 2), up_kernels=(20, 16, 4, 4, 4))
    assert "its upsampling cannot be told" in refused(beside(checkpoint, {}))


WRONG = [
    pytest.param({"num_mels": 128}, "num_mels 128, the weights have 8", id="mels"),
    pytest.param({"upsample_rates": [8, 4, 4, 2, 2]}, "upsample_rates 0, 4, 4, 2, 2", id="rates"),
    pytest.param({"upsample_rates": "8"}, "upsample_rates 8, which cannot be", id="rates as text"),
    pytest.param({"upsample_kernel_sizes": [16, 16, 4, 4]}, "upsample_kernel_sizes", id="kernels"),
    pytest.param({"upsample_initial_channel": 512}, "upsample_initial_channel", id="channels"),
    pytest.param({"resblock_kernel_sizes": [3, 7]}, "resblock_kernel_sizes", id="block kernels"),
    pytest.param({"resblock_dilation_sizes": [[1, 3, 5]]}, "resblock_dilation_sizes", id="dilations"),
    pytest.param({"resblock_dilation_sizes": [[1, 3]] * 2}, "_sizes 2, 2, the weights have 3, 3", id="fewer dilations"),
    pytest.param({"resblock_dilation_sizes": [[1, 3, 60_000]] * 2}, "sees 120000 samples", id="huge dilations"),
    pytest.param({"hop_size": 256}, "hop_size 256, the weights have 512", id="hop"),
    pytest.param({"sampling_rate": 0}, "sampling_rate 0, which cannot be", id="rate"),
    pytest.param({"sampling_rate": True}, "sampling_rate True", id="rate true"),
    pytest.param({"n_fft": 2**31}, "n_fft 2147483648, which cannot be", id="huge transform"),
    pytest.param({"win_size": 4096}, "win_size 4096", id="window wider than the transform"),
    pytest.param({"fmin": 16_000}, "fmin 16000", id="no band"),
    pytest.param({"fmax": 30_000}, "fmax 30000", id="bands beyond half the rate"),
    pytest.param({"fmax": "nan"}, "fmax nan", id="not a number"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_its_own_config_that_is_wrong_is_a_contradiction(change: dict[str, Any], words: str) -> None:
    """It bears the vocoder's name, so one of the two was mixed up."""
    said = refused(beside(tiny_vocoder(), {"model.json": config(**change)}))
    assert any(word in said for word in words.split("|")), said


@pytest.mark.parametrize(("change", "_words"), [case for case in WRONG if case.id != "huge dilations"])
def test_a_general_config_that_is_wrong_is_anothers(change: dict[str, Any], _words: str) -> None:
    """A flat folder has one `config.json` for many files; the person learns why it was not used."""
    claim = claimed(beside(tiny_vocoder(), {"config.json": config(**change)}))
    assert claim.model["companions"] == []
    assert next(iter(change)) in claim.notes[0]
    assert "was assumed" in claim.notes[1]


@pytest.mark.parametrize("found", [{"model": {}, "data": {}, "spk": {}}, [1, 2], "text", 7])
def test_the_config_of_a_voice_is_not_a_vocoders(found: object) -> None:
    """Nor is anything else that can stand in a JSON file."""
    claim = claimed(beside(tiny_vocoder(), {"config.json": found}))
    assert "is not this model's: config.json does not say upsample_rates" in claim.notes[0]


def test_its_own_config_comes_first() -> None:
    """What stands in the general one is then not asked."""
    companions = {"config.json": config(sampling_rate=22_050, fmax=8000), "Model.JSON": config(), "diffusion.yaml": {}}
    claim = claimed(beside(tiny_vocoder(), companions))
    assert (claim.model["companions"], claim.model["sample_rate"]) == (["Model.JSON"], 44_100)


def test_a_config_that_cannot_be_read_is_said() -> None:
    """It may come again."""
    claim = claimed(beside(tiny_vocoder(), {"config.json": None}))
    assert "config.json, which lies beside it, cannot be read" in claim.notes[0]


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("m_source.l_linear.weight"), "not told the pitch|m_source.l_linear.weight"),
        (lambda t: t.update({"source_conv.weight": torch.zeros(8, 1, 1)}), "mini_nsf"),
        (lambda t: t.update({"resblocks.0.convs.0.weight": torch.zeros(8, 8, 3)}), "residual blocks of kind 2"),
    ],
)
def test_relatives_are_refused_by_name(change: Callable[[Tensors], object], what: str) -> None:
    """The person learns what the file is instead."""
    checkpoint = tiny_vocoder()
    change(checkpoint["generator"])
    if what.startswith("not"):
        del checkpoint["generator"]["m_source.l_linear.bias"]
    with pytest.raises(OtherFamily) as refusal:
        choose(beside(checkpoint))
    assert any(word in refusal.value.text for word in what.split("|"))


def test_noise_among_the_features_is_refused_by_name() -> None:
    """Only newer vocoders have it, and their graph would be another."""
    with pytest.raises(OtherFamily, match=r"noise_sigma 0\.1"):
        NsfHifiGan().recognise(beside(tiny_vocoder(), {"config.json": config(noise_sigma=0.1)}))
    assert claimed(beside(tiny_vocoder(), {"config.json": config(noise_sigma=0.0)})).notes == ()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("noise_convs.0.weight", (16, 1, 127), "widths 127, 16, 8, 4, 1"),
        ("noise_convs.4.weight", (1, 1, 3), "widths 128, 16, 8, 4, 3"),
        ("conv_pre.weight_v", (32, 2000, 7), "cannot be halved or centred"),
        ("resblocks.0.convs1.0.weight_v", (16, 16, 4), "cannot be halved or centred"),
        ("resblocks.9.convs1.0.weight_v", (1, 1, 5, 1), "should have 3|shape"),
        ("ups.0.weight_v", (32, 16, 15), "its upsampling"),
    ],
)
def test_tensors_that_cannot_be_are_a_contradiction(name: str, shape: tuple[int, ...], words: str) -> None:
    """Whatever the config says."""
    checkpoint = tiny_vocoder()
    checkpoint["generator"][name] = torch.zeros(shape)
    if name.endswith("_v"):
        checkpoint["generator"][name.removesuffix("v") + "g"] = torch.ones(shape[0], *(1 for _ in shape[1:]))
    said = refused(beside(checkpoint))
    assert any(word in said for word in words.split("|")), said


def test_a_general_config_with_huge_dilations_is_anothers() -> None:
    """A small file must not be able to fill the memory."""
    wrong = config(resblock_dilation_sizes=[[1, 3, 60_000]] * 2)
    assert "sees 120000 samples" in claimed(beside(tiny_vocoder(), {"config.json": wrong})).notes[0]


def test_residual_blocks_of_another_depth_need_a_config() -> None:
    """Their dilations would be a guess."""
    checkpoint = tiny_vocoder(dilations=((1, 2), (2, 6)))
    assert "without its config.json" in refused(beside(checkpoint, {}))
    told = claimed(beside(checkpoint, {"config.json": config(resblock_dilation_sizes=[[1, 2], [2, 6]])}))
    assert told.settings.network.dilations == ((1, 2), (2, 6))


def test_too_few_residual_blocks_are_a_contradiction() -> None:
    """Each step has as many."""
    checkpoint = tiny_vocoder()
    kept = {name: t for name, t in checkpoint["generator"].items() if not name.startswith("resblocks.9.")}
    assert "5 upsampling steps and 9 residual blocks" in refused(beside({"generator": kept}))


def parts(checkpoint: dict[str, Any]) -> list[Exportable]:
    """Return the vocoder and what makes its mel spectrograms."""
    seen, family = beside(checkpoint), NsfHifiGan()
    claim = claimed(seen)
    wanted = family.parts(claim, Recipe("r", interfaces=("w-okada",)))
    assert wanted == ("vocoder", "mel")
    return [family.build(claim, seen, part) for part in wanted]


def test_mel_spectrograms_of_one_kind_share_a_graph() -> None:
    """Whatever the vocoder and the bands' frequencies; another transform, window or hop is another graph."""

    def key(checkpoint: dict[str, Any], **changed: Any) -> str:
        seen = beside(checkpoint, {"config.json": config(**changed)})
        return NsfHifiGan().build(claimed(seen), seen, "mel").graph_key

    usual = key(tiny_vocoder())
    assert key(tiny_vocoder(5), fmin=0, sampling_rate=48_000) == usual
    wider = tiny_vocoder(mels=10)
    others = {key(tiny_vocoder(), win_size=1024), key(tiny_vocoder(), n_fft=2200), key(wider, num_mels=10), usual}
    assert len(others) == 4


@pytest.mark.parametrize("frames", [1, 2, 24, 100])
def test_samples_of_sound_are_not_whole_frames(frames: int) -> None:
    """And never too short to be mirrored; the network gives as many frames as there are whole hops."""
    mel = parts(tiny_vocoder())[1]
    audio = mel.sample(frames, np.random.default_rng(0))["audio"]
    assert audio.dtype == np.float32
    assert audio.shape[1] >= mel.feed["mel"]["shortest_samples"] == 769
    assert audio.shape[1] % 512
    assert np.abs(audio).max() < 1
    made = plain_export.network(mel, {})(torch.from_numpy(audio))
    assert made.shape == (1, 8, audio.shape[1] // 512)


@pytest.mark.parametrize(("window", "shortest"), [(2048, 769), (1200, 1360)])
def test_the_shortest_sound_gives_a_frame(window: int, shortest: int) -> None:
    """It can be mirrored, and is a transform long with that."""
    seen = beside(tiny_vocoder(), {"config.json": config(win_size=window)})
    mel = NsfHifiGan().build(claimed(seen), seen, "mel")
    assert mel.feed["mel"]["shortest_samples"] == shortest
    assert plain_export.network(mel, {})(torch.zeros(1, shortest)).shape[2] == 1


def test_a_second_voice_is_its_own_export(tmp_path: Path) -> None:
    """Both parts of a second vocoder, from the first one's templates, byte for byte, halved as well."""
    cache, tensors, facts = Cache(tmp_path / "templates"), second_tensors(), {"name": "b"}
    for first, second in zip(parts(tiny_vocoder(1)), parts(tiny_vocoder(2)), strict=True):
        own = plain_export.plain(second, plain_export.network(second, tensors))
        whole = plain_export.tidied(own, second, facts)
        for want, kind in ((whole, WHOLE), (halve(whole, second.in_float32), HALF)):
            cache.template(first, Recipe("r"), *kind)
            template = cache.template(second, Recipe("r"), *kind)
            fill(template.model, partial(number, second, tensors), facts, path := tmp_path / "voice.onnx")
            assert path.read_bytes() == want.SerializeToString(deterministic=True)


WHOLE: tuple[Precision, Arithmetic] = ("fp32", "float32")
HALF: tuple[Precision, Arithmetic] = ("fp16", "half")


def second_tensors() -> Tensors:
    """Return the second vocoder's own."""
    return {name: tensor.clone() for name, tensor in tiny_vocoder(2)["generator"].items()}


def number(exportable: Exportable, tensors: Tensors, name: str) -> torch.Tensor:
    """Return a weight."""
    return read(exportable.weights[name], tensors)


def test_both_parts_are_converted_and_verified(tmp_path: Path) -> None:
    """In both precisions; the mel spectrogram is float32 in each of them, as half precision cannot hold its squares."""
    torch.save(tiny_vocoder(), source := tmp_path / "model")
    (staging := tmp_path / "staging").mkdir()
    made = Pipeline(Cache(tmp_path / "templates")).convert(
        source, "0" * 64, Recipe("both", ("fp32", "fp16")), staging, lambda _: None
    )
    names = [file.name for file in made.files]
    assert names == ["vocoder.fp32.onnx", "vocoder.fp16.onnx", "mel.fp32.onnx", "mel.fp16.onnx"]
    assert all(file.fidelity[0].snr_db >= file.fidelity[0].wanted_db for file in made.files)
    assert json.loads(json.dumps(made.feed, allow_nan=False)) == made.feed
    halved = [any(t.data_type == TensorProto.FLOAT16 for t in onnx.load(staging / n).graph.initializer) for n in names]
    assert halved == [False, True, False, False]
    assert_source_in_float32(onnx.load(staging / "vocoder.fp16.onnx"), "generator.m_source")
    mel = parts(tiny_vocoder())[1]
    for frames in (1, 5, 131):
        audio = mel.sample(frames, np.random.default_rng(frames))
        want = plain_export.network(mel, {})(torch.from_numpy(audio["audio"])).numpy()
        whole, half = (open_session(staging / f"mel.{p}.onnx", CPU).run(None, audio)[0] for p in ("fp32", "fp16"))
        assert np.array_equal(whole, half)
        assert np.abs(whole - want).max() < 1e-3


def test_sound_goes_through_both() -> None:
    """What `mel` makes is what the vocoder takes: as many bands, as many frames, in the same scale."""
    vocoder, mel = parts(tiny_vocoder())
    assert mel.outputs[0].axes == vocoder.inputs[0].axes
    drawn = vocoder.sample(50, np.random.default_rng(0))["c"]
    made = plain_export.network(mel, {})(torch.from_numpy(mel.sample(50, np.random.default_rng(0))["audio"])).numpy()
    assert abs(float(drawn.mean() - made.mean())) < 4
