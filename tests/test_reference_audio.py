"""What the running daemon makes of a voice sounds as RVC's original code does: eight voices, at full size.

The references were made with the source's additive noise at zero. The noise node of the published file draws it,
so it is turned down to nothing in a copy of the file (exactly zero makes ONNX Runtime's CPU provider abort).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import reference_voices
from running import Daemon
from voicekiln import families
from voicekiln.convert.cache import Cache
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.device import CPU
from voicekiln.convert.graph import noise_nodes
from voicekiln.convert.pipeline import Pipeline
from voicekiln.convert.reference import References
from voicekiln.convert.verify import Original, open_session, verify
from voicekiln.job import Recipe

QUIET = 1e-20
LONG = 3000
"""Frames: thirty seconds."""


def quiet(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes with its noise turned down to nothing."""
    for node in noise_nodes(model.graph):
        node.attribute.append(onnx.helper.make_attribute("scale", QUIET))
    return bytes(model.SerializeToString())


def likeness(model: onnx.ModelProto, name: str) -> list[float]:
    """Return the signal-to-noise ratios of the model's audio against the original's, for both runs."""
    session = open_session(quiet(model), CPU)
    wanted = [each.name for each in session.get_inputs()]
    return [
        reference_voices.ac_snr_db(run["audio"], session.run(["audio"], {key: run[key] for key in wanted})[0])
        for run in reference_voices.runs(name)
    ]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running daemon, to which all eight voices are dropped one after the other."""
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        running.until(running.inbox.is_dir)
        yield running


@pytest.fixture(scope="module", params=reference_voices.names())
def converted(
    request: pytest.FixtureRequest, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Drop a reference voice, wait for it, and yield its ONNX files by precision; `name` is its name."""
    name = request.param
    source = reference_voices.write_checkpoint(name, tmp_path_factory.mktemp(name) / "voice.pth")
    daemon.drop(source, f"both/{name}.pth")
    daemon.until_there(f"both/{name}.json")
    folder = daemon.outbox / "both"
    yield {"name": Path(name), "fp32": folder / f"{name}.onnx", "fp16": folder / f"{name}.fp16.onnx"}
    for path in (source, *folder.iterdir()):  # 220 MB each
        path.unlink()


@pytest.mark.parametrize(("precision", "wanted_db"), [("fp32", 100), ("fp16", 55)])
def test_the_file_sounds_as_the_original(converted: dict[str, Path], precision: str, wanted_db: int) -> None:
    """Both lengths of the reference, neither of them traced."""
    assert min(likeness(onnx.load(converted[precision]), str(converted["name"]))) >= wanted_db


def test_half_precision_takes_half_the_room(converted: dict[str, Path]) -> None:
    """About 55 MB in place of 110."""
    sizes = [converted[precision].stat().st_size for precision in ("fp16", "fp32")]
    assert 0.49 < sizes[0] / sizes[1] < 0.53


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of one reference voice."""
    return reference_voices.write_checkpoint("rvc-v2-40k-f0", tmp_path_factory.mktemp("voice") / "voice.pth")


@pytest.fixture(scope="module")
def fp32(voice: Path) -> Path:
    """Return the ONNX file that the pipeline makes of it."""
    pipeline = Pipeline(Cache(voice.parent / "templates"))
    pipeline.convert(voice, "0" * 64, Recipe("quick", verify="off"), voice.parent, lambda _: None)
    return voice.parent / "rvc.fp32.onnx"


@pytest.fixture
def _all_processors() -> Iterator[None]:
    """Let the longest test have what there is."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_all_processors")
def test_thirty_seconds_agree_with_the_network(voice: Path, fp32: Path) -> None:
    """Phase does not drift apart over a long piece with a long unvoiced gap."""
    checkpoint = open_checkpoint(voice)
    family, claim = families.choose(checkpoint.outline)
    exportable = family.build(claim, checkpoint.outline)
    network = References().load(exportable, checkpoint.tensors)
    noises = noise_nodes(onnx.load(fp32).graph)
    [fidelity] = verify(fp32, Original(exportable, network, noises), "fp32", [CPU], (LONG,))
    assert fidelity.snr_db >= 80


def turned_flow(model: onnx.ModelProto) -> None:
    """Run one coupling of the flow the other way: add what should be subtracted."""
    [*_, node] = [node for node in model.graph.node if node.name.startswith("/flow/") and node.op_type == "Sub"]
    node.op_type = "Add"


def wrong_padding(model: onnx.ModelProto) -> None:
    """Shift the first convolution of the decoder by one frame."""
    node = next(node for node in model.graph.node if node.name == "/dec/conv_pre/Conv")
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [pads.ints[0] + 1, pads.ints[1] - 1]


def swapped_speaker(model: onnx.ModelProto) -> None:
    """Exchange the first speakers' rows."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "emb_g.weight")
    rows = numpy_helper.to_array(tensor)[::-1]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), tensor.name))


@pytest.mark.parametrize("flaw", [turned_flow, wrong_padding, swapped_speaker])
def test_the_reference_would_notice(fp32: Path, flaw: object) -> None:
    """Each of the classical mistakes is planted in a right graph and brings it far below the mark."""
    model = onnx.load(fp32)
    assert callable(flaw)
    flaw(model)
    assert max(likeness(model, "rvc-v2-40k-f0")) < 30
