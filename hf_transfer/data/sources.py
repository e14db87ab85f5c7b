"""Which reader a `data.source` belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .folders import SourceTables, read_class_folders

if TYPE_CHECKING:
    from ..recipe.schema import Data


def is_hub_source(source: str) -> bool:
    """Return whether a source that is no local path, no address and no package is meant as a Hub data set id."""
    if source.startswith(("package:", ".", "/", "~")) or source.count("/") > 1 or "://" in source:
        return False
    return not Path(source).expanduser().exists()


def read_source(section: Data) -> SourceTables:
    """Read `data.source`: `package:NAME`, a folder of class folders, or a Hub data set id.

    Raises:
        DataError: when the source is none of them or cannot be read.
    """
    source = section.source
    kind, colon, name = source.partition(":")
    if colon and kind == "package":
        from .package_data import read_package

        return read_package(name)
    path = Path(source).expanduser()
    if path.is_dir():
        return read_class_folders(path.resolve())
    if path.exists() or "://" in source:
        raise DataError(
            f"data.source: expected a folder of class folders, a Hub data set id, package:textile or package:digits; "
            f"found '{source}'. Files and addresses are not available in this version."
        )
    if not is_hub_source(source):
        raise DataError(f"data.source: no such folder: {source}")
    from .hub_data import read_hub

    return read_hub(section)
