"""Labelled images that pip packages carry: real data where no network is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, listed, nearest
from ..table import ImageTable, StoredImages
from .folders import SourceTables, read_class_folders

PACKAGE_DATA = ("textile", "digits")


def read_package(name: str, *, group_by: str | None = None) -> SourceTables:
    """Read `package:NAME`.

    `textile`: 2,000 JPEGs, 250 x 250, of simulated textile inspection in three classes, nominal 1,000, local 500, global
    500 (Megahed et al., arXiv 2501.12596), from the package conformal-clip-data. `digits`: scikit-learn's 1,797 gray 8 x 8
    digits in ten classes.

    Args:
        name: one of `PACKAGE_DATA`.
        group_by: which images belong together, for those that are files; see `groups_of_paths`.

    Raises:
        DataError: for an unknown name, or when the package that carries the data is not installed.
    """
    if name == "textile":
        return _textile(group_by)
    if name == "digits":
        if group_by is not None:
            raise DataError("data.group_column: package:digits says nothing of images that belong together; leave it out")
        return _digits()
    raise DataError(
        f"data.source: no packaged data set is called '{name}'{nearest(name, PACKAGE_DATA)}; "
        f"known: {listed('package:' + known for known in PACKAGE_DATA)}"
    )


def _textile(group_by: str | None) -> SourceTables:
    try:
        from conformal_clip_data import textile_simulated_root
    except ModuleNotFoundError:
        raise DataError(
            "data.source: package:textile needs the package conformal-clip-data; "
            'install it with: pip install "hf-transfer-learning[demo]"'
        ) from None
    return read_class_folders(Path(str(textile_simulated_root())), group_by=group_by)


def _digits() -> SourceTables:
    import datasets
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = []
    for pixels in digits.images:  # float64 [8, 8], 0 to 16
        buffer = io.BytesIO()
        Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(buffer, format="PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    images = datasets.Dataset.from_dict({"image": encoded}, features=datasets.Features({"image": datasets.Image(decode=False)}))
    count = len(encoded)
    table = ImageTable(
        images=StoredImages(images, "image"),
        rows=np.arange(count),
        labels=digits.target.astype(np.int64),
        sample_ids=np.array([f"digits/{row}" for row in range(count)]),
    )
    return SourceTables({"train": table}, [str(name) for name in digits.target_names], split_by_source=False)
