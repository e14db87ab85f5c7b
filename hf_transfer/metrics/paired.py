"""Two models on the same images: an exact test, and a confidence interval of the difference of their accuracies.

Both look only at the images on which exactly one of the two is right. They speak of fresh images of the same kind for these two
given models, not of what retraining them would change.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from statistics import NormalDist
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers, `before` and `after`, on the same images.

    Args:
        n: number of images.
        before: accuracy of the first.
        after: accuracy of the second.
        gained: images that only the second has right.
        lost: images that only the first has right.
        difference: after - before = (gained - lost) / n.
        difference_ci95: Tango's score interval of the difference.
        p_value: of McNemar's exact test.
    """

    n: int
    before: float
    after: float
    gained: int
    lost: int
    difference: float
    difference_ci95: tuple[float, float]
    p_value: float


def compare_paired(before: ArrayLike, after: ArrayLike) -> PairedComparison:
    """Compare two classifiers by what each had right.

    Args:
        before: booleans [n], whether the first classified each image rightly.
        after: booleans [n], likewise for the second, in the same order of images.

    Raises:
        ValueError: not one-dimensional booleans, of different lengths, or empty.
    """
    first, second = np.asarray(before), np.asarray(after)
    for array in (first, second):
        if array.ndim != 1 or array.dtype != np.bool_:
            raise ValueError(f"expected booleans [n], found {array.dtype} {list(array.shape)}")
    if len(first) != len(second):
        raise ValueError(f"expected the same images twice, found {len(first)} and {len(second)}")
    n, gained, lost = len(first), int((second & ~first).sum()), int((first & ~second).sum())
    interval = tango_interval(gained, lost, n)
    right = int(first.sum())
    return PairedComparison(
        n, right / n, (right + gained - lost) / n, gained, lost, (gained - lost) / n, interval, mcnemar_exact(gained, lost)
    )


def mcnemar_exact(gained: SupportsIndex, lost: SupportsIndex) -> float:
    """Return the two-sided p-value of McNemar's exact conditional test.

    If both classifiers were equally good, each of the m = gained + lost images on which they differ would fall to either side
    with probability 1/2: the p-value is twice the probability that a binomial(m, 1/2) is at most min(gained, lost), at most 1.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157; the exact form as in M. W. Fagerland, S. Lydersen and P. Laake,
    BMC Medical Research Methodology 13:91 (2013).

    Args:
        gained: images that only one of the two has right, an integer, 0 or more.
        lost: images that only the other has right.

    Raises:
        TypeError: not integers.
        ValueError: a negative count.
    """
    b, c = _counts(gained, lost)
    term = total = 1  # binomial(m, k) and its sum over k
    for k in range(min(b, c)):
        term = term * (b + c - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2 ** (b + c))


def tango_interval(
    gained: SupportsIndex, lost: SupportsIndex, n: SupportsIndex, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Tango's score interval of the difference of two paired proportions, (gained - lost) / n.

    The interval holds every difference d that the score test does not reject, |T(d)| <= z, with b = gained, c = lost and q the
    likelihood's maximum for the probability of `lost` where the difference is d:

        T(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d)))
        q    = (sqrt(B^2 - 8 n C) - B) / 4n,   B = -b - c + (2n - b + c) d,   C = -c d (1 - d)

    Unlike Wald's interval it keeps to [-1, 1] and has a width where the two never differ. The ends are found by bisection.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998), 891-908.

    Args:
        gained: images that only the second has right, an integer, 0 or more.
        lost: images that only the first has right.
        n: number of images, gained + lost at least.
        confidence: coverage of the two-sided interval, 0 < confidence < 1.

    Returns:
        The interval's lower and upper end, -1 <= low <= (gained - lost) / n <= high <= 1.

    Raises:
        TypeError: the counts are not integers.
        ValueError: no image, impossible counts, or `confidence` outside (0, 1).
    """
    (b, c), total = _counts(gained, lost), operator.index(n)
    if total < max(1, b + c):
        raise ValueError(f"expected at least {max(1, b + c)} images, found n = {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, found {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    difference = (b - c) / total
    low = -1.0 if c == total else _end(b, c, total, z, difference, -1.0)
    high = 1.0 if b == total else _end(b, c, total, z, difference, 1.0)
    return low, high


def _end(b: int, c: int, n: int, z: float, inside: float, outside: float) -> float:
    """Return where |T| reaches z between the difference that was found and an end of the scale."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(b, c, n, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(b: int, c: int, n: int, d: float) -> float:
    linear = -b - c + (2 * n - b + c) * d
    q = (math.sqrt(max(0.0, linear * linear + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
    distance, variance = b - c - n * d, n * (2 * q + d * (1 - d))
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _counts(gained: SupportsIndex, lost: SupportsIndex) -> tuple[int, int]:
    b, c = operator.index(gained), operator.index(lost)
    if b < 0 or c < 0:
        raise ValueError(f"expected counts of 0 or more, found {b} and {c}")
    return b, c
