"""The speaker encoder keeps the family contract, and reads the config beside it, or within, with care."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plain_export
import reference_voices
from families.contract import FamilyContract
from outlines import named, outline, tensors
from tiny_speaker_encoders import config, tiny_speaker_encoder
from voicekiln.convert.cache import Cache
from voicekiln.convert.fill import fill
from voicekiln.convert.pipeline import Pipeline
from voicekiln.errors import BadNumbers, Contradiction, OtherFamily
from voicekiln.families import choose
from voicekiln.families.base import Claim, Outline, TensorInfo
from voicekiln.families.speaker_encoder import IN_FLOAT32, SpeakerEncoder
from voicekiln.families.weights import read
from voicekiln.job import Recipe

REFERENCE = "coqui-speaker-encoder"


def beside(checkpoint: dict[str, Any], companions: dict[str, Any] | None = None) -> Outline:
    """Return the outline of a speaker encoder with companions; with its own `config_se.json` by default."""
    return replace(outline(checkpoint), beside={"config_se.json": config()} if companions is None else companions)


def claimed(seen: Outline) -> Claim:
    """Return the family's claim."""
    answer = SpeakerEncoder().recognise(seen)
    assert isinstance(answer, Claim), answer
    return answer


def refused(seen: Outline) -> str:
    """Return in which words the file is refused as one that contradicts itself."""
    with pytest.raises(Contradiction) as refusal:
        SpeakerEncoder().recognise(seen)
    return refusal.value.text


