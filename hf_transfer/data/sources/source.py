"""Which reader a `data.source` belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError, listed
from ..class_names import with_composed_names
from .addresses import shown
from .columns import with_several_labels
from .folders import IMAGE_SUFFIXES, SPLIT_NAMES, SourceTables, read_class_folders
from .idx_files import idx_files, read_idx
from .labelled_files import METADATA_FILES, has_labels, read_metadata
from .saved_dataset import is_saved_dataset, read_saved_dataset
from .source_files import cannot_stream, kind_of, located, named_files, names_files, read_files

if TYPE_CHECKING:
    from ...recipe.schema import Data

_KINDS = (
    "a folder (of class folders, of images with metadata.csv or metadata.jsonl, of Parquet, Arrow, tar or IDX files, or one "
    "that save_to_disk wrote), a .csv, .tsv, .jsonl, .parquet, .arrow or .tar file or its address, several of them "
    "('data/*.parquet', 'shard-{000..012}.tar'), a Hub data set id, package:textile or package:digits"
)


def is_hub_source(source: str) -> bool:
    """Return whether a source that names no file, no folder and no package is meant as a Hub data set id."""
    if source.startswith(("package:", ".", "/", "~")) or source.count("/") > 1 or names_files(source):
        return False
    return not Path(source).expanduser().exists()


def read_source(section: Data) -> SourceTables:
    """Read `data.source`: a package, a folder, files here or far away, or a Hub data set; what it is tells how it is read.

    Accents in names of classes are composed, whoever took them apart (see `with_composed_names`). In a multi-label task a
    source that gives one label an image does, too (see `with_several_labels`).

    Raises:
        DataError: when the source is none of them, may be read in two ways, or cannot be read.
    """
    source = with_composed_names(_read_as_it_is(section))
    return with_several_labels(source, shown(section.source)) if section.task == "multi_label" else source


def _read_as_it_is(section: Data) -> SourceTables:
    source = section.source
    kind, colon, name = source.partition(":")
    if colon and kind == "package":
        from .package_data import read_package

        if section.streaming:
            cannot_stream(section.source)
        return read_package(name, group_by=section.group_column)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(section, path.resolve())
    if path.is_file():
        return read_files(section, [str(located(path))], str(located(path)), _KINDS)
    if path.exists():
        raise DataError(f"data.source: expected {_KINDS}; found '{source}'")
    if names_files(source):
        return read_files(section, named_files(source), shown(source), _KINDS)
    if not is_hub_source(source):
        raise DataError(f"data.source: no such folder: {source}")
    from .hub_data import read_hub

    return read_hub(section)


def _read_folder(section: Data, root: Path) -> SourceTables:
    """Read a folder as the one kind that it is."""
    if is_saved_dataset(root):
        if section.streaming:
            cannot_stream(f"{root}, which save_to_disk wrote,")
        return read_saved_dataset(section, root)
    metadata, columnar, tars, idx = _metadata_files(root), _shards(root, "columnar"), _shards(root, "tar"), idx_files(root)
    found = [_named(root, files) for files in (metadata.values(), columnar, (root / name for name in idx))]
    classes = _class_folders(root) if tars or any(found) else []
    if classes or any(found):  # archives that lie beside what was unpacked from them
        tars = []
    if metadata and len(classes) > 1:
        if not any(has_labels(section, file) for file in metadata.values()):  # captions, say: the folders tell the classes
            metadata, found[0] = {}, ""
        elif section.label_column is not None:  # the recipe says where the labels are
            classes = []
    found.append(f"class folders ({listed(classes, 3)})" if len(classes) > 1 else "")
    kinds = [kind for kind in found if kind]
    if len(kinds) > 1:
        raise DataError(
            f"data.source: {root} can be read in {len(kinds)} ways: {' and '.join(kinds)}. Move elsewhere what is not meant"
            + ("; or name data.label_column, to have the labels that the metadata file holds." if metadata else ".")
        )
    if columnar or tars:
        return read_files(section, [str(file) for file in columnar or tars], str(root), _KINDS)
    if section.streaming:
        cannot_stream(f"{root}, which holds {kinds[0] if kinds else 'class folders'},")
    if metadata:
        return read_metadata(section, root, metadata)
    if idx:
        if section.group_column is not None:
            raise DataError("data.group_column: IDX files say nothing of images that belong together; leave it out")
        return read_idx(root)
    return read_class_folders(root, group_by=section.group_column)


def _named(root: Path, files: Iterable[Path]) -> str:
    return listed([file.relative_to(root).as_posix() for file in files], 3)


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:  # knows folders without asking for each of very many files
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _split_folders(root: Path) -> list[Path]:
    """Return the folders that are called after a split."""
    return [folder for folder in _folders(root) if folder.name.lower() in SPLIT_NAMES]


def _metadata_files(root: Path) -> dict[str, Path]:
    """Return the metadata file of the folder under "", or that of each split folder under its name."""
    places = {folder.name: folder for folder in _split_folders(root)}
    files = {
        name: [folder / file for file in METADATA_FILES if (folder / file).is_file()]
        for name, folder in {"": root, **places}.items()
    }
    present = [name for name in files if files[name]]
    every = [file for name in present for file in files[name]]
    missing = [name for name in places if not files[name]]
    if len(every) > len(present) or ("" in present and len(present) > 1):
        raise DataError(
            f"data.source: expected one metadata file in {root} or one in each split folder; found {_named(root, every)}"
        )
    if present and "" not in present and missing:
        raise DataError(
            f"data.source: expected a metadata file in every split folder of {root}, or in none; found {_named(root, every)}, "
            f"and none in {listed(missing)}"
        )
    return {name: files[name][0] for name in present}


def _shards(root: Path, kind: str) -> list[Path]:
    """Return the "columnar" or "tar" files of the folder itself, else those of its folder `data`, else of its split folders."""
    for places in ([root], [root / "data"], _split_folders(root)):
        files = [
            file
            for place in places
            if place.is_dir()
            for file in sorted(place.iterdir())
            if kind_of(str(file)) == kind and file.is_file() and not file.name.startswith(".")
        ]
        if files:
            return files
    return []


def _class_folders(root: Path) -> list[str]:
    """Return the folders, inside the split folders where there are any, that hold images."""
    parents = _split_folders(root) or [root]
    return [folder.relative_to(root).as_posix() for parent in parents for folder in _folders(parent) if _has_images(folder)]


def _has_images(folder: Path) -> bool:
    return any(
        Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )
