"""What a leaderboard is computed from: whether each seed had each test image right, and which images belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BoolArray = NDArray[np.bool_]


def correct_array(correct: ArrayLike, *, name: str = "correct") -> BoolArray:
    """Return outcomes as a checked array of booleans.

    Args:
        correct: booleans [S, n]: whether each of S seeds had each of n test images right.
        name: what to call them in an error.

    Raises:
        ValueError: not two-dimensional booleans, no seed, or fewer than two images.
    """
    array = np.asarray(correct)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"expected {name} to be booleans [seeds, images], found {array.dtype} {list(array.shape)}")
    if array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(f"expected {name} of at least one seed and two images, found {list(array.shape)}")
    return array


def correct_pair(a: ArrayLike, b: ArrayLike) -> tuple[BoolArray, BoolArray]:
    """Return the outcomes of two candidates on the same images, booleans [S, n] each; S may differ.

    Raises:
        ValueError: as `correct_array`, or different numbers of images.
    """
    first, second = correct_array(a), correct_array(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"expected the same images twice, found {first.shape[1]} and {second.shape[1]}")
    return first, second


def group_index(groups: ArrayLike | None, n: int) -> NDArray[np.intp] | None:
    """Return the number of each image's group, 0 ... G - 1, or None where no groups are given.

    Args:
        groups: one value an image [n] (integers or strings): images of equal value belong together (one patient, one video).
        n: number of images.

    Raises:
        ValueError: not one value an image, or a single group, which leaves nothing to compare.
    """
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"expected one group an image, [{n}], found {list(array.shape)}")
    names, index = np.unique(array, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"expected at least two groups of images, found only {names[0]!s}")
    return index


def sum_by_group(values: NDArray, index: NDArray[np.intp] | None) -> NDArray[np.float64]:
    """Return the sums of values [..., n] over each group [..., G]; without groups, the values as float64."""
    wide = np.asarray(values, dtype=np.float64)
    if index is None:
        return wide
    rows = wide.reshape(-1, wide.shape[-1])
    sums: NDArray[np.float64] = np.stack([np.bincount(index, weights=row) for row in rows])
    return sums.reshape(*wide.shape[:-1], -1)
