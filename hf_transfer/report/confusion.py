"""The confusion matrix: which class is taken for which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .figures import drawing, literal, new_figure, save_figure, text_width
from .names import shown_names

MAX_CLASSES_WITH_NUMBERS = 20
MAX_CLASSES_SIDE_BY_SIDE = 40
_MAX_NAMED = 60  # classes named along an axis
_NAME_WIDTH = 24  # columns of text a class name may take


def plot_confusion_matrix(labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str], output: Path) -> None:
    """Draw the confusion matrix into a PNG: true classes downwards, predicted classes to the right.

    Up to 40 classes the counts stand beside the share of each true class; up to 20 every cell has its number. Above 40
    only the shares are drawn; above 60 one class in a few is named.

    Args:
        labels: integers [n], 0 <= label < C.
        predicted: integers [n]; a value that is no class (such as -1, no prediction) counts as wrong and has no column.
        class_names: the C names; any text.
        output: the PNG to write; its folder is made if need be.

    Raises:
        ValueError: no class, no sample, arrays of different lengths, or a label outside the classes.
    """
    with drawing():
        save_figure(draw_confusion_matrix(labels, predicted, class_names), output)


def draw_confusion_matrix(labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str]) -> Any:
    """Return the figure of `plot_confusion_matrix`; see there."""
    counts, per_row = _count(labels, predicted, len(class_names))
    shares = np.divide(counts, per_row[:, None], out=np.full(counts.shape, np.nan), where=per_row[:, None] > 0)
    total, outside = int(per_row.sum()), int(per_row.sum() - counts.sum())
    layout = _Layout.of(class_names, note=outside > 0)
    figure = new_figure(layout.width, layout.height, layout=None)
    if layout.panels == 2:
        title = f"Images ({total:,} in all)"
        _draw_panel(figure, 0, counts, title, layout, numbers=_count_texts(counts), top=counts.max())
    title = "Share of the true class, in %"
    _draw_panel(figure, layout.panels - 1, shares, title, layout, numbers=_share_texts(shares), top=1.0)
    every = "" if layout.stride == 1 else f" (one in {layout.stride} is named)"
    figure.axes[0].set_ylabel("true class" + every)
    if outside:
        note = f"{outside:,} of the {total:,} images were given no class; they have no column."
        figure.text(0.5, 0.08 / layout.height, note, ha="center", va="bottom", fontsize=9, color="#444444")
    return figure


def _count(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts [C, C] and the images of each true class [C], which include those predicted as no class."""
    true, guess = np.asarray(labels), np.asarray(predicted)
    if n_classes < 1:
        raise ValueError("expected at least one class name, found none")
    if true.ndim != 1 or true.shape != guess.shape or not true.size:
        raise ValueError(
            f"expected labels and predictions of the same length, at least 1; found shapes {true.shape} and {guess.shape}"
        )
    if true.dtype.kind not in "iu" or guess.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers, found labels {true.dtype} and predictions {guess.dtype}")
    if true.min() < 0 or true.max() >= n_classes:
        raise ValueError(f"expected labels from 0 to {n_classes - 1}, found {true.min()} to {true.max()}")
    known = (guess >= 0) & (guess < n_classes)
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (true[known], guess[known]), 1)
    return counts, np.bincount(true, minlength=n_classes).astype(np.int64)


