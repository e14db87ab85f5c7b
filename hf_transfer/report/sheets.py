"""Sheets of images with their captions: the highest losses, and the most confused pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
INK, ASIDE = "#1a1a1a", "#555555"

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
    names = _short_names(examples, CAPTION)
    tiles = []
    for example in examples:
        captions = [
            (f"true: {names[example.label]}", INK),
            (f"given: {NO_CLASS if example.predicted is None else names[example.predicted]}", INK),
            (f"p {example.confidence:.3f}, loss {example.loss:.2f}", ASIDE),
        ]
        tiles.append(Tile(images.get(example.sample_id), RIGHT if example.is_right else WRONG, captions))
    return draw_tiles(tiles)


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
    names = _short_names(pairs, SIDE)
    rows = []
    for pair in pairs:
        said = [
            (names[pair.label], INK),
            ("taken for", ASIDE),
            (names[pair.predicted], WRONG),
            (f"{pair.count:,} of {pair.of:,} images", ASIDE),
        ]
        tiles = [Tile(images.get(e.sample_id), WRONG, [(f"p {e.confidence:.3f}", ASIDE)]) for e in pair.examples]
        rows.append(Row(said, tiles))
    return draw_rows(rows)


def _short_names(items: Sequence[Example] | Sequence[ConfusedPair], width: int) -> dict[str, str]:
    """Return what each class is called on a sheet: names of `width` columns that can be told apart."""
    names = list(dict.fromkeys(name for item in items for name in (item.label, item.predicted) if name is not None))
    return dict(zip(names, shown_names(names, width), strict=True))


@dataclass(frozen=True)
class Tile:
    """An image with what is said of it.

    Args:
        image: None for one that is not there.
        colour: of its frame.
        captions: text and colour of each line below it.
    """

    image: Image.Image | None
    colour: str
    captions: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """Images side by side, and what is said of all of them.

    Args:
        said: text and colour of each line on their left.
        tiles: the images, one caption each.
    """

    said: Sequence[tuple[str, str]]
    tiles: Sequence[Tile]


def draw_tiles(tiles: Sequence[Tile]) -> Any:
    """Return the figure of some images, at least one, all with as many captions, in rows of at most six."""
    columns = min(COLUMNS, len(tiles))
    pitch = TILE + len(tiles[0].captions) * LINE + GAP
    sheet = Sheet(max(columns * (TILE + GAP) + GAP, 3.6), -(-len(tiles) // columns) * pitch + GAP)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        sheet.tile(GAP + column * (TILE + GAP), GAP + row * pitch, tile)
    return sheet.figure


def draw_rows(rows: Sequence[Row]) -> Any:
    """Return the figure of some rows, at least one."""
    pitch = TILE + LINE + GAP
    side = 0.3 + max(text_width(literal(text), SIDE_FONT) for row in rows for text, _ in row.said)
    sheet = Sheet(GAP + side + max(len(row.tiles) for row in rows) * (TILE + GAP), len(rows) * pitch + GAP)
    for number, row in enumerate(rows):
        top = GAP + number * pitch
        for line, (text, colour) in enumerate(row.said):
            sheet.text(GAP, top + 0.4 + line * 0.22, text, SIDE_FONT, colour)
        for column, tile in enumerate(row.tiles):
            sheet.tile(GAP + side + column * (TILE + GAP), top, tile)
    return sheet.figure


class Sheet:
    """A figure measured in inches from its upper left corner; one axis for everything, which is fast."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height, layout=None)
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self._width, self._height = width, height
        self._set_limits()

    def tile(self, left: float, top: float, tile: Tile) -> None:
        """Draw an image into a square, or an empty one, with its frame and its captions below."""
        from matplotlib.patches import Rectangle

        corner, image = (left, top), tile.image
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
        self.axis.add_patch(Rectangle(corner, TILE, TILE, facecolor="none", edgecolor=tile.colour, linewidth=1.5, zorder=3))
        for line, (text, colour) in enumerate(tile.captions):
            self.text(left, top + TILE + 0.04 + line * LINE, text, 7.5, colour)

    def text(self, left: float, top: float, text: str, size: float, colour: str) -> None:
        """Write a line of text below and right of a point."""
        self.axis.text(left, top, literal(text), ha="left", va="top", fontsize=size, color=colour, zorder=4)

    def _set_limits(self) -> None:
        self.axis.set(xlim=(0, self._width), ylim=(self._height, 0))
