"""What is in a tar of samples, in the layout of webdataset: found once by walking its headers, then kept in the cache.

A sample is a run of members of one key: the path up to the first dot of the name. Nothing is ever unpacked: names are only
names, and links, devices and folders are passed over.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from ...errors import DataError, listed
from .addresses import is_address
from .columns import LABEL_COLUMNS, SPLIT_COLUMN
from .folders import IMAGE_SUFFIXES
from .parts_reader import PartsReader
from .remote import SourceFile, cache_folder, check_parts

_log = logging.getLogger(__name__)

_FORMAT = "1"
"""Changed when what is written changes, so that nothing older is taken for it."""

_AHEAD = 1 << 18
"""Bytes that are read at once far away: with several shards side by side about what comes in the time of another request."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_LONGEST_TEXT = 1000
_LARGEST_JSON = 1 << 24


@dataclass(frozen=True)
class Fields:
    """What the recipe names; it is part of what an index is kept under.

    Args:
        image: suffix of the images, where samples have several.
        label: suffix or JSON field of the label.
        group: suffix or JSON field of what belongs together.
    """

    image: str | None
    label: str | None
    group: str | None

    def __contains__(self, name: str) -> bool:
        """Whether the value of a suffix or a JSON field is kept."""
        return name in ("cls", "txt", SPLIT_COLUMN, *LABEL_COLUMNS, self.label, self.group)


@dataclass(frozen=True)
class TarIndex:
    """The n samples of a shard that have an image.

    Args:
        keys: of the samples, in the order of the file.
        offsets: int64 [n], where the encoded image begins; -1 where the sample lacks the one that the recipe names.
        sizes: int64 [n], bytes of it.
        suffixes: suffix of each image.
        names: suffixes and JSON fields that some sample has.
        values: the values of some of these names, None where a sample has none.
    """

    keys: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    suffixes: list[str]
    names: list[str]
    values: dict[str, list[Any]]


@dataclass
class _Sample:
    key: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    suffixes: list[str] = field(default_factory=list)


def tar_index(file: SourceFile, fields: Fields) -> TarIndex:
    """Return what is in a shard; a shard that has not changed since is not read again.

    Args:
        file: the shard, an uncompressed tar.
        fields: what the recipe names.

    Raises:
        DataError: when it is no tar, is cut off, or is not laid out as samples.
        OSError: naming the address, when it cannot be read.
    """
    from filelock import FileLock

    facts = (_FORMAT, fields.image, fields.label, fields.group)
    kept = cache_folder("indexes", f"{file.digest(file.address, *facts).hex()}.parquet")
    if (found := _read(kept)) is not None:
        return found
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):  # the other processes of a run wait for the first one's
        if (found := _read(kept)) is None:
            check_parts(file)
            found = _described(file, fields)
            _write(found, kept)
    return found


def _described(file: SourceFile, fields: Fields) -> TarIndex:
    samples: list[tuple[_Sample, tuple[str, int, int]]] = []
    names: dict[str, None] = {}
    seen: set[str] = set()
    for sample in _samples(file, fields):
        if sample.key in seen:
            raise DataError(
                f"data.source: expected the members of a sample one after another in {file.name}; those of '{sample.key}' are "
                "in several places"
            )
        seen.add(sample.key)
        names.update(dict.fromkeys(sample.suffixes))
        names.update(dict.fromkeys(sample.values))
        if sample.images:
            samples.append((sample, _image(sample, fields, file)))
    values = [name for name in names if name in fields]
    return TarIndex(
        keys=[sample.key for sample, _ in samples],
        offsets=np.array([offset for _, (_, offset, _) in samples], dtype=np.int64),
        sizes=np.array([size for _, (_, _, size) in samples], dtype=np.int64),
        suffixes=[suffix for _, (suffix, _, _) in samples],
        names=list(names),
        values={name: [sample.values.get(name) for sample, _ in samples] for name in values},
    )


def _image(sample: _Sample, fields: Fields, file: SourceFile) -> tuple[str, int, int]:
    """Return suffix, offset and size of a sample's image."""
    if fields.image is not None:
        return fields.image, *sample.images.get(fields.image, (-1, 0))
    if len(sample.images) > 1:
        raise DataError(
            f"data.image_column: expected one image in each sample of {file.name} to infer its suffix; '{sample.key}' has "
            f"{listed(sample.images)}; name the one to use"
        )
    suffix, (offset, size) = next(iter(sample.images.items()))
    return suffix, offset, size


