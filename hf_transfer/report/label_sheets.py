"""Sheets of images with several labels: the highest losses, and the labels that are missed or wrongly said most often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import drawing, save_figure
from .formats import NOTHING
from .label_mistakes import LabelError, LabelExample, Said
from .names import shorten, shown_names
from .sheets import ASIDE, CAPTION, GREY, INK, RIGHT, SIDE, WRONG, Images, Row, Tile, draw_rows, draw_tiles


def plot_top_label_losses(examples: Sequence[LabelExample], images: Images, output: Path) -> None:
    """Draw images in the order given, each with the labels that are right, missed and wrong, and its loss.

    Args:
        examples: at least one.
        images: sample id to thumbnail; an image that is not there becomes an empty tile that says so.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_top_label_losses(examples, images), output)


def draw_top_label_losses(examples: Sequence[LabelExample], images: Images) -> Any:
    """Return the figure of `plot_top_label_losses`; see there."""
    tiles = []
    for example in examples:
        captions = [
            (f"right: {_named(example.right)}", RIGHT if example.right else GREY),
            (f"missed: {_named(example.missed)}", WRONG if example.missed else GREY),
            (f"wrong: {_named(example.wrong)}", WRONG if example.wrong else GREY),
            (f"loss {example.loss:.2f}", ASIDE),
        ]
        tiles.append(Tile(images.get(example.sample_id), RIGHT if example.is_right else WRONG, captions))
    return draw_tiles(tiles)


def plot_label_errors(errors: Sequence[LabelError], images: Images, output: Path) -> None:
    """Draw a row for each mistake with a label: in how many images it is missed, or said though not there, and some of them.

    Args:
        errors: at least one.
        images: sample id to thumbnail; an image that is not there becomes an empty tile that says so.
        output: the PNG to write; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_label_errors(errors, images), output)


def draw_label_errors(errors: Sequence[LabelError], images: Images) -> Any:
    """Return the figure of `plot_label_errors`; see there."""
    labels = list(dict.fromkeys(error.label for error in errors))
    names = dict(zip(labels, shown_names(labels, SIDE), strict=True))
    rows = []
    for error in errors:
        missed = error.kind == "missed"
        said = [
            (names[error.label], INK),
            ("missed" if missed else "said though not there", WRONG),
            (f"{error.count:,} of {error.of:,} images", ASIDE),
            ("with it" if missed else "without it", ASIDE),
        ]
        tiles = []
        for example in error.examples:
            mistake = next(one for one in (*example.missed, *example.wrong) if one.name == error.label)
            tiles.append(Tile(images.get(example.sample_id), WRONG, [(f"p {mistake.probability:.3f}", ASIDE)]))
        rows.append(Row(said, tiles))
    return draw_rows(rows)


def _named(labels: Sequence[Said]) -> str:
    """Return labels in as few columns as a tile has, how many are left out last."""
    if not labels:
        return NOTHING
    for kept in range(len(labels), 0, -1):
        more = "" if kept == len(labels) else f" +{len(labels) - kept}"
        text = ", ".join(shown_names([label.name for label in labels[:kept]], 8 if len(labels) > 1 else CAPTION)) + more
        if len(text) <= CAPTION:
            return text
    return shorten(text, CAPTION)
