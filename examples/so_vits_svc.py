r"""Let a so-vits-svc voice sing, with NumPy and ONNX Runtime alone: voice, then shallow diffusion and vocoder if given.

The ONNX files are those that voicekiln makes of a voice (G_*.pth), a diffusion model (model_*.pt) and an NSF-HiFiGAN
vocoder. What they are fed is prepared elsewhere, as .npy: speech features, 50 a second, from the encoder that the
voice's sidecar names; f0 in Hz, 0 where unvoiced, one number a frame; the loudness of each frame where it is wanted.

    python so_vits_svc.py G.onnx --features c.npy --f0 f0.npy --out song.wav
    python so_vits_svc.py G.onnx --features c.npy --f0 f0.npy --volume vol.npy --out song.wav \
        --mel model.mel.onnx --diffusion model_50000.onnx --vocoder model.onnx --depth 100
"""

from __future__ import annotations

import argparse
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]
SAMPLERS = ("ddim", "dpm-solver++")
"""By the number under which the diffusion file knows them."""


class Graph:
    """An ONNX file, and what its metadata says."""

    def __init__(self, path: Path, family: str) -> None:
        self.path = path
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        if self.facts.get("family") != family:
            raise SystemExit(f"{path} is not a file that voicekiln made for {family}")
        self.inputs = {given.name: given for given in self.session.get_inputs()}

    def fact(self, name: str) -> int:
        """Return a number of the metadata."""
        return int(self.facts[name])

    def __call__(self, **fed: Array | None) -> list[Array]:
        """Return the outputs. What the file does not want is not fed; what it wants has to be there."""
        if missing := [name for name in self.inputs if fed.get(name) is None]:
            raise SystemExit(f"{self.path} wants {', '.join(missing)}, which is not given")
        outputs: list[Array] = self.session.run(None, {name: fed[name] for name in self.inputs})
        return outputs


def sing(voice: Graph, options: argparse.Namespace) -> tuple[Array, dict[str, Array | None]]:
    """Return the voice's audio, (1, 1, samples), and what it was fed."""
    f0 = row(options.f0)
    frames = f0.shape[1]
    features = np.load(options.features).astype(np.float32)
    features = features.reshape(1, *features.shape[-2:])
    volume = None if options.volume is None else row(options.volume)
    if volume is not None and volume.shape != f0.shape:
        raise SystemExit(f"{options.volume} and {options.f0} have not as many frames")
    scale = np.float32(voice.facts["noise_scale"] if options.noise is None else options.noise)
    shape = (1, voice.inputs["noise"].shape[1], frames)
    fed: dict[str, Array | None] = {
        "c": features,
        "f0": f0,
        "uv": (f0 > 0).astype(np.float32),
        "noise": np.random.default_rng(options.seed).standard_normal(shape, dtype=np.float32) * scale,
        "vol": volume,
        "volume": volume,
    }
    audio, *predicted = voice(**fed, **own(voice, fed, options.speaker))
    return audio, fed | ({"f0": predicted[0]} if predicted else {})  # of an autof0 file: what it sings in fact


def refine(audio: Array, fed: dict[str, Array | None], options: argparse.Namespace, voice: Graph) -> Array:
    """Return the audio, (1, 1, samples), that diffusion and vocoder make of the voice's."""
    mel, vocoder = (Graph(path, "nsf-hifigan") for path in (options.mel, options.vocoder))
    diffusion = Graph(options.diffusion, "shallow-diffusion")
    for other in (mel, diffusion, vocoder):
        if any(other.fact(name) != voice.fact(name) for name in ("sample_rate", "hop")):
            raise SystemExit(f"{other.path} has another sample rate or hop than {voice.path}")
    rough = mel(audio=audio[0])[0].transpose(0, 2, 1)  # (1, frames, bands)
    _, frames, bands = rough.shape
    depth = min(options.depth, diffusion.fact("k_step_max"))
    speedup, method = min(options.speedup, max(1, depth // 2)), SAMPLERS.index(options.sampler)
    noise = np.random.default_rng(options.seed + 1).standard_normal((1, 1, bands, frames), dtype=np.float32)
    numbers = {"k_step": np.array([depth]), "speedup": np.array([speedup]), "method": np.array([method])}
    [fine] = diffusion(**{**fed, "mel": rough, "noise": noise}, **numbers, **own(diffusion, fed, options.speaker))
    return vocoder(c=fine.transpose(0, 2, 1), f0=fed["f0"])[0]


def own(graph: Graph, fed: dict[str, Any], number: int) -> dict[str, Array]:
    """Return which unit each frame uses, counted from 1, and who sings: by number or a share for every frame."""
    (_, units, _), (_, frames) = fed["c"].shape, fed["f0"].shape
    match graph.facts["stretch"]:
        case "left":
            mel2ph = 1 + np.arange(frames) * units // frames
        case "nearest":
            places = np.arange(frames, dtype=np.float32) * (np.float32(units) / np.float32(frames))
            mel2ph = 1 + np.minimum(places.astype(np.int64), units - 1)
        case other:
            raise SystemExit(f"{graph.path} wants its features interpolated ({other}), which this example cannot do")
    wanted = graph.inputs.get("sid")
    if wanted is None or len(wanted.shape) == 1:
        return {"mel2ph": mel2ph[None], "sid": np.array([number])}
    return {"mel2ph": mel2ph[None], "sid": np.tile(np.eye(wanted.shape[1], dtype=np.float32)[number], (frames, 1))}


def row(path: Path) -> Array:
    """Return one number a frame, as (1, frames)."""
    numbers: Array = np.load(path)
    return numbers.astype(np.float32).reshape(1, -1)


def save(path: Path, audio: Array, rate: int) -> None:
    """Write 16 bits, one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("voice", type=Path)
    for name in ("features", "f0", "out", "volume", "mel", "diffusion", "vocoder"):
        parser.add_argument(f"--{name}", type=Path, required=name in ("features", "f0", "out"))
    parser.add_argument("--speaker", type=int, default=0)
    parser.add_argument("--noise", type=float, help="how much the voice varies; what its file says by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, default=100, help="k_step: how much diffusion changes (default: 100)")
    parser.add_argument("--speedup", type=int, default=10)
    parser.add_argument("--sampler", choices=SAMPLERS, default="dpm-solver++")
    options = parser.parse_args(arguments)
    if len({part is None for part in (options.mel, options.diffusion, options.vocoder)}) > 1:
        parser.error("--mel, --diffusion and --vocoder belong together")
    voice = Graph(options.voice, "so-vits-svc")
    audio, fed = sing(voice, options)
    if options.diffusion is not None:
        audio = refine(audio, fed, options, voice)
    save(options.out, audio.ravel(), voice.fact("sample_rate"))
    sys.stdout.write(f"{options.out}: {audio.size / voice.fact('sample_rate'):.2f} s\n")


if __name__ == "__main__":
    main()
