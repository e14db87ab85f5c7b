"""Percentile bootstrap over test images (or groups of them) and seeds.

The textbook answer, kept beside `crossed`, which a verdict uses: up to five seeds cannot be resampled into the spread that
further seeds would have. The intervals cover the truth too seldom where seeds differ, and too often where they differ by
chance only (docs/statistics.md; the bias-corrected BCa form fares no better, for the same reason).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .crossed import measure
from .outcomes import correct_array, correct_pair, group_index, sum_by_group


def bootstrap_accuracy(
    correct: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    bca: bool = False,
) -> tuple[float, float]:
    """Return the bootstrap interval of the mean accuracy over seeds.

    Each draw takes n images (or whole groups) and S seeds with replacement, the same images for every seed. With one seed the
    interval is about that network: what another seed would change is not in it.

    Source: B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for two crossed factors A. B.
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007), 386-411.

    Args:
        correct: booleans [S, n].
        groups: one value an image [n]; a group's images are drawn together.
        draws: how many.
        seed: of the draws.
        confidence: coverage that is aimed at, 0 < confidence < 1.
        bca: take the percentiles of the bias-corrected and accelerated form, its acceleration from the images.

    Raises:
        ValueError: not booleans of the shapes above, no draw, or `confidence` outside (0, 1).
    """
    rng = np.random.default_rng(seed)
    values = _seed_means(_image_draws(correct_array(correct), groups, draws, rng), rng)
    if not bca:
        return _percentiles(values, confidence)
    found = measure(correct, groups)
    cubes, squares = (found.profile**3).sum(), (found.profile**2).sum()
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    below = ((values < found.accuracy).mean() + (values <= found.accuracy).mean()) / 2
    return _percentiles(values, confidence, acceleration, float(np.clip(below, 1 / (draws + 1), draws / (draws + 1))))


def bootstrap_difference(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of accuracy(a) - accuracy(b) on the same images; seeds are drawn for each side.

    Args:
        a: booleans [S_a, n].
        b: booleans [S_b, n], on the same images in the same order.
        groups, draws, seed, confidence: as `bootstrap_accuracy`.

    Raises:
        ValueError: as `bootstrap_accuracy`, or different numbers of images.
    """
    first, second = correct_pair(a, b)
    rng = np.random.default_rng(seed)
    rates = _image_draws(np.concatenate([first, second]), groups, draws, rng)
    of_a, of_b = rates[:, : len(first)], rates[:, len(first) :]
    return _percentiles(_seed_means(of_a, rng) - _seed_means(of_b, rng), confidence)


def _image_draws(outcomes: NDArray, groups: ArrayLike | None, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return each row's accuracy on images drawn with replacement [draws, rows].

    Images on which every row is alike are interchangeable, so only how often each kind is drawn is decided.
    """
    if draws < 1:
        raise ValueError(f"expected at least one draw, found {draws}")
    n = outcomes.shape[1]
    with_size = np.concatenate([outcomes, np.ones((1, n), dtype=np.bool_)])
    units = sum_by_group(with_size, group_index(groups, n)).T
    kinds, counts = np.unique(units, axis=0, return_counts=True)
    drawn = rng.multinomial(len(units), counts / len(units), size=draws) @ kinds
    return drawn[:, :-1] / drawn[:, -1:]


def _seed_means(rates: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean of S seeds drawn with replacement, for accuracies [draws, S]: [draws]."""
    draws, seeds = rates.shape
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    return (rates * times).sum(axis=1) / seeds


def _percentiles(
    values: NDArray[np.float64], confidence: float, acceleration: float = 0.0, below: float = 0.5
) -> tuple[float, float]:
    """Return the interval's ends; `below` is the share of draws below the estimate (BCa), a half for plain percentiles."""
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, found {confidence}")
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    shifted = [bias + normal.inv_cdf((1 + side * confidence) / 2) for side in (-1, 1)]
    low, high = np.quantile(values, [normal.cdf(bias + z / (1 - acceleration * z)) for z in shifted])
    return float(low), float(high)
