"""Tars of samples in the layout of webdataset, here or far away: an image and what is said of it under one key."""

from __future__ import annotations

import bz2
import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, listed
from .addresses import is_address, path_of
from .columnar import joined_rows, splits_of_files
from .columns import LABEL_COLUMNS, Columns, Rows, choose_columns, labelled_tables, labels_of, splits_of, text_of
from .folders import SourceTables
from .remote import AT_A_TIME, SourceFile, cache_folder, copy_of, look_at, look_at_all, read_part
from .shards import Block, ShardedImages
from .tar_index import Fields, TarIndex, tar_index

if TYPE_CHECKING:
    from ...recipe.schema import Data
    from ..table import EncodedImages

TAR_SUFFIXES = (".tar",)
COMPRESSED_TARS = {".tar.gz": "gzip", ".tgz": "gzip", ".tar.bz2": "bz2", ".tbz2": "bz2", ".tar.zst": "zstd"}

_BLOCK_SAMPLES = 32
_BLOCK_BYTES = 1 << 24
_GAP = 1 << 18
"""Bytes between two images that are read and thrown away rather than asked for twice."""


def read_tar_shards(
    section: Data, addresses: Sequence[str], where: str, *, splits: Sequence[str] | None = None
) -> SourceTables:
    """Read tars of samples: consecutive members of one key, such as `0001.jpg`, `0001.cls` and `0001.json`.

    The image is the member with a suffix of images; `data.image_column` names one where there are several. The label is the
    suffix or the field of the JSON object that `data.label_column` names; without, `.cls`, else a field called as labels are,
    else `.txt`. Which split an image is in is told by its shard's name or folder, else by a JSON field `split`. Sample ids are
    `shard:key`.

    With `data.streaming` the shards stay where they are and are read in parts. Without, those far away are copied once.

    Args:
        section: the recipe's `data` section.
        addresses: addresses or absolute paths of the shards, in the order of their images.
        where: what messages call the source.
        splits: the split of each shard; by default their names or folders tell.

    Raises:
        DataError: when a shard cannot be read, is compressed and to be streamed, or images lack labels.
    """
    packed = [path_of(address).name for address in addresses if _compression(address)]
    if section.streaming and packed:
        raise DataError(
            f"data.streaming: expected uncompressed tars, whose parts can be read; found {listed(packed, 3)}. Unpack them with "
            "gunzip or the like (images hardly get smaller by it), or leave data.streaming out to have copies made."
        )
    files = look_at_all(addresses)
    local = files if section.streaming else _local(files)
    fields = Fields(section.image_column, section.label_column, section.group_column)
    indexes = _indexes(local, fields)
    columns = _columns(section, indexes, where)
    told = splits_of_files([path_of(address) for address in addresses], where) if splits is None else splits
    names = shard_names(addresses)
    parts = [_rows(*of_shard, columns) for of_shard in zip(files, names, indexes, told, strict=True)]
    images: EncodedImages = _sharded(files, indexes) if section.streaming else _at_places(local, indexes)
    found = labelled_tables([joined_rows(parts, images)], (), where, columns)
    return _with_digests(found, files, indexes) if section.streaming else found


def _with_digests(found: SourceTables, files: Sequence[SourceFile], indexes: Sequence[TarIndex]) -> SourceTables:
    """Return tables with what stands for each image's bytes: its shard, as it is, and its place in it."""
    pairs = zip(files, indexes, strict=True)
    each = [digest for file, index in pairs for digest in file.digests(_places(index.offsets).tolist())]
    digests = np.array(each, dtype="S16")
    tables = {split: replace(table, digests=digests[table.rows]) for split, table in found.tables.items()}
    return replace(found, tables=tables)


def _places(offsets: np.ndarray) -> np.ndarray:
    """Return the offset of each image; of a sample without one a number of its own."""
    return np.where(offsets < 0, -1 - np.arange(len(offsets)), offsets)


def shard_names(addresses: Sequence[str]) -> list[str]:
    """Return a short name for each shard: its file's, with folders where two files have the same."""
    paths = [path_of(address).parts for address in addresses]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [path_of(address).as_posix() + f"#{number}" for number, address in enumerate(addresses)]


