"""p-values of several comparisons at once, adjusted so that a whole study has one chance in twenty of a false claim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values.

    The smallest of m p-values is multiplied by m, the next by m - 1 and so on; each is at least the one before, at most 1.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979),
    65-70.

    Args:
        p_values: real numbers [m], 0 to 1; m may be 0.

    Raises:
        ValueError: not one-dimensional, or outside 0 to 1.
    """
    p = _checked(p_values)
    return _step_down(p, range(len(p), 0, -1))


def holm_after_selection(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return adjusted p-values of m comparisons with a leader that was chosen for the very thing the p-values are about.

    The best of K = m + 1 candidates owes part of its lead to luck: to compare it with the worst is to compare the two ends of a
    range, and any of the K (K - 1) / 2 pairs could have been that one. The smallest p-value is multiplied by this number; once
    it is significant, K - 1 candidates are left, and so on: K (K - 1) / 2, (K - 1) (K - 2) / 2, ..., 3, 1.

    It is Holm's step-down with the number of pairs that could still be equal, after J. P. Shaffer, "Modified sequentially
    rejective multiple test procedures", Journal of the American Statistical Association 81 (1986), 826-831. That it holds its
    level for a selected leader is shown by simulation (docs/statistics.md), not proved.

    Args:
        p_values: real numbers [m], 0 to 1; m may be 0.

    Raises:
        ValueError: not one-dimensional, or outside 0 to 1.
    """
    p = _checked(p_values)
    return _step_down(p, [left * (left - 1) // 2 for left in range(len(p) + 1, 1, -1)])


def _step_down(p: NDArray[np.float64], factors: Sequence[int]) -> NDArray[np.float64]:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.asarray(factors, dtype=np.float64)))
    return adjusted


def _checked(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"expected p-values [m], found {list(p.shape)}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected p-values between 0 and 1, found {p.tolist()}")
    return p
