"""Metrics of a classifier of several labels an image: average precision, thresholds, and what is predicted at them.

Scores are logits, and each class is a question of its own: its probability is the sigmoid of its logit. Average precision
ranks the images of a class and needs no threshold; precision, recall, F1 and the accuracies are those at the thresholds.

What is undefined is never turned into a number: a class without positives has no average precision and no recall, a class
that is neither shown nor predicted no precision and no F1, and means leave them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .accuracy import accuracy_ci95
from .arrays import FloatArray, check_class_names, label_matrix, score_array
from .ranking import draw_images, drawn_mean_average_precision, reflected_interval

BoolArray = NDArray[np.bool_]

DEFAULT_THRESHOLD = 0.5


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) of each logit, in float64 and without overflow."""
    found: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))
    return found


def logit(probabilities: ArrayLike, floor: float = 1e-12) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of each probability, which is taken to be at least `floor` from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), floor, 1 - floor)
    return np.log(p) - np.log1p(-p)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return the average precision of each class, as scikit-learn's `average_precision_score` has it.

    With the thresholds t_1 > t_2 > ... at the distinct scores of a class, P_k and R_k precision and recall of the images whose
    score is at least t_k, it is sum_k (R_k - R_{k-1}) P_k: no interpolation, and equal scores count as one threshold.

    Args:
        scores: real numbers [n, C], larger is likelier; logits and probabilities rank alike.
        labels: booleans [n, C].

    Returns:
        float64 [C], NaN for a class without positives.

    Raises:
        ValueError: arrays of other shapes or types, no sample, or scores that are NaN or infinite.
    """
    scores = score_array(scores, finite=True)
    labels = label_matrix(labels, scores.shape)
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=0)
    found = np.take_along_axis(labels, order, axis=0).cumsum(axis=0)
    last = np.concatenate([ranked[1:] != ranked[:-1], np.ones((1, scores.shape[1]), dtype=bool)])  # of equal scores
    before = np.concatenate([np.zeros((1, scores.shape[1]), dtype=np.int64), np.where(last, found, 0)[:-1]])
    gained = np.where(last, found - np.maximum.accumulate(before, axis=0), 0)
    precision = found / np.arange(1, len(scores) + 1)[:, None]
    positives = found[-1]
    return np.where(positives > 0, (gained * precision).sum(axis=0) / np.maximum(positives, 1), np.nan)


def mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of `average_precision` over the classes that have positives; NaN where none has."""
    defined = average_precision(scores, labels)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if len(defined) else math.nan


def random_average_precision(positives: ArrayLike, images: int) -> NDArray[np.float64]:
    """Return the average precision that a random order without ties has on average, for each class.

    With P positives among n images and H_n = 1 + 1/2 + ... + 1/n it is (P - 1) / (n - 1) (1 - H_n / n) + H_n / n: more than the
    prevalence P / n, several times as much where positives are few.

    Source: Y. Bestgen, Exact expected average precision of the random baseline (2015).

    Args:
        positives: P [C], at least 1.
        images: n.
    """
    harmonic = float((1.0 / np.arange(1, images + 1)).sum()) / images
    return (np.asarray(positives, dtype=np.float64) - 1) / max(images - 1, 1) * (1 - harmonic) + harmonic


