"""Temperature scaling: one number that logits are divided by, so that probabilities come true as often as they say."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .arrays import FloatArray, IntArray, label_array, score_array

LOWEST, HIGHEST = 0.01, 100.0
"""The bounds of a fitted temperature; beyond them nothing but rounding is left of the probabilities."""

_BLOCK_VALUES = 2**20
_MAX_STEPS = 60
_PRECISION = 1e-7  # relative; the bisection alone gets there in fewer than 60 steps


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T that minimises the negative log likelihood of softmax(logits / T).

    The likelihood is convex in b = 1 / T, its slope and curvature being the mean over samples of

        E[z] - z_label    and    Var[z],    z the logits, expectations over classes under softmax(b z),

    so Newton's method, kept inside a bracket that shrinks, finds the one minimum. No prediction changes: T > 0.

    T is 1, nothing is changed, where the labels say nothing about it: every label has the highest logit (the likelihood
    then grows without end as T falls to 0, and certainty about everything is no calibration), or the logits of each
    sample are all equal. Where the logits are no better than none (the minimum is at T = infinity), T is 100.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.

    Args:
        logits: finite real numbers [n, C], of images the model was not trained on (the validation split).
        labels: integers [n], 0 <= label < C.

    Returns:
        T, 0.01 <= T <= 100.

    Raises:
        ValueError: arrays of the wrong shape, type or length, logits that are not finite, or labels outside the classes.
    """
    logits = score_array(logits, name="logits", finite=True)
    n, n_classes = logits.shape
    labels = label_array(labels, n_classes=n_classes, n=n)
    own = logits[np.arange(n), labels]
    if (own == logits.max(axis=1)).all():
        return 1.0
    low, high = 1 / HIGHEST, 1 / LOWEST
    if _slope(logits, labels, low)[0] >= 0:
        return HIGHEST
    if _slope(logits, labels, high)[0] <= 0:
        return LOWEST
    inverse = 1.0
    for _ in range(_MAX_STEPS):
        slope, curvature = _slope(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else math.inf
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - inverse) <= _PRECISION * inverse:
            return float(1 / following)
        inverse = following
    return float(1 / inverse)


def _slope(logits: FloatArray, labels: IntArray, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean negative log likelihood at b = `inverse`, in float64."""
    n, n_classes = logits.shape
    rows = max(1, _BLOCK_VALUES // n_classes)
    slope = curvature = 0.0
    for start in range(0, n, rows):
        block = logits[start : start + rows].astype(np.float64)
        # Logits matter by their differences alone; from the top one down, no exponential overflows.
        block -= block.max(axis=1, keepdims=True)
        own = block[np.arange(len(block)), labels[start : start + rows]]
        weights = np.exp(inverse * block)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * block).sum(axis=1)
        slope += float((mean - own).sum())
        curvature += float((weights * (block - mean[:, None]) ** 2).sum())
    return slope / n, curvature / n
