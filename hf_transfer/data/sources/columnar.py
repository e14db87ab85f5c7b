"""Parquet and Arrow files whose rows are images and labels."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ...errors import DataError, listed
from ..table import EncodedImages, StoredImages
from .columns import Columns, Rows, choose_columns, labelled_tables, labels_of, splits_of, text_of
from .embedded_images import embedded_images
from .folders import SPLIT_NAMES, SourceTables
from .labelled_files import IMAGE_COLUMNS, placed
from .remote import cache_folder

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from ...recipe.schema import Data

COLUMNAR_SUFFIXES = (".parquet", ".arrow")

_BATCH = 64
"""Rows of a Parquet file that are read at a time."""

_WORDS = re.compile(r"[-._ ]+|(?<=\D)(?=\d)")


@dataclass(frozen=True)
class ColumnarFile:
    """A Parquet or Arrow file and the types of its columns.

    Args:
        path: the file.
        schema: its Arrow schema.
        features: what `datasets` wrote into it about its columns, as JSON; empty where it is not from there.
        address: where it is, for a file far away; its path is a part of that then.
    """

    path: Path
    schema: pa.Schema
    features: dict[str, Any]
    address: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.address or str(self.path)

    def class_names(self, column: str) -> list[str]:
        """Return the names of a column of `ClassLabel`s, or of lists of them; of other columns none."""
        feature = _entry(self.features.get(column, {}))
        return [str(name) for name in feature.get("names") or ()] if _kind(feature) == "ClassLabel" else []


def read_columnar(section: Data, paths: Sequence[Path], where: str) -> SourceTables:
    """Read Parquet or Arrow files with embedded images, or with paths of images relative to the file.

    Which split an image is in is told by its file's name (`train-00000-of-00002.parquet`), its folder's (`train/0.parquet`) or
    else by a column `split`. Sample ids are `split/row`: those that the same files have on the Hub.

    Args:
        section: the recipe's `data` section.
        paths: the files, in the order in which their rows are numbered.
        where: what messages call the source.

    Raises:
        DataError: when a file cannot be read, columns or labels are missing, or some files name a split and others do not.
    """
    import datasets

    if len({path.suffix.lower() for path in paths}) > 1:
        raise DataError(
            f"data.source: expected Parquet files or Arrow files in {where}, found both: {listed(p.name for p in paths)}"
        )
    splits = splits_of_files(paths, where)
    files = [_open(path) for path in paths]
    columns = choose_file_columns(section, files, where)
    class_names = list(dict.fromkeys(name for file in files for name in file.class_names(columns.label)))
    seen: Counter[str] = Counter()
    images = [_embedded(file, columns.image) for file in files]
    parts = [_rows(file, found, columns, split, seen) for file, found, split in zip(files, images, splits, strict=True)]
    stored = StoredImages(datasets.concatenate_datasets(images), "image")
    return labelled_tables([joined_rows(parts, stored)], class_names, where, columns)


def splits_of_files(paths: Sequence[PurePath], where: str) -> list[str | None]:
    """Return the split that the name or the folder of each file tells; None for all where none does.

    Args:
        paths: of the files; of files far away those parts of their addresses.
        where: what messages call the source.

    Raises:
        DataError: when some files are called after a split and others are not.
    """
    splits = [_split_of_file(path) for path in paths]
    if any(splits) and not all(splits):
        without = [path.name for path, split in zip(paths, splits, strict=True) if not split]
        raise DataError(
            f"data.source: expected all files of {where} to be called after a split (train, validation, test), or none; "
            f"not so: {listed(without)}"
        )
    return splits


def choose_file_columns(section: Data, files: Sequence[ColumnarFile], where: str) -> Columns:
    """Return which columns of some files are read: those that the recipe names, else those whose types or names tell.

    Raises:
        DataError: when they cannot be told, one of the files lacks them, or the images' column holds none.
    """
    first = files[0]
    names = list(first.schema.names)
    for file in files:
        if twice := [name for name, count in Counter(file.schema.names).items() if count > 1]:
            raise DataError(f"data.source: expected every column once in {file.name}; found twice: {listed(twice)}")
    images = [name for name in names if _kind(first.features.get(name)) == "Image"]
    images = images or [name for name in names if _holds_images(first.schema.field(name).type)]
    images = images or [name for name in names if name in IMAGE_COLUMNS and _is_text(first.schema.field(name).type)]
    labels = [name for name in names if _kind(_entry(first.features.get(name))) == "ClassLabel"]
    columns = choose_columns(section, names, where, images=images, labels=labels)
    needed = [name for name in (columns.image, columns.label, columns.group, columns.split) if name is not None]
    for file in files:
        if missing := [name for name in needed if name not in file.schema.names]:
            raise DataError(
                f"data.source: expected the columns {listed(needed)} in every file of {where}; "
                f"{file.name} lacks {listed(missing)}"
            )
        kind = file.schema.field(columns.image).type
        if not (_holds_images(kind) or _is_text(kind)):
            raise DataError(
                f"data.image_column: expected encoded images (binary, or a struct of bytes and path) or paths in "
                f"'{columns.image}' of {file.name}, found {kind}"
            )
    return columns


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _entry(feature: Any) -> Any:
    """Return what lists hold, in the words of any version of `datasets`; what is no list as it is."""
    if isinstance(feature, list):
        return feature[0] if feature else feature
    return feature["feature"] if _kind(feature) in ("List", "LargeList", "Sequence") else feature


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _split_of_file(path: PurePath) -> str | None:
    """Return the split that a file's name begins with, else the only one among its words, else its folder's."""
    words = [SPLIT_NAMES.get(word) for word in _WORDS.split(path.stem.lower())]
    named = {word for word in words if word is not None}
    if words[0] is not None or len(named) == 1:
        return words[0] or named.pop()
    return SPLIT_NAMES.get(path.parent.name.lower())


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a broken file into an error that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "a Parquet" if path.suffix.lower() == ".parquet" else "an Arrow"
        raise DataError(f"data.source: cannot read {path} as {kind} file: {str(error).splitlines()[0]}") from None


def _open(path: Path) -> ColumnarFile:
    import pyarrow.parquet as pq

    with _reading(path):
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
        else:
            with _arrow_reader(path) as reader:
                schema = reader.schema
    return ColumnarFile(path, schema, features_of(schema))


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Return what `datasets` wrote into a schema about its columns, empty where it wrote nothing."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        return dict(json.loads(written)["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


@contextlib.contextmanager
def _arrow_reader(path: Path) -> Iterator[Any]:
    """Open an Arrow file of either format, that for random access or the stream that `datasets` writes."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_stream(source)
        with reader:
            yield reader


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Return batches of some columns, a row group or a part of one in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(path):
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path, memory_map=True) as file:
                yield from file.iter_batches(batch_size=_BATCH, columns=columns)
            return
        with _arrow_reader(path) as reader:
            if isinstance(reader, pa.RecordBatchFileReader):
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                batches = iter(reader)
            for batch in batches:
                yield batch.select(columns)