class TestSpeakerEncoder(FamilyContract):
    """The contract, without any config."""

    family = SpeakerEncoder()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one twice, and one of other sizes, whose mel bands do not come out even."""
        other = tiny_speaker_encoder(mels=18, filters=(4, 4, 6, 6), blocks=(2, 1, 1, 3), width=9)
        return [tiny_speaker_encoder(0), tiny_speaker_encoder(1), other]

    def common(self) -> Sequence[Outline]:
        """Return the one that is released with YourTTS."""
        return [reference_voices.outline(REFERENCE)]

    @pytest.mark.parametrize("frames", [1, plain_export.TRACED, 100])
    def test_samples_fit_the_inputs(self, frames: int) -> None:
        """Two windows of sound, never too short to be mirrored, and of no whole number of frames."""
        exportable = self.build(self.mine()[0]).exportable
        sample = exportable.sample(frames, np.random.default_rng(1))
        [waveform] = sample.values()
        assert [*sample] == [port.name for port in exportable.inputs]
        assert waveform.dtype == np.float32
        assert waveform.shape[0] == 2
        assert waveform.shape[1] >= exportable.feed["waveform"]["shortest_samples"] == 129
        assert waveform.shape[1] // 160 == frames
        assert 0.1 < np.abs(waveform).max() < 1
        assert np.abs(waveform[0] - waveform[1]).max() > 0.1


def test_what_inspect_shows() -> None:
    """All the figures, and which companion was believed."""
    model = dict(claimed(beside(tiny_speaker_encoder())).model)
    assert model.pop("parameters") == sum(t.numel() for t in tiny_speaker_encoder()["model"].values())
    assert model == {
        "family": "speaker-encoder",
        "version": "1",
        "sample_rate": 16_000,
        "hop": 160,
        "f0": False,
        "speakers": 0,
        "weights": "float",
        "checkpoint": "speaker encoder",
        "mels": 16,
        "n_fft": 256,
        "window": 200,
        "d_vector_width": 12,
        "companions": ["config_se.json"],
    }


def test_it_is_chosen_among_all_families() -> None:
    """Nothing else claims it, and no other kind is seen in it."""
    for seen in (beside(tiny_speaker_encoder()), reference_voices.outline(REFERENCE)):
        family, claim = choose(seen)
        assert (family.name, claim.notes) == ("speaker-encoder", ())


def test_counters_and_the_training_s_own_weights_do_not_matter() -> None:
    """Each batch norm has a counter in the file; a loss beside the model may have weights."""
    plain = tiny_speaker_encoder()
    norms = [name.removesuffix("running_var") for name in plain["model"] if name.endswith("running_var")]
    counters = {f"{name}num_batches_tracked": torch.tensor(1000) for name in norms}
    trained = {"model": plain["model"] | counters, "criterion": {"w": torch.ones(1)}, "step": 7}
    claim, seen = claimed(beside(trained)), beside(trained)
    assert claim == claimed(beside(plain))
    assert (
        SpeakerEncoder().build(claim, seen).weights.keys()
        == SpeakerEncoder().build(claim, beside(plain)).weights.keys()
    )


def test_the_config_is_believed_where_tensors_are_silent() -> None:
    """Hop and sample rate; both are told to whoever feeds the file."""
    seen = beside(tiny_speaker_encoder(), {"config_se.json": config(hop_length=100, sample_rate=22_050)})
    claim = claimed(seen)
    assert (claim.settings.network.hop, claim.settings.sample_rate) == (100, 22_050)
    exportable = SpeakerEncoder().build(claim, seen)
    assert exportable.graph_key != SpeakerEncoder().build(claimed(beside(tiny_speaker_encoder())), seen).graph_key
    assert (exportable.feed["sample_rate"], exportable.feed["windows"]["samples"]) == (22_050, 25_000)
    assert exportable.metadata["window_samples"] == "25000"


def test_clips_are_made_as_loud_as_coqui_makes_them() -> None:
    """Else its d-vectors would be others, the more so the softer a clip is. What does nothing to them is believed."""
    for audio, told in (({}, -27.0), ({"db_level": -20}, -20.0), ({"do_rms_norm": False}, None)):
        seen = beside(tiny_speaker_encoder(), {"config_se.json": config(**audio)})
        exportable = SpeakerEncoder().build(claimed(seen), seen)
        assert exportable.feed.get("loudness", {}).get("rms_db") == told
        assert exportable.metadata.get("rms_db") == (None if told is None else str(told))
    assert (
        "10^(-27 / 20)"
        in SpeakerEncoder().build(claimed(beside(tiny_speaker_encoder(), {})), seen).feed["loudness"]["rule"]
    )
    for wrong in ({"db_level": None}, {"db_level": 3.0}):
        with pytest.raises(Contradiction):
            claimed(beside(tiny_speaker_encoder(), {"config_se.json": config(**wrong)}))


def test_what_was_assumed_is_said() -> None:
    """Without a config the usual is taken, and the person told; the claim is the same but for that."""
    told, untold = claimed(beside(tiny_speaker_encoder())), claimed(beside(tiny_speaker_encoder(), {}))
    assert told.settings == untold.settings
    assert (told.notes, untold.model["companions"]) == ((), [])
    assert "without its config_se.json" in untold.notes[0]
    assert "16000 Hz and 160 samples a frame" in untold.notes[0]


def test_the_checkpoint_s_own_config_will_do() -> None:
    """Coqui's trainer saves it within; what lies beside comes first."""
    trained = tiny_speaker_encoder() | {"config": config(hop_length=100)}
    within, both = claimed(beside(trained, {})), claimed(beside(trained))
    assert (within.settings.network.hop, within.notes, within.model["companions"]) == (100, (), [])
    assert (both.settings.network.hop, both.model["companions"]) == (160, ["config_se.json"])


@pytest.mark.parametrize("inside", [{"lr": 0.1}, [1], "text", None])
def test_something_else_within_the_checkpoint_is_no_config(inside: object) -> None:
    """It is as if there were none."""
    assert "without its config_se.json" in claimed(beside(tiny_speaker_encoder() | {"config": inside}, {})).notes[0]


