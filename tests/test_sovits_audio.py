"""What the running daemon makes of so-vits-svc voices sounds as the original code does: six voices, at full size.

The original adds its phase up sample by sample in float32, so that whoever computes the sines better differs from it
for that reason alone: `audio` is judged at 80 dB, and with the original's own excitation in place of ours at 105.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import reference_voices
from reference_voices import Arrays, ac_snr_db
from running import CONFIG, Daemon
from test_reference_audio import quiet
from voicekiln import families
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import noise_nodes
from voicekiln.convert.reference import References
from voicekiln.convert.verify import Original, open_session, verify

RECIPES = "recipes: {both: {precision: both}, mix: {speaker_mix: true}}\n"
TWO_SPEAKERS = ("sovits-40", "sovits-41", "sovits-41-vol-snake", "sovits-fork")
NAMES = ("sovits-40", "sovits-41", "sovits-41-tflow", "sovits-41-tiny", "sovits-41-vol-snake", "sovits-fork")
MIXED = "sovits-41"
"""Of this one the files that are fed a mix are made, too."""
LONG = 2584
"""Frames: thirty seconds."""

Files = Mapping[str, Path]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running daemon, to which all voices are dropped one after the other."""
    with Daemon(tmp_path_factory.mktemp("daemon"), CONFIG + RECIPES) as running:
        running.until(running.inbox.is_dir)
        yield running


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a reference."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def files(name: str, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Drop a voice with its `config.json`, wait for it, and yield its files by what they are."""
    source = reference_voices.write_checkpoint(name, tmp_path_factory.mktemp(name) / "voice.pth")
    config = source.with_name("config.json")
    config.write_text(json.dumps(reference_voices.spec(name)["config_json"]))
    recipes = ("both", "mix") if name == MIXED else ("both",)
    for recipe in recipes:
        daemon.drop(config, f"{recipe}/{name}/config.json")
        daemon.drop(source, f"{recipe}/{name}/G.pth")
    for recipe in recipes:
        daemon.until_there(f"{recipe}/{name}/G.json")
    folder = daemon.outbox / "both" / name
    parts = {"fp32": "G.onnx", "fp16": "G.fp16.onnx", "autof0": "G.autof0.onnx", "autof0 fp16": "G.autof0.fp16.onnx"}
    found = {part: folder / file for part, file in parts.items()} | {"sidecar": folder / "G.json", "source": source}
    mix = daemon.outbox / "mix" / name
    yield found | ({"mix": mix / "G.onnx", "mix sidecar": mix / "G.json"} if name == MIXED else {})
    for path in [source, *folder.iterdir(), *(mix.iterdir() if mix.is_dir() else ())]:  # 700 MB each
        path.unlink()


def runs(name: str) -> list[Arrays]:
    """Return two runs: the inputs under the ONNX file's names, the noise scaled, and what the original made of them."""
    with np.load(reference_voices.FOLDER / f"{name}.npz") as arrays:
        both = [{key[2:]: arrays[key] for key in arrays if key.startswith(f"{i}.")} for i in range(2)]
    return [run | {"noise": run["noise"] * run["noise_scale"]} for run in both]


def said(model: onnx.ModelProto, run: Arrays, *wanted: str) -> list[np.ndarray]:
    """Return what a file says with its noise at nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    session = open_session(quiet(copy), CPU)
    outputs: list[np.ndarray] = session.run(list(wanted), {each.name: run[each.name] for each in session.get_inputs()})
    return outputs


def fed_with_a_source(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which the excitation is an input, `source`."""
    fed = onnx.ModelProto()
    fed.CopyFrom(model)
    weights = ("dec.noise_convs.", "generator.noise_convs.")  # of a voice, and of a vocoder alone
    strided = [node for node in fed.graph.node if node.op_type == "Conv" and node.input[1].startswith(weights)]
    [excitation] = {node.input[0] for node in strided}
    for node in strided:
        node.input[0] = "source"
    fed.graph.input.append(onnx.helper.make_tensor_value_info("source", onnx.TensorProto.FLOAT, (1, 1, None)))
    assert excitation
    return fed


def test_the_file_sounds_as_the_original(name: str, files: Files) -> None:
    """Both lengths of the reference, neither of them traced; the excitation computed by us."""
    model = onnx.load(files["fp32"])
    assert min(ac_snr_db(run["audio"], said(model, run, "audio")[0]) for run in runs(name)) >= 80


