"""Images without labels: found in folders, by pattern or at an address, and read batch by batch in bounded memory."""

from __future__ import annotations

import functools
import glob
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from ..errors import DataError, listed
from .images import decode_rgb
from .integrity import undecodable
from .sources.folders import natural_order
from .transforms import Preprocessing

FETCH_SECONDS = 20.0
"""How long one image may take to come over the network."""

FETCH_LIMIT = 64 * 2**20
"""How many bytes one image from the network may have."""

# Pillow knows these files by sight but cannot decode them (the first five), or starts a PostScript interpreter to do so.
_NOT_DECODED = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"))


@dataclass(frozen=True)
class LooseImage:
    """An image somewhere, not yet read.

    Args:
        name: its file, or its http(s) address.
    """

    name: str

    def encoded(self, *, seconds: float = FETCH_SECONDS, limit: int = FETCH_LIMIT) -> bytes:
        """Return the encoded bytes.

        Args:
            seconds: how long an address may take.
            limit: how many bytes an address may send.

        Raises:
            OSError: when the file cannot be read; when the address takes too long, answers with an error, leads to anything
                but http(s), or sends too much.
            ValueError: when the address is none.
        """
        return _fetch(self.name, seconds, limit) if _is_address(self.name) else Path(self.name).read_bytes()


class Found(NamedTuple):
    """What `search` found.

    Args:
        images: the images, each once.
        passed_over: how many files of folders and patterns were left out: hidden ones, and those that are no images.
        closed: (name, reason) of each folder that could not be searched.
    """

    images: list[LooseImage]
    passed_over: int
    closed: list[tuple[str, str]]


@dataclass(frozen=True)
class LooseBatch:
    """Some images that were read, and those of the same stretch that could not be.

    Args:
        images: the n decoded images, RGB and upright; empty where they were not asked for.
        names: their files or addresses; bytes of a file name that are not UTF-8 are written as `\\xNN`.
        pixels: float32 [n, 3, height, width], the model's inputs.
        unreadable: (name, reason) of each file that could not be read.
    """

    images: list[Image.Image]
    names: list[str]
    pixels: torch.Tensor
    unreadable: list[tuple[str, str]]


def find_images(places: Sequence[str]) -> list[LooseImage]:
    """Return the images at these places; see `search`."""
    return search(places).images


def search(places: Sequence[str]) -> Found:
    """Look for images; nothing is opened or fetched.

    A place is a file (taken whatever its suffix), a folder (searched to its bottom for the suffixes of all formats that Pillow
    decodes), a pattern such as `photos/**/*.jpg` (what it matches is treated likewise, but a file must have such a suffix), or
    an http(s) address. Hidden files and folders are passed over unless named. Links to folders are followed, and each folder
    is searched once, under whatever names it can be reached. The order is that of the places, and natural ("10" after "9")
    inside each; a file that several places name comes once, the first time. Folders that cannot be searched are told, but for
    those that a `*` of a pattern would lead through.

    Raises:
        DataError: naming all places where there is no image, with the reason of each.
    """
    images: dict[str, LooseImage] = {}
    passed_over: set[str] = set()
    closed: dict[str, str] = {}
    problems = []
    for place in places:
        try:
            found = _at(place)
        except PermissionError as error:
            problems.append(f"{place}: {error.strerror}")
            continue
        images |= {key: LooseImage(name) for key, name in found.images.items() if key not in images}
        passed_over |= found.ignored
        closed |= found.closed
        if found.problem:
            problems.append(f"{place}: {found.problem}")
    if problems:
        raise DataError("\n  - ".join(["expected images (a file, folder, pattern or http(s) address) at:", *problems]))
    return Found(list(images.values()), len(passed_over - images.keys()), list(closed.items()))


