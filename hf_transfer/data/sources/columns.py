"""What the columns of a source say of its images: label or labels, group and split, row by row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, listed, nearest
from ..table import EncodedImages, ImageTable
from .folders import SPLIT_NAMES, SourceTables, natural_order

if TYPE_CHECKING:
    from ...recipe.schema import Data

_log = logging.getLogger(__name__)

Labels = str | tuple[str, ...] | None
"""The class of an image; where it may show several, those that it shows; None where it has no label."""

LABEL_SEPARATORS = ("|", ";")
"""What stands between the classes of an image in a text."""

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
        multi_label: whether an image may show several classes, or none.
    """

    image: str
    label: str
    group: str | None
    split: str | None
    multi_label: bool = False


@dataclass(frozen=True)
class Rows:
    """Images, and what is known of each of the n.

    Args:
        images: n rows.
        sample_ids: unique and stable.
        splits: train, validation or test.
        labels: see `Labels`.
        groups: what belongs together, None for an image that does not say; None where nobody asked.
    """

    images: EncodedImages
    sample_ids: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[Labels]
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
    split = SPLIT_COLUMN if SPLIT_COLUMN in names and label != SPLIT_COLUMN else None
    return Columns(image, label, group, split, multi_label=section.task == "multi_label")


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
        elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise DataError(f"data.{key}: expected valid text in {where}, found {ascii(value)[:60]}")
        elif isinstance(value, (str, int)):
            texts.append(str(value))
        elif isinstance(value, float) and value.is_integer():
            texts.append(str(int(value)))
        else:
            raise DataError(f"data.{key}: expected one text or integer an image in {where}, found {str(value)[:60]}")
    return texts


def labels_of(values: Sequence[Any], class_names: Sequence[str], columns: Columns, where: str) -> list[Labels]:
    """Return the class of each image, or the classes where it may show several.

    Where it may, a value is a list of classes; or one class, or a text with `|` or `;` between them. An empty list, and a text
    of a separator alone, says that the image shows none of the classes.

    Args:
        values: labels; where there are names, integers that point to them, -1 for none.
        class_names: names of the classes, empty where labels are names themselves.
        columns: what the columns are called, and whether an image may show several classes.
        where: what messages call the source.

    Raises:
        DataError: when a label points to no name, or is neither text nor integer; when there are lists and images have one
            label each; when some texts are separated by `|` and others by `;`.
    """
    if not columns.multi_label:
        if (several := next((value for value in values if isinstance(value, (list, tuple))), None)) is not None:
            raise DataError(
                f"data.label_column: expected one label an image in '{columns.label}' of {where}, found the list "
                f"{str(list(several))[:60]}; set data.task to 'multi_label' where an image may show several classes"
            )
        return list(_named(values, class_names, columns.label, where))
    lists = _as_lists(values, columns.label, where, unknown=-1 if class_names else None)
    flat = [entry for entries in lists for entry in entries or ()]
    if not class_names and _are_flags(lists, flat):
        raise DataError(
            f"data.label_column: expected the classes that each image shows in '{columns.label}' of {where}, found lists of 0 "
            "and 1, a place for each class; write the names, or the numbers, of the classes that are 1"
        )
    names = iter(_named(flat, class_names, columns.label, where))
    found: list[Labels] = []
    for entries in lists:
        taken = None if entries is None else [next(names) for _ in entries]
        if taken is not None and None in taken:
            raise DataError(
                f"data.label_column: expected a name in each place of the lists in '{columns.label}' of {where}, found "
                f"{str(entries)[:60]}; an empty list says that an image shows none of the classes"
            )
        found.append(None if taken is None else tuple(str(name) for name in taken))
    return found


def _are_flags(lists: Sequence[list[Any] | None], flat: Sequence[Any]) -> bool:
    """Return whether lists say of every class whether it is shown, instead of which ones are: equally long, of 0 and 1."""
    lengths = {len(entries) for entries in lists if entries is not None}
    if len(lengths) != 1 or not all(isinstance(entry, (bool, int, float)) and entry in (0, 1) for entry in flat):
        return False
    return any(len(set(entries)) < len(entries) for entries in lists if entries)


def _as_lists(values: Sequence[Any], column: str, where: str, *, unknown: int | None) -> list[list[Any] | None]:
    """Return the entries of each value; None for null, NaN, an empty text and what stands for `unknown`."""
    texts = [value for value in values if isinstance(value, str)]
    used = [separator for separator in LABEL_SEPARATORS if any(separator in text for text in texts)]
    if len(used) > 1:
        examples = [next(text for text in texts if separator in text) for separator in used]
        raise DataError(
            f"data.label_column: expected one of {' and '.join(used)} between the labels in '{column}' of {where}, found both: "
            f"{listed([repr(example[:40]) for example in examples])}"
        )
    lists: list[list[Any] | None] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            lists.append(list(value))
        elif value is None or value != value or value == unknown or (isinstance(value, str) and not value.strip()):
            lists.append(None)
        elif isinstance(value, str) and used:
            lists.append([part.strip() for part in value.split(used[0]) if part.strip()])
        else:
            lists.append([value])
    return lists


def _named(values: Sequence[Any], class_names: Sequence[str], column: str, where: str) -> list[str | None]:
    """Return the name of each label, None where there is none."""
    if not class_names:
        return text_of(values, "label_column", f"'{column}' of {where}")
    for value in values:
        if value is not None and not (isinstance(value, int) and -1 <= value < len(class_names)):
            raise DataError(
                f"data.label_column: expected labels from 0 to {len(class_names) - 1} in '{column}' of {where}, found {value}"
            )
    return [None if value is None or value < 0 else class_names[value] for value in values]


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
    foreign = {name for part in parts for name in names_in(part.labels)} - set(class_names)
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
            several = columns.multi_label and key == "label"
            raise DataError(
                f"data.{key}_column: {len(without)} of {len(rows)} images of the {split} split of {where} have no {key} in "
                f"'{column}': {listed(without, 3)}"
                + (". An empty list, or | alone, says that an image shows none of the classes" if several else "")
            )
    if columns.multi_label:
        encoded = flags_of(labels, index)
    else:
        encoded = np.array([index[str(label)] for label in labels], dtype=np.int64)
    return ImageTable(
        images=part.images,
        rows=rows,
        labels=encoded,
        sample_ids=np.array(ids),
        groups=None if groups is None else np.array(groups),
    )


def names_in(labels: Iterable[Labels]) -> set[str]:
    """Return the classes that occur."""
    return {name for label in labels for name in _names(label)}


def flags_of(labels: Sequence[Labels], index: Mapping[str, int]) -> np.ndarray:
    """Return which classes each image shows, bool [n, C]; none where it has no label.

    Args:
        labels: of the n images.
        index: class name to its place among the C.
    """
    flags = np.zeros((len(labels), len(index)), dtype=bool)
    for row, label in enumerate(labels):
        flags[row, [index[name] for name in _names(label)]] = True
    return flags


def _names(label: Labels) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label or ()


def with_several_labels(source: SourceTables, where: str) -> SourceTables:
    """Return tables of a source as those of a task in which an image may show several classes.

    Where a source gives one class an image, as class folders do, that is the one that the image shows, and it is said.
    """
    if all(table.multi_label for table in source.tables.values()):
        return source
    _log.warning("data.task 'multi_label': %s gives one label an image, so no image shows two classes", where)
    one_hot = np.eye(len(source.class_names), dtype=bool)
    tables = {split: replace(table, labels=one_hot[table.labels]) for split, table in source.tables.items()}
    return replace(source, tables=tables)
