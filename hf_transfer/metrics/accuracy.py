"""Shares of samples: right at the first guess, right among the first k, and right by always naming one class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .arrays import label_array, prediction_array, score_array


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of samples whose predicted class is the label.

    Args:
        predicted: integers [n]; -1 for no prediction, which counts as wrong.
        labels: integers [n], 0 or more.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: arrays of the wrong shape, type or length, or no sample.
    """
    labels = label_array(labels)
    return float(np.mean(prediction_array(predicted, n=len(labels)) == labels))


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 5) -> float:
    """Return the share of samples whose label is among the k classes with the highest scores.

    Among equal scores the class that comes first ranks higher, so that k = 1 gives the accuracy of the arg max. A class
    whose score is -inf is never among the k.

    Args:
        scores: real numbers [n, C], larger is likelier.
        labels: integers [n], 0 <= label < C.
        k: number of guesses, 1 <= k < C (with k = C every answer would be right).

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: arrays of the wrong shape, type or length, NaN or +inf scores, or `k` outside 1..C-1.
    """
    scores = score_array(scores)
    n, n_classes = scores.shape
    labels = label_array(labels, n_classes=n_classes, n=n)
    if not 1 <= k < n_classes:
        raise ValueError(f"expected k between 1 and {n_classes - 1} with {n_classes} classes, found {k}")
    own = scores[np.arange(n), labels]
    higher = (scores > own[:, None]).sum(axis=1)
    earlier = np.arange(n_classes) < labels[:, None]
    higher += ((scores == own[:, None]) & earlier).sum(axis=1)
    return float(np.mean((higher < k) & ~np.isneginf(own)))


def majority_baseline(labels: ArrayLike) -> float:
    """Return the accuracy of always naming the class that is most frequent among these labels.

    Args:
        labels: integers [n], 0 or more.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: labels of the wrong shape or type, or no sample.
    """
    labels = label_array(labels)
    return float(np.bincount(labels).max() / len(labels))
