"""A feature index keeps the family contract, and finds what faiss finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference_voices
import tiny_clusters
from families.contract import FamilyContract
from outlines import outline, tensors
from plain_export import network
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.errors import Contradiction, OtherFamily
from voicekiln.families import choose, clusters
from voicekiln.families.base import Claim, Outline, TensorInfo
from voicekiln.families.feature_index import FeatureIndex
from voicekiln.families.weights import read
from voicekiln.job import Recipe

SIZES = {"s0": [20, 9, 30], "s1": [3, 12, 0, 9]}
"""Of the lists of two speakers; one has fewer vectors than are mixed, one has none."""


def claimed(checkpoint: dict[str, Any], **beside: Any) -> Claim:
    """Return the family's claim; `beside` are companions, `_` standing for the dot."""
    seen = replace(outline(checkpoint), beside={name.replace("_", "."): raw for name, raw in beside.items()})
    family, claim = choose(seen)
    assert isinstance(family, FeatureIndex)
    return claim


class TestFeatureIndex(FamilyContract):
    """The contract."""

    family = FeatureIndex()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one speaker twice, and two."""
        one = [tiny_clusters.index(seed, s0=SIZES["s0"]) for seed in (0, 1)]
        return [*one, tiny_clusters.index(**SIZES)]

    def common(self) -> Sequence[Outline]:
        """Return nothing: each has a size of its own."""
        return []

    def others(self) -> Sequence[Outline]:
        """Return other models, cluster centres among them."""
        return [*super().others(), outline(tiny_clusters.flat(tiny_clusters.centres(alto=5)))]


@pytest.mark.parametrize("run", [0, 1])
def test_what_faiss_finds_is_found(run: int) -> None:
    """On what faiss itself has pickled, mixed as so-vits-svc mixes; a short list is among those that are searched."""
    opened = open_checkpoint(tiny_clusters.REAL_INDEX)
    _, claim = choose(opened.outline)
    own = network(FeatureIndex().build(claim, opened.outline), opened.tensors)
    told = reference_voices.arrays("faiss-index")[run]
    fed = [torch.from_numpy(told[name]) for name in ("c", "ratio", "speaker")]
    with torch.no_grad():
        assert np.abs(own(*fed).numpy() - told["c_out"]).max() < 2e-6
        assert np.array_equal(own(fed[0], torch.zeros(1), fed[2]).numpy(), told["c"])


def test_a_feature_that_is_a_vector_becomes_it() -> None:
    """Where the distance is nothing, nothing is divided by it."""
    checkpoint = tiny_clusters.index(s0=[40])
    own = network(FeatureIndex().build(claimed(checkpoint), outline(checkpoint)), tensors(checkpoint))
    vectors = checkpoint["0/vectors"][None]
    with torch.no_grad():
        assert torch.allclose(own(vectors, torch.ones(1)), vectors, atol=1e-6)


def test_a_feature_near_an_empty_list_stays() -> None:
    """There is nothing to which it could be moved."""
    checkpoint = tiny_clusters.index(s0=[4, 0])
    own = network(FeatureIndex().build(claimed(checkpoint), outline(checkpoint)), tensors(checkpoint))
    centroids = checkpoint["0/centroids"][None]
    with torch.no_grad():
        moved = own(centroids, torch.ones(1))
    assert torch.equal(moved[0, 1], centroids[0, 1])
    assert not torch.equal(moved[0, 0], centroids[0, 0])


@pytest.mark.parametrize("starts", [[0, 2**40, 59], [-(2**40), -1, 59], [59, 20, 0]])
def test_starts_that_make_no_sense_do_no_harm(starts: list[int]) -> None:
    """A checkpoint of torch may claim to be an index; it gets a network that runs."""
    checkpoint = tiny_clusters.index(s0=[20, 39]) | {"0/starts": torch.tensor(starts)}
    own = network(FeatureIndex().build(claimed(checkpoint), outline(checkpoint)), tensors(checkpoint))
    with torch.no_grad():
        assert own(torch.randn(1, 50, 6), torch.ones(1)).isfinite().all()


def test_what_inspect_shows() -> None:
    """No rate, no pitch; speakers by number, or by name where the voice's config has them."""
    checkpoint = tiny_clusters.index(**SIZES)
    spk = {"alto": 1, "tenor": 0}
    model = dict(claimed(checkpoint, config_json={"model": {}, "data": {}, "spk": spk}).model)
    assert model.pop("speaker_names") == [{"id": 0, "name": "tenor"}, {"id": 1, "name": "alto"}]
    assert model == {
        "family": "feature-index",
        "version": "1",
        "feature_width": 6,
        "sample_rate": None,
        "hop": None,
        "f0": False,
        "speakers": 2,
        "parameters": (59 + 3 + 24 + 4) * 6,
        "weights": "float",
        "checkpoint": "feature index",
        "vectors": 83,
        "lists": 7,
        "companions": ["config.json"],
    }
    assert claimed(checkpoint).model["speaker_names"] == [{"id": 0, "name": "0"}, {"id": 1, "name": "1"}]


