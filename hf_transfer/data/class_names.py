"""Names of classes: one spelling for what looks the same, and a word on what nearly does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .sources.folders import SourceTables, natural_order
from .table import ImageTable


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): an accented letter is one character, as nearly everyone writes it.

    Some file systems and archives of macOS take letter and accent apart (NFD); to people the two are one name.
    """
    return unicodedata.normalize("NFC", name)


def with_composed_names(source: SourceTables) -> SourceTables:
    """Return a source whose classes are called by their composed names; classes that get one name become one class.

    Names that were in natural order are put in natural order again, so that a copy made on another system has the same
    class-to-index map. Names, order and labels of a source whose names are composed stay as they are.
    """
    names = source.class_names
    if all(composed(name) == name for name in names):
        return source
    unique = list(dict.fromkeys(composed(name) for name in names))
    if names == sorted(names, key=natural_order):
        unique.sort(key=natural_order)
    place = np.array([unique.index(composed(name)) for name in names], dtype=np.int64)
    tables = {split: _relabelled(table, place, len(unique)) for split, table in source.tables.items()}
    return replace(source, tables=tables, class_names=unique)


def _relabelled(table: ImageTable, place: np.ndarray, count: int) -> ImageTable:
    if not table.multi_label:
        return replace(table, labels=place[table.labels])
    labels = np.zeros((len(table), count), dtype=bool)
    for old, new in enumerate(place):
        labels[:, new] |= table.labels[:, old]
    return replace(table, labels=labels)


def alike(names: Sequence[str]) -> list[list[str]]:
    """Return groups of names that differ in case, spaces, hyphens, underscores or accents only, each in natural order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_plainest(name), []).append(name)
    return [sorted(same, key=natural_order) for same in groups.values() if len(same) > 1]


def _plainest(name: str) -> str:
    """Return a name without case, accents, spaces, hyphens and underscores."""
    decomposed = unicodedata.normalize("NFKD", name)
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return re.sub(r"[\s_-]+", "", letters).casefold()
