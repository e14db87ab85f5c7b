"""Two classes: every threshold at once, as ROC and precision-recall curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.predictions import Predictions
from .figures import drawing, literal, new_figure, save_figure
from .names import shown_names

_COLOURS = ("#0072B2", "#D55E00")
_GREY = "#8a8a8a"


def plot_binary_curves(predictions: Predictions, output: Path) -> bool:
    """Draw the ROC curve and the precision-recall curve of each of two classes into a PNG.

    The ROC curve and its area (AUC) are the same whichever class is called positive; average precision (AP, no
    interpolation) is not, so both classes have a curve. A dotted line is what chance reaches.

    Args:
        predictions: of a model of two classes.
        output: the PNG to write; its folder is made if need be.

    Returns:
        Whether it was drawn: not with another number of classes, or when one of them has no image.
    """
    if len(predictions.class_names) != 2 or len(np.unique(predictions.labels)) != 2:
        return False
    with drawing():
        save_figure(draw_binary_curves(predictions), output)
    return True


def draw_binary_curves(predictions: Predictions) -> Any:
    """Return the figure of `plot_binary_curves`; see there."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    names = [literal(name) for name in shown_names(predictions.class_names, 24)]
    figure = new_figure(9.4, 4.9)
    roc, recall_axis = figure.subplots(1, 2)
    margin = _margin(predictions)
    false_positive, true_positive, _ = roc_curve(predictions.labels == 1, margin)
    area = roc_auc_score(predictions.labels == 1, margin)
    roc.plot(false_positive, true_positive, color=_COLOURS[1], linewidth=1.8)
    roc.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    roc.set_title(f"ROC: AUC {area:.4f}", fontsize=11)
    roc.set_xlabel(f"share of '{names[0]}' taken for '{names[1]}'")
    roc.set_ylabel(f"share of '{names[1]}' found")
    for label in (1, 0):
        positive, scores = predictions.labels == label, margin if label else -margin
        precision, recall, _ = precision_recall_curve(positive, scores)
        average = average_precision_score(positive, scores)
        said = f"{names[label]}\nAP {average:.4f}"
        recall_axis.step(recall, precision, where="post", color=_COLOURS[label], linewidth=1.8, label=said)
        recall_axis.axhline(positive.mean(), color=_COLOURS[label], linewidth=1, linestyle=":")
    recall_axis.set_title("Precision and recall", fontsize=11)
    recall_axis.set_xlabel("recall")
    recall_axis.set_ylabel("precision")
    recall_axis.legend(loc="lower left", frameon=True, edgecolor="none", framealpha=0.85, fontsize=9)
    for axis in (roc, recall_axis):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        axis.grid(True, color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
    return figure


def _margin(predictions: Predictions) -> NDArray[np.float64]:
    """Return how far the second class's score is above the first's, float64 [n], finite; 0 where neither has one."""
    scores = np.maximum(predictions.logits.astype(np.float64), -1e4)
    return scores[:, 1] - scores[:, 0]
