"""The figures that `metrics.json` holds for one evaluated split, and the two that are watched during training.

The summary calls the pure functions directly. The `evaluate.Metric` classes of `modules` give the same numbers, but
carry scores through an Arrow table first, which takes many times as long as all the figures together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .accuracy import accuracy, accuracy_ci95, majority_baseline, top_k_accuracy
from .arrays import (
    FloatArray,
    IntArray,
    check_class_names,
    label_array,
    predicted_classes,
    probability_array,
    score_array,
)
from .calibration import expected_calibration_error
from .likelihood import (
    negative_log_likelihood,
    negative_log_likelihood_of_probabilities,
    top_probability,
)
from .per_class import balanced_accuracy, macro_f1, per_class


def classification_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    skipped: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return the figures of one evaluated split from a model's logits.

    Every value is a plain Python number, list, dict or None: `json.dumps(..., allow_nan=False)` accepts the result.

    Args:
        logits: finite real numbers [n, C].
        labels: integers [n], 0 <= label < C.
        class_names: the C names in the order of the logits, each once.
        skipped: how many samples of the split could not be read and are not among the n.
        groups: one value a sample [n], where samples come in groups (patients, videos) that are drawn together.

    Returns:
        A dict with, in this order:

        - `accuracy`, and `accuracy_ci95`: [low, high], Wilson's interval, clustered by group where there are groups;
        - `top5_accuracy`, only with more than 5 classes;
        - `balanced_accuracy`: mean recall of the classes that occur among the labels;
        - `macro_f1`: mean F1 of the classes that occur among the labels or the predictions;
        - `per_class`: {class: {precision, recall, f1, n}}; None where undefined: recall of a class without samples, all
          three of a class that is neither among the labels nor predicted. A class that has samples but is never
          predicted has precision 0.0;
        - `nll`: negative log likelihood in nats per sample;
        - `ece`: expected calibration error, 15 equal-width bins of the top probability;
        - `majority_baseline`: share of the most frequent class among the labels;
        - `n` and `skipped`: samples evaluated and samples left out; between them, only with groups, `groups`: their number.

    Raises:
        ValueError: arrays of the wrong shape, type or length, no sample, logits that are not finite (the message says
            in how many rows), labels outside the classes, class names that are repeated or not C, a negative
            `skipped`, or not one group a sample.
    """
    logits = score_array(logits, name="logits", finite=True)
    labels = _checked_labels(logits, labels, class_names, skipped)
    return _summary(
        scores=logits,
        confidence=top_probability(logits),
        nll=negative_log_likelihood(logits, labels),
        labels=labels,
        class_names=class_names,
        skipped=skipped,
        groups=groups,
    )


def classification_metrics_from_probabilities(
    probabilities: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    skipped: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return the figures of one evaluated split from class probabilities.

    For a checkpoint whose classes are not those of the data set: the caller adds up the probabilities of the
    checkpoint's classes that stand for each class of the data set. A row then adds up to less than 1, and a class of
    the data set that nothing stands for has a column of zeros. A class with a probability of exactly 0 is never
    predicted, neither as the top class nor among the first five; a row of nothing but zeros has no prediction and
    counts as wrong.

    Args:
        probabilities: real numbers [n, C], each 0 or more; rows add up to at most 1 (within 0.001).
        labels: as in `classification_metrics`.
        class_names: as in `classification_metrics`.
        skipped: as in `classification_metrics`.
        groups: as in `classification_metrics`.

    Returns:
        The keys of `classification_metrics`. Probabilities below 1e-12 count as 1e-12 in `nll`.

    Raises:
        ValueError: as `classification_metrics`, or values that are no probabilities.
    """
    probabilities = probability_array(probabilities)
    labels = _checked_labels(probabilities, labels, class_names, skipped)
    return _summary(
        scores=np.where(probabilities > 0, probabilities, -np.inf),
        confidence=np.minimum(probabilities.max(axis=1).astype(np.float64), 1.0),
        nll=negative_log_likelihood_of_probabilities(probabilities, labels),
        labels=labels,
        class_names=class_names,
        skipped=skipped,
        groups=groups,
    )


def quick_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the two figures that are watched during training, for a Trainer's `compute_metrics`.

    They are the same numbers as in `classification_metrics`.

    Args:
        logits: finite real numbers [n, C].
        labels: integers [n], 0 <= label < C.

    Returns:
        {"accuracy": share of right predictions, "macro_f1": mean F1 of the classes that occur}.

    Raises:
        ValueError: arrays of the wrong shape, type or length, no sample, logits that are not finite (the message says
            in how many rows), or labels outside the classes.
    """
    logits = score_array(logits, name="logits", finite=True)
    n, n_classes = logits.shape
    labels = label_array(labels, n_classes=n_classes, n=n)
    predicted = predicted_classes(logits)
    return {"accuracy": accuracy(predicted, labels), "macro_f1": macro_f1(predicted, labels)}


def _summary(
    *,
    scores: FloatArray,
    confidence: NDArray[np.float64],
    nll: float,
    labels: IntArray,
    class_names: Sequence[str],
    skipped: int,
    groups: ArrayLike | None,
) -> dict[str, Any]:
    """Return the figures of a split, from checked arrays; what depends on the kind of score comes ready-made."""
    predicted = predicted_classes(scores)
    correct = predicted == labels
    metrics: dict[str, Any] = {
        "accuracy": accuracy(predicted, labels),
        "accuracy_ci95": list(accuracy_ci95(correct, groups)),
    }
    if len(class_names) > 5:
        metrics["top5_accuracy"] = top_k_accuracy(scores, labels, k=5)
    metrics["balanced_accuracy"] = balanced_accuracy(predicted, labels)
    metrics["macro_f1"] = macro_f1(predicted, labels)
    metrics["per_class"] = per_class(predicted, labels, class_names)
    metrics["nll"] = nll
    metrics["ece"] = expected_calibration_error(confidence, correct, n_bins=15)
    metrics["majority_baseline"] = majority_baseline(labels)
    metrics["n"] = len(labels)
    if groups is not None:
        metrics["groups"] = len(np.unique(np.asarray(groups)))
    metrics["skipped"] = int(skipped)
    return metrics


def _checked_labels(scores: FloatArray, labels: ArrayLike, class_names: Sequence[str], skipped: int) -> IntArray:
    """Return the labels as int64 [n], once they, the class names and `skipped` fit the scores [n, C]."""
    n, n_classes = scores.shape
    check_class_names(class_names, n_classes)
    if skipped < 0:
        raise ValueError(f"expected 0 or more skipped samples, found {skipped}")
    return label_array(labels, n_classes=n_classes, n=n)
