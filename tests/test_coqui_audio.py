"""What the running daemon makes of Coqui's voices sounds as the original does: three voices, at full size.

Two files by default, and with their three faces: from tokens to what the encoder says, from there to sound, and both in
one graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import reference_voices
from reference_voices import Arrays, ac_snr_db
from running import CONFIG, Daemon
from voicekiln.convert.device import CPU
from voicekiln.convert.verify import open_session

RECIPES = "recipes: {both: {precision: both, interface: [rvc, single]}}\n"
NAMES = ("coqui-vits-multispeaker", "coqui-vits-single", "coqui-yourtts")
NOISE_SCALE = np.float32(0.667)
LANGUAGES = {"en": 0, "fr-fr": 1, "pt-br": 2}
SPEAKERS = ("female-en-5", "female-en-5\n", "male-en-2\n")
"""As in the released file: names end in what nobody sees, and two differ in nothing else."""
FORBIDDEN = {"If", "NonZero", "ScatterND", "GatherND", "Loop", "RandomNormal", "RandomNormalLike", "RandomUniform"}
"""Operators that runtimes have no use for, or have trouble with."""
CALLED = {"input": "tokens", "input_lengths": "token_lengths", "sid": "speaker_id", "langid": "language_id"}
"""What the one graph calls the inputs of the two."""

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


def companions(name: str) -> dict[str, object]:
    """Return what lies beside a voice: YourTTS has speakers' vectors, two clips of each, and names of languages."""
    if name != "coqui-yourtts":
        return {}
    drawn = np.random.default_rng(3).standard_normal((len(SPEAKERS), 2, 512)).round(4)
    vectors = {
        f"{row}/{clip}.wav": {"name": speaker, "embedding": drawn[row, clip].tolist()}
        for row, speaker in enumerate(SPEAKERS)
        for clip in range(2)
    }
    return {"speakers.json": vectors, "language_ids.json": LANGUAGES}