WRONG = [
    pytest.param("audio", {"num_mels": 80}, "num_mels 80, the weights have 16", id="mels"),
    pytest.param("audio", {"fft_size": 512}, "fft_size 512, the weights have 256", id="transform"),
    pytest.param("audio", {"win_length": 256}, "win_length 256, the weights have 200", id="window"),
    pytest.param("audio", {"hop_length": None}, "does not say hop_length", id="no hop"),
    pytest.param("audio", {"hop_length": 257}, "hop_length 257, which cannot be", id="huge hop"),
    pytest.param("audio", {"hop_length": 0}, "hop_length 0, which cannot be", id="no step"),
    pytest.param("audio", {"sample_rate": None}, "does not say sample_rate", id="no rate"),
    pytest.param("audio", {"sample_rate": True}, "sample_rate True, which cannot be", id="rate true"),
    pytest.param("audio", {"sample_rate": 2**40}, "sample_rate 1099511627776, which cannot be", id="huge rate"),
    pytest.param("audio", {"num_mels": "16"}, "num_mels 16, which cannot be", id="mels as text"),
    pytest.param("model_params", {"input_dim": 80}, "input_dim 80, the weights have 16", id="input"),
    pytest.param("model_params", {"proj_dim": 256}, "proj_dim 256, the weights have 12", id="width"),
    pytest.param("model_params", {"model_name": "lstm"}, "model_name lstm, the weights have resnet", id="network"),
    pytest.param("model_params", {"use_torch_spec": False}, "use_torch_spec False", id="no front end"),
]


def changed(table: str, change: dict[str, Any]) -> dict[str, Any]:
    """Return a config with a change in one of its tables."""
    whole = config()
    return whole | {table: whole[table] | change}


@pytest.mark.parametrize(("table", "change", "words"), WRONG)
@pytest.mark.parametrize("name", ["config_se.json", "Config_SE.json", "model_se.json"])
def test_a_config_that_is_wrong_is_a_contradiction(name: str, table: str, change: dict[str, Any], words: str) -> None:
    """A folder has one speaker encoder, so one of the two was mixed up; the person learns what to do."""
    said = refused(beside(tiny_speaker_encoder(), {name: changed(table, change)}))
    assert words in said
    assert said.startswith(f"{name}, which lies beside this file, does not fit it: ")


@pytest.mark.parametrize(("table", "change", "words"), WRONG)
def test_a_config_within_that_is_wrong_is_a_contradiction(table: str, change: dict[str, Any], words: str) -> None:
    """There is no doubt whose it is."""
    said = refused(beside(tiny_speaker_encoder() | {"config": changed(table, change)}, {}))
    assert words in said
    assert "contradicts itself: its config " in said


@pytest.mark.parametrize("table", ["audio", "model_params"])
def test_what_a_config_leaves_out_does_not_matter(table: str) -> None:
    """But for sample rate and hop: they are all that has to be said."""
    few = {"audio": {"sample_rate": 16_000, "hop_length": 160}, "model_params": {"log_input": True}}
    assert claimed(beside(tiny_speaker_encoder(), {"config_se.json": config() | {table: few[table]}})).notes == ()
    without = {key: value for key, value in config().items() if key != "model_params"}
    assert claimed(beside(tiny_speaker_encoder(), {"config_se.json": without})).notes == ()


@pytest.mark.parametrize("found", [{"model": "vits"}, {"audio": 7}, [1, 2], "text", 7])
def test_a_config_of_something_else_under_its_name_is_a_contradiction(found: object) -> None:
    """The person learns what it lacks."""
    assert "config_se.json does not say audio" in refused(beside(tiny_speaker_encoder(), {"config_se.json": found}))


def test_a_config_that_cannot_be_read_is_said() -> None:
    """It may come again."""
    claim = claimed(beside(tiny_speaker_encoder(), {"config_se.json": None}))
    assert "config_se.json, which lies beside it, cannot be read" in claim.notes[0]
    assert claim.notes[1].startswith("What all released speaker encoders have was assumed: 16000 Hz")


def test_that_it_is_float32_in_every_file_is_said() -> None:
    """In a note where a file in half precision is asked for."""
    seen = beside(tiny_speaker_encoder())
    for recipe, notes in ((Recipe("r", ("fp32",)), ()), (Recipe("r", ("fp32", "fp16")), (IN_FLOAT32,))):
        assert SpeakerEncoder().build(claimed(seen), seen, None, recipe).notes == notes


@pytest.mark.parametrize("found", [{"model": "vits", "audio": {"num_mels": 80}}, {"audio": {}}, [1], "text"])
def test_the_config_of_the_voice_beside_it_needs_no_word(found: object) -> None:
    """A folder of YourTTS has both, and the one of the general name is the voice's."""
    claim = claimed(beside(tiny_speaker_encoder(), {"config.json": found, "config_se.json": config()}))
    assert (claim.notes, claim.model["companions"]) == ((), ["config_se.json"])
    assert len(claimed(beside(tiny_speaker_encoder(), {"config.json": found})).notes) == 1


