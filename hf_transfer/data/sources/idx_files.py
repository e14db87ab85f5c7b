"""IDX files, the format of MNIST: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, plain or as .gz.

The format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, the type (8: unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values in row-major order.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ...errors import DataError, listed
from ..table import StoredImages
from .columns import Columns, Rows, labelled_tables
from .embedded_images import embedded_images
from .folders import SourceTables

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)[-_.](?P<what>images|labels)[-_.]idx(?P<dims>\d)[-_.]ubyte(?:\.gz)?", re.IGNORECASE
)
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_UNSIGNED_BYTE = 8
_BATCH = 1 << 20
"""Bytes of pixels that are read at a time, if that is at least one image."""

_LARGEST = 1 << 28
"""Bytes of an image above which a head is taken for a broken one."""


def idx_files(folder: Path) -> list[str]:
    """Return the names of the IDX files in a folder."""
    return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file())


def read_idx(folder: Path) -> SourceTables:
    """Read the images and labels of a folder of IDX files.

    Images are handed on as PGM files (gray) or PPM files (a fourth dimension of three), pixels unchanged. A class is called by
    its number. Sample ids are `train/row` and `test/row`. Where a file is there plain and as .gz, the plain one is read.

    Raises:
        DataError: when files are missing, belong to several data sets, are broken, or do not fit each other.
    """
    parts, problems = [], []
    pairs = _pairs(folder)
    for split, files in pairs.items():
        if missing := [what for what in ("images", "labels") if what not in files]:
            problems.append(f"{missing[0]} of {split}")
    if problems:
        raise DataError(
            f"data.source: expected a file of images and one of labels for each split in {folder}, such as "
            f"train-images-idx3-ubyte and train-labels-idx1-ubyte; missing: {listed(problems)}"
        )
    for split, files in pairs.items():
        labels = _labels(files["labels"])
        images = embedded_images(files["images"], ("idx",), partial(_images, files["images"]))
        if len(images) != len(labels):
            raise DataError(
                f"data.source: expected as many labels as images; found {len(labels)} in {files['labels']} "
                f"and {len(images)} in {files['images']}"
            )
        ids = [f"{split}/{row}" for row in range(len(labels))]
        parts.append(Rows(StoredImages(images, "image"), ids, [split] * len(ids), [str(label) for label in labels]))
    return labelled_tables(parts, (), str(folder), Columns("images", "labels", None, None))


def _pairs(folder: Path) -> dict[str, dict[str, Path]]:
    """Return split to "images" and "labels" to file."""
    pairs: dict[str, dict[str, Path]] = {}
    sets = set()
    for name in idx_files(folder):  # "x" comes before "x.gz"
        match = _NAME.fullmatch(name)
        assert match is not None
        sets.add(match["set"])
        pairs.setdefault(_SPLITS[match["split"].lower()], {}).setdefault(match["what"].lower(), folder / name)
    if len(sets) > 1:
        raise DataError(
            f"data.source: expected the IDX files of one data set in {folder}; found several: {listed(sorted(sets))}. "
            "Put those of each into a folder of its own."
        )
    return pairs


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a plain or compressed file; whatever is wrong with it becomes an error that names it."""
    try:
        content: IO[bytes]
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as content:  # type: ignore[assignment]
            yield content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data.source: cannot read {file}: {reason}") from None


def _shape(content: IO[bytes], file: Path, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Read the head of a file."""
    head = content.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE or head[3] not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise DataError(
            f"data.source: expected an IDX file of unsigned bytes in {wanted} dimensions, found another head in {file}"
        )
    sizes = content.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"data.source: {file} ends within its head")
    return struct.unpack(f">{head[3]}I", sizes)


def _labels(file: Path) -> np.ndarray:
    with _opened(file) as content:
        (count,) = _shape(content, file, (1,))
        values = content.read()
    if len(values) != count:
        raise DataError(f"data.source: {file} should hold {count} labels and holds {len(values)}")
    return np.frombuffer(values, dtype=np.uint8)


def _images(file: Path) -> Iterator[pa.Array]:
    """Yield the images as struct<bytes, path> arrays of PGM or PPM files."""
    import pyarrow as pa

    with _opened(file) as content:
        count, height, width, *channels = _shape(content, file, (3, 4))
        if channels not in ([], [1], [3]) or not height or not width:
            raise DataError(
                f"data.source: expected images of one or three channels, found {[height, width, *channels]} in {file}"
            )
        kind = "P6" if channels == [3] else "P5"
        head = f"{kind} {width} {height} 255\n".encode()
        size = math.prod((height, width, *channels))
        if size > _LARGEST:
            raise DataError(f"data.source: expected images, found {[height, width, *channels]} as the size of each in {file}")
        step = max(1, _BATCH // size)
        for start in range(0, count, step):
            wanted = min(step, count - start)
            pixels = content.read(wanted * size)
            if len(pixels) != wanted * size:
                raise DataError(f"data.source: {file} should hold {count} images and ends after {start + len(pixels) // size}")
            encoded = [head + pixels[row * size : (row + 1) * size] for row in range(wanted)]
            yield pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.nulls(wanted, pa.string())], ["bytes", "path"])
        if content.read(1):
            raise DataError(f"data.source: {file} goes on after its {count} images")
