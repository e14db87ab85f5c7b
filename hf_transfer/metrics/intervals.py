"""Confidence intervals of a proportion."""

from __future__ import annotations

import math
import operator
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
