"""Encoded images out of files that are not made for access one by one, kept as memory-mapped Arrow files.

They are below the folder where `datasets` keeps what it prepares, under a digest of what they were made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from ...run_directory import replacing

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_FORMAT = "1"
"""Changed when what is written changes, so that nothing older is taken for it."""

_CHUNK = 1 << 20


def embedded_images(file: Path, facts: Iterable[str], batches: Callable[[], Iterable[pa.Array]]) -> datasets.Dataset:
    """Return the images of a file as a data set with the column `image`, memory-mapped, written on first use.

    Args:
        file: the file; all its bytes are read, they are part of what the images are kept under.
        facts: what else decides the images.
        batches: images as struct<bytes: binary, path: string> arrays, few at a time; called on first use only.

    Raises:
        DataError: when the file cannot be read or the images cannot be written.
    """
    import datasets
    import pyarrow as pa

    digest = hashlib.blake2b("\0".join((_FORMAT, *facts)).encode(), digest_size=16)
    try:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"data.source: cannot read {file}: {error.strerror or error}") from None
    kept = Path(datasets.config.HF_DATASETS_CACHE, "hf_transfer", f"{digest.hexdigest()}.arrow")
    if not kept.is_file():
        schema = datasets.Features({"image": datasets.Image(decode=False)}).arrow_schema
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with (
                replacing(kept) as unfinished,
                pa.OSFile(str(unfinished), "wb") as sink,
                pa.ipc.new_stream(sink, schema) as out,
            ):
                for images in batches():
                    out.write_batch(pa.RecordBatch.from_arrays([images], schema=schema))
        except OSError as error:
            raise DataError(
                f"data.source: cannot keep the images of {file} in {kept.parent}: {error.strerror or error}. "
                "Set HF_DATASETS_CACHE to a folder on a disk with room for them."
            ) from None
    return datasets.Dataset.from_file(str(kept))
