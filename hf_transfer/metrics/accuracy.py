"""Shares of samples: right at the first guess and its interval, right among the first k, right by always naming one class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .arrays import label_array, prediction_array, score_array
from .intervals import wilson_interval


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


def accuracy_ci95(correct: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, for one given model over fresh samples or fresh groups of samples.

    Without groups it is Wilson's. Samples of a group (the images of one patient) are drawn together, and often right or wrong
    together: with groups it is Wilson's with the number of samples that would be as uncertain, and the t quantile for G - 1
    degrees of freedom, see `crossed.accuracy_interval`. A single group says nothing of others: 0 to 1.

    Args:
        correct: booleans [n].
        groups: one value a sample [n]; samples of equal value belong together.

    Raises:
        ValueError: no sample, or not one group a sample.
    """
    outcomes = np.asarray(correct, dtype=bool)
    if groups is None:
        return wilson_interval(int(outcomes.sum()), len(outcomes))
    if len(np.unique(np.asarray(groups))) == 1:
        return 0.0, 1.0
    from .crossed import accuracy_interval, measure  # scipy, which the other figures do without

    return accuracy_interval(measure(outcomes[None], groups))


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
