"""K-means keeps the family contract, numbers speakers as their voice does, and agrees with the original exactly."""

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
from outlines import named, outline, tensors
from plain_export import network
from voicekiln.errors import Contradiction, OtherFamily
from voicekiln.families import choose, clusters
from voicekiln.families.base import Claim, NotMine, Outline, TensorInfo
from voicekiln.families.kmeans import UNEQUAL, KMeans
from voicekiln.families.weights import read
from voicekiln.job import Recipe

PLAIN = Recipe("default")


def centres(**counts: int) -> dict[str, Any]:
    """Return centres as the family sees them."""
    return tiny_clusters.flat(tiny_clusters.centres(**counts))


def config(**numbers: int) -> dict[str, Any]:
    """Return a voice's config with these speakers."""
    return {"model": {}, "data": {}, "spk": numbers}


def claimed(checkpoint: dict[str, Any], **beside: Any) -> Claim:
    """Return the family's claim; `beside` are companions, `_` standing for the dot."""
    seen = replace(outline(checkpoint), beside={name.replace("_", "."): raw for name, raw in beside.items()})
    family, claim = choose(seen)
    assert isinstance(family, KMeans)
    return claim


class TestKMeans(FamilyContract):
    """The contract."""

    family = KMeans()

    def mine(self) -> Sequence[dict[str, Any]]:
        """Return one speaker twice, and several with equally and with unequally many centres."""
        first, second = (tiny_clusters.flat(tiny_clusters.centres(seed, alto=20)) for seed in (0, 1))
        return [first, second, centres(alto=20, tenor=20), centres(alto=20, tenor=7, bass=33)]

    def common(self) -> Sequence[Outline]:
        """Return what so-vits-svc trains for both kinds of features."""
        return [
            Outline({"me/cluster_centers_": TensorInfo((10_000, width), "float32")}, {"me": {}}, None, ("me",))
            for width in (768, 256)
        ]

    def others(self) -> Sequence[Outline]:
        """Return other models, a feature index among them."""
        return [*super().others(), outline(tiny_clusters.index(s0=[3, 4]))]


@pytest.mark.parametrize("run", [0, 1])
def test_the_reference_is_met_exactly(run: int) -> None:
    """The same centres and the same sums as the original's."""
    checkpoint = tiny_clusters.flat(tiny_clusters.reference_centres())
    claim = claimed(checkpoint)
    exportable = KMeans().build(claim, outline(checkpoint))
    own = network(exportable, tensors(checkpoint))
    told = reference_voices.arrays("sovits-kmeans")[run]
    fed = [torch.from_numpy(told[name]) for name in ("c", "ratio", "speaker")]
    with torch.no_grad():
        assert np.abs(own(*fed).numpy() - told["c_out"]).max() <= 1e-6
        on_centre = own(fed[0], torch.ones(1), fed[2]).numpy()
        assert np.array_equal(own(fed[0], torch.zeros(1), fed[2]).numpy(), told["c"])
    rows = list(tiny_clusters.reference_centres().values())[told["speaker"][0]]["cluster_centers_"]
    assert np.array_equal(on_centre[0], rows[told["cluster"]])


def test_what_inspect_shows() -> None:
    """No rate, no pitch; the speakers by name."""
    model = claimed(centres(tenor=5, alto=5)).model
    assert model == {
        "family": "kmeans",
        "version": "1",
        "feature_width": 6,
        "sample_rate": None,
        "hop": None,
        "f0": False,
        "speakers": 2,
        "speaker_names": [{"id": 0, "name": "tenor"}, {"id": 1, "name": "alto"}],
        "parameters": 60,
        "weights": "float",
        "checkpoint": "k-means",
        "companions": [],
    }


def rows(checkpoint: dict[str, Any], claim: Claim) -> list[str] | None:
    """Return whose centres stand in KMeans.npy, speaker by speaker; None if there is none."""
    found = KMeans().data(claim, outline(checkpoint), PLAIN)
    if not found:
        return None
    array = read(found["KMeans"], tensors(checkpoint))
    each = {
        name: checkpoint[f"{name}/cluster_centers_"] for name in checkpoint if f"{name}/cluster_centers_" in checkpoint
    }
    pieces = array.reshape(len(each), -1, array.shape[1])
    return [next(name for name, own in each.items() if torch.equal(own, piece)) for piece in pieces]


def test_one_speaker_needs_no_config() -> None:
    """Nothing has to be said of the order."""
    checkpoint = centres(alto=5)
    claim = claimed(checkpoint)
    assert (claim.notes, rows(checkpoint, claim)) == ((), ["alto"])


def test_without_a_config_the_order_is_the_files() -> None:
    """And the person is told so."""
    checkpoint = centres(tenor=5, alto=5)
    claim = claimed(checkpoint)
    assert rows(checkpoint, claim) == ["tenor", "alto"]
    assert "in the order of the file: tenor, alto." in claim.notes[0]