@dataclass(frozen=True)
class TarImages:
    """Images in tars on this machine, read one by one from their places (`table.EncodedImages`).

    Args:
        paths: of the tars.
        tar_of: int32 [n], the tar that each image is in.
        offsets: int64 [n], where it begins; -1 where there is none.
        sizes: int64 [n], bytes of it.
    """

    paths: tuple[str, ...]
    tar_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of one image; see `table.EncodedImages`."""
        offset, size, path = int(self.offsets[row]), int(self.sizes[row]), self.paths[self.tar_of[row]]
        if offset < 0:
            raise OSError("there is no image in this sample")
        with Path(path).open("rb") as tar:
            tar.seek(offset)
            found = tar.read(size)
        if len(found) < size:
            raise OSError(f"{path} is cut off")
        return found

    def path(self, row: int) -> None:
        """Return None: images are inside of tars."""

    def prefetch(self, rows: Sequence[int]) -> None:
        """Do nothing: the images are on this machine."""


@dataclass(frozen=True)
class TarBlocks:
    """Neighbouring samples of tars, read in parts (`shards.Blocks`).

    Args:
        files: the tars.
        tar_of: int32 [n], the tar that each image is in.
        offsets: int64 [n], where it begins; -1 where there is none.
        sizes: int64 [n], bytes of it.
        bounds: int64 [blocks + 1], the row that each block begins with, and the number of rows.
    """

    files: tuple[SourceFile, ...]
    tar_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    bounds: np.ndarray

    def together(self, blocks: Sequence[int]) -> list[list[int]]:
        """Return blocks that follow one another in one tar as groups of moderate size."""
        groups: list[list[int]] = []
        size = 0
        for block in blocks:
            start, end = int(self.bounds[block]), int(self.bounds[block + 1])
            more = int(self.sizes[start:end].sum())
            follows = groups and groups[-1][-1] == block - 1 and self.tar_of[start] == self.tar_of[start - 1]
            if follows and size + more <= _BLOCK_BYTES:
                groups[-1].append(block)
                size += more
            else:
                groups.append([block])
                size = more
        return groups

    def read(self, blocks: Sequence[int]) -> list[Block]:
        """Return the images of blocks that follow one another; see `shards.Blocks`."""
        start, end = int(self.bounds[blocks[0]]), int(self.bounds[blocks[-1] + 1])
        file = self.files[self.tar_of[start]]
        images: Block = [None] * (end - start)
        for rows in _runs(self.offsets[start:end], self.sizes[start:end]):
            places = [(row, int(self.offsets[start + row]), int(self.sizes[start + row])) for row in rows]
            first = places[0][1]
            content = read_part(file, first, max(offset + size for _, offset, size in places))
            for row, offset, size in places:
                images[row] = content[offset - first : offset - first + size]
        return [images[int(self.bounds[block]) - start : int(self.bounds[block + 1]) - start] for block in blocks]


def _runs(offsets: np.ndarray, sizes: np.ndarray) -> Iterator[list[int]]:
    """Return the rows of images that lie so near to one another that they are read as one part; rows without are left out."""
    run: list[int] = []
    for row in np.argsort(offsets, kind="stable").tolist():
        if offsets[row] < 0:
            continue
        if run and offsets[row] - (offsets[run[-1]] + sizes[run[-1]]) > _GAP:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _compression(address: str) -> str | None:
    name = path_of(address).name.lower()
    return next((kind for suffix, kind in COMPRESSED_TARS.items() if name.endswith(suffix)), None)


def _local(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the shards as uncompressed files on this machine."""
    try:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(_local_one, files))
    except OSError as error:
        raise DataError(f"data.source: cannot read {error}") from None


def _local_one(file: SourceFile) -> SourceFile:
    compression = _compression(file.address)
    if compression is None and not is_address(file.address):
        return file
    copy = copy_of(file)
    local = look_at(str(copy if compression is None else _unpacked(copy, file, compression)))
    return replace(local, copied_from=file.address)