def test_its_config_under_the_general_name_is_believed() -> None:
    """As its training has written it; one that does not fit is another encoder's."""
    assert claimed(beside(tiny_speaker_encoder(), {"config.json": config()})).model["companions"] == ["config.json"]
    other = claimed(beside(tiny_speaker_encoder(), {"config.json": config(num_mels=80)}))
    assert "config.json, which lies beside it, is not this model's" in other.notes[0]
    assert "was assumed" in other.notes[1]


@pytest.mark.parametrize("name", ["speakers.json", "speaker_ids.json", "Language_IDs.json", "model.speakers.json"])
def test_tables_of_the_voice_are_no_configs(name: str) -> None:
    """Whatever is in them."""
    claim = claimed(beside(tiny_speaker_encoder(), {name: {"a": 0}, "config_se.json": config()}))
    assert (claim.notes, claim.model["companions"]) == ((), ["config_se.json"])


def test_its_own_config_comes_first() -> None:
    """What stands in the others is then not asked."""
    companions = {
        "config.json": config(hop_length=1),
        "config_se.json": config(hop_length=2),
        "model_se.json": config(),
    }
    assert claimed(beside(tiny_speaker_encoder(), companions)).model["companions"] == ["model_se.json"]
    del companions["model_se.json"]
    assert claimed(beside(tiny_speaker_encoder(), companions)).model["companions"] == ["config_se.json"]


def test_no_logarithm_is_refused_by_name() -> None:
    """The d-vectors would be wrong without any error."""
    for params in ({"log_input": False}, {"log_input": None}):
        with pytest.raises(OtherFamily, match="does not take the logarithm"):
            SpeakerEncoder().recognise(
                beside(tiny_speaker_encoder(), {"config_se.json": changed("model_params", params)})
            )


LSTMS = {
    "projections": ("layers.0.lstm.weight_ih_l0", "layers.0.linear.weight", "layers.1.lstm.weight_ih_l0"),
    "none": ("layers.lstm.weight_ih_l0", "layers.linear.weight", "layers.linear.bias"),
}


@pytest.mark.parametrize("kind", LSTMS)
def test_the_other_speaker_encoder_is_refused_by_name(kind: str) -> None:
    """With and without a mel front end."""
    for names in (LSTMS[kind], (*LSTMS[kind], "torch_spec.0.filter")):
        with pytest.raises(OtherFamily, match="with an LSTM"):
            choose(named(*names))


def test_one_without_its_mel_spectrogram_is_refused_by_name() -> None:
    """Its window and bands would be a guess."""
    weights = {n: t for n, t in tiny_speaker_encoder()["model"].items() if not n.startswith("torch_spec.")}
    with pytest.raises(OtherFamily, match="without its own mel spectrogram"):
        choose(beside({"model": weights}))