@pytest.fixture(scope="module")
def files(name: str, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Drop a voice with what lies beside it, wait for it, and yield its files by what they are."""
    source = reference_voices.write_checkpoint(name, tmp_path_factory.mktemp(name) / "voice.pth")
    for companion, values in companions(name).items():
        path = source.with_name(companion)
        path.write_text(json.dumps(values))
        daemon.drop(path, f"both/{name}/{companion}")
    daemon.drop(source, f"both/{name}/model_file.pth")
    daemon.until_there(f"both/{name}/model_file.json")
    folder = daemon.outbox / "both" / name
    endings = {"encoder": ".encoder", "decoder": ".decoder", "single": ""}
    found = {part: folder / f"model_file{ending}.onnx" for part, ending in endings.items()}
    found |= {f"{part} fp16": folder / f"model_file{ending}.fp16.onnx" for part, ending in endings.items()}
    yield found | {"sidecar": folder / "model_file.json", "d_vectors": folder / "model_file.d_vectors.npy"}
    for path in [source, *folder.iterdir()]:  # 500 MB each
        path.unlink()


def runs(name: str) -> list[Arrays]:
    """Return two runs: the inputs under the files' names, the noise scaled, and what the original made of them."""
    return [run | {"noise": run["noise"] * NOISE_SCALE} for run in reference_voices.arrays(name)]


def said(path: Path | onnx.ModelProto, run: Arrays) -> list[np.ndarray]:
    """Return what a file says, which is fed what it wants of a run."""
    session = open_session(path if isinstance(path, Path) else path.SerializeToString(), CPU)
    outputs: list[np.ndarray] = session.run(None, {each.name: run[each.name] for each in session.get_inputs()})
    return outputs


def off_by(run: Arrays, outputs: list[np.ndarray]) -> list[float]:
    """Return by how much an encoder's outputs are off: mean, log deviation, frames."""
    wanted = [run[name] for name in ("m_p", "logs_p", "w")]
    return [float(np.abs(a - b).max()) for a, b in zip(wanted, outputs, strict=True)]


@pytest.mark.parametrize("part", ["encoder", "encoder fp16"])
def test_the_encoder_says_what_the_original_says(name: str, files: Files, part: str) -> None:
    """At both lengths, neither of them traced; each token has exactly as many frames. In half precision, too."""
    for run in runs(name):
        m_p, logs_p, w = said(files[part], run)
        mean, log_deviation, frames = off_by(run, [m_p, logs_p, w])
        assert mean <= 1e-5
        assert log_deviation <= 1e-5
        assert frames <= 1e-4
        assert np.array_equal(np.minimum(np.ceil(w[0]), 1000).astype(np.int64), run["durations"])


@pytest.mark.parametrize(("part", "wanted_db"), [("decoder", 105), ("decoder fp16", 55)])
def test_the_decoder_sounds_as_the_original(name: str, files: Files, part: str, wanted_db: float) -> None:
    """On the original's own prior and durations."""
    assert min(ac_snr_db(run["waveform"], said(files[part], run)[0]) for run in runs(name)) >= wanted_db


def test_from_text_to_sound_it_is_the_original(name: str, files: Files) -> None:
    """The decoder on what the encoder says."""
    for run in runs(name):
        m_p, logs_p, w = said(files["encoder"], run)
        fed = run | {"m_p": m_p, "logs_p": logs_p, "durations": np.ceil(w[0]).astype(np.int64)}
        assert ac_snr_db(run["waveform"], said(files["decoder"], fed)[0]) >= 100


@pytest.mark.parametrize("length_scale", [1.0, 1.3])
def test_one_graph_says_what_the_two_say(name: str, files: Files, length_scale: float) -> None:
    """Without noise they agree to the last digits; with it the one is as long as its own durations are."""
    for run in runs(name):
        silent = {key: run[key] * 0 for key in ("dp_noise", "noise") if key in run}
        m_p, logs_p, w = said(files["encoder"], run | silent)
        durations = np.ceil(w[0] * np.float32(length_scale)).astype(np.int64)
        noise = np.zeros((1, m_p.shape[1], durations.sum()), np.float32)
        two = said(files["decoder"], run | {"m_p": m_p, "logs_p": logs_p, "durations": durations, "noise": noise})[0]
        fed = run | {theirs: run[ours] for theirs, ours in CALLED.items() if ours in run}
        one = said(files["single"], fed | {"scales": np.array([0, length_scale, 0], np.float32)})[0]
        assert ac_snr_db(two, one) >= 100


def test_half_of_the_one_graph_is_close_as_well(name: str, files: Files) -> None:
    """As long, since what counts the frames is float32 there, and as close as the decoder."""
    for run in runs(name):
        fed = run | {theirs: run[ours] for theirs, ours in CALLED.items() if ours in run}
        fed["scales"] = np.array([0, 1, 0], np.float32)
        whole, half = (said(files[part], fed)[0] for part in ("single", "single fp16"))
        assert ac_snr_db(whole, half) >= 55


@pytest.mark.parametrize("part", ["encoder", "encoder fp16", "decoder", "decoder fp16"])
def test_the_files_are_plain_arithmetic(files: Files, part: str) -> None:
    """No branch, no chance, no list of places that somebody has to make first."""
    assert not {node.op_type for node in onnx.load(files[part]).graph.node} & FORBIDDEN


def test_the_one_graph_draws_noise_and_nothing_else_of_that_kind(name: str, files: Files) -> None:
    """Once for the sound and, where durations are drawn, once for them."""
    found = [node.op_type for node in onnx.load(files["single"]).graph.node if node.op_type in FORBIDDEN]
    assert found == ["RandomNormalLike"] * (1 if name == "coqui-vits-multispeaker" else 2)


def test_the_sidecar_has_what_a_client_needs(name: str, files: Files) -> None:
    """Rates, symbols, scales, and who speaks which language."""
    body = json.loads(files["sidecar"].read_text())
    config, feed = reference_voices.spec(name)["rest"]["config"], body["feed"]
    assert body["model"]["family"] == "coqui-vits"
    assert (feed["sample_rate"], feed["hop"]) == (config["audio"]["sample_rate"], 256)
    rows = reference_voices.spec(name)["tensors"]["text_encoder.emb.weight"]["shape"][0]
    assert (feed["blank"], feed["pad"], feed["add_blank"]) == (rows - 1, 0, True)
    assert feed["scales"] == {"noise_scale": 0.667, "length_scale": 1.0, "noise_scale_dp": 1.0}
    if name == "coqui-yourtts":
        assert feed["tokens"][","] == 157
        assert feed["languages"] == [{"id": row, "name": language} for language, row in LANGUAGES.items()]
        assert [speaker.get("raw") for speaker in feed["speakers"]] == [None, "female-en-5\\n", "male-en-2\\n"]
        assert {speaker["name"] for speaker in feed["speakers"]} == {"female-en-5", "male-en-2"}
        assert any("CC BY-NC-ND" in note for note in body["notes"])


@pytest.mark.parametrize("name", ["coqui-yourtts"], indirect=True, scope="module")
def test_the_speakers_vectors_lie_beside_the_voice(name: str, files: Files) -> None:
    """One row for each, the mean of his clips, in the order of the sidecar; the decoder takes them as they are."""
    given = companions(name)["speakers.json"]
    assert isinstance(given, dict)
    vectors = np.array([entry["embedding"] for entry in given.values()]).reshape(len(SPEAKERS), 2, 512)
    rows = np.load(files["d_vectors"])
    assert rows.dtype == np.float32
    assert np.abs(rows - vectors.mean(axis=1)).max() <= 1e-6
    heard = [said(files["decoder"], runs(name)[0] | {"d_vector": rows[[row]]})[0] for row in range(2)]
    assert ac_snr_db(*heard) < 40


def turned_flow(model: onnx.ModelProto) -> None:
    """Run one coupling of the flow the other way: add what should be subtracted."""
    [*_, node] = [node for node in model.graph.node if node.name.startswith("/flow/") and node.op_type == "Sub"]
    node.op_type = "Add"


def early_tokens(model: onnx.ModelProto) -> None:
    """Begin each token one frame too early."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    ends = next(node for node in model.graph.node if node.op_type == "CumSum")
    late, ends.output[0] = ends.output[0], "ends"
    model.graph.node.insert(
        list(model.graph.node).index(ends) + 1, onnx.helper.make_node("Sub", ["ends", "one"], [late], "/earlier")
    )


def steep_end(model: onnx.ModelProto) -> None:
    """Give the last leaky ReLU the slope of the others."""
    [*_, last] = [node for node in model.graph.node if node.op_type == "LeakyRelu"]
    del last.attribute[:]
    last.attribute.append(onnx.helper.make_attribute("alpha", 0.1))


@pytest.mark.parametrize("name", ["coqui-yourtts"], indirect=True, scope="module")
@pytest.mark.parametrize("flaw", [turned_flow, early_tokens, steep_end])
def test_the_reference_would_notice(name: str, files: Files, flaw: object) -> None:
    """Each of the classical mistakes is planted in a right graph and brings it far below the mark."""
    model = onnx.load(files["decoder"])
    assert callable(flaw)
    flaw(model)
    assert max(ac_snr_db(run["waveform"], said(model, run)[0]) for run in runs(name)) < 35
