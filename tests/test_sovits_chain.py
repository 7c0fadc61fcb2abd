"""A folder with a so-vits-svc voice and all its parts, through the running daemon: each part is the original's equal.

At the end all of them sing together, with NumPy and ONNX Runtime alone, as `examples/so_vits_svc.py` shows it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml

import reference_voices
from reference_voices import Arrays, ac_snr_db
from running import Daemon
from test_sovits_audio import fed_with_a_source, said
from voicekiln.convert.device import CPU
from voicekiln.convert.verify import open_session

FILES = {
    "G_8000.pth": "sovits-40",
    "model_500000.pt": "sovits-diffusion",
    "kmeans_64.pt": "sovits-kmeans",
    "model": "sovits-nsf-hifigan",
}
"""The voice and what belongs to it, by the names that people know."""
BESIDE = {
    "config.json": ("sovits-40", "config_json"),
    "diffusion.yaml": ("sovits-diffusion", "config_yaml"),
    "model.json": ("sovits-nsf-hifigan", "config_json"),
}
"""There is one config.json in a folder, and it is the voice's."""
EXAMPLE = Path(__file__).parents[1] / "examples/so_vits_svc.py"


@pytest.fixture(scope="module")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drop all of it at once, wait, and return the folder in the outbox."""
    made = tmp_path_factory.mktemp("made")
    with Daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.until(daemon.inbox.is_dir)
        for name, reference in FILES.items():
            torch.save(reference_voices.checkpoint(reference), made / name)
        for name, (reference, key) in BESIDE.items():
            dump = yaml.safe_dump if key == "config_yaml" else json.dumps
            (made / name).write_text(dump(reference_voices.spec(reference)[key]))
        for path in sorted(made.iterdir()):
            daemon.drop(path, f"anna/{path.name}")
        for name in FILES:
            daemon.until_there(f"anna/{Path(name).with_suffix('')}.json")
        daemon.until_there("anna/bundle.json")
        yield daemon.outbox / "anna"


def runs(name: str) -> list[Arrays]:
    """Return two runs of a reference."""
    with np.load(reference_voices.FOLDER / f"{name}.npz") as arrays:
        return [{key[2:]: arrays[key] for key in arrays if key.startswith(f"{i}.")} for i in range(2)]


def run(path: Path, **fed: Any) -> np.ndarray:
    """Return the first output of a file."""
    session = open_session(path.read_bytes(), CPU)
    found: np.ndarray = session.run(None, {each.name: fed[each.name] for each in session.get_inputs()})[0]
    return found


@pytest.mark.parametrize(("sampler", "number"), [("ddim", 0), ("dpm", 1)])
@pytest.mark.parametrize("depth", [100, 50])
def test_shallow_diffusion_is_the_originals(outbox: Path, sampler: str, number: int, depth: int) -> None:
    """Both samplers, at the greatest depth and at half of it."""
    for case in runs("sovits-diffusion"):
        steps = {"k_step": np.array([depth]), "speedup": np.array([10]), "method": np.array([number])}
        got = run(outbox / "model_500000.onnx", **case, sid=case["spk_id"], **steps)
        assert np.abs(got - case[f"mel_{sampler}_{depth}"]).max() <= 0.001


def test_a_greater_depth_than_was_trained_is_the_greatest_that_was(outbox: Path) -> None:
    """Beyond it the network has never been."""
    case = runs("sovits-diffusion")[0]
    steps = {"speedup": np.array([10]), "method": np.array([0])}
    got = run(outbox / "model_500000.onnx", **case, sid=case["spk_id"], k_step=np.array([1000]), **steps)
    assert np.abs(got - case["mel_ddim_100"]).max() <= 0.001


def test_the_split_files_are_the_originals(outbox: Path) -> None:
    """Condition and denoiser, at a time between two whole ones."""
    for case in runs("sovits-diffusion"):
        mix = np.tile(np.eye(2, dtype=np.float32)[case["spk_id"]], (case["f0"].shape[1], 1))
        condition = run(outbox / "model_500000.encoder.onnx", **case, hubert=case["c"], spk_mix=mix)
        assert np.abs(condition - case["condition"]).max() <= 0.001
        time = np.asarray(case["time"], np.float32).reshape(1)
        fed = {"noise": case["noise"], "condition": case["condition"], "time": time}
        assert np.abs(run(outbox / "model_500000.denoise.onnx", **fed) - case["noise_pred"]).max() <= 0.001


def test_centres_are_found_as_by_the_original(outbox: Path) -> None:
    """Number for number."""
    for case in runs("sovits-kmeans"):
        got = run(outbox / "kmeans_64.onnx", **case, sid=case["speaker"])
        assert np.abs(got - case["c_out"]).max() <= 1e-6


def test_the_clients_table_of_centres_is_whole(outbox: Path) -> None:
    """After 128 bytes there is nothing but numbers, speaker after speaker."""
    content = (outbox / "kmeans_64.KMeans.npy").read_bytes()
    tensors = reference_voices.checkpoint("sovits-kmeans")
    wanted = np.concatenate([tensors[name]["cluster_centers_"] for name in ("tenor", "alto")])
    assert np.array_equal(np.frombuffer(content[128:], "<f4").reshape(wanted.shape), wanted)


def test_the_vocoder_sounds_as_the_original(outbox: Path) -> None:
    """As it is, and with the original's own excitation in place of ours."""
    model = onnx.load(outbox / "model.onnx")
    for case in runs("sovits-nsf-hifigan"):
        fed = case | {"c": case["mel"]}
        assert ac_snr_db(case["audio"], said(model, fed, "audio")[0]) >= 85
        assert ac_snr_db(case["audio"], said(fed_with_a_source(model), fed, "audio")[0]) >= 105