def with_shapes(**shapes: tuple[int, ...]) -> Outline:
    """Return an outline with some tensors of other shapes; a dot in a name is written as two underscores."""
    seen = beside(tiny_speaker_encoder(), {})
    bent = {name.replace("__", "."): TensorInfo(shape, "float32") for name, shape in shapes.items()}
    return replace(seen, tensors={**seen.tensors, **bent})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"torch_spec__1__mel_scale__fb": (129, 257)}, "257 mel bands of 129 frequencies"),
        ({"torch_spec__1__mel_scale__fb": (2050, 16)}, "16 mel bands of 2050 frequencies"),
        ({"torch_spec__1__mel_scale__fb": (1, 16)}, "of 1 frequencies under a window of 200"),
        ({"torch_spec__1__spectrogram__window": (257,)}, "under a window of 257"),
        ({"torch_spec__1__mel_scale__fb": (129, 40)}, "attention.0.weight has the shape 5 x 20 x 1"),
        ({"torch_spec__0__filter": (1, 1, 3)}, "torch_spec.0.filter has the shape"),
        ({"layer9__0__conv1__weight": (4, 4, 3, 3)}, "layer9.0.conv1.weight does not belong"),
        ({"layer2__9__conv1__weight": (6, 6, 3, 3)}, "layer2.2.conv1.weight is missing"),
        ({"fc__weight": (12, 20)}, "fc.weight has the shape 12 x 20 and should have 12 x 40"),
        ({"layer1__0__se__fc__0__weight": (2, 4)}, "layer1.0.se.fc.0.bias has the shape"),
        ({"conv1__weight": (4, 1, 3)}, "conv1.weight has the shape"),
        ({"layer3__0__conv1__weight": (8, 6, 3)}, "layer3.0.conv1.weight has 3 axes"),
    ],
)
def test_tensors_that_cannot_be_are_a_contradiction(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    """Whatever the config says."""
    assert words in refused(with_shapes(**shapes))


def test_more_than_an_onnx_file_can_hold_is_refused() -> None:
    """Before anything of it is read."""
    huge = with_shapes(fc__weight=(65_536, 40), layer4__0__conv1__weight=(30_000, 8, 3, 3))
    with pytest.raises(OtherFamily, match="GB in float32"):
        SpeakerEncoder().recognise(huge)


def test_a_second_voice_is_its_own_export(tmp_path: Path) -> None:
    """A second encoder, from the first one's template, byte for byte; both precisions are one and the same."""
    cache, facts = Cache(tmp_path / "templates"), {"name": "b"}
    numbers = tensors(tiny_speaker_encoder(2))
    first, second = (
        SpeakerEncoder().build(claimed(seen), seen) for seen in (beside(tiny_speaker_encoder(n)) for n in (1, 2))
    )
    own = plain_export.plain(second, plain_export.network(second, numbers))
    want = plain_export.tidied(own, second, facts).SerializeToString(deterministic=True)
    cache.template(first, Recipe("r"), "fp32", "float32")
    for precision, arithmetic in (("fp32", "float32"), ("fp16", "half")):
        template = cache.template(second, Recipe("r"), precision, arithmetic)  # type: ignore[arg-type]
        fill(template.model, lambda name: read(second.weights[name], numbers), facts, path := tmp_path / "voice.onnx")
        assert path.read_bytes() == want


def test_both_precisions_are_converted_and_verified(tmp_path: Path) -> None:
    """And what is said of them can be written down."""
    torch.save(tiny_speaker_encoder(), source := tmp_path / "model_se.pth")
    (staging := tmp_path / "staging").mkdir()
    convert = partial(Pipeline(Cache(tmp_path / "templates")).convert, source, "0" * 64)
    made = convert(Recipe("both", ("fp32", "fp16")), staging, lambda _: None)
    assert [file.name for file in made.files] == ["speaker_encoder.fp32.onnx", "speaker_encoder.fp16.onnx"]
    assert all(file.fidelity[0].snr_db >= file.fidelity[0].wanted_db == 90 for file in made.files)
    assert [port.axes for port in made.files[0].outputs] == [("windows", 12)]
    assert json.loads(json.dumps(made.feed, allow_nan=False)) == made.feed
    assert made.feed["names"] == {"speaker_encoder": {"waveform": "waveform"}}


def test_the_window_rule_is_the_references() -> None:
    """Where windows begin, worked out as the sidecar says; a shorter clip is one window."""
    rule = SpeakerEncoder().build(claimed(seen := reference_voices.outline(REFERENCE)), seen).feed["windows"]
    with np.load(reference_voices.FOLDER / f"{REFERENCE}.npz") as arrays:
        for at in range(3):
            samples, starts = arrays[f"{at}.waveform"].shape[1], arrays[f"{at}.window_starts"].tolist()
            spread = max(samples - rule["samples"], 0)
            assert starts == [i * spread // (rule["count"] - 1) for i in range(rule["count"])]
    assert rule["starts"] == "floor(i * (clip_samples - 40000) / 9) for i = 0 .. 9"


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    """Every d-vector would be no number."""
    checkpoint = tiny_speaker_encoder()
    checkpoint["model"]["bn1.running_var"][1] = -1
    torch.save(checkpoint, source := tmp_path / "model_se.pth")
    (staging := tmp_path / "staging").mkdir()
    with pytest.raises(BadNumbers, match=r"bn1\.running_var"):
        Pipeline(Cache(tmp_path / "templates")).convert(source, "0" * 64, Recipe("r"), staging, lambda _: None)
