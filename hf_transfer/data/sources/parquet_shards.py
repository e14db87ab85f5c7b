"""Parquet files read where they are, in row groups: labels first, images when they are needed."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...errors import DataError
from .addresses import is_address, path_of
from .columnar import (
    ColumnarFile,
    choose_file_columns,
    described_rows,
    encoded_images,
    features_of,
    joined_rows,
    splits_of_files,
)
from .columns import Columns, labelled_tables
from .folders import SourceTables
from .parts_reader import PartsReader
from .remote import AT_A_TIME, SourceFile, cache_folder, check_parts, look_at_all
from .shards import Block, ShardedImages

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ...recipe.schema import Data

_log = logging.getLogger(__name__)

_LARGE = 1 << 28
"""Bytes of a row group that are said."""

_FORMAT = "1"
"""Changed when what is written changes, so that nothing older is taken for it."""


@dataclass(frozen=True)
class _Values:
    """What a file says of its images: the rows of each row group, and the columns that are read, as plain values."""

    row_groups: list[int]
    columns: dict[str, list[Any]]


def read_parquet_shards(
    section: Data,
    addresses: Sequence[str],
    where: str,
    *,
    splits: Sequence[str] | None = None,
    features: Mapping[str, Any] | None = None,
) -> SourceTables:
    """Read Parquet files with embedded images without copying them: their labels now, their images by row groups later.

    Everything else is as in `columnar.read_columnar`, sample ids too.

    Args:
        section: the recipe's `data` section.
        addresses: addresses or absolute paths of the files, in the order in which their rows are numbered.
        where: what messages call the source.
        splits: the split of each file; by default their names or folders tell.
        features: what `datasets` calls the columns, as JSON; by default what it wrote into each file.

    Raises:
        DataError: when a file cannot be read in parts, columns or labels are missing, or images are not embedded.
    """
    found = splits_of_files([Path(path_of(address)) for address in addresses], where) if splits is None else list(splits)
    shards = look_at_all(addresses)
    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            schemas = list(pool.map(_schema, shards))
            files = [
                ColumnarFile(Path(path_of(shard.address)), schema, dict(features or features_of(schema)), shard.name)
                for shard, schema in zip(shards, schemas, strict=True)
            ]
            columns = choose_file_columns(section, files, where)
            for file in files:
                _check_embedded(file, columns)
            values = list(pool.map(lambda shard: _values(shard, columns, split_known=all(found)), shards))
    except OSError as error:
        raise DataError(f"data.source: cannot read {error}") from None
    _warn_of_large_row_groups(shards, where)
    images, digests = _sharded(shards, values, columns.image)
    seen: Counter[str] = Counter()
    parts = [
        described_rows(images, sum(value.row_groups), value.columns, file, columns, split, seen)
        for file, value, split in zip(files, values, found, strict=True)
    ]
    class_names = list(dict.fromkeys(name for file in files for name in file.class_names(columns.label)))
    source = labelled_tables([joined_rows(parts, images)], class_names, where, columns)
    tables = {split: replace(table, digests=digests[table.rows]) for split, table in source.tables.items()}
    return replace(source, tables=tables)


@dataclass(frozen=True)
class RowGroups:
    """Row groups of Parquet files (`shards.Blocks`).

    Args:
        files: the files.
        places: int32 [blocks, 2], file and row group of each block.
        column: of the images.
    """

    files: tuple[SourceFile, ...]
    places: np.ndarray
    column: str

    def together(self, blocks: Sequence[int]) -> list[list[int]]:
        """Return each by itself: row groups are large."""
        return [[block] for block in blocks]

    def read(self, blocks: Sequence[int]) -> list[Block]:
        """Return the images of a row group; see `shards.Blocks`."""
        return [self._read(*self.places[block].tolist()) for block in blocks]

    def _read(self, number: int, group: int) -> Block:
        import pyarrow as pa

        file = self.files[number]
        try:
            with _opened(file, _footer(file)) as opened:
                column = opened.read_row_group(group, columns=[self.column], use_threads=False).column(0)
        except pa.ArrowException as error:
            raise OSError(f"{file.name}: row group {group} cannot be read: {str(error).splitlines()[0]}") from None
        embedded = (encoded_images(chunk, Path(path_of(file.address))) for chunk in column.chunks)
        return [None if image is None else image["bytes"] for chunk in embedded for image in chunk.to_pylist()]


def _opened(file: SourceFile, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    source = PartsReader(file, ahead=0) if is_address(file.address) else file.address
    return pq.ParquetFile(source, metadata=metadata, pre_buffer=True)


@lru_cache(maxsize=4096)
def _footer(file: SourceFile) -> pq.FileMetaData:
    """Return what a file says of itself, read once in a process."""
    import pyarrow as pa

    try:
        with _opened(file) as opened:
            return opened.metadata
    except pa.ArrowException as error:
        _unreadable(file, error)


def _warn_of_large_row_groups(files: Sequence[SourceFile], where: str) -> None:
    footers = map(_footer, files)
    groups = (footer.row_group(group) for footer in footers for group in range(footer.num_row_groups))
    if (largest := max((group.total_byte_size for group in groups), default=0)) > _LARGE:
        _log.warning(
            "%s has row groups of up to %d MB, and loader processes hold several at a time; where that is too much, write it "
            "anew with smaller ones",
            where,
            largest >> 20,
        )


def _unreadable(file: SourceFile, error: Exception) -> NoReturn:
    raise DataError(f"data.source: cannot read {file.name} as a Parquet file: {str(error).splitlines()[0]}") from None


def _schema(file: SourceFile) -> pa.Schema:
    check_parts(file)
    return _footer(file).schema.to_arrow_schema()


def _check_embedded(file: ColumnarFile, columns: Columns) -> None:
    import pyarrow as pa

    kind = file.schema.field(columns.image).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raise DataError(
            f"data.streaming: expected encoded images in '{columns.image}' of {file.name}, found paths; leave data.streaming "
            "out"
        )


def _values(file: SourceFile, columns: Columns, *, split_known: bool) -> _Values:
    """Return the columns that say something of the images; they are read once and then kept in the cache."""
    import pyarrow as pa

    names = [columns.label, columns.group, None if split_known else columns.split]
    needed = [name for name in names if name is not None]
    kept = cache_folder("indexes", f"{file.digest(_FORMAT, file.address, *needed).hex()}.json")
    # There may be none, or a damaged one, as a machine that lost power leaves it.
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Values(**json.loads(kept.read_text(encoding="utf-8")))
    metadata = _footer(file)
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    try:
        with _opened(file, metadata) as opened:
            table = opened.read(columns=needed, use_threads=False)
    except pa.ArrowException as error:
        _unreadable(file, error)
    _write(kept, {"row_groups": groups, "columns": {name: table.column(name).to_pylist() for name in needed}})
    return _Values(**json.loads(kept.read_text(encoding="utf-8")))


def _write(kept: Path, values: dict[str, Any]) -> None:
    from ...run_directory import replacing

    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as unfinished:
        unfinished.write_text(json.dumps(values, default=str), encoding="utf-8")


def _sharded(files: Sequence[SourceFile], values: Sequence[_Values], column: str) -> tuple[ShardedImages, np.ndarray]:
    """Return the images, and what stands for the bytes of each: its file, as it is, and its row."""
    places = [(number, group) for number, value in enumerate(values) for group in range(len(value.row_groups))]
    rows = [count for value in values for count in value.row_groups]
    block_of = np.repeat(np.arange(len(places), dtype=np.int32), rows)
    each = [digest for file, value in zip(files, values, strict=True) for digest in file.digests(range(sum(value.row_groups)))]
    blocks = RowGroups(tuple(files), np.array(places, dtype=np.int32).reshape(-1, 2), column)
    return ShardedImages(block_of, blocks), np.array(each, dtype="S16")
