"""Precision, recall and F1 of each class, and their averages over classes (scikit-learn's counts).

What is undefined is never turned into a number that an average would take for a result:

- recall is undefined for a class without samples;
- precision of a class that has samples but was never predicted is 0.0 (scikit-learn's `zero_division=0`);
- F1 = 2 tp / (2 tp + fp + fn) is undefined only for a class that is neither among the labels nor predicted, and so is
  its precision.

The averages leave out undefined values: balanced accuracy is the mean recall of the classes that occur among the
labels, macro F1 the mean F1 of the classes that occur among the labels or the predictions. Both agree with
scikit-learn's `balanced_accuracy_score` and `f1_score(average="macro")`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import IntArray, label_array, prediction_array


class ClassScores(NamedTuple):
    """Precision, recall, F1 (float64 [C], NaN where undefined) and number of samples (int64 [C]) of each class."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n: IntArray


def class_scores(predicted: ArrayLike, labels: ArrayLike, n_classes: int | None = None) -> ClassScores:
    """Return precision, recall, F1 and number of samples of each class.

    Args:
        predicted: integers [n], -1 <= predicted < n_classes; -1 for no prediction, which counts as wrong.
        labels: integers [n], 0 <= label < n_classes.
        n_classes: number of classes C; None takes the largest class among labels and predictions.

    Returns:
        Four arrays [C], NaN where a value is undefined.

    Raises:
        ValueError: arrays of the wrong shape, type or length, no sample, or a class outside 0..C-1.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = label_array(labels, n_classes=n_classes)
    predicted = prediction_array(predicted, n=len(labels))
    highest = int(predicted.max())
    if n_classes is None:
        n_classes = max(highest, int(labels.max())) + 1
    elif highest >= n_classes:
        raise ValueError(f"expected predicted classes below {n_classes}, found {highest}")
    with warnings.catch_warnings():
        # With few samples of many classes scikit-learn 1.7 asks whether the labels are the targets of a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        precision, recall, f1, n = precision_recall_fscore_support(
            labels, predicted, labels=np.arange(n_classes), average=None, zero_division=0.0
        )
    n_predicted = np.bincount(predicted[predicted >= 0], minlength=n_classes)
    absent = (n == 0) & (n_predicted == 0)
    return ClassScores(
        precision=np.where(absent, np.nan, precision),
        recall=np.where(n == 0, np.nan, recall),
        f1=np.where(absent, np.nan, f1),
        n=n.astype(np.int64, copy=False),
    )


def balanced_accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean recall of the classes that occur among the labels.

    Args:
        predicted: integers [n]; -1 for no prediction, which counts as wrong.
        labels: integers [n], 0 or more.

    Returns:
        A mean between 0 and 1.

    Raises:
        ValueError: as `class_scores`.
    """
    return float(np.nanmean(class_scores(predicted, labels).recall))


def macro_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean F1 of the classes that occur among the labels or the predictions.

    Args:
        predicted: integers [n]; -1 for no prediction, which counts as wrong and is no class of its own.
        labels: integers [n], 0 or more.

    Returns:
        A mean between 0 and 1.

    Raises:
        ValueError: as `class_scores`.
    """
    return float(np.nanmean(class_scores(predicted, labels).f1))


def per_class(predicted: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Return precision, recall, F1 and number of samples of each class, ready for JSON.

    Args:
        predicted: integers [n], -1 <= predicted < C; -1 for no prediction, which counts as wrong.
        labels: integers [n], 0 <= label < C.
        class_names: the C names, each once.

    Returns:
        {class: {"precision", "recall", "f1", "n"}} in the order of `class_names`; None where a value is undefined.

    Raises:
        ValueError: as `class_scores`.
    """
    scores = class_scores(predicted, labels, len(class_names))
    return {
        name: {
            "precision": _defined(precision),
            "recall": _defined(recall),
            "f1": _defined(f1),
            "n": int(n),
        }
        for name, precision, recall, f1, n in zip(class_names, *scores, strict=True)
    }


def _defined(value: float) -> float | None:
    """Return the value as a plain float, or None for NaN."""
    return None if math.isnan(value) else float(value)
