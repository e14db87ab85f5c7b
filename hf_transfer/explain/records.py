"""What is left behind of images explained one batch after the other: a picture of each, and a table with a row for each map."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..backbones.backbone import Backbone
from ..data.loose_images import LooseImage, read_batches
from ..errors import UserError, listed
from ..evaluation.labels import model_class_names
from ..run_directory import replacing
from .explanations import ExplainedImage, Question, evaluating, explain_batch, short_name, strip_of
from .overlay import draw_sheet
from .view import View

TABLE = "explanations.csv"
SUFFIX = ".explained.png"
_LONGEST = 200  # bytes of a stem; file systems allow 255 of a name, and a number, the suffix and a temporary name come to it
COLUMNS = (
    "file",
    "picture",
    "predicted",
    "probability",
    "target",
    "target_probability",
    "method",
    "layer",
    "peak_x",
    "peak_y",
    "blank",
    "completeness_delta",
    "deletion_auc",
    "insertion_auc",
    "random_deletion_auc",
    "random_insertion_auc",
)


def explain_files(
    backbone: Backbone, question: Question, images: Sequence[LooseImage], output: Path, *, batch_size: int
) -> tuple[list[dict[str, Any]], int]:
    """Explain images, writing one PNG for each and explanations.csv; what cannot be read is told on stderr and left out.

    Two batches of images and their maps are held at a time.

    Args:
        backbone: the model, float32.
        question: what is asked.
        images: where they are.
        output: directory to write into, made if need be.
        batch_size: images at a time.

    Returns:
        The rows of the table, and how many images could not be read.
    """
    from tqdm.auto import tqdm

    class_names = model_class_names(backbone.model.config)
    view, names = View(backbone.preprocessing), PictureNames()
    rows: list[dict[str, Any]] = []
    unreadable = 0
    output.mkdir(parents=True, exist_ok=True)
    with (
        evaluating(backbone.model),
        writing_table(output / TABLE) as table,
        tqdm(total=len(images), desc="explain", leave=False, disable=None) as progress,
    ):
        for batch in read_batches(images, backbone.preprocessing, batch_size):
            for name, reason in batch.unreadable:
                tqdm.write(f"cannot read {name}: {reason}", file=sys.stderr)
            unreadable += len(batch.unreadable)
            progress.update(len(batch.unreadable))
            if not batch.names:
                continue
            sizes = [image.size for image in batch.images]
            for explained in explain_batch(backbone, view, question, batch.names, sizes, batch.pixels):
                picture = names.of(explained.name)
                if not rows:
                    (output / TABLE).unlink(missing_ok=True)  # an interruption leaves no table of other pictures
                draw_sheet(*strip_of(explained, question, class_names), output / picture)
                found = rows_of(explained, question, class_names, picture)
                table.writerows(found)
                rows += found
                progress.update()
    return rows, unreadable


def check_output(directory: Path, images: Sequence[LooseImage] = (), *, overwrite: bool) -> None:
    """Refuse to write among a user's files.

    Args:
        directory: where to write; a directory or nothing.
        images: what is to be explained.
        overwrite: whether files of the same name may be replaced.

    Raises:
        UserError: when the directory holds something and `overwrite` was not asked for, or images to be explained that have
            the names of pictures or of the table.
    """
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UserError(
            f"--output: {directory} is not empty; nothing was touched. Choose another directory, or replace files of the same "
            "name with --overwrite."
        )
    endangered = [image.name for image in images if _could_be_replaced(Path(image.name), directory.resolve())]
    if endangered:
        raise UserError(
            f"--output: {listed(endangered, 3)}: among the images to explain, and could be replaced by a picture; nothing was "
            "touched. Choose another directory."
        )


def _could_be_replaced(image: Path, directory: Path) -> bool:
    """Return whether an image, or the file that it is a link to, lies in a directory under the name of an output."""
    return any(
        path.parent.resolve() == directory and path.name.lower().endswith((SUFFIX, TABLE)) for path in (image, image.resolve())
    )


class PictureNames:
    """Names of PNG files, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, name: str) -> str:
        """Return a file name for the picture of an image: STEM.explained.png, with a number where that was given before."""
        stem = re.sub(r"[^\w.() -]", "_", Path(short_name(name)).stem)
        stem = stem.encode()[:_LONGEST].decode(errors="ignore").strip(" .") or "image"
        number, found = 1, stem
        while found.lower() in self._given:
            number += 1
            found = f"{stem}-{number}"
        self._given.add(found.lower())
        return f"{found}{SUFFIX}"


def rows_of(image: ExplainedImage, question: Question, class_names: Sequence[str], picture: str) -> list[dict[str, Any]]:
    """Return the rows of the table for one image, a row for each map; what was not computed is None."""
    rows = []
    for explanation in image.explanations:
        x, y = explanation.original_peak or (None, None)
        target = explanation.target
        row: dict[str, Any] = {
            "file": image.name,
            "picture": picture,
            "predicted": _predicted(image, class_names),
            "probability": None if image.said is not None else _rounded(image.probabilities[image.predicted]),
            "target": None if target is None else class_names[target],
            "target_probability": None if target is None else _rounded(image.probabilities[target]),
            "method": question.method,
            "layer": explanation.layer,
            "peak_x": None if x is None else round(x, 1),
            "peak_y": None if y is None else round(y, 1),
            "blank": explanation.blank,
        }
        row |= {name: _rounded(value) for name, value in explanation.scores.items()}
        rows.append({name: row.get(name) for name in COLUMNS})
    return rows


def _predicted(image: ExplainedImage, class_names: Sequence[str]) -> str:
    """Return the predicted class, or all that are said with a bar between them: empty where none is."""
    return class_names[image.predicted] if image.said is None else "|".join(class_names[label] for label in image.said)


@contextmanager
def writing_table(path: Path) -> Iterator[csv.DictWriter]:
    """Yield a writer of rows; the file appears under its name when the block ends without an error."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        yield writer


def _rounded(value: float) -> float:
    return round(float(value), 6)
