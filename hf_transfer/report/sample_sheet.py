"""Some images of each class and split of a source, on one picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..data.inspection import THUMBNAIL, Inspection
from .figures import DPI, drawing, literal, new_figure, save_figure, text_width
from .names import shown_names

TILES = 4
"""Samples of each class and split."""

_GAP = 12  # pixels between them


def draw_samples(found: Inspection, output: Path) -> None:
    """Draw a row for each class, the samples of each split side by side.

    Args:
        found: an inspection with samples.
        output: the PNG to write.
    """
    samples, splits, names = found.samples, found.report["splits"], found.report["class_names"]
    sampled = [name for name in names if any(name in classes for classes in samples.values())]
    pitch, head, block = THUMBNAIL + _GAP, 50, TILES * (THUMBNAIL + _GAP) + _GAP
    with drawing():
        titles = dict(zip(sampled, shown_names(sampled, 30), strict=True))
        note = "" if len(sampled) == len(names) else f"{len(sampled)} of {len(names):,} classes"
        words = [(title, 9) for title in titles.values()] + [("validation 000,000", 8), (note, 9)]
        side = int(DPI * max(text_width(literal(text), size) for text, size in words)) + 3 * _GAP
        sheet = Image.new("RGB", (side + len(samples) * block, head + len(sampled) * (pitch + _GAP)), "white")
        figure = new_figure(sheet.width / DPI, sheet.height / DPI, layout=None)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()

        def write(left: int, top: int, text: str, size: float, colour: str = "#1a1a1a") -> None:
            axis.text(left, top, literal(text), ha="left", va="top", fontsize=size, color=colour)

        if note:
            write(_GAP, 14, note, 9, "#555555")
        for column, (split, classes) in enumerate(samples.items()):
            start = side + column * block
            write(start, 14, f"{split}: {splits[split]['images']:,} images", 10)
            for row, name in enumerate(sampled):
                top = head + row * (pitch + _GAP)
                if column == 0:
                    write(_GAP, top, titles[name], 9)
                write(_GAP, top + 26 + 20 * column, f"{split} {splits[split]['classes'][name]:,}", 8, "#555555")
                for place, (_, image) in enumerate(classes.get(name, [])):
                    left = start + place * pitch
                    sheet.paste("#f2f2f2", (left, top, left + THUMBNAIL, top + THUMBNAIL))
                    if image is None:
                        write(left + 30, top + 70, "unreadable", 8, "#c0392b")
                    else:
                        if (scale := THUMBNAIL // max(image.size)) > 1:  # pixels of small images are to be seen
                            image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
                        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top + (THUMBNAIL - image.height) // 2))
        axis.imshow(sheet, interpolation="none", aspect="auto", extent=(0, sheet.width, sheet.height, 0))
        save_figure(figure, output)
