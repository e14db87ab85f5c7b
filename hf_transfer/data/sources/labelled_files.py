"""Image files that a table names: `metadata.csv` or `metadata.jsonl` in an image folder, or a CSV, TSV or JSONL file.

The latter may be far away, and so may the images that it names.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ...errors import DataError, listed
from ..table import EncodedImages, StoredImages
from .addresses import below, folder_of, is_address, is_web, shown, shown_apart
from .columns import LABEL_COLUMNS, Columns, Rows, choose_columns, labelled_tables, labels_of, splits_of, text_of
from .folders import SPLIT_NAMES, SourceTables

if TYPE_CHECKING:
    from ...recipe.schema import Data

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
LISTING_SUFFIXES = (".csv", ".tsv", ".jsonl")
# File systems that are never those of this machine, nor lead through another one.
_FAR = ("http", "https", "hf", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "ftp", "sftp", "ssh", "hdfs", "webhdfs")
_FILE_NAME = "file_name"
_ADDRESS_COLUMNS = ("url", "image_url", "uri", "address")
IMAGE_COLUMNS = (_FILE_NAME, "image", "path", "file", "filename", "filepath", "file_path", "image_path", "image_file", "img")
_IMAGE_COLUMNS_BY_RANK = ((_FILE_NAME,), IMAGE_COLUMNS, _ADDRESS_COLUMNS)


@dataclass(frozen=True)
class _Listing:
    """A file's columns as text or JSON values, and the line in which each row begins or, in CSV, ends.

    Of a file far away `file` is a copy, and `address` tells where it is.
    """

    file: Path
    columns: dict[str, list[Any]]
    lines: list[int]
    address: str | None = None

    @property
    def name(self) -> str:
        return str(self.file) if self.address is None else shown(self.address)

    @property
    def folder(self) -> str:
        """The folder that relative paths are below of."""
        return str(self.file.parent) if self.address is None else folder_of(self.address)


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


def read_listing(section: Data, file: Path, address: str | None = None) -> SourceTables:
    """Read a CSV, TSV or JSONL file that names images and their labels.

    Images are named by addresses, by paths relative to the file or, in a file of this machine, by absolute paths. Splits are
    those of a column `split`, else those of paths that all begin with a folder called after a split.

    Args:
        section: the recipe's `data` section.
        file: the file, or a copy of one far away.
        address: where that one is.

    Raises:
        DataError: when it cannot be read, columns or labels are missing, a relative path leaves the file's folder, or a file
            from far away names files of this machine.
    """
    listing = _read(file, address)
    rows, columns = _rows(section, listing, file.parent, split=None, absolute=True)
    return labelled_tables([rows], (), listing.name, columns)


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


def _images(places: Sequence[str], sample_ids: Sequence[str]) -> EncodedImages:
    import datasets

    if any(map(is_address, places)):
        from .listed_images import ListedImages

        return ListedImages(places, sample_ids)
    stored = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": path} for path in places]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    return StoredImages(stored, "image")


def _rows(section: Data, listing: _Listing, root: Path, *, split: str | None, absolute: bool) -> tuple[Rows, Columns]:
    file, names = listing.name, list(listing.columns)
    called = next((fit for kind in _IMAGE_COLUMNS_BY_RANK if (fit := [name for name in names if name in kind])), [])
    columns = choose_columns(section, names, file, images=called)
    places = _places(listing, columns.image, absolute)
    ids = _ids(places, listing.folder if listing.address else str(root))
    if split is not None:
        splits = [split] * len(ids)
    elif columns.split is not None:
        splits = splits_of(listing.columns[columns.split], file)
    else:
        folders = [SPLIT_NAMES.get(name.partition("/")[0].lower()) if "/" in name else None for name in ids]
        splits = ["train" if None in folders else str(folder) for folder in folders]
    labels = labels_of(listing.columns[columns.label], (), columns, file)
    group = columns.group
    groups = None if group is None else text_of(listing.columns[group], "group_column", f"'{group}' of {file}")
    return Rows(_images(places, ids), ids, splits, labels, groups), columns


def _ids(places: Sequence[str], folder: str) -> list[str]:
    """Return the path below the folder of each image, of those elsewhere the absolute path or the address."""
    start = f"{shown(folder).rstrip('/')}/"
    relative = ((name, name.removeprefix(start)) for name in shown_apart(places))
    return [name if name == path else unquote(path) if is_web(folder) else path for name, path in relative]


def _places(listing: _Listing, column: str, absolute: bool) -> list[str]:
    """Return the absolute path or the address of each row's image, or list all rows that name none."""
    places: list[str] = []
    problems: list[str] = []
    first: dict[str, int] = {}
    for line, value in zip(listing.lines, listing.columns[column], strict=True):
        if not isinstance(value, str) or not value:
            problems.append(f"line {line}: no path" if value in (None, "") else f"line {line}: {value!r} is no path")
            continue
        try:
            place = _place(value, listing, absolute=absolute)
        except ValueError as error:
            problems.append(f"line {line}: '{shown(value)}' {error}")
            continue
        if first.setdefault(place, line) != line:
            problems.append(f"line {line}: '{shown(value)}' is in line {first[place]} already")
        places.append(place)
    others = "" if not absolute else ", or addresses" if listing.address else ", absolute ones, or addresses"
    relative = f"paths of image files relative to {shown(listing.folder)}{others}"
    if problems:
        raise DataError(f"data.source: expected {relative}, each once, in '{column}' of {listing.name}; {_bullets(problems)}")
    if not any(is_address(place) or Path(place).exists() for place in places):
        raise DataError(
            f"data.source: none of the {len(places)} files that {listing.name} names in '{column}' exists, such as "
            f"{places[0]}; expected {relative}"
        )
    return places


