"""The reference voices: known weights, and what their families' original code makes of them.

`reference/NAME.json` says how a checkpoint's weights are drawn (a seeded generator, scaled layer by layer so that
activations spread as in a trained voice; nobody's voice is in them) and what else stands in the file;
`reference/NAME.npz` holds inputs and results at two lengths, with the source module's additive noise set to zero.
`names` and `runs` are for RVC's eight; `arrays` gives what there is for any.
"""

from __future__ import annotations

import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voicekiln.families.base import Outline, TensorInfo

FOLDER = Path(__file__).parent / "reference"

RND_SCALE = 0.66666
"""By which the original multiplies its standard normal noise before it enters the prior."""

Arrays = dict[str, NDArray[Any]]


@cache
def names() -> tuple[str, ...]:
    """Return the names of RVC's voices, such as `rvc-v2-40k-f0`."""
    return tuple(sorted(path.stem for path in FOLDER.glob("rvc-*.json")))


def spec(name: str) -> dict[str, Any]:
    """Return the specification: `seed`, `dtype`, `tensor_key`, `tensors` (shape, mean, std) and `rest`."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the weights as the training tool saves them: its order, half precision, weight norm as g and v."""
    voice = spec(name)
    made: dict[str, torch.Tensor] = {}
    for key, row in voice["tensors"].items():
        if "same_as" in row:  # parts that share their weights: one tensor under several names
            made[key] = made[row["same_as"]]
        else:
            dtype = getattr(torch, row.get("dtype", voice["dtype"]))
            made[key] = torch.from_numpy(_draw(key, row, voice["seed"])).to(dtype)
    return made


def checkpoint(name: str) -> dict[str, Any]:
    """Return the object that the training tool hands to `torch.save`."""
    voice = spec(name)
    if voice["tensor_key"] is None:  # NumPy arrays within the rest, at the place that their names spell
        whole: dict[str, Any] = json.loads(json.dumps(voice["rest"]))
        for key, row in voice["tensors"].items():
            outer, inner = key.split("/")
            whole[outer][inner] = _draw(key, row, voice["seed"])
        return whole
    return {voice["tensor_key"]: tensors(name), **voice["rest"]}


def outline(name: str) -> Outline:
    """Return the outline of that checkpoint; no number is drawn for it."""
    voice = spec(name)
    infos = {
        key: TensorInfo(tuple(row["shape"]), row.get("dtype", voice["dtype"])) for key, row in voice["tensors"].items()
    }
    return Outline(infos, voice["rest"], voice["tensor_key"], (voice["tensor_key"], *voice["rest"]))


def write_checkpoint(name: str, path: Path) -> Path:
    """Write the voice's checkpoint, about 55 MB, and return `path`."""
    torch.save(checkpoint(name), path)
    return path


def runs(name: str) -> list[Arrays]:
    """Return two runs of an RVC voice: the inputs under the ONNX file's names, and the original's `audio`.

    `rnd` is ready to be fed: it has been scaled by `RND_SCALE`; `audio` is (1, 1, samples).
    """
    return [run | {"rnd": run["rnd"] * np.float32(RND_SCALE)} for run in arrays(name)]


def arrays(name: str) -> list[Arrays]:
    """Return two runs of any reference as they are: inputs, and what the original made of them."""
    with np.load(FOLDER / f"{name}.npz") as both:
        return [{key[2:]: both[key] for key in both if key.startswith(f"{i}.")} for i in range(2)]


def ac_snr_db(reference: NDArray[Any], got: NDArray[Any]) -> float:
    """Return the signal-to-noise ratio of `got` in dB, the reference's mean not counted as signal.

    NaN if there is a NaN on either side, so that any comparison with it is false; infinite if they are equal.
    """
    assert reference.shape == got.shape
    signal = reference.astype(np.float64)
    noise = got.astype(np.float64) - signal
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.var(signal) / np.mean(noise**2)))


def _draw(name: str, row: dict[str, Any], seed: int) -> NDArray[Any]:
    """Return one tensor's values: as given, or drawn, and then they depend on its name and the seed alone."""
    if "values" in row:  # all of them, or those at the flat positions `at` among zeros
        given = np.zeros(math.prod(row["shape"]), row.get("dtype", "float32"))
        given[row.get("at", slice(None))] = row["values"]
        return given.reshape(row["shape"])
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values: NDArray[np.float32] = rng.standard_normal(row["shape"], dtype=np.float32)
    if "center" in row:  # zero mean over the input channels, so that no layer adds a constant
        values -= values.mean(axis=row["center"], keepdims=True)
    values *= np.float32(row["std"])
    values += np.float32(row["mean"])
    return values
