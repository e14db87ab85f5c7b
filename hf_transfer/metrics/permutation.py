"""Two candidates on the same images, several seeds each: the exact test that flips the sign of each image's difference.

It speaks of fresh images of the same kind for these given networks. That other seeds give other networks is not in it: alone it
calls one of several equal strategies better far too often (docs/statistics.md), which is why a verdict asks `crossed` as well.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from .outcomes import correct_pair, group_index, sum_by_group
from .paired import mcnemar_exact

_EXACT_UP_TO = 2**22
"""The largest sum of absolute differences whose distribution is computed; above it is drawn."""
_SMALLEST = 1e-12
"""The transform's rounding errors stay below this: smaller p-values are returned as this."""


def sign_flip_p_value(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, *, draws: int = 100_000, seed: int = 0
) -> float:
    """Return the two-sided p-value of the sign-flip (permutation) test of two candidates' mean accuracies.

    An image's difference is the share of a's seeds that had it right, less that of b's seeds. If the two are equally good, each
    image (each group of images) would have shown its difference with either sign equally often. The p-value is the probability
    that random signs give a sum at least as far from 0 as the one found. With one seed a side and no groups it is McNemar's
    exact test.

    The differences are multiples of one fraction. Their signed sum has the characteristic function prod cos(w t), w the integer
    differences; its distribution is that product's Fourier transform: every sign pattern counts, nothing is drawn. Only where
    the differences add up to more than four million (a million images) are signs drawn, (hits + 1) / (draws + 1) then being the
    p-value.

    Source: R. A. Fisher, The Design of Experiments (1935), section 21; B. Phipson and G. K. Smyth, Statistical Applications in
    Genetics and Molecular Biology 9 (2010), article 39, for the + 1.

    Args:
        a: booleans [S_a, n]: whether each seed had each image right.
        b: booleans [S_b, n], on the same images in the same order.
        groups: one value an image [n]; images of a group change sign together.
        draws: how many sign patterns are drawn where the distribution is not computed.
        seed: of the draws.

    Returns:
        The p-value; 1 if no image has a difference. Values under 1e-12 are returned as 1e-12, but for McNemar's.

    Raises:
        ValueError: not booleans of the shapes above.
    """
    first, second = correct_pair(a, b)
    index = group_index(groups, first.shape[1])
    if len(first) == len(second) == 1 and index is None:
        return mcnemar_exact(int((first & ~second).sum()), int((second & ~first).sum()))
    unit = math.lcm(len(first), len(second))
    differences = first.sum(axis=0) * (unit // len(first)) - second.sum(axis=0) * (unit // len(second))
    weights = sum_by_group(differences, index).round().astype(np.int64)
    found = abs(int(weights.sum()))
    sizes, counts = np.unique(np.abs(weights[weights != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    divisor = int(np.gcd.reduce(sizes))
    sizes, found = sizes // divisor, found // divisor
    if int((sizes * counts).sum()) > _EXACT_UP_TO:
        return _drawn(sizes, counts, found, draws, seed)
    return _exact(sizes, counts, found)


def _exact(sizes: NDArray[np.int64], counts: NDArray[np.int64], found: int) -> float:
    """Return P(|sum of +-sizes| >= found), by the sum X of the sizes that are positive: the signed sum is 2 X - total."""
    total = int((sizes * counts).sum())
    length = fft.next_fast_len(total + 1, real=True)
    half_angle = np.pi * np.arange(length // 2 + 1) / length
    characteristic = np.exp(-1j * total * half_angle)
    for size, count in zip(sizes, counts, strict=True):
        characteristic *= np.cos(size * half_angle) ** int(count)
    probability = fft.irfft(characteristic, length)[: total + 1]
    extreme = np.abs(2 * np.arange(total + 1) - total) >= found
    return float(np.clip(probability[extreme].sum(), _SMALLEST, 1.0))


def _drawn(sizes: NDArray[np.int64], counts: NDArray[np.int64], found: int, draws: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    sums = np.zeros(draws, dtype=np.int64)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, size=draws) - count)
    return (int((np.abs(sums) >= found).sum()) + 1) / (draws + 1)