def _unpacked(packed: Path, file: SourceFile, compression: str) -> Path:
    """Return the uncompressed tar, made on first use."""
    from filelock import FileLock

    from ...run_directory import replacing

    kept = cache_folder("files", f"{file.digest(file.address, compression).hex()}.tar")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):  # the other processes of a run wait for the first one's
        if kept.is_file():
            return kept
        with replacing(kept) as unfinished:
            try:
                with _uncompressed(packed, compression) as content, unfinished.open("wb") as out:
                    last = b""
                    while chunk := content.read(1 << 20):
                        out.write(chunk)
                        last = chunk
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"data.source: cannot unpack {file.name}: {str(error).splitlines()[0]}") from None
            if last[-tarfile.BLOCKSIZE :].strip(b"\0"):  # not every format tells that it was cut off
                raise DataError(f"data.source: cannot unpack {file.name}: it does not end as tars do")
    return kept


def _uncompressed(packed: Path, compression: str) -> Any:
    import pyarrow as pa

    if compression == "gzip":
        return gzip.open(packed)
    return bz2.open(packed) if compression == "bz2" else pa.input_stream(str(packed), compression=compression)


def _indexes(files: Sequence[SourceFile], fields: Fields) -> list[TarIndex]:
    """Return the index of each shard, those that are not in the cache made several at a time."""
    from tqdm.auto import tqdm

    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            made = pool.map(lambda file: tar_index(file, fields), files)
            return list(tqdm(made, desc="shards", total=len(files), leave=False, disable=None))
    except OSError as error:
        raise DataError(f"data.source: cannot read {error}") from None


def _columns(section: Data, indexes: Sequence[TarIndex], where: str) -> Columns:
    names = list(dict.fromkeys(name for index in indexes for name in index.names))
    images = list(dict.fromkeys(suffix for index in indexes for suffix in index.suffixes))
    if not images:
        raise DataError(f"data.source: expected samples with images in {where}; found {listed(names) or 'none'}")
    if "cls" in names:
        labels = ["cls"]
    else:
        labels = [name for name in names if name in LABEL_COLUMNS] or ["txt"]
    return choose_columns(section, names, where, images=images[:1], labels=labels)


def _rows(file: SourceFile, name: str, index: TarIndex, split: str | None, columns: Columns) -> Rows:
    nothing: list[Any] = [None] * len(index.keys)
    if split is not None or columns.split is None:
        splits = [split or "train"] * len(index.keys)
    else:
        splits = splits_of(index.values.get(columns.split, nothing), file.name)
    groups = None if columns.group is None else index.values.get(columns.group, nothing)
    return Rows(
        images=TarImages((), np.empty(0), index.offsets, index.sizes),
        sample_ids=[f"{name}:{key}" for key in index.keys],
        splits=splits,
        labels=labels_of(index.values.get(columns.label, nothing), (), columns, file.name),
        groups=None if groups is None else text_of(groups, "group_column", f"'{columns.group}' of {file.name}"),
    )


def _joined_places(indexes: Sequence[TarIndex]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return int32 [n] the shard of each image, int64 [n] its offset and int64 [n] its size."""
    tar_of = np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index.keys) for index in indexes])
    return tar_of, np.concatenate([index.offsets for index in indexes]), np.concatenate([index.sizes for index in indexes])


def _at_places(files: Sequence[SourceFile], indexes: Sequence[TarIndex]) -> TarImages:
    return TarImages(tuple(file.address for file in files), *_joined_places(indexes))


def _sharded(files: Sequence[SourceFile], indexes: Sequence[TarIndex]) -> ShardedImages:
    tar_of, offsets, sizes = _joined_places(indexes)
    bounds = _bounds(tar_of, sizes)
    block_of = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
    return ShardedImages(block_of, TarBlocks(tuple(files), tar_of, offsets, sizes, bounds))


def _bounds(tar_of: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return where blocks begin: with each tar, after so many samples, and before there are too many bytes."""
    bounds, number, total = [0], 0, 0
    for row in range(len(sizes)):
        if number and (tar_of[row] != tar_of[row - 1] or number == _BLOCK_SAMPLES or total + sizes[row] > _BLOCK_BYTES):
            bounds.append(row)
            number = total = 0
        number, total = number + 1, total + int(sizes[row])
    return np.array([*bounds, len(sizes)], dtype=np.int64)
