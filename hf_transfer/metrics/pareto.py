"""The Pareto front: whoever no other candidate beats in accuracy without costing more."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(accuracy: ArrayLike, cost: ArrayLike) -> NDArray[np.intp]:
    """Return who is on the front of accuracy (higher is better) against a cost (lower is better).

    A candidate is off the front if another is at least as good in both and better in one. Equals in both are on it together.

    Args:
        accuracy: real numbers [K].
        cost: real numbers [K] of one unit (seconds, parameters); NaN where it is not known.

    Returns:
        Indices, cheapest first, equals in the order they came in; a candidate with a NaN is not among them.

    Raises:
        ValueError: not one-dimensional, or of different lengths.
    """
    good, dear = np.asarray(accuracy, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if good.ndim != 1 or good.shape != dear.shape:
        raise ValueError(f"expected one accuracy and one cost a candidate, found {list(good.shape)} and {list(dear.shape)}")
    known = np.flatnonzero(~np.isnan(good) & ~np.isnan(dear))
    front: list[int] = []
    for i in known[np.lexsort((-good[known], dear[known]))]:
        if not front or good[i] > good[front[-1]] or (good[i] == good[front[-1]] and dear[i] == dear[front[-1]]):
            front.append(int(i))
    return np.asarray(front, dtype=np.intp)