def _images(file: ColumnarFile, column: str) -> Iterator[pa.Array]:
    for batch in _batches(file.path, [column]):
        yield encoded_images(batch.column(0), file.path)


def encoded_images(images: pa.Array, file: Path) -> pa.Array:
    """Return images as struct<bytes: binary, path: string>: null where there is none, files named by absolute paths.

    Args:
        images: encoded bytes, paths, or structs that have bytes and may have paths.
        file: the file that they are in; paths are relative to its folder.

    Raises:
        DataError: listing paths that leave the folder or are none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.nulls(len(images), pa.string())
    if _is_text(images.type):
        encoded, paths = pa.nulls(len(images), pa.binary()), images.cast(pa.string())
    elif _is_binary(images.type):
        encoded, paths = images.cast(pa.binary()), nothing
    else:
        has_paths = images.type.get_field_index("path") >= 0
        encoded = pc.struct_field(images, "bytes").cast(pa.binary())
        paths = pc.struct_field(images, "path").cast(pa.string()) if has_paths else nothing
    paths = pc.if_else(pc.is_valid(encoded), nothing, paths)  # beside bytes a path is only a name
    if paths.null_count < len(paths):
        paths = pa.array(_placed(paths.to_pylist(), file), pa.string())
    absent = pc.and_(pc.is_null(encoded), pc.is_null(paths))
    return pa.StructArray.from_arrays([encoded, paths], names=["bytes", "path"], mask=absent)


def _placed(paths: list[str | None], file: Path) -> list[str | None]:
    found, problems = [], []
    far = cache_folder("files") in file.parents  # a copy of a file far away names no files of this machine
    for path in paths:
        try:
            found.append(None if path is None else str(placed(path, file.parent, absolute=not far)))
        except ValueError as error:
            problems.append(f"'{path}' {error}")
    if problems:
        raise DataError(
            f"data.source: expected paths of image files relative to {file.parent}"
            f"{'' if far else ', or absolute ones'}, in {file}; found {len(problems)} that are not: {listed(problems, 5)}"
        )
    return found


def _embedded(file: ColumnarFile, column: str) -> datasets.Dataset:
    return embedded_images(file.path, (column, str(file.path.parent)), partial(_images, file, column))


def _rows(file: ColumnarFile, images: datasets.Dataset, columns: Columns, split: str | None, seen: Counter[str]) -> Rows:
    """Return the rows of a file; `seen` counts those of each split in the files before it."""
    import pyarrow as pa

    needed = [name for name in (columns.label, columns.group, columns.split if split is None else None) if name is not None]
    small = pa.Table.from_batches(list(_batches(file.path, needed)), pa.schema([file.schema.field(name) for name in needed]))
    values = {name: small.column(name).to_pylist() for name in needed}
    return described_rows(StoredImages(images, "image"), len(images), values, file, columns, split, seen)


def described_rows(
    images: EncodedImages,
    count: int,
    values: dict[str, list[Any]],
    file: ColumnarFile,
    columns: Columns,
    split: str | None,
    seen: Counter[str],
) -> Rows:
    """Return the rows of a file with what its columns say of them.

    Args:
        images: the images.
        count: how many.
        values: the other columns that are read, as plain values.
        file: where they are from.
        columns: what they are called.
        split: the split of all of them; None where a column may tell.
        seen: rows of each split in the files before this one; those of this one are added.
    """
    where = file.name
    if split is not None or columns.split is None:
        splits = [split or "train"] * count
    else:
        names = dict(enumerate(file.class_names(columns.split)))
        splits = splits_of([names.get(value, value) for value in values[columns.split]], where)
    ids = []
    for name in splits:
        ids.append(f"{name}/{seen[name]}")
        seen[name] += 1
    return Rows(
        images=images,
        sample_ids=ids,
        splits=splits,
        labels=labels_of(values[columns.label], file.class_names(columns.label), columns, where),
        groups=None
        if columns.group is None
        else text_of(values[columns.group], "group_column", f"'{columns.group}' of {where}"),
    )


def joined_rows(parts: Sequence[Rows], images: EncodedImages) -> Rows:
    """Return the rows of several files as one, with the images of all of them."""
    grouped = parts[0].groups is not None
    return Rows(
        images=images,
        sample_ids=[sample_id for part in parts for sample_id in part.sample_ids],
        splits=[split for part in parts for split in part.splits],
        labels=[label for part in parts for label in part.labels],
        groups=[group for part in parts for group in part.groups or ()] if grouped else None,
    )
