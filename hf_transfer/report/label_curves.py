"""Several labels an image: every threshold at once, as a precision-recall curve of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.multi_label import average_precision
from .figures import drawing, literal, new_figure, save_figure
from .label_scores import LabelScores
from .names import shown_names

MOST_CURVES = 12
# Okabe and Ito's palette without its yellow; a second round of it is dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", (0, (4, 1.5)))
_NAME_WIDTH = 26


def plot_precision_recall(scores: LabelScores, output: Path) -> bool:
    """Draw the precision-recall curve of each class into a PNG, with a dot where its threshold lies.

    Of more than 12 classes with positives, those with the lowest average precision.

    Args:
        scores: of a split.
        output: the PNG to write; its folder is made if need be.

    Returns:
        Whether it was drawn: not where no image shows any class.
    """
    if not scores.predictions.labels.any():
        return False
    with drawing():
        save_figure(draw_precision_recall(scores), output)
    return True


def draw_precision_recall(scores: LabelScores) -> Any:
    """Return the figure of `plot_precision_recall`; see there."""
    from sklearn.metrics import precision_recall_curve

    found = scores.predictions
    average = average_precision(found.logits, found.labels)
    known = np.flatnonzero(~np.isnan(average))
    shown = sorted(known[np.argsort(average[known], kind="stable")][:MOST_CURVES].tolist())
    names = [literal(name) for name in shown_names([found.class_names[label] for label in shown], _NAME_WIDTH)]
    figure = new_figure(8.2, 5.2)
    axis = figure.subplots()
    for place, (label, name) in enumerate(zip(shown, names, strict=True)):
        colour, style = _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS)]
        labels, predicted = found.labels[:, label], found.predicted[:, label]
        precision, recall, _ = precision_recall_curve(labels, scores.probabilities[:, label])
        title = f"{name}\nAP {average[label]:.3f}, of {int(labels.sum()):,} images"
        axis.step(recall, precision, where="post", color=colour, linestyle=style, linewidth=1.6, label=title)
        if predicted.any():
            right = int((labels & predicted).sum())
            axis.plot(right / labels.sum(), right / predicted.sum(), "o", color=colour, markersize=6, zorder=4, clip_on=False)
    of_all = f"the {len(shown)} of {len(known)} classes with the lowest average precision" if len(known) > len(shown) else ""
    axis.set_title("\n".join(filter(None, ["Precision and recall at every threshold", of_all])), fontsize=11)
    axis.set_xlabel("recall: share of the images with the class that are found; dot: at its threshold")
    axis.set_ylabel("precision: share of the found that have it")
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axis.grid(True, color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8, borderaxespad=0)
    return figure
