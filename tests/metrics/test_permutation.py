from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from hf_transfer.metrics.paired import mcnemar_exact
from hf_transfer.metrics.permutation import sign_flip_p_value


def enumerated(differences):
    """The p-value by every sign pattern."""
    values = differences[np.abs(differences) > 1e-12]
    sums = np.array(list(product((-1, 1), repeat=len(values)))) @ values
    return (np.abs(sums) >= abs(values.sum()) - 1e-9).mean()


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 2), (3, 3), (2, 3), (5, 2)])
def test_sign_flip__every_pattern(rng, seeds_a, seeds_b):
    for _ in range(5):
        a, b = rng.random((seeds_a, 13)) < 0.8, rng.random((seeds_b, 13)) < 0.5
        expected = enumerated(a.mean(axis=0) - b.mean(axis=0))
        assert sign_flip_p_value(a, b) == pytest.approx(expected)
        assert sign_flip_p_value(b, a) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_sign_flip__groups_change_sign_together(rng, seeds):
    a, b = rng.random((seeds, 60)) < 0.8, rng.random((seeds, 60)) < 0.6
    groups = rng.integers(0, 12, 60)
    totals = np.bincount(groups, weights=a.mean(axis=0) - b.mean(axis=0))
    assert sign_flip_p_value(a, b, groups) == pytest.approx(enumerated(totals))


def test_sign_flip__one_seed_a_side_is_mcnemar(rng):
    a, b = rng.random((1, 400)) < 0.9, rng.random((1, 400)) < 0.8
    expected = mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum()))
    assert sign_flip_p_value(a, b) == expected
    assert sign_flip_p_value(a, b, np.arange(400)) == pytest.approx(expected, abs=1e-12)
    assert sign_flip_p_value(np.repeat(a, 3, axis=0), np.repeat(b, 3, axis=0)) == pytest.approx(expected, abs=1e-12)


def test_sign_flip__no_difference_and_a_clear_one():
    right, wrong = np.ones((3, 100), dtype=bool), np.zeros((3, 100), dtype=bool)
    assert sign_flip_p_value(right, right) == 1.0
    assert sign_flip_p_value(right, wrong) == 1e-12  # 2 / 2**100, below what the transform resolves


def test_sign_flip__drawn_where_sums_are_too_large(rng):
    a, b = rng.random((7, 600_000)) < 0.5, rng.random((5, 600_000)) < 0.5
    differences = a.mean(axis=0) - b.mean(axis=0)
    z = abs(differences.sum()) / np.sqrt((differences**2).sum())
    assert sign_flip_p_value(a, b) == pytest.approx(2 * NormalDist().cdf(-z), abs=0.01)
    better = a | (rng.random(a.shape) < 0.1)
    assert sign_flip_p_value(better, b, draws=999) == 1 / 1000
