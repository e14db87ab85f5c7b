"""A few images by their sample ids, for pictures of a run that is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .images import decode_rgb

if TYPE_CHECKING:
    from PIL import Image

    from ..recipe.schema import Data

_log = logging.getLogger(__name__)


def read_images(
    section: Data | None, wanted: Iterable[str], paths: Mapping[str, str | None], *, size: int = 192
) -> dict[str, Image.Image]:
    """Return the wanted images as thumbnails; see `each_image`.

    Args:
        section: the recipe's `data` section, or None where only paths are to be tried.
        wanted: sample ids.
        paths: sample id to the image's file, None for an image that is stored inside a data set.
        size: pixels of the thumbnail's longer side at most.

    Returns:
        Sample id to an RGB image.
    """
    found = {}
    for sample_id, image in each_image(section, wanted, paths):
        image.thumbnail((size, size))
        found[sample_id] = image
    return found


def each_image(
    section: Data | None, wanted: Iterable[str], paths: Mapping[str, str | None]
) -> Iterator[tuple[str, Image.Image]]:
    """Yield the wanted images as they are, one at a time; those that are gone or unreadable are left out.

    An image is read from its path where that file is still there. For the others the source is opened again, once, as the
    recipe says, and they are found by their sample ids, which do not depend on splits. No other image is decoded.

    Args:
        section: the recipe's `data` section, or None where only paths are to be tried.
        wanted: sample ids.
        paths: sample id to the image's file, None for an image that is stored inside a data set.

    Yields:
        Sample id and RGB image; those read from their paths come first.
    """
    elsewhere = []
    for sample_id in dict.fromkeys(wanted):
        path = paths.get(sample_id)
        if path is not None and Path(path).is_file():
            yield from _decoded(sample_id, Path(path).read_bytes)
        else:
            elsewhere.append(sample_id)
    if elsewhere and section is not None:
        yield from _from_source(section, np.array(elsewhere))


def _from_source(section: Data, wanted: np.ndarray) -> Iterator[tuple[str, Image.Image]]:
    from .sources.source import read_source

    try:
        tables = read_source(section).tables
    except Exception as error:  # readers of many kinds; whatever is wrong with a source, its pictures are only missing
        _log.warning("images of %s cannot be shown: %s", section.source, str(error).partition("\n")[0])
        return
    for table in tables.values():
        for row in np.flatnonzero(np.isin(table.sample_ids, wanted)):
            yield from _decoded(str(table.sample_ids[row]), partial(table.encoded, int(row)))


def _decoded(sample_id: str, read: Callable[[], bytes]) -> Iterator[tuple[str, Image.Image]]:
    try:
        image = decode_rgb(read())
    except Exception:  # Pillow's decoders raise many kinds for bytes that are no image
        return
    yield sample_id, image
