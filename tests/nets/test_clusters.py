"""The nearest is the nearest, however far from nothing features lie and however close the call."""

from __future__ import annotations

import torch

from voicekiln.nets.clusters import NEIGHBOURS, FeatureIndex, KMeans, nearest


def test_features_far_from_nothing_find_their_centre() -> None:
    """In float32 the squares of such numbers would swallow what tells the centres apart."""
    rng = torch.Generator().manual_seed(1)
    table = 1000 + 0.1 * torch.randn(500, 64, generator=rng)
    features = 1000 + 0.1 * torch.randn(80, 64, generator=rng)
    apart = (features.double()[:, None] - table.double()).square().sum(2)
    assert torch.equal(nearest(features, table), apart.argmin(1))


def test_of_equally_near_centres_the_first_is_taken() -> None:
    """As scikit-learn does."""
    assert nearest(torch.zeros(3, 2), torch.tensor([[2.0, 0], [1, 0], [0, 1], [-1, 0]])).tolist() == [1, 1, 1]


def test_only_a_speakers_own_centres_are_looked_at() -> None:
    """Also where another one's would be nearer."""
    moved = KMeans((2, 1, 3), 2)
    table = torch.tensor([[5.0, 5], [6, 6], [1, 1], [9, 9], [3, 3], [8, 8]])
    moved.load_state_dict({"centres.weight": table})
    features = torch.ones(1, 1, 2)
    found = [moved(features, torch.ones(1), torch.tensor([who]))[0, 0, 0].item() for who in range(3)]
    assert found == [5, 1, 3]


def test_the_nearest_eight_of_the_nearest_list_are_mixed() -> None:
    """By the squares of one over their squared distances; a nearer vector in another list does not count."""
    moved = FeatureIndex((12,), (2,), 1)
    vectors = torch.cat([torch.arange(1.0, 11), torch.tensor([-0.5, 30])]).unsqueeze(1)
    numbers = {
        "vectors": vectors,
        "centroids": torch.tensor([[0.2], [-9]]),
        "starts": torch.tensor([[0.0], [10], [12]]),
    }
    moved.load_state_dict({f"{name}.weight": table for name, table in numbers.items()})
    with torch.no_grad():
        got = moved(torch.zeros(1, 1, 1), torch.ones(1)).item()
    near = torch.arange(1.0, NEIGHBOURS + 1)
    assert abs(got - float((near * near**-4).sum() / (near**-4).sum())) < 1e-6
