"""The reliability diagram: does a prediction made with 80 % confidence come true 8 times in 10?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.calibration import calibration_bins, expected_calibration_error
from ..metrics.intervals import wilson_interval
from .figures import drawing, literal, new_figure, save_figure
from .scores import Scores

N_BINS = 15
_BLUE, _GAP, _GREY = "#0072B2", "#D55E00", "#8a8a8a"


def plot_reliability(scores: Scores, temperature: float | None, split: str, output: Path) -> None:
    """Draw accuracy against confidence in 15 bins, with the images of each bin below, into a PNG.

    A bar reaches up to the accuracy of its bin, the whisker is Wilson's 95 % interval; the dot stands at the bin's mean
    confidence, which the accuracy of a calibrated model equals. The diagram after temperature scaling stands beside the first.

    Args:
        scores: of the split.
        temperature: what the logits are divided by in the second diagram; None for a single one.
        split: name of the split, for the titles.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_reliability(scores, temperature, split), output)


def draw_reliability(scores: Scores, temperature: float | None, split: str) -> Any:
    """Return the figure of `plot_reliability`; see there."""
    panels = [(f"As saved ({literal(split)})", scores)]
    if temperature is not None:
        panels.append((f"Logits divided by {temperature:.3g}", scores.scaled(temperature)))
    figure = new_figure(4.9 * len(panels), 5.6)
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": (3, 1)})
    for column, (title, found) in enumerate(panels):
        _draw_bins(axes[0, column], axes[1, column], found)
        error = expected_calibration_error(found.confidence, found.correct, N_BINS)
        axes[0, column].set_title(f"{title}\nECE {error:.4f}, NLL {found.loss.mean():.4f}", fontsize=11)
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel("images")
    # Numbers above the bars of counts need room, also in the column whose bars are lower.
    axes[1, 0].set_ylim(0, 1.3 * max(bar.get_height() for axis in axes[1] for bar in axis.patches))
    return figure


def _draw_bins(upper: Any, lower: Any, scores: Scores) -> None:
    bins = calibration_bins(scores.confidence, scores.correct, N_BINS)
    edges = np.linspace(0, 1, N_BINS + 1)
    centres, width = (edges[:-1] + edges[1:]) / 2, 1 / N_BINS
    filled = bins.counts > 0
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    upper.bar(centres[filled], bins.accuracy[filled], width * 0.92, color=_BLUE, alpha=0.45, label="accuracy", zorder=2)
    right = np.rint(bins.accuracy[filled] * bins.counts[filled]).astype(int)
    bounds = np.array([wilson_interval(k, n) for k, n in zip(right.tolist(), bins.counts[filled].tolist(), strict=True)])
    away = np.abs(bounds.T - bins.accuracy[filled])
    upper.errorbar(
        centres[filled], bins.accuracy[filled], yerr=away, fmt="none", ecolor=_BLUE, elinewidth=1, capsize=2, zorder=3
    )
    upper.plot(
        bins.confidence[filled], bins.confidence[filled], "o", color=_GAP, markersize=5, label="mean confidence", zorder=4
    )
    upper.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    upper.grid(True, color="#e6e6e6", linewidth=0.7)
    upper.set_axisbelow(True)
    lower.bar(centres, bins.counts, width * 0.92, color=_GREY)
    for centre, count in zip(centres[filled], bins.counts[filled].tolist(), strict=True):
        lower.annotate(
            f"{count:,}", (centre, count), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=7
        )
    lower.set_xlabel("confidence (probability of the predicted class)")
