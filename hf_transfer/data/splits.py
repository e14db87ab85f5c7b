"""Who is in which split: stratified, decided by `split_seed` and the sample ids alone.

Within a class, images are ordered by a keyed hash of their sample id. The order of rows or files plays no part, and adding
an image moves few others. Images that belong together (`ImageTable.groups`) stay on one side; whole groups are then ordered
by their names, and an added image may move some of them. So it may where images show several classes (`stratification`).
"""

from __future__ import annotations

import hashlib

import numpy as np

from ..errors import DataError, listed
from .groups import assign_groups
from .stratification import iterative_stratification, spread_subset
from .table import ImageTable


def hash_order(sample_ids: np.ndarray, split_seed: int) -> np.ndarray:
    """Return int64 [n], the positions ordered by BLAKE2b(split_seed, sample id)."""
    key = f"split:{split_seed}".encode()
    digests = [hashlib.blake2b(str(sample_id).encode(), key=key, digest_size=8).digest() for sample_id in sample_ids]
    return np.argsort(np.array(digests, dtype="S8"), kind="stable")


def apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` among classes in proportion to `counts` by largest remainders (Hamilton's method).

    Args:
        counts: int64 [classes].
        total: how many to hand out, at most `counts.sum()`.

    Returns:
        int64 [classes] that sums to `total`, each at most its count.
    """
    exact = counts * (total / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    remainders = exact - shares
    order = np.argsort(-remainders, kind="stable")
    shares[order[: total - int(shares.sum())]] += 1
    return np.minimum(shares, counts)


def hold_out(table: ImageTable, fractions: dict[str, float], split_seed: int, class_names: list[str]) -> dict[str, ImageTable]:
    """Take stratified parts out of a table; images of one group go to one part.

    Args:
        table: the images to split.
        fractions: part name to its share of the whole table, such as {"test": 0.2, "validation": 0.2}.
        split_seed: seed of the split.
        class_names: for the message.

    Returns:
        The parts by name, and what remains as "train"; every class occurs in every part.

    Raises:
        DataError: when the fractions leave nothing, or a class has too few images or groups to be in every part.
    """
    if sum(fractions.values()) >= 1.0:
        shown = ", ".join(f"{name} {fraction:g}" for name, fraction in fractions.items())
        raise DataError(f"data: expected held-out fractions that leave images to train on; found {shown}")
    counts = table.class_counts(len(class_names))
    present = counts > 0
    needed = len(fractions) + 1
    few = [f"'{class_names[c]}' ({counts[c]})" for c in np.flatnonzero(present & (counts < needed))]
    if few:
        raise DataError(
            f"data: a stratified split into {' + '.join(['train', *fractions])} needs at least {needed} images of every class; "
            f"too few of {listed(few)}. Add images, remove the class, or give split folders of your own."
        )
    shares_of = {"train": 1.0 - sum(fractions.values()), **fractions}
    if table.groups is not None:
        return split_by_groups(table, table.groups, shares_of, split_seed, class_names)
    if table.multi_label:
        found = iterative_stratification(table.labels, list(shares_of.values()), hash_order(table.sample_ids, split_seed))
        return {name: table.select(np.flatnonzero(found == part)) for part, name in enumerate(shares_of)}
    taken = np.zeros_like(counts)
    shares: dict[str, np.ndarray] = {}
    for name, fraction in fractions.items():
        share = apportion(counts, round(fraction * int(counts.sum())))
        share[present] = np.maximum(share[present], 1)
        shares[name] = np.minimum(share, np.maximum(counts - taken - (needed - 1 - len(shares)), 0))
        taken += shares[name]
    part_of = np.full(len(table), -1)
    order = hash_order(table.sample_ids, split_seed)
    by_class = order[np.argsort(table.labels[order], kind="stable")]
    start = 0
    for label, count in enumerate(counts):
        members = by_class[start : start + count]
        offset = 0
        for part, name in enumerate(fractions):
            part_of[members[offset : offset + shares[name][label]]] = part
            offset += shares[name][label]
        start += count
    parts = {name: table.select(np.flatnonzero(part_of == part)) for part, name in enumerate(fractions)}
    return {"train": table.select(np.flatnonzero(part_of == -1)), **parts}


def split_by_groups(
    table: ImageTable, groups: np.ndarray, fractions: dict[str, float], split_seed: int, class_names: list[str]
) -> dict[str, ImageTable]:
    """Share a table's images among parts, whole groups at a time; see `assign_groups`.

    Args:
        table: the images to split.
        groups: text [n], the group of each image.
        fractions: part name to its share, each above 0, together 1.
        split_seed: seed of the split.
        class_names: for the message.

    Raises:
        DataError: when a class comes in fewer groups than there are parts, or no split was found that has it in each.
    """
    names, needed = list(fractions), len(fractions)
    rows, labels = _shown(table, len(class_names))
    pairs = np.unique(np.stack([labels, np.unique(groups, return_inverse=True)[1][rows]]), axis=1)
    of_class = np.bincount(pairs[0], minlength=len(class_names))[: len(class_names)]
    few = [f"'{class_names[c]}' ({of_class[c]})" for c in np.flatnonzero((of_class > 0) & (of_class < needed))]
    if few:
        raise DataError(
            f"data: a split into {' + '.join(names)} that keeps groups together needs every class in at least {needed} groups; "
            f"too few of {listed(few)}. Add groups, remove the class, or give split folders of your own."
        )
    order = hash_order(np.unique(groups), split_seed)
    found, missing = assign_groups(groups[rows], labels, list(fractions.values()), order)
    parts = np.zeros(len(table), dtype=np.int64)
    parts[rows] = found
    if missing:
        places = listed(f"'{class_names[c]}' in {names[part]}" for part, c in missing if c < len(class_names))
        raise DataError(
            f"data: found no split into {' + '.join(names)} that keeps groups together and has every class in every part; "
            f"missing: {places}. Try another split seed, add groups, or give split folders of your own."
        )
    return {name: table.select(np.flatnonzero(parts == part)) for part, name in enumerate(names)}


def _shown(table: ImageTable, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the position and the label of each class that each image shows, int64 [pairs].

    Where images may show several, each shows one class more, number `num_classes`: so images that show none are shared out like
    the others, and parts get their share of images.
    """
    every = np.arange(len(table))
    if not table.multi_label:
        return every, table.labels
    rows, labels = np.nonzero(table.labels)
    return np.append(rows, every), np.append(labels, np.full(len(table), num_classes))


def subset(
    table: ImageTable, split_seed: int, class_names: list[str], *, total: int | None, each: int | None, split: str
) -> ImageTable:
    """Take a stratified subset of a split: `total` images in proportion to the classes, or `each` of every class.

    Raises:
        DataError: when `total` is below the number of classes, or a class has fewer than `each` images; when images may show
            several classes and `each` is asked for.
    """
    counts = table.class_counts(len(class_names))
    if table.multi_label:
        return _subset_of_several(table, split_seed, total=total, each=each, split=split)
    if each is not None:
        few = [f"'{class_names[c]}' ({counts[c]})" for c in np.flatnonzero(counts < each)]
        if few:
            raise DataError(
                f"data.samples_per_class: expected at least {each} training images of every class; too few of {listed(few)}"
            )
        shares = np.full_like(counts, each)
    elif total is not None and total < len(table):
        present = counts > 0
        if total < int(present.sum()):
            classes = int(present.sum())
            raise DataError(
                f"data.max_{split}_samples: expected at least one image of each of the {classes} classes, found {total}"
            )
        shares = np.maximum(apportion(counts, total), present)
        while shares.sum() > total:  # minimums of one were added above: take them back from the largest
            shares[int(np.argmax(shares))] -= 1
    else:
        return table
    order = hash_order(table.sample_ids, split_seed)
    seen = np.zeros_like(counts)
    keep = np.zeros(len(table), dtype=bool)
    for position in order:
        label = table.labels[position]
        if seen[label] < shares[label]:
            keep[position] = True
            seen[label] += 1
    return table.select(np.flatnonzero(keep))


def _subset_of_several(table: ImageTable, split_seed: int, *, total: int | None, each: int | None, split: str) -> ImageTable:
    """Take a subset of images that may show several classes; see `subset`."""
    if each is not None:
        raise DataError(
            "data.samples_per_class: an image of several classes counts for each of them, so that no choice of images has the "
            "same number of every class; use data.max_train_samples"
        )
    if total is None or total >= len(table):
        return table
    chosen = spread_subset(table.labels, total, hash_order(table.sample_ids, split_seed))
    if (found := int(chosen.sum())) > total:
        raise DataError(
            f"data.max_{split}_samples: expected at least {found}, so that every class is on one of the images; found {total}"
        )
    return table.select(np.flatnonzero(chosen))