def test_one_file_says_how_the_parts_plug_together(outbox: Path) -> None:
    """It names files that are there."""
    body = json.loads((outbox / "bundle.json").read_text())
    assert {"voice", "diffusion", "kmeans", "vocoder"} <= body.keys()
    named = {name for name in json.dumps(body).split('"') if name.endswith((".onnx", ".npy"))}
    assert named
    assert all((outbox / name).is_file() for name in named)


@pytest.mark.parametrize(
    ("voice", "refined"), [("G_8000.onnx", False), ("G_8000.onnx", True), ("G_8000.autof0.onnx", True)]
)
def test_the_example_sings(outbox: Path, tmp_path: Path, voice: str, *, refined: bool) -> None:
    """Voice alone, and voice, mel, diffusion and vocoder one after the other; a person's WAV file comes out."""
    case = runs("sovits-40")[0]
    for name in ("c", "f0"):
        np.save(tmp_path / f"{name}.npy", case[name][0])
    np.save(tmp_path / "vol.npy", np.full_like(case["f0"][0], 0.1))
    told: list[str | Path] = [
        "--features",
        tmp_path / "c.npy",
        "--f0",
        tmp_path / "f0.npy",
        "--out",
        tmp_path / "song.wav",
    ]
    if refined:
        parts = {"mel": "model.mel.onnx", "diffusion": "model_500000.onnx", "vocoder": "model.onnx"}
        told += ["--volume", tmp_path / "vol.npy"]
        for name, file in parts.items():
            told += [f"--{name}", outbox / file]
    forbidden = "import sys; sys.modules['torch'] = sys.modules['voicekiln'] = None; import runpy; "
    code = f"{forbidden}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run([sys.executable, "-c", code, EXAMPLE, outbox / voice, *told], check=True, timeout=300)
    with wave.open(str(tmp_path / "song.wav")) as song:
        assert (song.getframerate(), song.getnframes()) == (44100, 512 * case["f0"].size)
        samples = np.frombuffer(song.readframes(song.getnframes()), "<i2")
    assert 100 < np.abs(samples).max() < 32768


def test_the_example_is_short() -> None:
    """Whoever reads it wants to see the way, not a program."""
    assert len(EXAMPLE.read_text().splitlines()) < 150
