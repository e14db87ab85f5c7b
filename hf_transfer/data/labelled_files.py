"""Image files that a table names: `metadata.csv` or `metadata.jsonl` in an image folder, or a CSV, TSV or JSONL file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, listed
from .columns import LABEL_COLUMNS, Columns, Rows, choose_columns, labelled_tables, splits_of, text_of
from .folders import SPLIT_NAMES, SourceTables
from .table import StoredImages

if TYPE_CHECKING:
    from ..recipe.schema import Data

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
LISTING_SUFFIXES = (".csv", ".tsv", ".jsonl")
_FILE_NAME = "file_name"
IMAGE_COLUMNS = (_FILE_NAME, "image", "path", "file", "filename", "filepath", "file_path", "image_path", "image_file", "img")


@dataclass(frozen=True)
class _Listing:
    """A file's columns as text or JSON values, and the line in which each row begins or, in CSV, ends."""

    file: Path
    columns: dict[str, list[Any]]
    lines: list[int]


def has_labels(section: Data, file: Path) -> bool:
    """Return whether a metadata file has the column of labels that the recipe names, or one that is called so."""
    names = _read(file).columns
    return section.label_column in names if section.label_column else any(name in LABEL_COLUMNS for name in names)


def read_metadata(section: Data, root: Path, files: Mapping[str, Path]) -> SourceTables:
    """Read an image folder with metadata, as `datasets`' imagefolder has it: column `file_name`, relative to the metadata file.

    Args:
        section: the recipe's `data` section.
        root: the folder; sample ids are paths below it.
        files: the metadata file of each split folder, or that of the folder itself under "".

    Raises:
        DataError: when a file cannot be read, columns or labels are missing, a path is absolute or leaves its folder, or two
            folders are called after one split.
    """
    splits = [SPLIT_NAMES[folder.lower()] if folder else None for folder in files]
    if len(set(splits)) < len(splits):
        raise DataError(f"data.source: expected one folder for each split in {root}; found {listed(files)}")
    parts = [
        _rows(section, _read(file), root, split=split, absolute=False)
        for split, file in zip(splits, files.values(), strict=True)
    ]
    return labelled_tables([rows for rows, _ in parts], (), str(root), parts[0][1])


def read_listing(section: Data, file: Path) -> SourceTables:
    """Read a CSV, TSV or JSONL file that names images: their paths, absolute or relative to the file, and their labels.

    Splits are those of a column `split`, else those of paths that all begin with a folder called after a split.

    Raises:
        DataError: when it cannot be read, columns or labels are missing, or a relative path leaves the file's folder.
    """
    rows, columns = _rows(section, _read(file), file.parent, split=None, absolute=True)
    return labelled_tables([rows], (), str(file), columns)