@pytest.mark.parametrize("name", ["config_json", "kmeans_json"])
def test_the_voices_config_says_the_order(name: str) -> None:
    """Clients look for the centres of speaker 0 in the first rows."""
    checkpoint = centres(tenor=5, alto=5)
    claim = claimed(checkpoint, **{name: config(alto=0, tenor=1)})
    assert rows(checkpoint, claim) == ["alto", "tenor"]
    assert claim.notes == ()
    assert claim.model["companions"] == [name.replace("_", ".")]
    assert claim.model["speaker_names"] == [{"id": 0, "name": "alto"}, {"id": 1, "name": "tenor"}]


def test_speakers_with_gaps_between_them_are_told() -> None:
    """A client would take the centres of another speaker, so it gets no array; the graph counts without gaps."""
    checkpoint = centres(tenor=5, alto=5)
    claim = claimed(checkpoint, config_json=config(alto=3, bass=0, tenor=7))
    assert rows(checkpoint, claim) is None
    assert "have the numbers 3, 7;" in claim.notes[0]
    feed = KMeans().build(claim, outline(checkpoint)).feed
    assert feed["speakers"][1] == {"sid": 1, "id": 7, "name": "tenor", "centres": 5}
    assert "KMeans" not in feed


def test_unequal_numbers_of_centres_give_no_array() -> None:
    """The client reads equally many rows for each; the graph looks at each speaker's own."""
    checkpoint = centres(tenor=5, alto=2)
    claim = claimed(checkpoint, config_json=config(alto=0, tenor=1))
    assert (rows(checkpoint, claim), claim.notes) == (None, (UNEQUAL,))


def test_a_config_of_another_voice_is_left_aside() -> None:
    """One that bears the file's own name is a contradiction instead."""
    checkpoint, wrong = centres(tenor=5), config(alto=0)
    [note] = claimed(checkpoint, config_json=wrong).notes
    assert note == "config.json, which lies beside it, is not this model's: config.json has no speaker tenor."
    with pytest.raises(Contradiction, match=r"kmeans\.json has no speaker tenor"):
        claimed(checkpoint, kmeans_json=wrong)


def test_a_config_that_cannot_be_read_is_left_aside() -> None:
    """As for a voice; one that is none, or names nobody, does not matter."""
    assert claimed(centres(tenor=5), config_json=None).notes == (
        "config.json, which lies beside it, cannot be read and was left aside.",
    )
    others: tuple[Any, ...] = ({}, [1], {"model": {}, "data": {}})
    for raw in others:
        assert claimed(centres(tenor=5), config_json=raw).notes == ()


@pytest.mark.parametrize("shape", [(5,), (5, 7), (0, 6), (5, 0), (5, 6, 1)])
def test_centres_that_are_no_table_are_a_contradiction(shape: tuple[int, ...]) -> None:
    """All of them have as many numbers as a feature."""
    with pytest.raises(Contradiction, match="no tables of one width"):
        claimed(centres(tenor=5) | {"alto/cluster_centers_": torch.zeros(shape)})


def test_centres_of_another_type_are_a_contradiction() -> None:
    """The client reads float32; the door has made it of what scikit-learn saves."""
    with pytest.raises(Contradiction):
        claimed({"alto/cluster_centers_": torch.zeros(5, 6, dtype=torch.float16)})


def test_what_no_file_can_hold_is_refused() -> None:
    """Two gigabytes, or a long table of where each speaker's centres begin."""
    for infos in (
        {"a/cluster_centers_": TensorInfo((2**20, 768), "float32")},
        {f"{n}/cluster_centers_": TensorInfo((5 + n % 2, 6), "float32") for n in range(clusters.MAX_UNEQUAL + 1)},
    ):
        with pytest.raises(OtherFamily):
            KMeans().recognise(Outline(infos, {}, None, ("a",)))


def test_many_speakers_with_equally_many_centres_are_exported() -> None:
    """So many as there are rows in the fork's voices."""
    claim = claimed(centres(**{f"s{n}": 2 for n in range(200)}))
    assert KMeans().build(claim, outline(centres(**{f"s{n}": 2 for n in range(200)}))).inputs[2].name == "sid"


def test_a_recipe_for_half_precision_is_told_what_becomes_of_it() -> None:
    """Nothing: the note is there if it was asked for, and only then."""
    checkpoint = centres(alto=5)
    built = [KMeans().build(claimed(checkpoint), outline(checkpoint), recipe=Recipe("r", each)).notes
             for each in (("fp32",), ("fp32", "fp16"))]  # fmt: skip
    assert built == [(), (clusters.STAYS,)]


def test_the_reason_is_told() -> None:
    """What every other model lacks."""
    assert KMeans().recognise(named("a")) == NotMine("it has no cluster_centers_")
