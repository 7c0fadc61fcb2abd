"""Several networks of one file, numbers beside them, and a network that goes on with what it has predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convert import small_networks
from voicekiln.convert.bench import Bench, Stages
from voicekiln.convert.cache import Cache
from voicekiln.convert.device import CPU
from voicekiln.convert.reference import References
from voicekiln.convert.verify import Original, verify
from voicekiln.errors import NotFaithful
from voicekiln.families.base import Exportable
from voicekiln.families.weights import AsIs, Joined, Rule
from voicekiln.job import Data, Port, Recipe

MANY_TURNS = 3000.0
"""So many radians for one unit of what is predicted: the sine tells of the last digit's difference."""


class Predicting(nn.Module):
    """Predicts a tune from the features and sings it: a stand-in for f0 that is added up as phase."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_phone = nn.Linear(small_networks.FEATURES, 8)
        self.tune = nn.Linear(8, 1)
        self.predicted = nn.Identity()

    def forward(self, phone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return audio and tune, each (1, frames)."""
        tune = self.predicted(self.tune(torch.tanh(self.emb_phone(phone))).squeeze(-1))
        return torch.sin(MANY_TURNS * tune), tune


def predicting(**changed: Any) -> Exportable:
    """Return that network ready for export."""
    return small_networks.voice(
        Predicting(),
        inputs=(Port("phone", "float32", (1, "frames", small_networks.FEATURES)),),
        outputs=(Port("audio", "float32", (1, "frames")), Port("tune", "float32", (1, "frames"))),
        in_float32=None,
        noises=(),
        **{"replays": {"predicted": "tune"}, **changed},
    )


def numbers(seed: int = 3) -> dict[str, torch.Tensor]:
    """Return its weights."""
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Predicting().state_dict().items()}


def judged(tmp_path: Path, exportable: Exportable, *, flawed: Mapping[str, float] | None = None) -> float:
    """Return how faithful a file is; `flawed` says by how much a weight's first number is off in it."""
    graph, weights = small_networks.graph(exportable), numbers()
    voice = small_networks.asked(exportable, weights, graph)
    for name, by in (flawed or {}).items():
        weights[name].view(-1)[0] += by
    path = tmp_path / "voice.onnx"
    path.write_bytes(small_networks.whole(graph, weights).SerializeToString())
    [fidelity] = verify(path, voice, "fp32", [CPU], (40, 97))
    return fidelity.snr_db


def test_what_follows_from_a_prediction_is_judged_on_the_files_own(tmp_path: Path) -> None:
    """Both sides sing the file's tune, so the singing agrees although the tune differs in its last digits."""
    assert judged(tmp_path, predicting()) > 100


def test_without_that_the_last_digit_would_be_multiplied(tmp_path: Path) -> None:
    """The same file is refused if the network sings its own tune: so much does this network make of a digit."""
    with pytest.raises(NotFaithful):
        judged(tmp_path, predicting(replays={}))


def test_a_wrong_prediction_is_found(tmp_path: Path) -> None:
    """Although the network goes on with it, it is compared."""
    with pytest.raises(NotFaithful):
        judged(tmp_path, predicting(), flawed={"tune.bias": 1e-4})


def test_what_comes_after_a_right_prediction_is_compared_as_well(tmp_path: Path) -> None:
    """A file whose tune is right and whose singing is half a turn off is refused."""
    graph, weights = small_networks.graph(predicting()), numbers()
    voice: Original = small_networks.asked(predicting(), weights, graph)
    [sine] = [node for node in graph.graph.node if node.op_type == "Sin"]
    sine.op_type = "Cos"
    path = tmp_path / "voice.onnx"
    path.write_bytes(small_networks.whole(graph, weights).SerializeToString())
    with pytest.raises(NotFaithful):
        verify(path, voice, "fp32", [CPU], (40,))


def bench(tmp_path: Path, *, data: Mapping[Data, Rule] | None = None, recipe: Recipe | None = None) -> Bench:
    """Return a bench on which a voice lies of which a second network is made that has other weights."""
    voice = small_networks.voice()
    tune = predicting(graph_key="tune", interface="autof0")
    staging = tmp_path / "staging"
    staging.mkdir()
    return Bench(
        parts={"rvc": voice, "autof0": tune},
        data=data or {},
        tensors={**small_networks.numbers(), **numbers(), "one": torch.ones(3, 2), "two": torch.arange(6.0).view(3, 2)},
        recipe=recipe or Recipe("default"),
        staging=staging,
        facts={},
        cache=Cache(tmp_path / "templates"),
        references=References(),
        stages=Stages(lambda _: None, lambda: 0.0),
    )


def test_parts_with_other_weights_get_their_own(tmp_path: Path) -> None:
    """Each file is compared with its own network, in both precisions."""
    made = bench(tmp_path, recipe=Recipe("both", ("fp32", "fp16")))
    made = replace(
        made, parts={part: replace(e, wanted_db={"fp32": 100, "fp16": 20}) for part, e in made.parts.items()}
    )
    files, _ = made.files()
    assert [(file.interface, file.name) for file in files] == [
        ("rvc", "rvc.fp32.onnx"),
        ("rvc", "rvc.fp16.onnx"),
        ("autof0", "autof0.fp32.onnx"),
        ("autof0", "autof0.fp16.onnx"),
    ]
    assert all(file.fidelity for file in files)
    assert made.networks.keys() == {"rvc", "autof0"}


def test_bare_numbers_are_what_numpy_reads(tmp_path: Path) -> None:
    """The header has the 128 bytes that clients skip, and the description is true."""
    made = bench(tmp_path, data={"KMeans": Joined((AsIs("one"), AsIs("two")))})
    [array] = made.numbers()
    path = made.staging / "KMeans.npy"
    content = path.read_bytes()
    assert (array.name, array.dtype, array.shape) == ("KMeans", "float32", (6, 2))
    assert (array.sha256, array.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert np.array_equal(np.load(path), [[1, 1]] * 3 + [[0, 1], [2, 3], [4, 5]])
    assert np.array_equal(np.frombuffer(content[128:], "<f4"), [1] * 6 + [0, 1, 2, 3, 4, 5])