def read_batches(
    images: Sequence[LooseImage],
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    workers: int | None = None,
    keep_images: bool = True,
) -> Iterator[LooseBatch]:
    """Read images in order, `batch_size` at a time; what cannot be read is told and never stops the stream.

    While the caller works on one batch, threads read the next one, and nothing more than these two is held. (Decoding and
    resizing leave Python's lock, so threads are enough: see benchmarks/predict.py.)

    Args:
        images: what to read.
        preprocessing: of the checkpoint.
        batch_size: images at a time; a batch is smaller by its unreadable images.
        workers: reading threads; 0 reads in the caller's thread, and holds one batch only; None takes one for each processor,
            8 at most.
        keep_images: hold the decoded images of a batch as well, in their full size.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of 1 or more, found {batch_size}")
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    read = functools.partial(_read, preprocessing=preprocessing, keep_image=keep_images)
    stretches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    if workers == 0:
        yield from (_batch(map(read, stretch), preprocessing) for stretch in stretches)
        return
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        ahead: Iterator[_Read] | None = None
        for stretch in stretches:
            present, ahead = ahead, pool.map(read, stretch)
            if present is not None:
                yield _batch(present, preprocessing)
        if ahead is not None:
            yield _batch(ahead, preprocessing)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Read(NamedTuple):
    """One image that was read, or the reason why it could not be."""

    name: str
    image: Image.Image | None = None
    pixels: torch.Tensor | None = None
    reason: str = ""


def _read(image: LooseImage, *, preprocessing: Preprocessing, keep_image: bool) -> _Read:
    name = _printable(image.name)
    try:
        encoded = image.encoded()
        if not encoded:
            return _Read(name, reason="the file is empty")
        decoded = decode_rgb(encoded)
        return _Read(name, decoded if keep_image else None, preprocessing(decoded))
    except UnidentifiedImageError:
        return _Read(name, reason="not an image in a known format")
    except OSError as error:
        return _Read(name, reason=error.strerror or str(error) or type(error).__name__)
    except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
        return _Read(name, reason=undecodable(error))


def _batch(results: Iterator[_Read], preprocessing: Preprocessing) -> LooseBatch:
    images, names, pixels, unreadable = [], [], [], []
    for result in results:
        if result.pixels is None:
            unreadable.append((result.name, result.reason))
            continue
        names.append(result.name)
        pixels.append(result.pixels)
        if result.image is not None:
            images.append(result.image)
    stacked = torch.stack(pixels) if pixels else torch.empty((0, 3, *preprocessing.size))
    return LooseBatch(images, names, stacked, unreadable)


class _Place(NamedTuple):
    """What is at one place.

    Args:
        images: identity to name.
        ignored: identities of the files passed over.
        closed: name of each folder that cannot be searched to its reason.
        problem: why there is no image; empty where there is one.
    """

    images: dict[str, str]
    ignored: frozenset[str] = frozenset()
    closed: Mapping[str, str] = MappingProxyType({})
    problem: str = ""

    @classmethod
    def of(cls, parts: Sequence[_Place], problem: str) -> _Place:
        """Put parts together; of a file in several of them the first name counts."""
        images: dict[str, str] = {}
        closed: dict[str, str] = {}
        for part in parts:
            images |= {key: name for key, name in part.images.items() if key not in images}
            closed |= part.closed
        ignored = frozenset().union(*(part.ignored for part in parts))
        if not images:
            others = [f"{len(ignored)} other files"] if ignored else []
            others += [f"{name} cannot be searched: {reason}" for name, reason in closed.items()]
            problem += f" ({listed(others)})" if others else ""
        return cls(images, ignored, closed, "" if images else problem)


def _at(place: str) -> _Place:
    """Return what is at one place.

    Raises:
        PermissionError: where it is not for this user to know.
    """
    if "://" in place:
        parts = urllib.parse.urlsplit(place)
        if not _is_address(place) or not parts.hostname:
            return _Place({}, problem="only http:// and https:// addresses are fetched")
        return _Place({place: place})
    path = Path(os.path.expanduser(place))  # noqa: PTH111 (pathlib's raises for an unknown user)
    if path.is_dir():
        return _Place.of([_in_folder(path)], "no image in this folder")
    if path.is_file():
        return _Place({_identity(path): str(path)})
    if not glob.has_magic(place):
        return _Place({}, problem="there is no such file or folder")
    # Path.glob would find hidden files too.
    matches = sorted(glob.glob(str(path), recursive=True), key=natural_order)  # noqa: PTH207
    found = [_in_folder(Path(match)) if Path(match).is_dir() else _of_files([match]) for match in matches]
    return _Place.of(found, "no image matches this pattern")


def _in_folder(folder: Path) -> _Place:
    files: list[str] = []
    closed: dict[str, str] = {}
    entered: set[str] = set()

    def refused(error: OSError) -> None:
        closed[_printable(str(Path(error.filename)))] = error.strerror or str(error)

    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:  # through another link, or round in a circle
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_order)
        files += [str(Path(parent, name)) for name in names]
    found = _of_files(sorted(files, key=natural_order))
    return found._replace(closed=closed)


def _of_files(files: Sequence[str]) -> _Place:
    found: dict[str, str] = {}
    ignored: set[str] = set()
    for file in files:
        path = Path(file)
        if path.suffix.lower() in _suffixes() and not path.name.startswith(".") and _may_be_file(path):
            found.setdefault(_identity(path), file)
        else:
            ignored.add(_identity(path))
    return _Place(found, frozenset(ignored))


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # reading it will tell
        return True


def _identity(path: Path) -> str:
    return str(Path(os.path.realpath(path.parent), path.name))


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@functools.cache
def _suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow decodes."""
    return frozenset(
        suffix
        for suffix, image_format in Image.registered_extensions().items()
        if image_format in Image.OPEN and image_format not in _NOT_DECODED
    )


def _is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _fetch(address: str, seconds: float, limit: int) -> bytes:
    # urllib follows redirects to ftp as well: an opener without that handler refuses them.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    quoted = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(quoted, headers={"User-Agent": "hf-transfer-learning"})
    began = time.monotonic()
    try:
        with opener.open(request, timeout=seconds) as answer:
            parts, size = [], 0
            while part := answer.read1(2**16):
                size += len(part)
                if size > limit:
                    raise OSError(f"it has more than {limit:,} bytes")
                if time.monotonic() - began > seconds:
                    raise TimeoutError(f"it took longer than {seconds:g} seconds")
                parts.append(part)
            if answer.length:  # read1 ends quietly where the connection does
                raise OSError(f"the connection ended {answer.length} bytes too early")
            return b"".join(parts)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"it cannot be fetched: {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"it cannot be fetched: {error or type(error).__name__}") from None