def placed(path: str, folder: Path, *, absolute: bool) -> Path:
    """Return the file that a path means, which is relative to `folder`.

    Links are not resolved: a folder may be put together from them.

    Args:
        path: as it is written in a file.
        folder: the folder of that file, absolute.
        absolute: whether an absolute path may name any file.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if "://" in path:
        raise ValueError("is an address")
    if "\0" in path or any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError("is no valid text")
    if Path(path).is_absolute():
        if not absolute:
            raise ValueError("is absolute")
        return Path(path)
    target = Path(os.path.normpath(folder / path))
    if folder not in target.parents:
        raise ValueError("leaves the folder")
    return target


def _path_images(paths: Sequence[str]) -> StoredImages:
    import datasets

    stored = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": path} for path in paths]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    return StoredImages(stored, "image")


def _rows(section: Data, listing: _Listing, root: Path, *, split: str | None, absolute: bool) -> tuple[Rows, Columns]:
    file, names = listing.file, list(listing.columns)
    called = [_FILE_NAME] if _FILE_NAME in names else [name for name in names if name in IMAGE_COLUMNS]
    columns = choose_columns(section, names, str(file), images=called)
    paths = _paths(listing, columns.image, absolute)
    ids = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in paths]
    if split is not None:
        splits = [split] * len(ids)
    elif columns.split is not None:
        splits = splits_of(listing.columns[columns.split], str(file))
    else:
        folders = [SPLIT_NAMES.get(name.partition("/")[0].lower()) if "/" in name else None for name in ids]
        splits = ["train" if None in folders else str(folder) for folder in folders]
    texts = {
        key: text_of(listing.columns[column], key, f"'{column}' of {file}")
        for key, column in (("label_column", columns.label), ("group_column", columns.group))
        if column is not None
    }
    rows = Rows(_path_images([str(path) for path in paths]), ids, splits, texts["label_column"], texts.get("group_column"))
    return rows, columns


def _paths(listing: _Listing, column: str, absolute: bool) -> list[Path]:
    """Return the file of each row, or list all rows that name none."""
    folder, paths, problems = listing.file.parent, [], []
    first: dict[Path, int] = {}
    for line, value in zip(listing.lines, listing.columns[column], strict=True):
        if not isinstance(value, str) or not value:
            problems.append(f"line {line}: no path" if value in (None, "") else f"line {line}: {value!r} is no path")
            continue
        try:
            path = placed(value, folder, absolute=absolute)
        except ValueError as error:
            problems.append(f"line {line}: '{value}' {error}")
            continue
        if first.setdefault(path, line) != line:
            problems.append(f"line {line}: '{value}' is in line {first[path]} already")
        paths.append(path)
    if problems:
        relative = f"paths of image files relative to {folder}" + (", or absolute ones" if absolute else "")
        raise DataError(f"data.source: expected {relative}, each once, in '{column}' of {listing.file}; {_bullets(problems)}")
    if not any(path.exists() for path in paths):
        raise DataError(
            f"data.source: none of the {len(paths)} files that {listing.file} names in '{column}' exists, such as {paths[0]}; "
            f"expected paths relative to {folder}" + (", or absolute ones" if absolute else "")
        )
    return paths


def _bullets(problems: list[str]) -> str:
    shown = "".join(f"\n  - {problem}" for problem in problems[:20])
    return f"found {len(problems)} that are not:{shown}" + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")


def _read(file: Path) -> _Listing:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.source: expected {file} in UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"data.source: cannot read {file}: {error.strerror or error}") from None
    listing = _read_jsonl(file, text) if file.suffix.lower() == ".jsonl" else _read_csv(file, text)
    if not listing.lines:
        raise DataError(f"data.source: expected a row for each image in {file}, found none")
    return listing


def _read_csv(file: Path, text: str) -> _Listing:
    """Read a table with a header line; semicolons separate where the header has them and no comma."""
    header = text.partition("\n")[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else ";" if ";" in header and "," not in header else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if row:
                rows.append([value.strip() for value in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"data.source: cannot read {file}, line {reader.line_num}: {error}") from None
    names = rows[0] if rows else []
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"data.source: expected a name for each column in the first line of {file}; found twice: {listed(twice)}"
        )
    if odd := [f"line {line} ({len(row)})" for line, row in zip(lines, rows, strict=True) if len(row) != len(names)]:
        raise DataError(
            f"data.source: expected {len(names)} fields in every line of {file}, as in the first; not so: {listed(odd, 5)}"
        )
    return _Listing(file, {name: [row[k] for row in rows[1:]] for k, name in enumerate(names)}, lines[1:])


def _read_jsonl(file: Path, text: str) -> _Listing:
    """Read an object a line; a column that an object lacks is null there."""
    objects, lines = [], []
    for line, value in _json_lines(file, text):
        objects.append(value)
        lines.append(line)
    names = dict.fromkeys(name for value in objects for name in value)
    return _Listing(file, {name: [value.get(name) for value in objects] for name in names}, lines)


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            value = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise DataError(f"data.source: expected a JSON object in every line of {file}; line {line}: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"data.source: expected a JSON object in every line of {file}; line {line}: {written.strip()[:60]}")
        yield line, value
