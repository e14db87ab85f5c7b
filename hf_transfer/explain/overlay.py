"""Maps drawn over the images that the network saw: tiles in rows, on one sheet."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..run_directory import replacing

_DPI = 150
_COLOURS = "inferno"  # perceptually uniform: equal steps of the map look like equal steps
_OPACITY = 0.75  # of the largest value; the smallest is transparent, so the image stays to be seen where nothing counts
_TILE = 2.1  # inches
_FONT = 8.0  # points
_LINE = 1.35 * _FONT / 72  # inches
_LABEL = 1.15  # inches for the text on the left of a row
_WRONG = "#b3261e"


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Args:
        picture: float32 [H, W, 3], values 0 to 1.
        title: what stands above it; at most two lines are kept.
        heat: float32 [H, W], values 0 to 1, drawn over the picture; None for the picture alone.
        peak: (x, y) of the largest value in the picture's pixels, marked by a ring.
        remark: why there is no map to draw; written across the faded picture.
        wrong: whether the title is set in red.
    """

    picture: np.ndarray
    title: str
    heat: np.ndarray | None = None
    peak: tuple[float, float] | None = None
    remark: str | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Row:
    """Tiles side by side.

    Args:
        label: what stands on their left.
        tiles: the tiles; a row may be shorter than others.
    """

    label: str
    tiles: Sequence[Tile]


def overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a map over a picture in shades of gray, so that every colour is the map's: the more opaque the larger the value.

    Args:
        picture: float32 [H, W, 3], values 0 to 1.
        heat: float32 [H, W], values 0 to 1.

    Returns:
        float32 [H, W, 3]; the gray picture where the map is 0.
    """
    import matplotlib

    colours = matplotlib.colormaps[_COLOURS](heat)[..., :3]
    opacity = _OPACITY * heat[..., None]
    gray = picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return ((1 - opacity) * gray[..., None] + opacity * colours).astype(np.float32)


def draw_sheet(rows: Sequence[Row], heading: str, output: Path) -> None:
    """Draw rows of tiles into a PNG; equal sheets give equal bytes.

    Args:
        rows: from top to bottom, at least one tile among them.
        heading: text above them, one line or several.
        output: the PNG to write; its folder exists.
    """
    with _drawing():
        figure = _figure_of(rows, heading)
        with replacing(output) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def _figure_of(rows: Sequence[Row], heading: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.tiles) for row in rows)
    label = _LABEL if any(row.label for row in rows) else 0.0
    lines = [line for part in heading.splitlines() for line in _wrapped(part, label + columns * _TILE, 9)]
    head = 0.14 + len(lines) * 1.15 * _LINE
    title = max(len(_title(tile)) for row in rows for tile in row.tiles) * _LINE + 0.06
    pitch, gap = title + _TILE + 0.1, 0.1
    scale = 0.5 if any(tile.heat is not None for row in rows for tile in row.tiles) else 0.0
    width = 0.12 + label + columns * (_TILE + gap) + scale
    height = head + len(rows) * pitch
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for number, line in enumerate(lines):
        top = 0.1 + number * 1.15 * _LINE
        figure.text(
            0.12 / width, 1 - top / height, line, fontsize=9, weight="normal" if number else "bold", va="top", parse_math=False
        )
    for i, row in enumerate(rows):
        bottom = height - head - i * pitch - title - _TILE
        text = "\n".join(_wrapped(row.label, label - 0.1, _FONT, most=8)) if label else ""
        figure.text(0.12 / width, (bottom + _TILE / 2) / height, text, fontsize=_FONT, va="center", parse_math=False)
        for j, tile in enumerate(row.tiles):
            left = 0.12 + label + j * (_TILE + gap)
            axis = figure.add_axes((left / width, bottom / height, _TILE / width, _TILE / height))
            _draw_tile(axis, tile)
    if scale:
        left, bottom = width - scale, height - head - title - _TILE
        _draw_scale(figure.add_axes((left / width, bottom / height, 0.1 / width, _TILE / height)))
    return figure


def _draw_tile(axis: Any, tile: Tile) -> None:
    axis.set_axis_off()
    axis.set_title(
        "\n".join(_title(tile)), fontsize=_FONT, color=_WRONG if tile.wrong else "black", pad=3, loc="left", parse_math=False
    )
    height, width = tile.picture.shape[:2]
    shown = tile.picture if tile.heat is None else overlaid(tile.picture, tile.heat)
    if tile.remark is not None:
        shown = 0.25 * tile.picture + 0.75
    axis.imshow(shown, extent=(0, width, height, 0), interpolation="antialiased")
    if tile.peak is not None and tile.remark is None:
        for colour, thickness in (("black", 2.2), ("white", 1.0)):
            axis.plot(*tile.peak, "o", markersize=9, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=thickness)
        axis.set(xlim=(0, width), ylim=(height, 0))
    if tile.remark is not None:
        text = "\n".join(_wrapped(tile.remark, _TILE - 0.2, _FONT, most=6))
        axis.text(
            0.5, 0.5, text, fontsize=_FONT, color=_WRONG, ha="center", va="center", transform=axis.transAxes, parse_math=False
        )


def _draw_scale(axis: Any) -> None:
    """Draw what the colours mean, over a middle grey."""
    values = np.linspace(1, 0, 128, dtype=np.float32)[:, None]
    axis.imshow(overlaid(np.full((128, 1, 3), 0.6, dtype=np.float32), values), aspect="auto", extent=(0, 1, 0, 1))
    axis.set_xticks([])
    axis.set_yticks([0, 1], ["0", "1"], fontsize=_FONT)
    axis.yaxis.tick_right()
    axis.tick_params(length=0, pad=2)


def _title(tile: Tile) -> list[str]:
    return [line for part in tile.title.splitlines() for line in _wrapped(part, _TILE, _FONT)][:2]


def _wrapped(text: str, width: float, font: float, most: int = 2) -> list[str]:
    """Return text, its control characters gone, in lines of about `width` inches; the last one says where it was cut."""
    letters = max(8, int(width / (0.58 * font / 72)))
    shown = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return textwrap.wrap(shown, letters, max_lines=most, placeholder="\u2026") or [""]


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever the user's settings; characters that its font lacks become boxes, silently."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*does not support .* natively.*", category=UserWarning)
        yield
