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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from .folders import natural_order
from .images import decode_rgb
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
    """

    images: list[LooseImage]
    passed_over: int


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
    an http(s) address. Hidden files and folders are passed over unless named. The order is that of the places, and natural
    ("10" after "9") inside each; a file that several places name comes once, the first time.

    Raises:
        DataError: naming all places where there is no image, with the reason of each.
    """
    images: dict[str, LooseImage] = {}
    passed_over: set[str] = set()
    problems = []
    for place in places:
        found, ignored, problem = _at(place)
        images |= {key: LooseImage(name) for key, name in found.items() if key not in images}
        passed_over |= ignored
        if problem:
            problems.append(f"{place}: {problem}")
    if problems:
        raise DataError("\n  - ".join(["expected images (a file, folder, pattern or http(s) address) at:", *problems]))
    return Found(list(images.values()), len(passed_over - images.keys()))


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
    name = image.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
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
        return _Read(name, reason=str(error) or type(error).__name__)


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


def _at(place: str) -> tuple[dict[str, str], set[str], str]:
    """Return the images at one place as {identity: name}, the identities of files passed over, and what is wrong, if so."""
    if "://" in place:
        parts = urllib.parse.urlsplit(place)
        if not _is_address(place) or not parts.hostname:
            return {}, set(), "only http:// and https:// addresses are fetched"
        return {place: place}, set(), ""
    path = Path(place).expanduser()
    if path.is_dir():
        found, ignored = _in_folder(path)
        return found, ignored, "" if found else f"no image in this folder{_among(ignored)}"
    if path.is_file():
        return {_identity(path): str(path)}, set(), ""
    if not glob.has_magic(place):
        return {}, set(), "there is no such file or folder"
    found, ignored = {}, set()
    # Path.glob would find hidden files too.
    for match in sorted(glob.glob(str(path), recursive=True), key=natural_order):  # noqa: PTH207
        if Path(match).is_dir():
            inside, others = _in_folder(Path(match))
        else:
            inside, others = _of_files([match])
        found |= {key: name for key, name in inside.items() if key not in found}
        ignored |= others
    return found, ignored, "" if found else f"no image matches this pattern{_among(ignored)}"


def _among(ignored: set[str]) -> str:
    return f" ({len(ignored)} other files)" if ignored else ""


def _in_folder(folder: Path) -> tuple[dict[str, str], set[str]]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [str(Path(parent, name)) for name in names]
    return _of_files(sorted(files, key=natural_order))


def _of_files(files: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    found, ignored = {}, set()
    for file in files:
        path = Path(file)
        if path.suffix.lower() in _suffixes() and not path.name.startswith(".") and path.is_file():
            found[_identity(path)] = file
        else:
            ignored.add(_identity(path))
    return found, ignored


def _identity(path: Path) -> str:
    return str(Path(os.path.normpath(path.absolute())))


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
