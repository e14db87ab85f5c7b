"""Unreadable images, exact duplicates and groups on both sides of a split, found before an hour is lost.

The user's files are only read. The fast pass reads each file once: its header is parsed and its bytes are hashed. The full
pass decodes every image as well, which alone finds truncated files.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from .images import decode_rgb
from .table import ImageTable


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
    """Read every image of a table once, on all processors.

    Args:
        table: the images.
        decode: decode each image fully instead of parsing its header only.
    """

    def inspect(index: int) -> tuple[bytes, str | None]:
        try:
            encoded = table.encoded(index)
        except OSError as error:
            return b"", error.strerror or str(error)
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
        if not encoded:
            return digest, "the file is empty"
        try:
            if decode:
                decode_rgb(encoded)
            else:
                with Image.open(io.BytesIO(encoded)):
                    pass
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            return digest, undecodable(error)
        return digest, None

    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters here is whether it decodes
        results = list(pool.map(inspect, range(len(table))))
    return Scan(
        digests=[digest for digest, _ in results],
        bad={index: reason for index, (_, reason) in enumerate(results) if reason is not None},
    )


def undecodable(error: Exception) -> str:
    """Return in words why bytes are no image, from what Pillow raised."""
    return "not an image in a known format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__


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
        digest.update(np.ascontiguousarray(table.labels, dtype="<i8").tobytes())
        for image_digest in scans[split].digests:
            digest.update(image_digest)
    return digest.hexdigest()
