"""What a classifier says about its own certainty: log likelihood of the labels, probability of the top class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import label_array, probability_array, score_array

PROBABILITY_FLOOR = 1e-12
"""Probabilities below this count as this: a label with no probability costs 27.6 nats instead of infinitely many."""

_BLOCK_VALUES = 2**20
"""Values converted to float64 at a time: 8 MB, however large the evaluated split."""


def log_partition(logits: ArrayLike) -> NDArray[np.float64]:
    """Return log(sum over classes of exp(logit)) of each sample, computed in float64.

    Args:
        logits: finite real numbers [n, C].

    Returns:
        float64 [n]; a logit minus this is that class's log probability, in nats.

    Raises:
        ValueError: logits of the wrong shape or type, or not finite.
    """
    logits = score_array(logits, name="logits", finite=True)
    n, n_classes = logits.shape
    rows = max(1, _BLOCK_VALUES // n_classes)
    result = np.empty(n, dtype=np.float64)
    for start in range(0, n, rows):
        block = logits[start : start + rows].astype(np.float64)
        top = block.max(axis=1)
        block -= top[:, None]
        result[start : start + rows] = top + np.log(np.exp(block, out=block).sum(axis=1))
    return result


def top_probability(logits: ArrayLike) -> NDArray[np.float64]:
    """Return the softmax probability of each sample's highest logit.

    Args:
        logits: finite real numbers [n, C].

    Returns:
        float64 [n], between 1/C and 1.

    Raises:
        ValueError: logits of the wrong shape or type, or not finite.
    """
    logits = score_array(logits, name="logits", finite=True)
    return np.exp(logits.max(axis=1).astype(np.float64) - log_partition(logits))


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log softmax(logits)[label], in nats: the cross-entropy loss without weights or smoothing.

    Args:
        logits: finite real numbers [n, C].
        labels: integers [n], 0 <= label < C.

    Returns:
        0 or more, in nats per sample.

    Raises:
        ValueError: arrays of the wrong shape, type or length, logits that are not finite, or labels outside the
            classes.
    """
    logits = score_array(logits, name="logits", finite=True)
    n, n_classes = logits.shape
    labels = label_array(labels, n_classes=n_classes, n=n)
    own = logits[np.arange(n), labels].astype(np.float64)
    return float(np.mean(log_partition(logits) - own))


def negative_log_likelihood_of_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log(max(probability of the label, 1e-12)), in nats.

    The floor keeps the mean finite for a label that has no probability at all, such as a class of the data set that no
    class of the checkpoint stands for; each such sample costs 27.6 nats.

    Args:
        probabilities: real numbers [n, C]; rows may add up to less than 1.
        labels: integers [n], 0 <= label < C.

    Returns:
        Nats per sample.

    Raises:
        ValueError: arrays of the wrong shape, type or length, values that are no probabilities, or labels outside the
            classes.
    """
    probabilities = probability_array(probabilities)
    n, n_classes = probabilities.shape
    labels = label_array(labels, n_classes=n_classes, n=n)
    own = probabilities[np.arange(n), labels].astype(np.float64)
    return float(np.mean(np.log(1 / np.clip(own, PROBABILITY_FLOOR, 1.0))))
