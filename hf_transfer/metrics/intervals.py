"""Confidence intervals of a proportion, and of the difference of two."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from statistics import NormalDist
from typing import SupportsIndex


def wilson_interval(successes: SupportsIndex, n: SupportsIndex, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, such as an accuracy.

    With p = successes / n and z the (1 + confidence) / 2 quantile of the standard normal distribution:

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    The interval is [centre - half, centre + half], without continuity correction; its lower end is exactly 0 when
    nothing succeeded and its upper end exactly 1 when everything did. It speaks of fresh samples of the same kind, for
    one given model: how much retraining with another seed would change is not in it.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), 209-212.

    Args:
        successes: how many of the samples succeeded, an integer, 0 <= successes <= n.
        n: number of samples, an integer, at least 1.
        confidence: coverage of the two-sided interval, 0 < confidence < 1.

    Returns:
        The interval's lower and upper end, 0 <= low <= successes / n <= high <= 1.

    Raises:
        TypeError: `successes` or `n` is not an integer.
        ValueError: no sample, `successes` outside 0..n, or `confidence` outside (0, 1).
    """
    k, total = operator.index(successes), operator.index(n)
    if total < 1:
        raise ValueError(f"expected at least one sample, found n = {total}")
    if not 0 <= k <= total:
        raise ValueError(f"expected between 0 and {total} successes, found {k}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, found {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = k / total
    shrink = 1 + z * z / total
    centre = (p + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == total else min(1.0, centre + half)
    return low, high


def newcombe_difference(
    successes_a: SupportsIndex, n_a: SupportsIndex, successes_b: SupportsIndex, n_b: SupportsIndex, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Newcombe's hybrid score interval of the difference of two independent proportions, p_a - p_b.

    With p = successes / n of each sample and [l, u] its Wilson interval:

        low  = p_a - p_b - sqrt((p_a - l_a)^2 + (u_b - p_b)^2)
        high = p_a - p_b + sqrt((u_a - p_a)^2 + (p_b - l_b)^2)

    The samples are to be independent, such as two test sets; two models on the same images are paired, and this interval is
    then too wide.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
    methods", Statistics in Medicine 17 (1998), 873-890, method 10 (without continuity correction).

    Args:
        successes_a: how many of the first sample succeeded, an integer, 0 <= successes_a <= n_a.
        n_a: size of the first sample, an integer, at least 1.
        successes_b: how many of the second sample succeeded.
        n_b: size of the second sample.
        confidence: coverage of the two-sided interval, 0 < confidence < 1.

    Returns:
        The interval's lower and upper end, -1 <= low <= p_a - p_b <= high <= 1.

    Raises:
        TypeError, ValueError: as `wilson_interval`, for either sample.
    """
    intervals = [wilson_interval(successes, n, confidence) for successes, n in ((successes_a, n_a), (successes_b, n_b))]
    p_a = operator.index(successes_a) / operator.index(n_a)
    p_b = operator.index(successes_b) / operator.index(n_b)
    return difference_of_proportions(p_a, intervals[0], p_b, intervals[1])


def difference_of_proportions(
    p_a: float, interval_a: Sequence[float], p_b: float, interval_b: Sequence[float]
) -> tuple[float, float]:
    """Return the interval of p_a - p_b from those of two independent proportions, whatever kind they are.

    It is Newcombe's way to combine Wilson's intervals, which holds for others too, such as those clustered by group.

    Source: G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a general approach",
    Statistics in Medicine 27 (2008), 1693-1702.

    Args:
        p_a: the first proportion.
        interval_a: its interval, 0 <= low <= p_a <= high <= 1.
        p_b: the second proportion.
        interval_b: its interval, of the same confidence.

    Returns:
        The interval's lower and upper end, -1 <= low <= p_a - p_b <= high <= 1.
    """
    (low_a, high_a), (low_b, high_b) = interval_a, interval_b
    low = p_a - p_b - math.hypot(p_a - low_a, high_b - p_b)
    high = p_a - p_b + math.hypot(high_a - p_a, p_b - low_b)
    return max(-1.0, low), min(1.0, high)
