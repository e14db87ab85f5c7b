"""Temperature scaling: one number that logits are divided by, so that probabilities come true as often as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .arrays import FloatArray, IntArray, label_array, label_matrix, score_array

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
    return _minimum(lambda inverse: _slope(logits, labels, inverse))


def fit_sigmoid_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T that minimises the mean binary cross-entropy of sigmoid(logits / T).

    With y 1 where the image shows the class and 0 where it does not, slope and curvature in b = 1 / T are the means of

        (sigmoid(b z) - y) z    and    sigmoid(b z) (1 - sigmoid(b z)) z^2.

    T is 1 where every logit is on the right side of 0, or all are 0; otherwise as `fit_temperature`.

    Args:
        logits: finite real numbers [n, C], of images the model was not trained on (the validation split).
        labels: booleans [n, C].

    Returns:
        T, 0.01 <= T <= 100.

    Raises:
        ValueError: arrays of the wrong shape or type, or logits that are not finite.
    """
    logits = score_array(logits, name="logits", finite=True)
    labels = label_matrix(labels, logits.shape)
    signed = np.where(labels, logits, -logits)  # positive where the answer is right
    if (signed >= 0).all():
        return 1.0
    return _minimum(lambda inverse: _sigmoid_slope(signed, inverse))


def _minimum(derivatives: Callable[[float], tuple[float, float]]) -> float:
    """Return the T within bounds at which a loss that is convex in b = 1 / T is smallest, given its slope and curvature."""
    low, high = 1 / HIGHEST, 1 / LOWEST
    if derivatives(low)[0] >= 0:
        return HIGHEST
    if derivatives(high)[0] <= 0:
        return LOWEST
    inverse = 1.0
    for _ in range(_MAX_STEPS):
        slope, curvature = derivatives(inverse)
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


def _sigmoid_slope(signed: FloatArray, inverse: float) -> tuple[float, float]:
    """Return the derivatives of the mean of log(1 + exp(-b z)), z the logits with the sign of their answer, in float64."""
    rows = max(1, _BLOCK_VALUES // signed.shape[1])
    slope = curvature = 0.0
    for start in range(0, len(signed), rows):
        block = signed[start : start + rows].astype(np.float64)
        wrong = (1 - np.tanh(inverse * block / 2)) / 2  # sigmoid(-b z)
        slope -= float((wrong * block).sum())
        curvature += float((wrong * (1 - wrong) * block**2).sum())
    return slope / signed.size, curvature / signed.size
