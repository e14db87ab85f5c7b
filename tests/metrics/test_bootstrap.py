import time

import numpy as np
import pytest

from hf_transfer.metrics import wilson_interval
from hf_transfer.metrics.bootstrap import bootstrap_accuracy, bootstrap_difference
from hf_transfer.metrics.crossed import measure


def plainly(correct, draws, rng):
    """The same by drawing images and seeds one draw at a time."""
    seeds, n = correct.shape
    return [correct[rng.integers(seeds, size=seeds)][:, rng.integers(n, size=n)].mean() for _ in range(draws)]


def test_bootstrap_accuracy__is_the_plain_bootstrap(rng):
    correct = rng.random((3, 300)) < np.array([[0.8], [0.85], [0.9]])
    expected = np.quantile(plainly(correct, 20_000, rng), [0.025, 0.975])
    assert bootstrap_accuracy(correct, draws=20_000) == pytest.approx(expected, abs=0.004)


def test_bootstrap_accuracy__one_seed_is_near_wilson(rng):
    correct = rng.random((1, 2000)) < 0.9
    expected = wilson_interval(int(correct.sum()), 2000)
    for bca in (False, True):
        assert bootstrap_accuracy(correct, bca=bca, draws=10_000) == pytest.approx(expected, abs=0.002)


def test_bootstrap_accuracy__groups_are_drawn_whole(rng):
    correct = np.repeat(rng.random((1, 200)) < 0.8, 5, axis=1)  # five copies of each image tell no more than one
    low, high = bootstrap_accuracy(correct, np.arange(1000) // 5, draws=10_000)
    assert (low, high) == pytest.approx(bootstrap_accuracy(correct[:, ::5], draws=10_000), abs=0.006)
    assert high - low > 2 * np.subtract(*bootstrap_accuracy(correct)[::-1])


def test_bootstrap_accuracy__bca_leans_to_the_long_tail(rng):
    correct = np.arange(200)[None] >= 4
    plain, corrected = (bootstrap_accuracy(correct, draws=20_000, bca=bca) for bca in (False, True))
    assert corrected[0] < plain[0] < plain[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_difference__width(rng, grouped):
    a, b = rng.random((3, 900)) < 0.9, rng.random((5, 900)) < 0.85
    groups = np.arange(900) // 3 if grouped else None
    low, high = bootstrap_difference(a, b, groups, draws=10_000)
    (first, second), value = (measure(x, groups) for x in (a, b)), a.mean() - b.mean()
    # What resampling both adds up to: images, and seeds with the divisor S instead of S - 1, what both share counting anew.
    variance = ((first.profile - second.profile) ** 2).sum()
    variance += sum((m.seed_variance + m.residual_variance) * (m.seeds - 1) / m.seeds**2 for m in (first, second))
    assert (low + high) / 2 == pytest.approx(value, abs=0.002)
    assert (high - low) / 3.92 == pytest.approx(np.sqrt(variance), rel=0.15)


def test_bootstrap__same_seed_same_interval(rng):
    a, b = rng.random((2, 100)) < 0.9, rng.random((2, 100)) < 0.8
    assert bootstrap_difference(a, b, seed=3) == bootstrap_difference(a, b, seed=3) != bootstrap_difference(a, b, seed=4)


def test_bootstrap_accuracy__fast(rng):
    correct = rng.random((5, 10_000)) < 0.9
    started = time.perf_counter()
    bootstrap_accuracy(correct, draws=2000)
    assert time.perf_counter() - started < 1  # takes 0.02 s


def test_bootstrap__refused(rng):
    correct = rng.random((2, 10)) < 0.5
    with pytest.raises(ValueError, match="expected at least one draw, found 0"):
        bootstrap_accuracy(correct, draws=0)
    with pytest.raises(ValueError, match=r"expected a confidence between 0 and 1, such as 0.95, found 95"):
        bootstrap_accuracy(correct, confidence=95)
