"""Cluster centres and feature indexes on their whole way: from the file to what is published, verified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import plain_export
import reference_voices
import tiny_clusters
from convert.small_checkpoints import saved, written
from outlines import outline, tensors
from voicekiln.convert import bench
from voicekiln.convert.cache import Cache
from voicekiln.convert.device import CPU
from voicekiln.convert.fill import Filled, fill
from voicekiln.convert.pipeline import Pipeline
from voicekiln.convert.verify import open_session
from voicekiln.errors import NotFaithful
from voicekiln.families import choose, clusters
from voicekiln.families.base import Exportable
from voicekiln.families.weights import read
from voicekiln.job import PRECISIONS, Conversion, Recipe
from voicekiln.worker.wire import Finished, decode_answer, encode

BOTH = Recipe("both", ("fp32", "fp16"))
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "one speaker's centres": lambda seed: tiny_clusters.flat(tiny_clusters.centres(seed, alto=20)),
    "three speakers' centres": lambda seed: tiny_clusters.flat(tiny_clusters.centres(seed, alto=9, bass=5, c=7)),
    "one speaker's index": lambda seed: tiny_clusters.index(seed, s0=[20, 9, 30]),
    "two speakers' index": lambda seed: tiny_clusters.index(seed, s0=[20, 9, 30], s1=[3, 12, 0, 9]),
}
"""Checkpoints that differ in their numbers alone, by seed."""


def converted(tmp_path: Path, source: Path, recipe: Recipe = BOTH) -> tuple[Conversion, Path]:
    """Return what was made, and the folder in which it lies."""
    staging = tmp_path / "staging"
    staging.mkdir()
    return Pipeline(Cache(tmp_path / "templates")).convert(source, "5f" * 32, recipe, staging, lambda _: None), staging


def moved(path: Path, run: dict[str, Any], speaker: int | None) -> Any:
    """Return what a file makes of a reference's features."""
    feed = {"c": run["c"], "ratio": run["ratio"]} | ({} if speaker is None else {"sid": np.array([speaker])})
    return open_session(path, CPU).run(None, feed)[0]


