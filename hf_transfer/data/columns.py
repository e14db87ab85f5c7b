"""What the columns of a source say of its images: label, group and split, row by row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, listed, nearest
from .folders import SPLIT_NAMES, SourceTables, natural_order
from .table import EncodedImages, ImageTable

if TYPE_CHECKING:
    from ..recipe.schema import Data

_log = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "class", "target", "category")
SPLIT_COLUMN = "split"


@dataclass(frozen=True)
class Columns:
    """The columns of a source that are read.

    Args:
        image: column of the images.
        label: column of the labels.
        group: column of what belongs together, None where the recipe names none.
        split: column that says which split an image is in, None where there is none.
    """

    image: str
    label: str
    group: str | None
    split: str | None


@dataclass(frozen=True)
class Rows:
    """Images, and what is known of each of the n.

    Args:
        images: n rows.
        sample_ids: unique and stable.
        splits: train, validation or test.
        labels: names of classes, None where an image has no label.
        groups: what belongs together, None for an image that does not say; None where nobody asked.
    """

    images: EncodedImages
    sample_ids: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[str | None]
    groups: Sequence[str | None] | None = None


def choose_columns(
    section: Data, names: Sequence[str], where: str, *, images: Sequence[str], labels: Sequence[str] = ()
) -> Columns:
    """Return the columns that the recipe names, and where it names none the only ones that fit.

    Args:
        section: the recipe's `data` section.
        names: all columns.
        where: what messages call the source.
        images: columns that hold images, or are called as if they did.
        labels: columns that say they are labels; where there are none, those that are called so.

    Raises:
        DataError: when a column is not there, or none or several fit.
    """
    image = _chosen("image_column", section.image_column, images, names, where)
    group = section.group_column
    free = [name for name in names if name not in (image, group, SPLIT_COLUMN)]
    fitting = [name for name in free if name in labels] or [name for name in free if name in LABEL_COLUMNS]
    label = _chosen("label_column", section.label_column, fitting, names, where)
    if group is not None:
        _chosen("group_column", group, (), names, where)
    used = {"image_column": image, "label_column": label, "group_column": group}
    for key, column in used.items():
        others = [other for other in used if other != key and used[other] == column]
        if column is not None and others:
            raise DataError(f"data.{key}: expected a column of its own, found '{column}', which is data.{others[0]} too")
    return Columns(image, label, group, SPLIT_COLUMN if SPLIT_COLUMN in names and label != SPLIT_COLUMN else None)


def _chosen(key: str, wanted: str | None, candidates: Sequence[str], names: Sequence[str], where: str) -> str:
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"data.{key}: no column '{wanted}'{nearest(wanted, names)} in {where}; found {listed(names)}")
        return wanted
    if len(candidates) != 1:
        kind = key.removesuffix("_column")
        raise DataError(
            f"data.{key}: expected exactly one {kind} column in {where} to infer it, found {len(candidates)} "
            f"({listed(candidates) or 'none'}) among {listed(names)}; name the one to use"
        )
    return candidates[0]


def text_of(values: Iterable[Any], key: str, where: str) -> list[str | None]:
    """Return values as text: integers, also those stored as floats, as decimals; None for null, NaN and the empty text.

    Args:
        values: labels or groups.
        key: the key of the recipe that named their column, for the message.
        where: the column and its source, for the message.

    Raises:
        DataError: when there are lists, or numbers that are no integers.
    """
    texts: list[str | None] = []
    for value in values:
        if value is None or value == "" or value != value:
            texts.append(None)
        elif isinstance(value, (str, int)):
            texts.append(str(value))
        elif isinstance(value, float) and value.is_integer():
            texts.append(str(int(value)))
        else:
            raise DataError(f"data.{key}: expected one text or integer an image in {where}, found {str(value)[:60]}")
    return texts


def splits_of(values: Iterable[Any], where: str) -> list[str]:
    """Return train, validation or test for each value of a column `split`.

    Raises:
        DataError: when some values are none of them.
    """
    found = ["" if value is None else str(value).strip() for value in values]
    known = {value: SPLIT_NAMES.get(value.lower()) for value in set(found)}
    if strange := sorted(f"'{value}'" for value, split in known.items() if split is None):
        raise DataError(
            f"data.source: expected train, validation or test in the column 'split' of {where}; found {listed(strange)}. "
            "Name the splits so, or call the column otherwise to have them made here."
        )
    return [str(known[value]) for value in found]


def labelled_tables(parts: Sequence[Rows], class_names: Sequence[str], where: str, columns: Columns) -> SourceTables:
    """Return the table of each split.

    A validation or test split without any label is left out, and that is said.

    Args:
        parts: rows; each split is in one of them only.
        class_names: classes in the order of the source; those it does not know of follow in natural order.
        where: what messages call the source.
        columns: what the columns are called.

    Raises:
        DataError: when images lack a label or a group.
    """
    foreign = {label for part in parts for label in part.labels if label is not None} - set(class_names)
    names = [*class_names, *sorted(foreign, key=natural_order)]
    index = {name: label for label, name in enumerate(names)}
    found: dict[str, ImageTable] = {}
    for part in parts:
        splits = np.array(part.splits, dtype=object)
        for split in sorted(set(part.splits)):
            rows = np.flatnonzero(splits == split)
            if (table := _table(part, rows, split, index, where, columns)) is not None:
                found[split] = table
    if not found:
        raise DataError(f"data.label_column: no image of {where} has a label in '{columns.label}'")
    order = ["train", "validation", "test"]
    tables = {split: found[split] for split in order if split in found}
    return SourceTables(tables, names, split_by_source=len(tables) > 1)


def _table(
    part: Rows, rows: np.ndarray, split: str, index: Mapping[str, int], where: str, columns: Columns
) -> ImageTable | None:
    labels = [part.labels[row] for row in rows]
    ids = [part.sample_ids[row] for row in rows]
    groups = None if part.groups is None else [part.groups[row] for row in rows]
    if split != "train" and all(label is None for label in labels):
        _log.warning("left out the %s split of %s: none of its %d images has a label", split, where, len(rows))
        return None
    for key, column, values in (("label", columns.label, labels), ("group", columns.group, groups or ())):
        if without := [sample_id for sample_id, value in zip(ids, values, strict=False) if value is None]:
            raise DataError(
                f"data.{key}_column: {len(without)} of {len(rows)} images of the {split} split of {where} have no {key} in "
                f"'{column}': {listed(without, 3)}"
            )
    return ImageTable(
        images=part.images,
        rows=rows,
        labels=np.array([index[label] for label in labels if label is not None], dtype=np.int64),
        sample_ids=np.array(ids),
        groups=None if groups is None else np.array(groups),
    )
