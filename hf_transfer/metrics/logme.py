"""LogME: how well a backbone's features could predict the labels, guessed without training (logarithm of maximum evidence)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import label_array

_GRID = np.linspace(-10, 6, 65)
"""Where the maximum is looked for: log10 of t over the largest squared singular value."""
_NEGLIGIBLE = 1e-13
"""Squared singular values below this share of the largest count as 0."""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Return the LogME score of features: the larger, the better a linear model of them should do.

    For each class, y (1 for its images, else 0) is modelled as F w + noise, w ~ N(0, 1/a), noise ~ N(0, 1/b). The score is the
    logarithm of the evidence p(y | F, a, b) at its maximum over a and b, divided by n and averaged over the classes. With the
    SVD F = U S V', z = U' y and t = a / b, the best b for a given t is known. What is left is one number to search, on a grid
    (t / max s^2 from 1e-10 to 1e6) that is then refined:

        q(t)        = y'y - z'z + sum z_i^2 t / (t + s_i^2),   b = n / q(t)
        evidence(t) = -n/2 log(2 pi q(t) / n) - n/2 - 1/2 sum log(1 + s_i^2 / t)

    One decomposition serves all classes: that of the smaller of F'F and FF', faster than the SVD and as good here, because
    directions with s^2 under 1e-13 of the largest change nothing at the t that are searched. There is no fixed-point iteration
    that could fail to converge. Features are taken as they are, neither centred nor scaled, as in the paper.

    Source: K. You, Y. Liu, J. Wang and M. Long, "LogME: practical assessment of pre-trained models for transfer learning", ICML
    2021, arXiv 2102.11005.

    Args:
        features: real numbers [n, d]; computed in float64.
        labels: integers [n], at least two classes among them.

    Raises:
        ValueError: other shapes, features that are not finite or all 0, or labels of a single class.
    """
    matrix = np.asarray(features)
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "iuf":
        raise ValueError(f"expected features to be real numbers [n, d], found {matrix.dtype} {list(matrix.shape)}")
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError("expected finite features, found NaN or infinite values")
    classes, index = np.unique(label_array(labels, n=len(matrix)), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"expected labels of at least two classes, found only class {classes[0]}")
    if not matrix.any():
        raise ValueError("expected features that tell images apart, found zeros only")
    matrix /= np.abs(matrix).max()
    targets = np.eye(len(classes))[index]
    s, inside = _spectrum(matrix, targets)
    outside = np.maximum(0.0, targets.sum(axis=0) - inside.sum(axis=0))
    return float(_best_evidence(s, inside, outside, len(matrix)).mean() / len(matrix))


def _spectrum(matrix: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the squared singular values relative to the largest [k] and the targets' squared coordinates along them [k, C]."""
    n, d = matrix.shape
    if n > d:
        squared, v = np.linalg.eigh(matrix.T @ matrix)
        inside = (v.T @ (matrix.T @ targets)) ** 2
    else:
        squared, u = np.linalg.eigh(matrix @ matrix.T)
        inside = (u.T @ targets) ** 2
    kept = squared > _NEGLIGIBLE * squared[-1]
    squared, inside = squared[kept], inside[kept]
    return squared / squared[-1], inside / squared[:, None] if n > d else inside


def _best_evidence(s: NDArray, inside: NDArray, outside: NDArray, n: int) -> NDArray[np.float64]:
    """Return each class's log evidence at its maximum [C].

    Args:
        s: squared singular values relative to the largest [k].
        inside: squared coordinates of the targets along the singular vectors [k, C].
        outside: squared length of the rest of the targets [C].
        n: number of images.
    """
    coarse = np.stack([_evidence(np.full(len(outside), x), s, inside, outside, n) for x in _GRID])
    centre, step = _GRID[coarse.argmax(axis=0)], _GRID[1] - _GRID[0]
    low, high = centre - step, centre + step
    for _ in range(40):
        left, right = low + (high - low) * 0.382, low + (high - low) * 0.618
        leftwards = _evidence(left, s, inside, outside, n) > _evidence(right, s, inside, outside, n)
        low, high = np.where(leftwards, low, left), np.where(leftwards, right, high)
    return _evidence((low + high) / 2, s, inside, outside, n)


def _evidence(log_t: NDArray, s: NDArray, inside: NDArray, outside: NDArray, n: int) -> NDArray[np.float64]:
    """Return the log evidence at t = 10**log_t of each class [C]."""
    t = 10.0**log_t
    q = outside + (inside * (t / (t + s[:, None]))).sum(axis=0)
    return -n / 2 * (np.log(2 * np.pi * q / n) + 1) - np.log1p(s[:, None] / t).sum(axis=0) / 2
