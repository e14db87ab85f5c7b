"""Folders that `save_to_disk` of the `datasets` library wrote, from a `Dataset` or a `DatasetDict`."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, listed
from ..table import StoredImages
from .columnar import ColumnarFile, choose_file_columns, described_rows, features_of
from .columns import Columns, Rows, labelled_tables
from .folders import SPLIT_NAMES, SourceTables

if TYPE_CHECKING:
    import datasets

    from ...recipe.schema import Data

_log = logging.getLogger(__name__)

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return (folder / _SPLITS).is_file() or ((folder / _INFO).is_file() and (folder / _STATE).is_file())


def read_saved_dataset(section: Data, folder: Path) -> SourceTables:
    """Read what `save_to_disk` wrote; its Arrow files are memory-mapped where they are.

    Splits are those of a `DatasetDict`, else those of a column `split`. Splits of other names than train, validation and
    test are left out, and that is said. Sample ids are `split/row`.

    Args:
        section: the recipe's `data` section.
        folder: the folder.

    Raises:
        DataError: when it cannot be read, columns or labels are missing, or it names files outside of itself.
    """
    folders = _split_folders(folder) if (folder / _SPLITS).is_file() else {None: folder}
    loaded = {split: _load(place) for split, place in folders.items()}
    files = []
    for split, place in folders.items():
        schema = loaded[split].features.arrow_schema
        files.append(ColumnarFile(place, schema, features_of(schema)))
    columns = choose_file_columns(section, files, str(folder))
    class_names = list(dict.fromkeys(name for file in files for name in file.class_names(columns.label)))
    parts = [_rows(dataset, file, split, columns) for (split, dataset), file in zip(loaded.items(), files, strict=True)]
    return labelled_tables(parts, class_names, str(folder), columns)


def _split_folders(folder: Path) -> dict[str | None, Path]:
    """Return the folder of each of our splits."""
    found = _json(folder / _SPLITS).get("splits")
    if not isinstance(found, list) or not all(isinstance(name, str) and Path(name).name == name for name in found):
        raise DataError(f"data.source: expected names of folders under 'splits' in {folder / _SPLITS}, found {found}")
    used: dict[str | None, Path] = {}
    for name in found:
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            _log.warning("left out the split %s of %s: it is not called train, validation or test", name, folder)
        elif split in used:
            raise DataError(f"data.source: {folder} has two splits for {split}: {used[split].name}, {name}")
        else:
            used[split] = folder / name
    if not used:
        raise DataError(f"data.source: expected a split called train, validation or test in {folder}; found {listed(found)}")
    return used


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"data.source: cannot read {file}: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise DataError(f"data.source: expected a JSON object in {file}")
    return found


def _load(folder: Path) -> datasets.Dataset:
    """Return the data set of a folder, its rows as plain values."""
    import datasets

    entries = _json(folder / _STATE).get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(
            f"data.source: expected names of files in the folder under '_data_files' in {folder / _STATE}, found {names}"
        )
    try:
        return datasets.load_from_disk(str(folder), keep_in_memory=False).with_format(None)
    except Exception as error:  # errors of many kinds, for files that are missing, cut or of another structure
        raise DataError(f"data.source: cannot read {folder} as a saved data set: {str(error).splitlines()[0]}") from None


def _rows(dataset: datasets.Dataset, file: ColumnarFile, split: str | None, columns: Columns) -> Rows:
    import datasets

    images = dataset.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))
    _check_embedded(images, columns.image, str(file.path))
    needed = [name for name in (columns.label, columns.group, columns.split) if name is not None]
    values = {name: dataset.data.column(name).to_pylist() for name in needed}
    stored = StoredImages(images, columns.image)
    return described_rows(stored, len(images), values, file, columns, split, Counter())


def _check_embedded(images: datasets.Dataset, column: str, where: str) -> None:
    """Stop at rows that name a file by a relative path, or neither bytes nor a file: there is nothing to read them from."""
    import pyarrow.compute as pc

    row = 0
    for chunk in images.data.column(column).chunks:
        paths = pc.struct_field(chunk, "path")
        outside = pc.and_(pc.is_valid(chunk), pc.is_null(pc.struct_field(chunk, "bytes")))
        if pc.any(outside).as_py():
            for index, path in zip(pc.indices_nonzero(outside).to_pylist(), paths.filter(outside).to_pylist(), strict=True):
                if path is None or not Path(path).is_absolute():
                    found = "nothing" if path is None else f"the path '{path}'"
                    raise DataError(
                        f"data.source: expected an image in every row of '{column}' of {where}; row {row + index} has {found}"
                    )
        row += len(chunk)
