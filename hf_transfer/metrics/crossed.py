"""Accuracies and their differences where both the test images and the seeds are a sample: intervals and a test.

Every seed of every candidate meets the same images, as in studies of several radiologists who read the same cases. What another
choice of images would change and what other seeds would change are estimated separately and added. Few seeds say little about
their own spread, so a study's candidates share it: see `typical_seed_variance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .intervals import wilson_interval
from .outcomes import correct_array, group_index, sum_by_group
from .paired import compare_paired

_CLEARLY_MORE = 0.95
"""Quantile of the F distribution beyond which a candidate's seeds differ clearly more than is typical of the study."""


class Seeded(Protocol):
    """What the variance between a candidate's seeds is known from: their number, and the variance of their figures."""

    @property
    def seeds(self) -> int:
        """Number of seeds."""

    @property
    def seed_variance(self) -> float:
        """Variance (divisor S - 1) of the seeds' figures on the same images; 0 for one seed."""


@dataclass(frozen=True)
class Measured:
    """What is known of one candidate's accuracy.

    Args:
        correct: booleans [S, n].
        accuracy: mean over seeds and images.
        seed_variance: variance (divisor S - 1) of the seeds' accuracies on these images; 0 for one seed.
        residual_variance: the share of it that comes from the choice of images: each seed has its own mistakes; 0 for one seed.
        profile: each image's (or group's) part of the accuracy's departure from the mean [G].
        weights: each image's (or group's) share of the images [G]; together 1.
        grouped: whether images come in groups.
    """

    correct: NDArray[np.bool_]
    accuracy: float
    seed_variance: float
    residual_variance: float
    profile: NDArray[np.float64]
    weights: NDArray[np.float64]
    grouped: bool

    @property
    def seeds(self) -> int:
        """Number of seeds S."""
        return len(self.correct)

    @property
    def image_variance(self) -> float:
        """Variance of the accuracy over fresh images (groups), for these networks."""
        return _variance_of_sum(self.profile, self.weights)

    @property
    def units(self) -> float:
        """How many images (groups) of equal size would be as many: 1 / sum w^2, Kish's effective number."""
        return float(1 / (self.weights @ self.weights))


@dataclass(frozen=True)
class SeedVariance:
    """A variance of one seed's accuracy, and the degrees of freedom with which it is known."""

    variance: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class Difference:
    """The difference of two accuracies, a - b.

    Args:
        value: accuracy(a) - accuracy(b).
        ci95: its interval of 95 %, in [-1, 1].
        standard_error: of the difference.
        degrees_of_freedom: of the t distribution used.
        p_value: two-sided, over fresh images and fresh seeds; None if either has one seed only.
    """

    value: float
    ci95: tuple[float, float]
    standard_error: float
    degrees_of_freedom: float
    p_value: float | None


def measure(correct: ArrayLike, groups: ArrayLike | None = None) -> Measured:
    """Return what `correct` tells of a candidate, computed once for any number of comparisons.

    Args:
        correct: booleans [S, n]: whether each seed had each image right.
        groups: one value an image [n]; images of a group are taken to be drawn together.

    Raises:
        ValueError: not booleans of these shapes, fewer than two images or groups.
    """
    outcomes = correct_array(correct)
    seeds, n = outcomes.shape
    index = group_index(groups, n)
    by_seed = outcomes.mean(axis=1)
    departures = sum_by_group(outcomes - by_seed[:, None], index) / n
    profile = departures.mean(axis=0)
    weights = np.full(n, 1 / n) if index is None else np.bincount(index) / n
    if seeds == 1:
        return Measured(outcomes, float(by_seed[0]), 0.0, 0.0, profile, weights, index is not None)
    residual = sum(_variance_of_sum(row - profile, weights) for row in departures) / (seeds - 1)
    return Measured(outcomes, float(by_seed.mean()), float(by_seed.var(ddof=1)), residual, profile, weights, index is not None)


def typical_seed_variance(candidates: Sequence[Seeded]) -> SeedVariance | None:
    """Return the seed variance that is typical of a study: the median of its candidates', made unbiased for normal seeds.

    One candidate whose seeds diverged does not change it, as it would change the mean. A variance of S seeds has its median at
    m / (S - 1) of the truth, m being the median of chi-square with S - 1 degrees of freedom: each is divided by that first.

    Returns:
        The variance with sum (S - 1) degrees of freedom; None if no candidate has two seeds.
    """
    several = [c for c in candidates if c.seeds > 1]
    if not several:
        return None
    scaled = [c.seed_variance * (c.seeds - 1) / (2 * special.gammaincinv((c.seeds - 1) / 2, 0.5)) for c in several]
    return SeedVariance(float(np.median(scaled)), sum(c.seeds - 1 for c in several))


def accuracy_interval(
    candidate: Measured, typical: SeedVariance | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval of a candidate's accuracy over fresh images and fresh seeds.

    Wilson's interval with the number of images that would make a binomial proportion as uncertain as this accuracy is, and the
    t quantile for the degrees of freedom in place of the normal one. One group that holds most images says little of others:
    the interval then is nearly all from 0 to 1. The variance is

        max(s^2 of the candidate, typical) / S + max(0, V - R / S)

    with s^2 the variance between seeds, V that over images of the mean of the seeds, R what both count. With one seed nothing
    is known of the seeds: the interval is Wilson's for that network (if there are groups, with V for them).

    Source: the variance as in S. L. Hillis, Statistics in Medicine 33 (2014), 330-360 (readers and cases: here seeds and
    images); the effective number as in C. Franco et al., Journal of Survey Statistics and Methodology 7 (2019), 334-364.

    Args:
        candidate: from `measure`.
        typical: the study's seed variance; None takes the candidate's own, and two or three seeds then have long
            intervals.
        confidence: coverage of the two-sided interval, 0 < confidence < 1.

    Raises:
        ValueError: `confidence` outside (0, 1).
    """
    p, units, n = candidate.accuracy, candidate.units, candidate.correct.shape[1]
    if candidate.seeds == 1 and not candidate.grouped:
        return wilson_interval(int(candidate.correct.sum()), n, confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, found {confidence}")
    shared = candidate.image_variance - candidate.residual_variance / candidate.seeds
    variance, freedom = combined(max(0.0, shared), units - 1, [candidate], typical)
    spread = p * (1 - p)
    if spread == 0:
        effective, quantile = units, NormalDist().inv_cdf((1 + confidence) / 2)
    else:
        effective = spread / max(variance, spread / (candidate.seeds * n))
        quantile = _t_quantile((1 + confidence) / 2, freedom)
    shrink = 1 + quantile**2 / effective
    centre = (p + quantile**2 / (2 * effective)) / shrink
    half = quantile / shrink * math.sqrt(spread / effective + (quantile / (2 * effective)) ** 2)
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def difference(a: Measured, b: Measured, typical: SeedVariance | None = None) -> Difference:
    """Return the difference of two candidates on the same images, with interval and p-value.

    A t test on the difference d with the variance

        u_a / S_a + u_b / S_b + max(0, V - R_a / S_a - R_b / S_b) + 1 / n^2

    u is the candidate's seed variance or the typical one, whichever is larger; V the variance of d over images (groups), for
    these networks; R what both count; 1 / n^2 the weight of one more image on which they differ, so that no agreement is ever
    taken as certain. Degrees of freedom are Satterthwaite's: those of the study for typical seeds, S - 1 for a candidate whose
    seeds differ clearly more (beyond the 95 % quantile of F), G - 1 for G images or groups; of uneven groups, their effective
    number less 1 (`Measured.units`).

    If either has a single seed, seeds are left out: the interval is about these networks (Tango's, if each has one seed and
    there are no groups), and there is no p-value here; `permutation` has the one for given networks.

    Source: the crossed variance and its degrees of freedom as in S. L. Hillis, N. A. Obuchowski and K. S. Berbaum, Academic
    Radiology 18 (2011), 129-142, and S. L. Hillis, Statistics in Medicine 33 (2014), 330-360, seeds nested in candidates; one
    more image as in A. Agresti and Y. Min, Statistics in Medicine 24 (2005), 729-740. The typical variance in place of the
    pooled one was chosen by simulation (docs/statistics.md).

    Args:
        a: from `measure`.
        b: from `measure`, of the same images.
        typical: the study's seed variance; None takes it from these two.

    Raises:
        ValueError: different numbers of images or groups.
    """
    if a.correct.shape[1] != b.correct.shape[1] or len(a.profile) != len(b.profile):
        raise ValueError(f"expected the same images and groups, found {_size(a)} and {_size(b)}")
    value, n, units = a.accuracy - b.accuracy, a.correct.shape[1], a.units
    over_images = _variance_of_sum(a.profile - b.profile, a.weights)
    with_seeds = min(a.seeds, b.seeds) > 1
    if with_seeds:
        over_images = max(0.0, over_images - a.residual_variance / a.seeds - b.residual_variance / b.seeds)
        sides = [a, b]
        typical = typical or typical_seed_variance(sides)
    else:
        sides = []
    variance, freedom = combined(over_images + 1 / n**2, units - 1, sides, typical)
    error = math.sqrt(variance)
    if a.seeds == b.seeds == 1 and not a.grouped:
        ci95 = compare_paired(b.correct[0], a.correct[0]).difference_ci95
    else:
        half = _t_quantile(0.975, freedom) * error
        ci95 = max(-1.0, value - half), min(1.0, value + half)
    p_value = float(2 * special.stdtr(freedom, -abs(value) / error)) if with_seeds else None
    return Difference(value, ci95, error, freedom, p_value)


def detectable_difference(found: Difference, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return about the smallest true difference that would be found with this power, at this level.

    (t(1 - alpha / 2) + t(power)) * standard error, both quantiles at the difference's degrees of freedom. The standard error
    found stands for the true one, so it is a rough figure. At most 1.

    Args:
        found: a difference of candidates like those the question is about.
        alpha: two-sided level, already divided by the number of comparisons.
        power: probability of finding it.
    """
    freedom = found.degrees_of_freedom
    return min(1.0, (_t_quantile(1 - alpha / 2, freedom) + _t_quantile(power, freedom)) * found.standard_error)


def combined(
    over_images: float, image_freedom: float, sides: Sequence[Seeded], typical: SeedVariance | None
) -> tuple[float, float]:
    """Return the variance over images and seeds, and Satterthwaite's degrees of freedom; see `difference`.

    Args:
        over_images: the variance over images, without what seeds have in it.
        image_freedom: its degrees of freedom.
        sides: the candidates whose seeds count.
        typical: the study's seed variance.
    """
    typical_part, squares, total = 0.0, over_images**2 / image_freedom, over_images
    for side in sides:
        if side.seeds == 1:
            continue
        own = side.seed_variance
        if typical is None or own > typical.variance * special.fdtri(side.seeds - 1, typical.degrees_of_freedom, _CLEARLY_MORE):
            squares += (own / side.seeds) ** 2 / (side.seeds - 1)
            total += own / side.seeds
        else:
            typical_part += max(own, typical.variance) / side.seeds
    if typical is not None:
        squares += typical_part**2 / typical.degrees_of_freedom
    total += typical_part
    return total, (total**2 / squares if squares > 0 else image_freedom)


def _variance_of_sum(parts: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the variance of a sum over G images or groups, from their parts [G] that add up to 0: the jackknife's.

    (G - 1) / G * sum (part / (1 - weight))^2. A large group draws the mean towards itself, so that its own part is too small by
    1 - weight; with equal weights it is the usual G / (G - 1) * sum part^2.

    Source: R. M. Bell and D. F. McCaffrey, Survey Methodology 28 (2002), 169-181 (CR3 of clustered means).
    """
    units = len(parts)
    corrected = parts / (1 - weights)
    return float(corrected @ corrected) * (units - 1) / units


def _t_quantile(probability: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, probability)) if math.isfinite(freedom) else NormalDist().inv_cdf(probability)


def _size(candidate: Measured) -> str:
    images = f"{candidate.correct.shape[1]} images"
    return f"{images} in {len(candidate.profile)} groups" if candidate.grouped else images