def _samples(file: SourceFile, fields: Fields) -> Iterator[_Sample]:
    sample = None
    for name, offset, size, opened in _members(file):
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not stem or not dot:  # hidden files, and those without a suffix
            continue
        key, suffix = f"{folder}{slash}{stem}", suffix.lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if suffix in sample.suffixes:
            raise DataError(f"data.source: expected every member once in {file.name}; found twice: {name}")
        sample.suffixes.append(suffix)
        if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES or suffix == fields.image:
            sample.images[suffix] = (offset, size)
        elif suffix == "json":
            sample.values.update(_json_fields(_body(opened, offset, size, _LARGEST_JSON, name, file), fields, name, file))
        elif suffix in fields and size <= _LONGEST_TEXT:
            sample.values[suffix] = _text(_body(opened, offset, size, _LONGEST_TEXT, name, file))
    if sample is not None:
        yield sample


def _members(file: SourceFile) -> Iterator[tuple[str, int, int, IO[bytes]]]:
    """Return name, offset and size of each plain file in a tar, and the tar to read from; complain of one that is cut off."""
    size = file.size or 0
    far = is_address(file.address)
    with cast(IO[bytes], PartsReader(file, _AHEAD)) if far else Path(file.address).open("rb") as opened:
        try:
            with tarfile.open(fileobj=opened, mode="r:", errors="backslashreplace") as tar:
                before = -1
                while (member := tar.next()) is not None:
                    if member.size < 0 or tar.offset <= before:  # which would lead back, for ever
                        broken = f"{file.name} is broken at byte {member.offset:,}: a member of negative size"
                        raise DataError(f"data.source: {broken}")
                    before = tar.offset
                    tar.members = []  # type: ignore[attr-defined]  # which would grow with the number of members
                    if not member.isreg() or member.sparse is not None:
                        continue
                    name = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", member.name.removeprefix("./"))
                    if member.offset_data + member.size > size:
                        raise DataError(f"data.source: {file.name} is cut off in the middle of '{name}'")
                    yield name, member.offset_data, member.size, opened
                end = tar.offset
        except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError, MemoryError) as error:
            raise DataError(f"data.source: cannot read {file.name} as a tar: {error}") from None
        opened.seek(end)
        rest = opened.read(tarfile.BLOCKSIZE)
        if rest.strip(b"\0"):
            raise DataError(f"data.source: {file.name} is broken at byte {end:,}: what begins there is no member of a tar")
        if not rest:
            _log.warning("%s does not end as tars do: its last samples may have been cut off", file.name)


def _body(opened: IO[bytes], offset: int, size: int, largest: int, name: str, file: SourceFile) -> bytes:
    if size > largest:
        raise DataError(f"data.source: expected at most {largest:,} bytes in '{name}' of {file.name}, found {size:,}")
    opened.seek(offset)
    return opened.read(size)


def _text(body: bytes) -> str | None:
    """Return a text without spaces around it; an integer without leading zeros, as webdataset decodes `.cls`."""
    text = body.decode("utf-8", "replace").strip()
    return str(int(text)) if _INTEGER.fullmatch(text) else text or None


def _json_fields(body: bytes, fields: Fields, name: str, file: SourceFile) -> Mapping[str, Any]:
    """Return the fields of a JSON object: the values that count, of others only the names."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.source: cannot read '{name}' of {file.name} as JSON: {error}") from None
    if not isinstance(found, dict):
        return {}
    return {str(key): value if key in fields else None for key, value in found.items()}


def _write(index: TarIndex, kept: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ...run_directory import replacing

    columns = {
        "key": pa.array(index.keys, pa.string()),
        "offset": pa.array(index.offsets),
        "size": pa.array(index.sizes),
        "suffix": pa.array(index.suffixes, pa.string()).dictionary_encode(),
    }
    columns |= {
        f"={name}": pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
        for name, values in index.values.items()
    }
    table = pa.table(columns).replace_schema_metadata({"names": json.dumps(index.names)})
    with replacing(kept) as unfinished:
        pq.write_table(table, unfinished)


def _read(kept: Path) -> TarIndex | None:
    """Return an index that is kept, None where there is none, or a damaged one, as a machine that lost power leaves it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(kept, memory_map=False)
        values = {name[1:]: table.column(name).to_pylist() for name in table.column_names if name.startswith("=")}
        return TarIndex(
            keys=table.column("key").to_pylist(),
            offsets=table.column("offset").to_numpy(),
            sizes=table.column("size").to_numpy(),
            suffixes=table.column("suffix").to_pylist(),
            names=json.loads(table.schema.metadata[b"names"]),
            values={
                name: [None if value is None else json.loads(value) for value in written] for name, written in values.items()
            },
        )
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