@pytest.fixture(scope="module")
def centres(tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    """Convert the reference's cluster centres."""
    folder = tmp_path_factory.mktemp("centres")
    return converted(folder, written(folder / "kmeans_10000.pt", saved(tiny_clusters.reference_centres())))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    """Convert what faiss has pickled."""
    return converted(tmp_path_factory.mktemp("index"), tiny_clusters.REAL_INDEX)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_reference_is_met_exactly(centres: tuple[Conversion, Path], precision: str) -> None:
    """The published file takes the original's centres and gives the original's numbers, whatever the precision."""
    _, folder = centres
    tables = list(tiny_clusters.reference_centres().values())
    for told in reference_voices.arrays("sovits-kmeans"):
        speaker = int(told["speaker"][0])
        got = moved(folder / f"kmeans.{precision}.onnx", told, speaker)
        assert np.abs(got - told["c_out"]).max() <= 1e-6
        on_centre = moved(folder / f"kmeans.{precision}.onnx", told | {"ratio": np.ones(1, np.float32)}, speaker)
        assert np.array_equal(on_centre[0], tables[speaker]["cluster_centers_"][told["cluster"]])
        still = moved(folder / f"kmeans.{precision}.onnx", told | {"ratio": np.zeros(1, np.float32)}, speaker)
        assert np.array_equal(still, told["c"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_faiss_finds_is_found(index: tuple[Conversion, Path], precision: str) -> None:
    """The published file gives what so-vits-svc makes of faiss's search, whatever the precision."""
    _, folder = index
    for told in reference_voices.arrays("faiss-index"):
        got = moved(folder / f"index.{precision}.onnx", told, int(told["speaker"][0]))
        assert np.abs(got - told["c_out"]).max() < 2e-6


def test_clients_read_the_centres_behind_128_bytes(centres: tuple[Conversion, Path]) -> None:
    """Bare float32, equally many rows for each speaker."""
    made, folder = centres
    [array] = made.data
    tables = [entries["cluster_centers_"] for entries in tiny_clusters.reference_centres().values()]
    assert (array.name, array.dtype, array.shape) == ("KMeans", "float32", (128, 256))
    content = (folder / "KMeans.npy").read_bytes()
    assert content[128:] == np.concatenate(tables).tobytes()
    assert np.array_equal(np.load(folder / "KMeans.npy"), np.concatenate(tables))


def test_all_of_an_index_is_published_as_numbers(index: tuple[Conversion, Path]) -> None:
    """Vectors with their lists, and the lists' centres, for clients that look themselves."""
    made, folder = index
    found = {array.name: np.load(folder / f"{array.name}.npy") for array in made.data}
    shapes = {array.name: (array.dtype, array.shape) for array in made.data}
    assert shapes == {
        "vectors": ("float32", (360, 8)),
        "centroids": ("float32", (11, 8)),
        "lists": ("int64", (360,)),
    }
    for who in made.feed["speakers"]:
        vectors, lists = (found[name][slice(*who["vectors"])] for name in ("vectors", "lists"))
        own = found["centroids"][slice(*who["centroids"])]
        assert np.array_equal(np.linalg.norm(vectors[:, None] - own, axis=2).argmin(1), lists)


def test_the_supervisor_believes_what_the_worker_says(
    centres: tuple[Conversion, Path], index: tuple[Conversion, Path]
) -> None:
    """It goes through the pipe and comes out the same; both precisions are verified and say what they are."""
    for made, _ in (centres, index):
        answer = decode_answer(encode(Finished("j1", made)))
        assert answer == Finished("j1", made)
        assert [file.precision for file in made.files] == ["fp32", "fp16"]
        assert all(file.fidelity[0].snr_db >= 100 for file in made.files)
        assert clusters.STAYS in made.notes


def test_half_precision_holds_the_same_numbers(centres: tuple[Conversion, Path]) -> None:
    """Rounded centres would be others; the file is as large as the other."""
    whole, half = centres[0].files
    assert abs(whole.bytes - half.bytes) < 100


def test_a_file_that_is_float32_all_the_way_says_so(centres: tuple[Conversion, Path], index: Any) -> None:
    """In half precision, too: nothing in it is half."""
    for made, folder in (centres, index):
        for file in made.files:
            facts = {each.key: each.value for each in onnx.load(folder / file.name).metadata_props}
            assert (facts["precision"], facts["arithmetic"]) == (file.precision, "float32")


@pytest.mark.parametrize(("weight", "by"), [("vectors", 1.0001), ("centroids", -1), ("starts", 0.9)])
def test_a_wrong_table_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: str, by: float) -> None:
    """The verification can fail: each of an index's tables matters."""

    def flawed(model: Any, numbers: Callable[[str], torch.Tensor], *rest: Any) -> Filled:
        def bent(name: str) -> torch.Tensor:
            return numbers(name) * by if name == f"clusters.{weight}.weight" else numbers(name)

        return fill(model, bent, *rest)

    monkeypatch.setattr(bench, "fill", flawed)
    with pytest.raises(NotFaithful):
        converted(tmp_path, tiny_clusters.REAL_INDEX, Recipe("r"))


def test_a_wrong_centre_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification can fail for these, too."""
    monkeypatch.setattr(bench, "fill", lambda model, numbers, *rest: fill(model, lambda n: numbers(n) * 1.001, *rest))
    source = written(tmp_path / "k.pt", saved(tiny_clusters.centres(alto=20)))
    with pytest.raises(NotFaithful):
        converted(tmp_path, source, Recipe("r"))


def built(checkpoint: dict[str, Any]) -> Exportable:
    """Return the network that a checkpoint is for."""
    family, claim = choose(outline(checkpoint))
    return family.build(claim, outline(checkpoint))


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_file_is_its_own_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """In the first one's template it is, byte for byte, what the exporter makes of it alone, in all arithmetics."""
    first, second = (KINDS[kind](seed) for seed in (1, 2))
    cache, facts = Cache(tmp_path / "templates"), {"name": "Škoda"}
    ways = {"fp32": ("float32",), "fp16": ("half", "float32")}
    template: Any = partial(cache.template, recipe=Recipe("r"))
    for precision, arithmetics in ways.items():
        for arithmetic in arithmetics:
            template(built(first), precision=precision, arithmetic=arithmetic)
    exportable, numbers = built(second), tensors(second)
    own = plain_export.plain(exportable, plain_export.network(exportable, numbers))
    wanted = plain_export.tidied(own, exportable, facts).SerializeToString(deterministic=True)
    monkeypatch.setattr("voicekiln.convert.template.export", None)  # nothing is exported any more
    for precision, arithmetics in ways.items():
        for arithmetic in arithmetics:
            model = template(exportable, precision=precision, arithmetic=arithmetic).model
            fill(model, lambda name: read(exportable.weights[name], numbers), facts, tmp_path / "v.onnx")
            assert (tmp_path / "v.onnx").read_bytes() == wanted


def test_the_order_of_the_voices_config_reaches_the_files(tmp_path: Path) -> None:
    """Graph and array count speakers as the config beside the file does."""
    tables = tiny_clusters.centres(tenor=5, alto=5)
    source = written(tmp_path / "kmeans.pt", saved(tables))
    config = written(tmp_path / "config.json", b'{"model": {}, "data": {}, "spk": {"alto": 0, "tenor": 1}}')
    staging = tmp_path / "staging"
    staging.mkdir()
    made = Pipeline(Cache(tmp_path / "templates")).convert(
        source, "5f" * 32, Recipe("r"), staging, lambda _: None, {"config.json": config}
    )
    alto = tables["alto"]["cluster_centers_"]
    assert np.array_equal(np.load(staging / "KMeans.npy")[:5], alto)
    run = {"c": alto[None] + np.float32(0.001), "ratio": np.ones(1, np.float32)}
    assert np.array_equal(moved(staging / "kmeans.fp32.onnx", run, 0)[0], alto)
    assert made.model["companions"] == ["config.json"]