@dataclass(frozen=True)
class _Layout:
    """Where everything goes: sizes in inches, fonts in points."""

    panels: int
    panel: float
    left: float
    bottom: float
    pitch: float  # from the left edge of one panel to that of the next
    width: float
    height: float
    tick_font: float
    stride: int
    ticks: list[int]
    names: list[str]
    rotation: int

    @classmethod
    def of(cls, class_names: Sequence[str], note: bool) -> _Layout:
        """Return the layout for these names, `note` leaving room for a line below."""
        n_classes = len(class_names)
        panels = 2 if n_classes <= MAX_CLASSES_SIDE_BY_SIDE else 1
        panel = min(8.4, max(2.6, 2.2 + 0.27 * n_classes)) if panels == 2 else 8.8
        stride = math.ceil(n_classes / _MAX_NAMED)
        ticks = list(range(0, n_classes, stride))
        names = [literal(name) for name in shown_names(class_names, _NAME_WIDTH)[::stride]]
        room = panel / len(ticks)
        tick_font = min(10.0, max(6.5, 72 * room * 0.7))
        longest = max(text_width(name, tick_font) for name in names)
        rotation = 0 if longest < 0.92 * room else 45 if len(ticks) <= 12 else 90
        below = {0: tick_font / 72, 45: 0.71 * longest + tick_font / 72, 90: longest}[rotation]
        # Slanted names reach out to the left of the first column.
        overhang = max(0.0, 0.71 * longest - room / 2) if rotation == 45 else 0.0
        left = 0.5 + max(longest, overhang - 0.4)
        bottom = below + 0.5 + (0.3 if note else 0.0)
        pitch = panel + max(0.35, overhang + 0.1) + (0.6 if n_classes > MAX_CLASSES_WITH_NUMBERS else 0.0)
        right = 0.75 if n_classes > MAX_CLASSES_WITH_NUMBERS else 0.15
        return cls(
            panels=panels,
            panel=panel,
            left=left,
            bottom=bottom,
            pitch=pitch,
            width=left + (panels - 1) * pitch + panel + right,
            height=bottom + panel + 0.42,
            tick_font=tick_font,
            stride=stride,
            ticks=ticks,
            names=names,
            rotation=rotation,
        )

    def box(self, left: float, width: float) -> tuple[float, float, float, float]:
        """Return (left, bottom, width, height) of something as high as a panel, in shares of the figure."""
        return left / self.width, self.bottom / self.height, width / self.width, self.panel / self.height


def _draw_panel(
    figure: Any,
    position: int,
    values: NDArray[Any],
    title: str,
    layout: _Layout,
    numbers: list[list[str]],
    top: float,
) -> None:
    import matplotlib
    from matplotlib.colors import PowerNorm

    left = layout.left + position * layout.pitch
    axis = figure.add_axes(layout.box(left, layout.panel))
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#ececec")
    crowded = len(values) > MAX_CLASSES_WITH_NUMBERS
    # With many classes the mistakes of a class are spread thin: the square root keeps them visible.
    norm = PowerNorm(0.5 if crowded else 1.0, vmin=0, vmax=max(float(top), 1e-9))
    image = axis.imshow(values, cmap=colours, norm=norm, aspect="equal")
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("predicted class")
    slanted = layout.rotation == 45
    axis.set_xticks(
        layout.ticks,
        layout.names,
        rotation=layout.rotation,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
        fontsize=layout.tick_font,
    )
    axis.set_yticks(layout.ticks, layout.names if position == 0 else [""] * len(layout.ticks), fontsize=layout.tick_font)
    axis.tick_params(length=2 if crowded else 0)
    for side in ("top", "right", "bottom", "left"):
        axis.spines[side].set_visible(crowded)
    if crowded:
        bar = figure.colorbar(image, cax=figure.add_axes(layout.box(left + layout.panel + 0.15, 0.18)))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
        if top == 1.0:
            bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1], labels=["0", "1", "5", "10", "25", "50", "75", "100"])
        return
    axis.set_xticks(np.arange(len(values) - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(len(values) - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.2)
    axis.tick_params(which="minor", length=0)
    cell = 72 * layout.panel / len(values)
    digits = max(len(number) for row in numbers for number in row)
    size = min(11.0, cell * 0.82 / (0.62 * max(digits, 2)), cell * 0.6)
    for row, cells in enumerate(numbers):
        for column, number in enumerate(cells):
            value = values[row, column]
            colour = "white" if value > 0.55 * top else "#b5b5b5" if number in ("0", "") else "#1a1a1a"
            axis.text(column, row, number, ha="center", va="center", fontsize=size, color=colour)


def _count_texts(counts: NDArray[np.int64]) -> list[list[str]]:
    return [[f"{count}" for count in row] for row in counts.tolist()]


def _share_texts(shares: NDArray[np.float64]) -> list[list[str]]:
    """Return percentages; a class without images has none, and what is not quite 0 or 100 does not read as such."""
    return [["" if math.isnan(share) else _percentage(share) for share in row] for row in shares.tolist()]


def _percentage(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.5:
        return "<1"
    if 99.5 <= percent < 100:
        return ">99"
    return f"{percent:.0f}"
