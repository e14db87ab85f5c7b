"""Near duplicates: one picture encoded, resized or brightened anew, found by a difference hash, confirmed on gray values."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

SIDE = 9
"""Rows and columns of gray values that are compared."""

RADIUS = 8
"""In how many of the 128 bits of their hashes near duplicates differ at most."""

CORRELATION = 0.98
"""What Pearson's correlation of their gray values is at least."""

CONTRAST = 2.0
"""Standard deviation, in gray levels of 256, below which an image counts as blank and is compared with none."""


def small_gray(image: Image.Image) -> np.ndarray:
    """Return uint8 [9, 9], an image as its gray values, averaged (antialiased bilinear) over a grid whatever its shape."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def is_blank(grays: np.ndarray) -> np.ndarray:
    """Return bool [n], which of uint8 [n, 9, 9] have next to no contrast."""
    return grays.std(axis=(1, 2), dtype=np.float32) < CONTRAST


def difference_bits(grays: np.ndarray) -> np.ndarray:
    """Return the difference hash, bool [n, 128], of uint8 [n, 9, 9].

    A bit says whether a gray value is below that of its right neighbour (64 bits), or of the one below it (64 bits). The first
    half is N. Krawetz's dHash ("Kind of Like That", hackerfactor.com, 2013), the second its common extension to columns.
    """
    here = grays[:, :-1, :-1]
    right, below = grays[:, :-1, 1:] > here, grays[:, 1:, :-1] > here
    return np.stack([right, below], axis=1).reshape(len(grays), 2 * (SIDE - 1) ** 2)


def near_groups(grays: np.ndarray) -> np.ndarray:
    """Find all near duplicates, and number the groups that they form, directly or through others.

    Two images are near duplicates when neither is blank, their hashes differ in `RADIUS` bits at most, and their gray values
    correlate with at least `CORRELATION`. Of the RADIUS + 2 parts into which a hash is cut, the bits that differ spoil
    RADIUS at most; so only images that agree in two parts are compared, and none is missed (multi-index hashing: Norouzi,
    Punjani and Fleet, IEEE TPAMI 2014, arXiv 1307.2982). A part takes every tenth bit, because neighbouring bits depend on
    each other. Images that are linked already are not compared again. Memory grows with n only.

    Args:
        grays: uint8 [n, 9, 9], from `small_gray`.

    Returns:
        int64 [n], equal where two images are in one group.
    """
    rows = np.flatnonzero(~is_blank(grays))
    compared, group = grays[rows], np.arange(len(rows))
    bits = difference_bits(compared)
    codes = np.packbits(bits, axis=1).view(np.uint64).T.copy()  # [2, n]
    parts = [_numbers(bits[:, part :: RADIUS + 2]) for part in range(RADIUS + 2)]
    for one, other in itertools.combinations(parts, 2):
        keys = one << 16 | other
        order = np.argsort(keys, kind="stable")
        bucket = np.unique(keys[order], return_inverse=True)[1]
        # All pairs of a bucket: neighbours in this order, then next but one ...
        starts = np.arange(len(order))
        for distance in itertools.count(1):
            starts = starts[starts + distance < len(order)]
            starts = starts[bucket[starts] == bucket[starts + distance]]
            if distance & (distance - 1) == 0 and len(starts):  # now and then, for it looks at everything
                starts = starts[~_are_linked(bucket, group[order])[bucket[starts]]]
            if not len(starts):
                break
            first, second = order[starts], order[starts + distance]
            new = group[first] != group[second]
            first, second = first[new], second[new]
            close = sum(_ones(code[first] ^ code[second]) for code in codes) <= RADIUS
            first, second = first[close], second[close]
            alike = _correlation(compared[first], compared[second]) >= CORRELATION
            if alike.any():
                group = _joined(group, first[alike], second[alike])
    groups = np.arange(len(grays))
    groups[rows] = len(grays) + group
    return groups


def _are_linked(bucket: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return bool [buckets], whether all of a bucket's images are in one group; `bucket` [n] counts from 0 and never falls."""
    begins = np.flatnonzero(np.diff(bucket, prepend=-1))
    return np.minimum.reduceat(group, begins) == np.maximum.reduceat(group, begins)


def _joined(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return int64 [n], the groups after the images at some positions have been linked."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(group.max()) + 1
    links = (np.ones(len(first), dtype=bool), (group[first], group[second]))
    return connected_components(coo_array(links, shape=(count, count)), directed=False)[1][group].astype(np.int64)


def _ones(words: np.ndarray) -> np.ndarray:
    """Return how many bits of each uint64 are set, by adding neighbours (numpy has a function for it from 2.0 on)."""
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    words = words + (words >> 4) & 0x0F0F0F0F0F0F0F0F
    return words * 0x0101010101010101 >> 56


def _numbers(bits: np.ndarray) -> np.ndarray:
    """Return bool [n, b] read as binary numbers, int32 [n]."""
    return bits @ (1 << np.arange(bits.shape[1], dtype=np.int32))


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation, float32 [n], of uint8 [n, 9, 9] with uint8 [n, 9, 9], none of them constant."""
    one, other = (grays.reshape(len(grays), SIDE * SIDE).astype(np.float32) for grays in (one, other))
    one -= one.mean(axis=1, keepdims=True)
    other -= other.mean(axis=1, keepdims=True)
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
