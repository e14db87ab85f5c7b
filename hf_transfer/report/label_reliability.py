"""Several labels an image: is a class that was given 80 % there 8 times in 10?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.calibration import calibration_bins
from .figures import drawing, literal, new_figure, save_figure
from .label_scores import LabelScores

N_BINS = 15
_BLUE, _GAP, _GREY = "#0072B2", "#D55E00", "#8a8a8a"


def plot_label_reliability(scores: LabelScores, split: str, output: Path) -> None:
    """Draw into a PNG how often a class is there against its probability, in 15 bins, with the answers of each bin below.

    Every class of every image is one answer. A bar reaches up to the share of a bin's answers whose class is there; the dot
    stands at their mean probability, which the share of a calibrated model equals. There are no whiskers: answers about one
    image depend on each other.

    Args:
        scores: of the split.
        split: name of the split, for the title.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_label_reliability(scores, split), output)


def draw_label_reliability(scores: LabelScores, split: str) -> Any:
    """Return the figure of `plot_label_reliability`; see there."""
    labels = scores.predictions.labels
    bins = calibration_bins(scores.probabilities.ravel(), labels.ravel(), N_BINS)
    edges, width = np.linspace(0, 1, N_BINS + 1), 1 / N_BINS
    centres, filled = (edges[:-1] + edges[1:]) / 2, bins.counts > 0
    figure = new_figure(5.4, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    upper.bar(centres[filled], bins.accuracy[filled], width * 0.92, color=_BLUE, alpha=0.45, label="class is there", zorder=2)
    upper.plot(
        bins.confidence[filled], bins.confidence[filled], "o", color=_GAP, markersize=5, label="mean probability", zorder=4
    )
    count, classes = labels.shape
    upper.set_title(f"{count:,} images, {classes:,} classes ({literal(split)})\nNLL {scores.loss.mean():.4f}", fontsize=11)
    upper.set_ylabel("share of answers whose class is there")
    upper.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    upper.grid(True, color="#e6e6e6", linewidth=0.7)
    upper.set_axisbelow(True)
    lower.bar(centres[filled], bins.counts[filled], width * 0.92, color=_GREY)
    lower.set_yscale("log")
    lower.set_ylim(0.7, 8 * bins.counts.max())
    for centre, answers in zip(centres[filled], bins.counts[filled].tolist(), strict=True):
        lower.annotate(
            f"{answers:,}", (centre, answers), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=6
        )
    lower.set_ylabel("answers")
    lower.set_xlabel("probability of a class")
    return figure