def test_the_arrays_are_those_of_all_speakers() -> None:
    """One after the other; which rows are whose is said."""
    checkpoint = tiny_clusters.index(**SIZES)
    claim = claimed(checkpoint)
    data = FeatureIndex().data(claim, outline(checkpoint), Recipe("r"))
    found = {name: read(rule, tensors(checkpoint)) for name, rule in data.items()}
    [first, second] = FeatureIndex().build(claim, outline(checkpoint)).feed["speakers"]
    assert list(found) == ["vectors", "centroids", "lists"]
    for key, said in (("0", first), ("1", second)):
        assert torch.equal(found["vectors"][slice(*said["vectors"])], checkpoint[f"{key}/vectors"])
        assert torch.equal(found["lists"][slice(*said["vectors"])], checkpoint[f"{key}/lists"])
        assert torch.equal(found["centroids"][slice(*said["centroids"])], checkpoint[f"{key}/centroids"])


def test_numbers_with_gaps_are_told() -> None:
    """The graph counts without them."""
    checkpoint = tiny_clusters.index(s2=[9], s5=[9])
    claim = claimed(checkpoint)
    assert "have the numbers 2, 5;" in claim.notes[0]
    assert [who["id"] for who in FeatureIndex().build(claim, outline(checkpoint)).feed["speakers"]] == [2, 5]


def test_an_index_that_is_to_be_searched_more_widely_is_told() -> None:
    """The graph searches one list."""
    checkpoint = tiny_clusters.index(s0=[9, 9]) | {"0": {"probes": 2}}
    assert "says that 2 lists are to be searched" in claimed(checkpoint).notes[0]


def test_a_config_of_another_voice_is_left_aside() -> None:
    """One that bears the file's own name is a contradiction instead."""
    checkpoint, wrong = tiny_clusters.index(s3=[9]), {"model": {}, "data": {}, "spk": {"alto": 0}}
    assert "config.json has no speaker 3." in claimed(checkpoint, config_json=wrong).notes[0]
    with pytest.raises(Contradiction, match=r"index\.json has no speaker 3"):
        claimed(checkpoint, index_json=wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("0/vectors", torch.zeros(9, 7)),
        ("0/vectors", torch.zeros(9)),
        ("0/vectors", torch.zeros(9, 6, dtype=torch.float16)),
        ("0/centroids", torch.zeros(0, 6)),
        ("0/lists", torch.zeros(8, dtype=torch.int64)),
        ("0/lists", torch.zeros(9)),
        ("0/starts", torch.zeros(5, dtype=torch.int64)),
        ("0/more", torch.zeros(5)),
    ],
)
def test_tables_that_do_not_fit_are_a_contradiction(name: str, wrong: torch.Tensor) -> None:
    """Whatever a checkpoint says that claims to be an index."""
    with pytest.raises(Contradiction):
        claimed(tiny_clusters.index(s0=[9, 0]) | {name: wrong})


def test_what_no_file_can_hold_is_refused() -> None:
    """Two gigabytes, or a long table of where each speaker's vectors begin."""
    large = {"0/vectors": TensorInfo((2**20, 768), "float32"), "0/centroids": TensorInfo((4, 768), "float32")}
    large |= {"0/lists": TensorInfo((2**20,), "int64"), "0/starts": TensorInfo((5,), "int64")}
    many = outline(tiny_clusters.index(**{f"s{n}": [9 + n % 2] for n in range(clusters.MAX_UNEQUAL + 1)}))
    for seen in (Outline(large, {}, None, ("0",)), many):
        with pytest.raises(OtherFamily):
            FeatureIndex().recognise(seen)
