"""Unreadable images, exact duplicates and groups on both sides of a split, found before an hour is lost.

The user's files are only read. The fast pass reads each file once: its header is parsed, its end is looked at and its bytes
are hashed; what does not end as its format wants is decoded, so that truncated files are found too. The full pass decodes
every image, which alone finds damage in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from .images import EncodedImage
from .pixel_limit import PIXEL_LIMIT_VARIABLE
from .table import ImageTable

_AT_A_TIME = 256
# What a whole file of a format ends with, but for what others put behind it.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_LARGE = 2**25  # pixels, of which each takes several bytes
_one_large_image = threading.Lock()


@dataclass(frozen=True)
class Scan:
    """What one pass over a table found.

    Args:
        digests: bytes [n], BLAKE2b-128 of each image's encoded bytes; empty where it cannot be read.
        bad: position to reason, for each unreadable image.
    """

    digests: list[bytes]
    bad: dict[int, str]


def scan(table: ImageTable, *, decode: bool) -> Scan:
    """Read every image of a table once, on all processors; nothing that is found stops it.

    Args:
        table: the images; where it brings digests, its images are read while training (shards that are streamed), and here
            only to decode them.
        decode: decode each image fully; otherwise only those that do not end as a whole file does.
    """
    if table.digests is not None and not decode:
        return Scan(table.digests.tolist(), {})

    def inspect(index: int) -> tuple[bytes, str | None]:
        try:
            encoded = table.encoded(index)
        except OSError as error:
            return b"", error.strerror or str(error)
        return hashlib.blake2b(encoded, digest_size=16).digest(), fault(encoded, decode=decode)

    digests: list[bytes] = []
    bad: dict[int, str] = {}
    Image.init()  # here, not in several threads at once
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters here is whether it decodes
        for start in range(0, len(table), _AT_A_TIME):  # so that no more images are under way than that
            indices = range(start, min(start + _AT_A_TIME, len(table)))
            table.prefetch(indices)
            for index, (digest, reason) in zip(indices, pool.map(inspect, indices), strict=True):
                digests.append(digest)
                if reason is not None:
                    bad[index] = reason
    if table.digests is not None:  # what could not be read has none, so that a fingerprint tells
        digests = [b"" if index in bad else digest for index, digest in enumerate(table.digests.tolist())]
    return Scan(digests, bad)


def fault(encoded: bytes, *, decode: bool) -> str | None:
    """Return why bytes are no complete image, None where they are one as far as could be seen.

    Args:
        encoded: the bytes of a file.
        decode: decode it in any case; otherwise only where its end is not that of a whole file.
    """
    if not encoded:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = image.width * image.height
            decode = decode or not _ends_whole(image, encoded)
        if decode:
            with room_for(pixels):
                EncodedImage(encoded).decode(8)  # of a JPEG all data is read, whatever size is made of it
    except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
        return undecodable(error, encoded)
    return None


def _ends_whole(image: Image.Image, encoded: bytes) -> bool:
    """Return whether a file ends as whole ones of its format do; False for formats of which that is not known."""
    if image.format == "WEBP":  # which Pillow takes apart when it opens it
        return True
    tile = getattr(image, "tile", ())
    if image.format == "PPM" and image.mode in ("L", "RGB") and tile and tile[0].codec_name == "raw":
        return len(encoded) - tile[0].offset >= image.width * image.height * len(image.mode)
    end = _ENDS.get(image.format or "")
    return end is not None and encoded.endswith(end)


@contextlib.contextmanager
def room_for(pixels: int) -> Iterator[None]:
    """Wait until no other large image is being decoded, where this one is large: a decoded one may take a gigabyte.

    Args:
        pixels: of the image.
    """
    with _one_large_image if pixels > _LARGE else contextlib.nullcontext():
        yield


def undecodable(error: Exception, encoded: bytes = b"") -> str:
    """Return in words why bytes are no image, from what Pillow raised.

    Args:
        error: what was raised.
        encoded: the bytes, whose beginning is shown where it is text: that of a web page or of a Git LFS pointer, say.
    """
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} If it is none: {PIXEL_LIMIT_VARIABLE} sets how many pixels an image may have."
    if isinstance(error, UnidentifiedImageError):
        beginning = encoded[:40].decode("ascii", "replace").split("\n")[0].strip()
        shown = f" (it begins with the text '{beginning}')" if beginning.isprintable() and "\ufffd" not in beginning else ""
        return "not an image in a known format" + (shown if beginning else "")
    return str(error) or type(error).__name__


def cross_split_duplicates(tables: dict[str, ImageTable], scans: dict[str, Scan]) -> list[list[str]]:
    """Return groups of `split: sample id` whose bytes are equal and which stand in more than one split."""
    places: dict[bytes, list[tuple[str, str]]] = {}
    for split, table in tables.items():
        for index, digest in enumerate(scans[split].digests):
            if digest:
                places.setdefault(digest, []).append((split, str(table.sample_ids[index])))
    groups = (group for group in places.values() if len({split for split, _ in group}) > 1)
    return [[f"{split}: {sample_id}" for split, sample_id in group] for group in groups]


def cross_split_groups(tables: dict[str, ImageTable]) -> dict[str, dict[str, int]]:
    """Return the groups that stand in more than one split, each as split to number of images.

    A split made here keeps groups together; one that the source brings may not.
    """
    found: dict[str, dict[str, int]] = {}
    for split, table in tables.items():
        if table.groups is not None:
            for name, count in zip(*np.unique(table.groups, return_counts=True), strict=True):
                found.setdefault(str(name), {})[split] = int(count)
    return {name: splits for name, splits in found.items() if len(splits) > 1}


def fingerprint(tables: dict[str, ImageTable], scans: dict[str, Scan], class_names: list[str]) -> str:
    """Return a hex digest of everything a run reads: splits, sample ids, labels, class names and image bytes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\0".join(class_names).encode())
    for split in sorted(tables):
        table = tables[split]
        digest.update(f"\0{split}\0{len(table)}\0".encode())
        digest.update("\0".join(map(str, table.sample_ids)).encode())
        digest.update(np.ascontiguousarray(table.labels, dtype="|b1" if table.multi_label else "<i8").tobytes())
        for image_digest in scans[split].digests:
            digest.update(image_digest)
    return digest.hexdigest()
