import numpy as np
import pytest
import torch

from hf_transfer.features import knn
from hf_transfer.features.knn import NearestNeighbours, possible_neighbours


def bank(count=50, classes=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator) * 10
    return features, torch.randint(classes, (count,), generator=generator)


def votes(bank_features, labels, queries, k, classes=4, temperature=0.07, without_self=False):
    """Return the temperature-weighted cosine vote, an image at a time."""
    rows = bank_features.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    result = []
    for number, query in enumerate(queries.double().numpy()):
        similarity = rows @ (query / np.linalg.norm(query))
        order = [row for row in np.argsort(-similarity) if not (without_self and row == number)][:k]
        sums = np.zeros(classes)
        for row in order:
            sums[labels[row]] += np.exp(similarity[row] / temperature)
        result.append(sums / sums.sum())
    return np.stack(result)


def test_probabilities__the_weighted_vote_of_the_nearest():
    features, labels = bank()
    queries, _ = bank(23, seed=1)
    found = NearestNeighbours.fit(features, labels, 4).probabilities(queries, [1, 5, 20, 50])
    assert list(found) == [1, 5, 20, 50]
    for k, probabilities in found.items():
        assert probabilities.shape == (23, 4)
        assert torch.allclose(probabilities.sum(1), torch.ones(23))
        assert np.allclose(probabilities.numpy(), votes(features, labels, queries, k), atol=1e-5)


def test_probabilities__one_neighbour_gives_its_class():
    features, labels = bank()
    model = NearestNeighbours.fit(features, labels, 4)
    found = model.probabilities(features * 3, [1])[1]  # by direction, not by length
    assert torch.equal(found, torch.nn.functional.one_hot(labels, 4).float())


def test_probabilities__a_low_temperature_does_not_overflow():
    features, labels = bank()
    found = NearestNeighbours(torch.nn.functional.normalize(features), labels, 4, temperature=1e-4).probabilities(
        features, [10]
    )
    assert torch.allclose(found[10].sum(1), torch.ones(50))
    assert torch.equal(found[10].argmax(1), labels)


def test_probabilities__half_precision_features():
    features, labels = bank()
    model = NearestNeighbours.fit(features.bfloat16(), labels, 4)
    assert model.bank.dtype == torch.float32
    assert np.allclose(
        model.probabilities(features.bfloat16(), [5])[5], votes(features.bfloat16(), labels, features.bfloat16(), 5), atol=1e-5
    )


@pytest.mark.parametrize("block", [1, 7, 49])
def test_blocks__their_size_changes_nothing(monkeypatch, block):
    features, labels = bank()
    model = NearestNeighbours.fit(features, labels, 4)
    queries, _ = bank(30, seed=1)
    expected, expected_own = model.probabilities(queries, [1, 10]), model.leave_one_out(10)
    monkeypatch.setattr(knn, "_BLOCK", block)
    found = model.probabilities(queries, [1, 10])
    assert all(torch.allclose(found[k], expected[k], atol=1e-5) for k in (1, 10))
    assert torch.allclose(model.leave_one_out(10), expected_own, atol=1e-5)


@pytest.mark.parametrize("neighbours", [1, 10, 49])
def test_leave_one_out__no_image_votes_for_itself(neighbours):
    features, labels = bank()
    found = NearestNeighbours.fit(features, labels, 4).leave_one_out(neighbours)
    assert np.allclose(found.numpy(), votes(features, labels, features, neighbours, without_self=True), atol=1e-5)


def test_leave_one_out__more_neighbours_than_others():
    labels = torch.arange(5)  # each image the only one of its class: its own class never gets a vote
    model = NearestNeighbours.fit(bank(5)[0], labels, 5)
    found = model.leave_one_out(200)
    assert torch.equal(found.diagonal(), torch.zeros(5))
    assert torch.equal(found, model.leave_one_out(4))
    assert torch.allclose(found.sum(1), torch.ones(5))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [1]), (9, [9]), (10, [10]), (99, [10, 20]), (100, [10, 20, 100]), (5000, [10, 20, 100, 200])]
)
def test_possible_neighbours__no_more_than_there_are(count, expected):
    assert possible_neighbours(count) == expected


@pytest.mark.parametrize("held", [1, 2**24])
def test_probabilities__of_several_labels_are_weighted_shares(monkeypatch, held):
    monkeypatch.setattr(knn, "_LABELS", held)
    features, labels = bank()
    flags = torch.nn.functional.one_hot(labels, 4).bool()
    flags[:, 0] = labels % 2 == 0  # so that some images show two classes, and some none of the first
    found = NearestNeighbours.fit(features, flags, 4)
    queries, _ = bank(12, seed=1)
    for k, probabilities in found.probabilities(queries, [5, 20]).items():
        alone = votes(features, labels, queries, k)
        np.testing.assert_allclose(probabilities[:, 1:], alone[:, 1:], atol=1e-5)
        np.testing.assert_allclose(probabilities[:, 0], alone[:, 0] + alone[:, 2], atol=1e-5)
    np.testing.assert_allclose(
        found.leave_one_out(5)[:, 3], votes(features, labels, features, 5, without_self=True)[:, 3], atol=1e-5
    )
