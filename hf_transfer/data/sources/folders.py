"""Folders of class folders, with or without split folders above them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import DataError, listed, nearest
from ..groups import groups_of_paths
from ..table import ImageTable, StoredImages

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
    )
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SourceTables:
    """What a source holds before anything is split.

    Args:
        tables: a table for each split the source brings; a source without splits has only `train`.
        class_names: names of the classes, in label order.
        split_by_source: whether the source itself says which image is in which split.
        revision: resolved commit of a Hub data set, None elsewhere.
    """

    tables: dict[str, ImageTable]
    class_names: list[str]
    split_by_source: bool
    revision: str | None = None


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key that puts "10" after "9"; names that count the same ("1", "01") are ordered as text."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part], name


def read_class_folders(root: Path, *, group_by: str | None = None, drop: Collection[str] = ()) -> SourceTables:
    """Read a folder of class folders, or of split folders (train, validation, test) that hold class folders.

    Hidden files and folders, and files that are no images, are passed over. The order of classes is natural ("10" after
    "9"), the order of images is that of their relative paths, so neither depends on the file system.

    Args:
        root: the folder.
        group_by: which images belong together; see `groups_of_paths`, which is given each path below its split folder.
        drop: class folders to leave out.

    Raises:
        DataError: when there are no class folders, one of them holds no image, split folders have company that is none, a
            name is not UTF-8, a class to leave out is not there, or `group_by` does not fit.
    """
    children = sorted((p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_order)
    splits = [name for name in children if name.lower() in SPLIT_NAMES]
    if len({SPLIT_NAMES[name.lower()] for name in splits}) > 1 and len(splits) < len(children):
        others = [name for name in children if name not in splits]
        raise DataError(
            f"data.source: {root} holds split folders ({listed(splits)}) and others beside them ({listed(others)}). "
            "Move the others elsewhere, or, if all of them are classes, into a folder of their own called train."
        )
    if splits and len(splits) == len(children):
        roots: dict[str, Path] = {}
        for name in splits:
            split = SPLIT_NAMES[name.lower()]
            if split in roots:
                raise DataError(f"data.source: {root} has two folders for the {split} split: {roots[split].name}, {name}")
            roots[split] = root / name
    else:
        roots = {"train": root}
    names_by_split = {split: _class_folders(folder) for split, folder in roots.items()}
    known = {name for names in names_by_split.values() for name in names}
    if unknown := [f"'{name}'{nearest(name, known)}" for name in drop if name not in known]:
        raise DataError(f"data.source: no class folder in {root} to leave out is called {listed(unknown)}")
    names_by_split = {split: [name for name in names if name not in drop] for split, names in names_by_split.items()}
    class_names = sorted({name for names in names_by_split.values() for name in names}, key=natural_order)
    index = {name: label for label, name in enumerate(class_names)}
    tables = {}
    for split, folder in roots.items():
        paths, labels, empty = [], [], []
        for name in names_by_split[split]:
            files = _image_files(folder / name)
            paths += files
            labels += [index[name]] * len(files)
            if not files:
                empty.append(str(folder / name))
        if empty:
            raise DataError(
                f"data.source: expected at least one image in every class folder; found none in {listed(empty)}. "
                "Add images, or remove the folder if the class is not wanted."
            )
        table = _table(paths, labels, root)
        if group_by is not None:
            below = [Path(path).relative_to(folder).as_posix() for path in paths]
            table = replace(table, groups=groups_of_paths(below, group_by))
        tables[split] = table
    return SourceTables(tables, class_names, split_by_source=bool(splits) and len(splits) == len(children))


def _class_folders(folder: Path) -> list[str]:
    names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not names:
        raise DataError(
            f"data.source: expected a folder for each class inside {folder}, found none. "
            "Put the images of each class into a folder of its name."
        )
    return sorted(names, key=natural_order)


def _image_files(folder: Path) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            str(Path(parent, name))
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(files)


def _table(paths: list[str], labels: list[int], root: Path) -> ImageTable:
    import datasets

    strange = [repr(os.fsencode(path))[1:] for path in paths if not _is_utf8(path)]
    if strange:
        raise DataError(f"data.source: expected file names in UTF-8; rename {listed(strange, 3)}")
    images = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": path} for path in paths]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    return ImageTable(
        images=StoredImages(images, "image"),
        rows=np.arange(len(paths)),
        labels=np.array(labels, dtype=np.int64),
        sample_ids=np.array([Path(path).relative_to(root).as_posix() for path in paths]),
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