def _place(written: str, listing: _Listing, *, absolute: bool) -> str:
    if absolute and is_address(written):
        scheme = written.partition("://")[0].lower()
        own = (listing.address or "").partition("://")[0].lower()
        if listing.address is not None and ("::" in written or scheme not in (*_FAR, own)):
            raise ValueError("may be a file of this machine")
        return written
    if listing.address is not None:
        return below(listing.folder, written)
    return str(placed(written, listing.file.parent, absolute=absolute))


def _bullets(problems: list[str]) -> str:
    lines = "".join(f"\n  - {problem}" for problem in problems[:20])
    return f"found {len(problems)} that are not:{lines}" + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")


def _read(file: Path, address: str | None = None) -> _Listing:
    name = str(file) if address is None else shown(address)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.source: expected {name} in UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"data.source: cannot read {name}: {error.strerror or error}") from None
    columns, lines = _read_jsonl(name, text) if file.suffix.lower() == ".jsonl" else _read_csv(name, text)
    if not lines:
        raise DataError(f"data.source: expected a row for each image in {name}, found none")
    return _Listing(file, columns, lines, address)


def _read_csv(name: str, text: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Read a table with a header line; semicolons separate where the header has them and no comma."""
    header = text.partition("\n")[0]
    separator = "\t" if name.lower().endswith(".tsv") else ";" if ";" in header and "," not in header else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if row:
                rows.append([value.strip() for value in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"data.source: cannot read {name}, line {reader.line_num}: {error}") from None
    names = rows[0] if rows else []
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise DataError(
            f"data.source: expected a name for each column in the first line of {name}; found twice: {listed(twice)}"
        )
    if odd := [f"line {line} ({len(row)})" for line, row in zip(lines, rows, strict=True) if len(row) != len(names)]:
        raise DataError(
            f"data.source: expected {len(names)} fields in every line of {name}, as in the first; not so: {listed(odd, 5)}"
        )
    return {column: [row[k] for row in rows[1:]] for k, column in enumerate(names)}, lines[1:]


def _read_jsonl(name: str, text: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Read an object a line; a column that an object lacks is null there."""
    objects, lines = [], []
    for line, value in _json_lines(name, text):
        objects.append(value)
        lines.append(line)
    columns = dict.fromkeys(column for value in objects for column in value)
    return {column: [value.get(column) for value in objects] for column in columns}, lines


def _json_lines(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            value = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise DataError(f"data.source: expected a JSON object in every line of {name}; line {line}: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"data.source: expected a JSON object in every line of {name}; line {line}: {written.strip()[:60]}")
        yield line, value