def test_all_but_the_sines_is_exact(name: str, files: Files) -> None:
    """The same on the original's own excitation."""
    model = fed_with_a_source(onnx.load(files["fp32"]))
    assert min(ac_snr_db(run["audio"], said(model, run, "audio")[0]) for run in runs(name)) >= 105


def test_half_precision_is_close_as_well(name: str, files: Files) -> None:
    """With the phase in float32."""
    model = onnx.load(files["fp16"])
    assert min(ac_snr_db(run["audio"], said(model, run, "audio")[0]) for run in runs(name)) >= 55


def test_f0_is_predicted_as_by_the_original(name: str, files: Files) -> None:
    """To 0.005 Hz; the audio follows as far as the phase, which adds up that difference, allows."""
    model = onnx.load(files["autof0"])
    for run in runs(name):
        audio, f0 = said(model, run, "audio", "f0_auto")
        assert np.abs(f0 - run["f0_auto"]).max() <= 0.005
        assert ac_snr_db(run["audio_auto"], audio) >= 50


def test_with_the_predicted_f0_the_plain_file_says_the_same(name: str, files: Files) -> None:
    """Whoever has f0 already needs no predictor."""
    model = onnx.load(files["fp32"])
    for run in runs(name):
        assert ac_snr_db(run["audio_auto"], said(model, run | {"f0": run["f0_auto"]}, "audio")[0]) >= 80


@pytest.mark.parametrize("name", [MIXED], indirect=True, scope="module")
def test_thirty_seconds_agree_with_the_network(name: str, files: Files) -> None:
    """Phase does not drift apart over a long piece with a long unvoiced gap."""
    checkpoint = open_checkpoint(files["source"])
    family, claim = families.choose(checkpoint.outline)
    exportable = family.build(claim, checkpoint.outline)
    network = References().load(exportable, checkpoint.tensors)
    noises = noise_nodes(onnx.load(files["fp32"]).graph)
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        [fidelity] = verify(files["fp32"], Original(exportable, network, noises), "fp32", [CPU], (LONG,))
    finally:
        torch.set_num_threads(1)
    assert name == MIXED
    assert fidelity.snr_db >= 80


@pytest.mark.parametrize("name", [MIXED], indirect=True, scope="module")
def test_speakers_are_mixed_as_by_the_original(name: str, files: Files) -> None:
    """Frame by frame: a constant mix in the first run, a glide in the second."""
    model = onnx.load(files["mix"])
    for run in runs(name):
        assert ac_snr_db(run["audio_mix"], said(model, run | {"sid": run["spk_mix"]}, "audio")[0]) >= 80


def test_the_sidecar_knows_speakers_and_encoder(name: str, files: Files) -> None:
    """From the config.json beside the voice."""
    body = json.loads(files["sidecar"].read_text())
    text = json.dumps(body["feed"])
    assert body["model"]["family"] == "so-vits-svc"
    assert body["model"]["companions"] == ["config.json"]
    assert "tenor" in text
    assert ("alto" in text) is (name in TWO_SPEAKERS)


def turned_flow(model: onnx.ModelProto) -> None:
    """Run one coupling of the flow the other way: add what should be subtracted."""
    [*_, node] = [node for node in model.graph.node if node.name.startswith("/flow/") and node.op_type == "Sub"]
    node.op_type = "Add"


def swapped_speaker(model: onnx.ModelProto) -> None:
    """Exchange the speakers' rows."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "emb_g.weight")
    rows = numpy_helper.to_array(tensor)[::-1]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), tensor.name))


def shifted_units(model: onnx.ModelProto) -> None:
    """Take each frame's features from one unit earlier, as who counts from 0 does."""
    [node] = [node for node in model.graph.node if "mel2ph" in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    model.graph.node.insert(0, onnx.helper.make_node("Sub", ["mel2ph", "one"], ["earlier"], "/earlier"))
    node.input[list(node.input).index("mel2ph")] = "earlier"


@pytest.mark.parametrize("name", [MIXED], indirect=True, scope="module")
@pytest.mark.parametrize("flaw", [turned_flow, swapped_speaker, shifted_units])
def test_the_reference_would_notice(name: str, files: Files, flaw: object) -> None:
    """Each of the classical mistakes is planted in a right graph and brings it far below the mark."""
    model = onnx.load(files["fp32"])
    assert callable(flaw)
    flaw(model)
    assert max(ac_snr_db(run["audio"], said(model, run, "audio")[0]) for run in runs(name)) < 35
