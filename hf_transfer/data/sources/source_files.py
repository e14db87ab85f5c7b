"""The files that a `data.source` names, here or far away, and the reader of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...errors import DataError, listed
from .addresses import check_source_address, expanded, is_address, is_web, path_of, shown
from .columnar import COLUMNAR_SUFFIXES, read_columnar
from .folders import SourceTables, natural_order
from .labelled_files import LISTING_SUFFIXES, read_listing
from .parquet_shards import read_parquet_shards
from .remote import copy_of, look_at_all, matching
from .tar_shards import COMPRESSED_TARS, TAR_SUFFIXES, read_tar_shards

if TYPE_CHECKING:
    from ...recipe.schema import Data

_SUFFIXES = {
    "listing": LISTING_SUFFIXES,
    "columnar": COLUMNAR_SUFFIXES,
    "tar": (*TAR_SUFFIXES, *COMPRESSED_TARS),
}


def kind_of(file: str) -> str | None:
    """Return "listing", "columnar" or "tar" by the name of a file, given by path or address; None for others."""
    name = path_of(file).name.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), None)


def names_files(source: str) -> bool:
    """Return whether a source is an address, a pattern, a text with braces, or is called like a file that can be read."""
    return is_address(source) or _is_pattern(source) or "{" in source or kind_of(source) is not None


def named_files(source: str) -> list[str]:
    """Return the files that a source stands for: addresses, or absolute paths that end with the names of links.

    Raises:
        DataError: when there are none, one of this machine is missing, or an address holds credentials.
    """
    files: list[str] = []
    for name in expanded(source):
        if is_address(name):
            check_source_address(name)
            files += _far(name) if _is_pattern(name) else [name]
        elif _is_pattern(name):
            files += _near(Path(name).expanduser())
        else:
            files.append(str(located(Path(name).expanduser())))
    if not files:
        raise DataError(f"data.source: no file fits the pattern {shown(source)}{_advice(source)}")
    if missing := [file for file in files if not is_address(file) and not Path(file).is_file()]:
        more = f", one of {len(files)}" if len(files) > 1 else ""
        raise DataError(f"data.source: no such file: {source if len(files) == 1 else missing[0]}{more}")
    return list(dict.fromkeys(files))


def read_files(section: Data, files: Sequence[str], where: str, kinds: str) -> SourceTables:
    """Read files of one kind.

    Args:
        section: the recipe's `data` section.
        files: addresses or absolute paths.
        where: what messages call the source.
        kinds: all that a source may be, in words.

    Raises:
        DataError: when they are of no kind, of several, or cannot be read.
    """
    found = {kind_of(file) for file in files}
    if found == {None}:
        raise DataError(f"data.source: expected {kinds}; found {'' if is_address(files[0]) else 'the file '}{shown(files[0])}")
    if len(found) > 1 or (len(files) > 1 and "listing" in found):
        others = sorted(shown(file) for file in files if kind_of(file) not in ("columnar", "tar"))
        names = listed(others or sorted(map(shown, files)), 3)
        raise DataError(f"data.source: expected files of one kind (.parquet, .arrow or .tar) for {where}; found {names}")
    kind = found.pop()
    files = sorted(files, key=lambda file: natural_order(path_of(file).as_posix()))
    if kind == "tar":
        return read_tar_shards(section, files, where)
    if section.streaming:
        if kind == "listing" or not all(path_of(file).suffix.lower() == ".parquet" for file in files):
            cannot_stream("a list of images" if kind == "listing" else "Arrow files")
        return read_parquet_shards(section, files, where)
    try:
        local = [copy_of(file) for file in look_at_all(files)]
    except OSError as error:
        raise DataError(f"data.source: cannot read {error}") from None
    if kind == "listing":
        return read_listing(section, local[0], files[0] if is_address(files[0]) else None)
    return read_columnar(section, local, where)


def cannot_stream(what: str) -> NoReturn:
    """Stop because something cannot be read in parts.

    Raises:
        DataError: saying what can.
    """
    raise DataError(
        f"data.streaming: {what} cannot be streamed; expected tar or Parquet files, here or far away, or a Hub data set that "
        "consists of such. Leave data.streaming out: images that are not on this machine are then copied to it once."
    )


def located(file: Path) -> Path:
    """Return an absolute path that ends with the name of a link, where the file is one: the Hub's cache has suffixes there."""
    return file.parent.resolve() / file.name


def _is_pattern(source: str) -> bool:
    return any(character in source for character in ("*" if is_web(source) else "*?["))


def _near(pattern: Path) -> list[str]:
    base = Path(pattern.anchor)
    return [str(located(file)) for file in base.glob(str(pattern.relative_to(base))) if file.is_file()]


def _far(pattern: str) -> list[str]:
    try:
        return matching(pattern)
    except OSError as error:
        raise DataError(f"data.source: cannot list {error}") from None


def _advice(source: str) -> str:
    return "; where a web server lists no folders, number the files: 'shard-{000..012}.tar'" if is_web(source) else ""
