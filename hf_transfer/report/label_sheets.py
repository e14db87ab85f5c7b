"""Sheets of images with several labels: the highest losses, and the labels that are missed or wrongly said most often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import drawing, literal, save_figure, text_width
from .formats import NOTHING
from .label_mistakes import LabelError, LabelExample, Said
from .names import shorten, shown_names
from .sheets import CAPTION, COLUMNS, GAP, GREY, LINE, RIGHT, SIDE, SIDE_FONT, TILE, WRONG, Images, Sheet


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
    columns = min(COLUMNS, len(examples))
    rows = -(-len(examples) // columns)
    pitch = TILE + 4 * LINE + GAP
    sheet = Sheet(max(columns * (TILE + GAP) + GAP, 3.6), rows * pitch + GAP)
    for position, example in enumerate(examples):
        row, column = divmod(position, columns)
        left, top = GAP + column * (TILE + GAP), GAP + row * pitch
        sheet.tile(left, top, images.get(example.sample_id), RIGHT if example.is_right else WRONG)
        captions = [
            (f"right: {_named(example.right)}", RIGHT if example.right else GREY),
            (f"missed: {_named(example.missed)}", WRONG if example.missed else GREY),
            (f"wrong: {_named(example.wrong)}", WRONG if example.wrong else GREY),
            (f"loss {example.loss:.2f}", "#555555"),
        ]
        for line, (text, colour) in enumerate(captions):
            sheet.text(left, top + TILE + 0.04 + line * LINE, text, 7.5, colour)
    return sheet.figure


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
    columns = max(len(error.examples) for error in errors)
    pitch = TILE + LINE + GAP
    labels = list(dict.fromkeys(error.label for error in errors))
    names = dict(zip(labels, shown_names(labels, SIDE), strict=True))
    said = [
        [
            (names[error.label], "#1a1a1a"),
            ("missed" if error.kind == "missed" else "said though not there", WRONG),
            (f"{error.count:,} of {error.of:,} images", "#555555"),
            ("with it" if error.kind == "missed" else "without it", "#555555"),
        ]
        for error in errors
    ]
    side = 0.3 + max(text_width(literal(text), SIDE_FONT) for lines in said for text, _ in lines)
    sheet = Sheet(GAP + side + columns * (TILE + GAP), len(errors) * pitch + GAP)
    for row, (error, lines) in enumerate(zip(errors, said, strict=True)):
        top = GAP + row * pitch
        for line, (text, colour) in enumerate(lines):
            sheet.text(GAP, top + 0.4 + line * 0.22, text, SIDE_FONT, colour)
        for column, example in enumerate(error.examples):
            left = GAP + side + column * (TILE + GAP)
            sheet.tile(left, top, images.get(example.sample_id), WRONG)
            mistake = next(one for one in (*example.missed, *example.wrong) if one.name == error.label)
            sheet.text(left, top + TILE + 0.04, f"p {mistake.probability:.3f}", 7.5, "#555555")
    return sheet.figure


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
