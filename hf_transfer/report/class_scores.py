"""Precision, recall and F1 of each class, of several labels an image its average precision too; of many classes, the worst."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import drawing, literal, new_figure, save_figure, text_width
from .formats import finite
from .names import shown_names

MAX_CLASSES = 40
WORST_SHOWN = 30
_NAME_WIDTH = 32  # columns of text a class name may take
_ROW, _MARGIN, _PLOT = 0.27, 1.15, 5.2  # inches
# Okabe and Ito's palette; the shapes tell them apart without it.
_MARKS = {"precision": (">", "#0072B2"), "recall": ("<", "#D55E00"), "f1": ("o", "#1a1a1a")}
_RANKING = "average_precision"
_TITLES = {"precision": "precision", "recall": "recall", "f1": "F1"}
_BAR = "#009E73"

ClassScores = Mapping[str, Mapping[str, Any]]


def worst_first(per_class: ClassScores, most: int, key: str = "f1") -> list[str]:
    """Return the names of the `most` classes with the lowest F1, the lowest first; classes without an F1 are left out.

    Args:
        per_class: as in metrics.json.
        most: how many.
        key: another figure to go by.
    """
    scored = [(value, name) for name, scores in per_class.items() if (value := finite(scores.get(key))) is not None]
    return [name for _, name in sorted(scored, key=lambda item: item[0])[:most]]


def plot_class_scores(per_class: ClassScores, output: Path) -> None:
    """Draw precision, recall and F1 of each class, with its number of images, into a PNG.

    Up to 40 classes all of them in their order; of more, the 30 with the lowest F1, the lowest first. Where classes have an
    average precision, that is a bar, and it is what the lowest are found by.

    Args:
        per_class: {class: {"precision", "recall", "f1", "n"}} as in metrics.json, with "average_precision" where images may
            have several labels; None where a value is undefined.
        output: the PNG to write; its folder is made if need be.

    Raises:
        ValueError: no class.
    """
    with drawing():
        save_figure(draw_class_scores(per_class), output)


def draw_class_scores(per_class: ClassScores) -> Any:
    """Return the figure of `plot_class_scores`; see there."""
    if not per_class:
        raise ValueError("expected at least one class, found none")
    many = len(per_class) > MAX_CLASSES
    ranked = any(_RANKING in scores for scores in per_class.values())
    classes = worst_first(per_class, WORST_SHOWN, _RANKING if ranked else "f1") if many else list(per_class)
    names = [literal(name) for name in shown_names(classes, _NAME_WIDTH)]
    left = 0.25 + max((text_width(name, 9) for name in names), default=0.0)
    width, height = left + _PLOT + 0.95, _MARGIN + _ROW * max(len(classes), 2)
    figure = new_figure(width, height, layout=None)
    axis = figure.add_axes((left / width, 0.55 / height, _PLOT / width, 1 - _MARGIN / height))
    positions = range(len(classes))
    for row, name in enumerate(classes):
        values = [value for key in _MARKS if (value := finite(per_class[name].get(key))) is not None]
        if values and not ranked:
            axis.plot([min(values), max(values)], [row, row], color="#c9c9c9", linewidth=2, zorder=1)
        axis.annotate(
            f"{finite(per_class[name].get('n')) or 0:,.0f}",
            (1, row),
            xycoords=axis.get_yaxis_transform(),
            xytext=(48, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color="#444444",
        )
    if ranked:
        bars = [finite(per_class[name].get(_RANKING)) or 0.0 for name in classes]
        axis.barh(list(positions), bars, height=0.62, color=_BAR, alpha=0.4, label="average precision", zorder=1)
    for key, (marker, colour) in _MARKS.items():
        points = [(value, row) for row in positions if (value := finite(per_class[classes[row]].get(key))) is not None]
        # Circles are open, so that a precision or a recall of the same value shows inside.
        face = "none" if key == "f1" else colour
        axis.plot(
            [value for value, _ in points],
            [row for _, row in points],
            linestyle="none",
            marker=marker,
            markersize=7 if key == "f1" else 5.5,
            color=colour,
            markerfacecolor=face,
            label=_TITLES[key],
            clip_on=False,
            zorder=3,
        )
    axis.set_yticks(list(positions), names, fontsize=9)
    axis.set_ylim(max(len(classes), 2) - 0.5, -0.5)
    lowest = 0.0 if ranked else _lowest_shown([per_class[name].get(key) for name in classes for key in _MARKS])
    axis.set_xlim(lowest, 1)
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x", color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)
    head = 1 - 0.3 / height
    figure.text((left + _PLOT) / width + 48 / 72 / width, head, "images", ha="right", va="center", fontsize=9, color="#444444")
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="center left",
        bbox_to_anchor=((left - 0.1) / width, head),
        ncols=4 if ranked else 3,
        frameon=False,
        fontsize=9,
        borderaxespad=0,
        handletextpad=0.3,
    )
    if many:
        figure_name = "average precision" if ranked else "F1"
        axis.set_xlabel(f"the {len(classes)} of {len(per_class)} classes with the lowest {figure_name}")
    return figure


def _lowest_shown(values: list[object]) -> float:
    """Return where the axis begins: at 0, or higher where all values are high and would else lie on one another."""
    known = [value for value in map(finite, values) if value is not None]
    return max(start for start in (0.0, 0.5, 0.8, 0.9) if start == 0 or min(known, default=0.0) >= start + 0.01)