def mean_average_precision_ci95(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """Return the 95 % basic bootstrap interval of the mean average precision, of 1,000 draws with a fixed seed.

    Each draw takes n images with replacement, or whole groups where images belong together; classes without positives in a draw
    are left out of its mean. It speaks of other images for this model, not of other trainings. Of a single image, or a single
    group, nothing can be drawn that says anything of others: 0 to 1.

    Args:
        scores: real numbers [n, C].
        labels: booleans [n, C].
        groups: one value an image [n].
    """
    scores = score_array(scores, finite=True)
    labels = label_matrix(labels, scores.shape)
    if len(scores if groups is None else np.unique(np.asarray(groups))) < 2:
        return 0.0, 1.0
    values = drawn_mean_average_precision(scores, labels, draw_images(len(scores), groups))
    if np.isnan(values).all():
        return 0.0, 1.0
    units = len(scores if groups is None else np.unique(np.asarray(groups)))
    return reflected_interval(mean_average_precision(scores, labels), values, units)


def best_f1_thresholds(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return for each class the threshold with the best F1 = 2 TP / (2 TP + FP + FN) of predicting it at or above.

    Between two neighbouring probabilities every threshold predicts the same, and their middle is taken (below the lowest one,
    half of it). Of cuts with equal F1 it is the one whose threshold is nearest to 0.5, of equally near ones the higher. A class
    without positives says nothing, and gets 0.5.

    Args:
        probabilities: real numbers [n, C] from 0 to 1, of images the model was not trained on (the validation split).
        labels: booleans [n, C].

    Returns:
        float64 [C], each above 0 and below 1.

    Raises:
        ValueError: arrays of other shapes or types, no sample, or values that are no probabilities.
    """
    scores = score_array(probabilities, name="probabilities", finite=True).astype(np.float64)
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("probabilities: expected values from 0 to 1; pass logits through a sigmoid")
    labels = label_matrix(labels, scores.shape)
    return np.array([_best_threshold(p, y) for p, y in zip(scores.T, labels.T, strict=True)])


def _best_threshold(probabilities: NDArray[np.float64], labels: BoolArray) -> float:
    """Return the threshold of one class; see `best_f1_thresholds`."""
    if not labels.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    f1 = 2 * labels[order].cumsum()[last] / (last + 1 + labels.sum())
    middles = (ranked[last] + np.append(ranked[last][1:], 0.0)) / 2
    thresholds = np.clip(middles, np.finfo(np.float64).tiny, np.nextafter(1.0, 0.0))
    best = np.isclose(f1, f1.max(), rtol=1e-12)
    return float(min(thresholds[best], key=lambda threshold: (abs(threshold - 0.5), -threshold)))


def predicted_at(logits: ArrayLike, thresholds: ArrayLike) -> BoolArray:
    """Return the classes whose sigmoid probability is at least their threshold, bool [n, C].

    Args:
        logits: real numbers [n, C].
        thresholds: [C], each above 0 and below 1.
    """
    return sigmoid(logits) >= np.asarray(thresholds, dtype=np.float64)


def binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean over images and classes of -log of the probability of what is true, in nats.

    It is -log sigmoid(z) where the image shows the class, -log(1 - sigmoid(z)) where it does not.

    Args:
        logits: finite real numbers [n, C].
        labels: booleans [n, C].
    """
    logits = score_array(logits, name="logits", finite=True)
    labels = label_matrix(labels, logits.shape)
    wrong = np.where(labels, -logits, logits).astype(np.float64)
    return float(np.logaddexp(0.0, wrong).mean())


def f1_scores(predicted: BoolArray, labels: BoolArray) -> NDArray[np.float64]:
    """Return the F1 of each class, float64 [C]; NaN for a class that is neither shown nor predicted."""
    right, counted = (predicted & labels).sum(axis=0), predicted.sum(axis=0) + labels.sum(axis=0)
    return np.where(counted > 0, 2 * right / np.maximum(counted, 1), np.nan)


def quick_multi_label_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the two figures that are watched during training, for a Trainer's `compute_metrics`.

    Args:
        logits: finite real numbers [n, C].
        labels: booleans [n, C], or numbers that are 0 or 1.

    Returns:
        {"mean_average_precision", "macro_f1": mean F1, at probabilities of 0.5, of the classes that are shown or predicted};
        0 where no class is.
    """
    logits = score_array(logits, name="logits", finite=True)
    labels = label_matrix(labels, logits.shape)
    f1 = f1_scores(predicted_at(logits, np.full(logits.shape[1], DEFAULT_THRESHOLD)), labels)
    found = {"mean_average_precision": mean_average_precision(logits, labels), "macro_f1": _mean(f1)}
    return {name: 0.0 if value is None or math.isnan(value) else value for name, value in found.items()}


def multi_label_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    thresholds: ArrayLike,
    *,
    skipped: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return the figures of one evaluated split, JSON-ready.

    Args:
        logits: finite real numbers [n, C].
        labels: booleans [n, C].
        class_names: the C names, each once.
        thresholds: [C], the probability from which each class is predicted; not chosen on these images.
        skipped: images that were left out.
        groups: one value an image [n]; images of equal value belong together.

    Returns:
        - `mean_average_precision`: mean over the classes with positives, and `mean_average_precision_ci95`;
        - `macro_f1`: mean F1 of the classes that are shown or predicted; `micro_f1`: 2 TP / (2 TP + FP + FN) over all classes;
        - `subset_accuracy`: share of images all of whose labels are right, and `subset_accuracy_ci95`, as an accuracy has it;
        - `hamming_accuracy`: share of all n C answers that are right;
        - `per_class`: {class: {average_precision, precision, recall, f1, threshold, n}}, n its positives; None where undefined;
        - `nll`: mean binary cross-entropy an answer, in nats;
        - `random_baseline`: the mean average precision that a random order of the images has on average;
        - `labels_per_image`; `n` and `skipped`; between them, only with groups, `groups`: their number.

        None stands for a figure that is undefined because no class has positives, or none is predicted either.

    Raises:
        ValueError: arrays of the wrong shape, type or length, no sample, logits that are not finite, class names that are
            repeated or not C, a negative `skipped`, or not one group a sample.
    """
    logits = score_array(logits, name="logits", finite=True)
    labels = label_matrix(labels, logits.shape)
    check_class_names(class_names, logits.shape[1])
    if skipped < 0:
        raise ValueError(f"expected 0 or more skipped samples, found {skipped}")
    limits = np.asarray(thresholds, dtype=np.float64)
    predicted = predicted_at(logits, limits)
    ranking = average_precision(logits, labels)
    positives = labels.sum(axis=0)
    all_right = (predicted == labels).all(axis=1)
    counted = int(predicted.sum() + labels.sum())
    metrics: dict[str, Any] = {
        "mean_average_precision": _mean(ranking),
        "mean_average_precision_ci95": list(mean_average_precision_ci95(logits, labels, groups)),
        "macro_f1": _mean(f1_scores(predicted, labels)),
        "micro_f1": 2 * int((predicted & labels).sum()) / counted if counted else None,
        "subset_accuracy": float(all_right.mean()),
        "subset_accuracy_ci95": list(accuracy_ci95(all_right, groups)),
        "hamming_accuracy": float((predicted == labels).mean()),
        "per_class": _per_class(predicted, labels, ranking, limits, class_names),
        "nll": binary_cross_entropy(logits, labels),
        "random_baseline": _mean(random_average_precision(positives[positives > 0], len(labels))),
        "labels_per_image": float(labels.sum(axis=1).mean()),
        "n": len(labels),
    }
    if groups is not None:
        metrics["groups"] = len(np.unique(np.asarray(groups)))
    metrics["skipped"] = int(skipped)
    return metrics


def _per_class(
    predicted: BoolArray,
    labels: BoolArray,
    ranking: NDArray[np.float64],
    thresholds: FloatArray,
    class_names: Sequence[str],
) -> dict[str, dict[str, float | int | None]]:
    right, named, shown = ((predicted & labels).sum(axis=0), predicted.sum(axis=0), labels.sum(axis=0))
    f1 = f1_scores(predicted, labels)
    return {
        name: {
            "average_precision": _defined(ranking[c]),
            # As in `per_class`: of a class that is there and never predicted it is 0, of one that is not there undefined.
            "precision": float(right[c] / named[c]) if named[c] else 0.0 if shown[c] else None,
            "recall": float(right[c] / shown[c]) if shown[c] else None,
            "f1": _defined(f1[c]),
            "threshold": float(thresholds[c]),
            "n": int(shown[c]),
        }
        for c, name in enumerate(class_names)
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is defined, None where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
