"""Parts of images of several classes: sizes, proportions, and classes that are hardly there."""

import numpy as np
import pytest

from hf_transfer.data.stratification import iterative_stratification, spread_subset


def correlated(seed, count=600, classes=12):
    """Flags of classes that occur together, of very different frequency."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, 3)) @ rng.normal(size=(3, classes)) + rng.normal(size=(count, classes))
    return scores > np.linspace(0, 4, classes)


@pytest.mark.parametrize("seed", range(5))
def test_iterative_stratification__sizes_are_exact_and_classes_in_proportion(seed):
    labels = correlated(seed)
    shares = np.array([0.6, 0.25, 0.15])
    parts = iterative_stratification(labels, shares, np.random.default_rng(seed).permutation(600))
    assert np.bincount(parts).tolist() == [360, 150, 90]
    found = np.stack([labels[parts == part].sum(axis=0) for part in range(3)])
    assert np.abs(found - np.outer(shares, labels.sum(axis=0))).max() < 3


def test_iterative_stratification__as_many_images_of_a_class_as_parts_are_one_in_each():
    for seed in range(10):
        labels = correlated(seed, 90)
        labels[:, 11] = False
        labels[np.random.default_rng(seed).choice(90, 3, replace=False), 11] = True
        parts = iterative_stratification(labels, [0.6, 0.2, 0.2], np.arange(90))
        assert sorted(parts[labels[:, 11]]) == [0, 1, 2]


def test_iterative_stratification__images_that_show_nothing_are_shared_out_too():
    labels = np.zeros((10, 2), dtype=bool)
    assert np.bincount(iterative_stratification(labels, [0.7, 0.3], np.arange(10))).tolist() == [7, 3]


def test_iterative_stratification__what_cannot_be_had_is_left():
    labels = np.array([[True, True], [True, False], [True, False]])  # the second class is on one image
    parts = iterative_stratification(labels, [0.5, 0.5], np.arange(3))
    assert set(parts) == {0, 1}


def test_spread_subset__is_of_the_size_and_shows_every_class():
    labels = correlated(0)
    labels[:, 11] = False
    labels[599, 11] = True
    chosen = spread_subset(labels, 60, np.arange(600))
    assert chosen.sum() == 60
    assert chosen[599]
    assert (labels[chosen].sum(axis=0) > 0).all()
    np.testing.assert_allclose(labels[chosen].sum(axis=0), labels.sum(axis=0) / 10, atol=3)
