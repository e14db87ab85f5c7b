"""Sheets of images with their captions: the highest losses, and the most confused pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import drawing, literal, new_figure, save_figure, text_width
from .mistakes import ConfusedPair, Example
from .names import shown_names

if TYPE_CHECKING:
    from PIL import Image

NOT_FOUND = "image not found"
NO_CLASS = "no class"
TILE, GAP, LINE = 1.55, 0.2, 0.165  # inches
COLUMNS = 6
CAPTION, SIDE = 17, 34  # columns of text that a class name may take
SIDE_FONT = 9  # points, of what is said of a pair
WRONG, RIGHT, GREY = "#c0392b", "#2e7d32", "#8a8a8a"

Images = Mapping[str, "Image.Image"]


def plot_top_losses(examples: Sequence[Example], images: Images, output: Path) -> None:
    """Draw images in the order given, with their true class, the class they were given, its probability and the loss.

    Args:
        examples: at least one.
        images: sample id to thumbnail; an image that is not there becomes an empty tile that says so.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_top_losses(examples, images), output)


def draw_top_losses(examples: Sequence[Example], images: Images) -> Any:
    """Return the figure of `plot_top_losses`; see there."""
    columns = min(COLUMNS, len(examples))
    rows = -(-len(examples) // columns)
    pitch = TILE + 3 * LINE + GAP
    width = max(columns * (TILE + GAP) + GAP, 3.6)
    sheet = Sheet(width, rows * pitch + GAP)
    names = _short_names(examples, CAPTION)
    for position, example in enumerate(examples):
        row, column = divmod(position, columns)
        left, top = GAP + column * (TILE + GAP), GAP + row * pitch
        sheet.tile(left, top, images.get(example.sample_id), RIGHT if example.is_right else WRONG)
        captions = [
            f"true: {names[example.label]}",
            f"given: {NO_CLASS if example.predicted is None else names[example.predicted]}",
            f"p {example.confidence:.3f}, loss {example.loss:.2f}",
        ]
        for line, text in enumerate(captions):
            sheet.text(left, top + TILE + 0.04 + line * LINE, text, 7.5, "#1a1a1a" if line < 2 else "#555555")
    return sheet.figure


def plot_confused_pairs(pairs: Sequence[ConfusedPair], images: Images, output: Path) -> None:
    """Draw a row for each pair: how many images of a class are taken for the other, and some of these images.

    Args:
        pairs: at least one.
        images: sample id to thumbnail; an image that is not there becomes an empty tile that says so.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_confused_pairs(pairs, images), output)


def draw_confused_pairs(pairs: Sequence[ConfusedPair], images: Images) -> Any:
    """Return the figure of `plot_confused_pairs`; see there."""
    columns = max(len(pair.examples) for pair in pairs)
    pitch = TILE + LINE + GAP
    names = _short_names(pairs, SIDE)
    said = [
        [
            (names[pair.label], "#1a1a1a"),
            ("taken for", "#555555"),
            (names[pair.predicted], WRONG),
            (f"{pair.count:,} of {pair.of:,} images", "#555555"),
        ]
        for pair in pairs
    ]
    side = 0.3 + max(text_width(literal(text), SIDE_FONT) for lines in said for text, _ in lines)
    sheet = Sheet(GAP + side + columns * (TILE + GAP), len(pairs) * pitch + GAP)
    for row, (pair, lines) in enumerate(zip(pairs, said, strict=True)):
        top = GAP + row * pitch
        for line, (text, colour) in enumerate(lines):
            sheet.text(GAP, top + 0.4 + line * 0.22, text, SIDE_FONT, colour)
        for column, example in enumerate(pair.examples):
            left = GAP + side + column * (TILE + GAP)
            sheet.tile(left, top, images.get(example.sample_id), WRONG)
            sheet.text(left, top + TILE + 0.04, f"p {example.confidence:.3f}", 7.5, "#555555")
    return sheet.figure


def _short_names(items: Sequence[Example] | Sequence[ConfusedPair], width: int) -> dict[str, str]:
    """Return what each class is called on a sheet: names of `width` columns that can be told apart."""
    names = list(dict.fromkeys(name for item in items for name in (item.label, item.predicted) if name is not None))
    return dict(zip(names, shown_names(names, width), strict=True))


class Sheet:
    """A figure measured in inches from its upper left corner; one axis for everything, which is fast."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height, layout=None)
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self._width, self._height = width, height
        self._set_limits()

    def tile(self, left: float, top: float, image: Image.Image | None, colour: str) -> None:
        """Draw an image into a square, or an empty one, with a frame of this colour."""
        from matplotlib.patches import Rectangle

        corner = (left, top)
        self.axis.add_patch(Rectangle(corner, TILE, TILE, facecolor="#f2f2f2", edgecolor="none", zorder=1))
        if image is None:
            middle = (left + TILE / 2, top + TILE / 2)
            self.axis.text(*middle, NOT_FOUND, ha="center", va="center", fontsize=8, color=GREY)
        else:
            scale = TILE / max(image.size)
            width, height = image.width * scale, image.height * scale
            x, y = left + (TILE - width) / 2, top + (TILE - height) / 2
            self.axis.imshow(np.asarray(image), extent=(x, x + width, y + height, y), aspect="auto", zorder=2)
            self._set_limits()
        self.axis.add_patch(Rectangle(corner, TILE, TILE, facecolor="none", edgecolor=colour, linewidth=1.5, zorder=3))

    def text(self, left: float, top: float, text: str, size: float, colour: str) -> None:
        """Write a line of text below and right of a point."""
        self.axis.text(left, top, literal(text), ha="left", va="top", fontsize=size, color=colour, zorder=4)

    def _set_limits(self) -> None:
        self.axis.set(xlim=(0, self._width), ylim=(self._height, 0))
