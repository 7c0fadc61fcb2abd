"""What the running daemon makes of the speaker encoder hears speakers as the original code does, at full size.

In float64 the original's vectors differ by 0.000002; they are judged at 0.00001.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import reference_voices
from reference_voices import Arrays
from running import CONFIG, Daemon
from voicekiln.convert.device import CPU
from voicekiln.convert.verify import open_session
from voicekiln.nets.mel import dft_weights

NAME = "coqui-speaker-encoder"
FOLDERS = ("beside", "within", "without")
"""Where its config is. It says what is usual, but that clips are heard as loud as they are."""
BAR = 1e-5
FORBIDDEN = {"If", "Loop", "Scan", "NonZero", "ScatterND", "STFT", "DFT"}
"""What some runtime or other does not have; random numbers come in addition."""


@pytest.fixture(scope="module")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drop the encoder with its config in each of the three places, wait for it, and yield where the results lie."""
    checkpoint, at = reference_voices.checkpoint(NAME), tmp_path_factory.mktemp("encoder")
    torch.save(checkpoint, whole := at / "whole.pth")
    (config := at / "config_se.json").write_text(json.dumps(checkpoint.pop("config")))
    torch.save(checkpoint, bare := at / "bare.pth")
    with Daemon(tmp_path_factory.mktemp("daemon"), CONFIG + "recipes: {both: {precision: both}}\n") as running:
        running.until(running.inbox.is_dir)
        running.drop(config, "both/beside/config_se.json")
        for folder, source in zip(FOLDERS, (bare, whole, bare), strict=True):
            running.drop(source, f"both/{folder}/model_se.pth")
        running.until_there(*(f"both/{folder}/model_se.json" for folder in FOLDERS))
        yield running.outbox / "both"


@pytest.fixture(scope="module")
def made(outbox: Path) -> Path:
    """Return where the results of the one with its config beside it lie."""
    return outbox / "beside"


def clips() -> list[Arrays]:
    """Return the three clips: of one window, longer, shorter."""
    with np.load(reference_voices.FOLDER / f"{NAME}.npz") as arrays:
        return [{key[2:]: arrays[key] for key in arrays if key.startswith(f"{i}.")} for i in range(3)]


def said(model: Path | bytes, waveform: NDArray[Any]) -> NDArray[Any]:
    """Return what a file makes of windows."""
    d_vectors: NDArray[Any] = open_session(model, CPU).run(["d_vector"], {"waveform": waveform})[0]
    return d_vectors


def cut(clip: Arrays, rule: dict[str, Any]) -> NDArray[Any]:
    """Return the windows of a clip as the sidecar's rule says, (windows, samples)."""
    waveform, samples, last = clip["waveform"], rule["samples"], rule["count"] - 1
    if waveform.shape[1] <= samples:
        return waveform
    starts = [i * (waveform.shape[1] - samples) // last for i in range(last + 1)]
    return np.concatenate([waveform[:, start : start + samples] for start in starts])


def worst(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return the largest difference."""
    assert got.shape == want.shape
    return float(np.abs(got - want).max())


@pytest.mark.parametrize("file", ["model_se.speaker_encoder.onnx", "model_se.speaker_encoder.fp16.onnx"])
def test_d_vectors_are_the_originals(file: str, made: Path) -> None:
    """Of whole clips, of each of ten windows, and of their mean, cut and averaged as the sidecar says."""
    rule = json.loads((made / "model_se.json").read_text())["feed"]["windows"]
    for clip in clips():
        assert worst(said(made / file, clip["waveform"]), clip["d_vector"]) <= BAR
        windows = said(made / file, cut(clip, rule))
        assert worst(np.broadcast_to(windows, clip["windows"].shape), clip["windows"]) <= BAR
        assert worst(windows.mean(axis=0, keepdims=True), clip["d_vector_mean"]) <= BAR


def test_windows_may_come_together_or_one_by_one(made: Path) -> None:
    """None of them knows of the others, but for the order in which a sum is rounded."""
    model = made / "model_se.speaker_encoder.onnx"
    windows = np.concatenate([clips()[1]["waveform"][:, start : start + 24_000] for start in range(0, 40_000, 10_000)])
    one_by_one = np.concatenate([said(model, windows[at : at + 1]) for at in range(4)])
    assert worst(said(model, windows), one_by_one) <= BAR


def test_the_graph_has_what_every_runtime_has(made: Path) -> None:
    """Opset 17, nothing random, no branches."""
    model = onnx.load(made / "model_se.speaker_encoder.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert not operators & FORBIDDEN
    assert not [name for name in operators if name.startswith("Random")]


def test_the_sidecar_knows_where_its_figures_are_from(outbox: Path) -> None:
    """From beside the file, from within, or assumed, which is said; the files are the same."""
    bodies = {folder: json.loads((outbox / folder / "model_se.json").read_text()) for folder in FOLDERS}
    assert [bodies[folder]["model"]["companions"] for folder in FOLDERS] == [["config_se.json"], [], []]
    assert [len(bodies[folder]["notes"]) for folder in FOLDERS] == [1, 1, 2]  # of all, that the fp16 file is float32
    assert "without its config_se.json" in bodies["without"]["notes"][0]
    feeds = [body["feed"] for body in bodies.values()]
    assert feeds[2].pop("loudness")["rms_db"] == -27
    assert feeds[0] == feeds[1] == feeds[2]
    models = [onnx.load(outbox / folder / "model_se.speaker_encoder.onnx") for folder in FOLDERS]
    assert models[0].graph == models[1].graph == models[2].graph


def another_window(weights: dict[str, NDArray[Any]]) -> None:
    """Take the window that other mel spectrograms have."""
    weights["torch_spec.1.spectrogram.conv.weight"] = dft_weights(512, 400).numpy()


def no_emphasis(weights: dict[str, NDArray[Any]]) -> None:
    """Leave the sound as it is."""
    weights["torch_spec.0.filter"] = np.array([[[0, 1]]], np.float32)


def swapped_norm(weights: dict[str, NDArray[Any]]) -> None:
    """Take one block's batch norms one for the other."""
    first, second = "layer3.2.bn1.affine", "layer3.2.bn2.affine"
    weights[first], weights[second] = weights[second], weights[first]


@pytest.mark.parametrize("flaw", [another_window, no_emphasis, swapped_norm])
def test_the_reference_would_notice(made: Path, flaw: Callable[[dict[str, NDArray[Any]]], None]) -> None:
    """Each of the classical mistakes is planted in a right graph and goes far beyond the bar."""
    model = onnx.load(made / "model_se.speaker_encoder.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    flaw(weights)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    clip = clips()[2]
    assert worst(said(model.SerializeToString(), clip["waveform"]), clip["d_vector"]) > 100 * BAR
