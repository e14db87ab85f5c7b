"""Stratified parts of images that may each show several classes: iterative stratification.

The rarest class is shared out first, while there is still a choice; each image goes to the part that lacks its classes most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def iterative_stratification(labels: np.ndarray, fractions: Sequence[float], order: np.ndarray) -> np.ndarray:
    """Share images among parts so that each part has its share of every class, and of images without any.

    Where a class has as many images as there are parts, every part gets one at least, if that can be had by moving images whose
    other classes stay in the part they leave.

    The order is that of iterative stratification (K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the stratification of
    multi-label data", ECML PKDD 2011): all images of the class of which fewest are left, then those of the next. There each
    goes to the part that lacks most of that one class; here to the part where, over all of its classes, Pearson's statistic

        sum over parts p and classes c of (n_pc - f_p N_c)^2 / (f_p N_c)

    falls most, which is what splits by groups make small, too (`groups.assign_groups`). A part that has its share f_p of the
    images takes no more. Ties are broken by the order given, and between parts by room, then by the one that comes first.

    Args:
        labels: bool [n, C].
        fractions: share of each of the P parts, together 1.
        order: int64 [n], the positions of the images in the order in which they are shared out.

    Returns:
        int64 [n], the part of each image.
    """
    shares, counts = np.asarray(fractions, dtype=np.float64), labels.sum(axis=0)
    targets = np.outer(shares, counts)
    wanted = np.where(counts >= len(shares), np.maximum(targets, 1.0), targets)
    room = shares * len(labels)
    parts = np.full(len(labels), -1)
    left = counts.copy()
    classes_of = [np.flatnonzero(row) for row in labels]
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        for image in order[(parts[order] < 0) & labels[order, rarest]]:
            own = classes_of[image]
            part = _neediest(((2 * wanted[:, own] - 1) / targets[:, own]).sum(axis=1), room)
            parts[image] = part
            room[part] -= 1
            wanted[part, own] -= 1
            left[own] -= 1
    for image in order[parts[order] < 0]:  # shows no class
        part = int(np.argmax(room))
        parts[image] = part
        room[part] -= 1
    _fill_gaps(parts, labels, order, len(shares))
    return parts


def _neediest(gains: np.ndarray, room: np.ndarray) -> int:
    """Return the part with room that gains most by an image; of equals the one with most room, then the first."""
    lacking = np.where(room > 1e-9, gains, -np.inf)
    most = np.flatnonzero(lacking >= lacking.max() - 1e-9)
    return int(most[np.argmax(room[most])])


def _fill_gaps(parts: np.ndarray, labels: np.ndarray, order: np.ndarray, count: int) -> None:
    """Move an image into each part that lacks a class, where no other part comes to lack one by it; in place."""
    have = np.stack([labels[parts == part].sum(axis=0) for part in range(count)])
    for part, missing in np.argwhere((have == 0) & (have.sum(axis=0) >= count)):
        if have[part, missing]:
            continue
        for image in order[labels[order, missing]]:
            others = labels[image]
            if (have[parts[image], others] >= 2).all():
                have[parts[image]] -= others
                have[part] += others
                parts[image] = part
                break


def spread_subset(labels: np.ndarray, total: int, order: np.ndarray) -> np.ndarray:
    """Choose images in which each class, and an image without any, is as frequent as in all, every class at least once.

    Args:
        labels: bool [n, C].
        total: how many to choose, at most n.
        order: int64 [n], the positions of the images in the order in which they are preferred.

    Returns:
        bool [n], the images chosen: `total` of them, or more where fewer could not show every class.
    """
    share = total / len(labels)
    chosen = iterative_stratification(labels, [share, 1.0 - share], order) == 0
    have = labels[chosen].sum(axis=0)
    for missing in np.flatnonzero((have == 0) & labels.any(axis=0)):
        if not have[missing]:
            image = order[labels[order, missing]][0]
            chosen[image] = True
            have += labels[image]
    for image in order[::-1]:
        if chosen.sum() <= total:
            break
        if chosen[image] and (have[labels[image]] >= 2).all():
            chosen[image] = False
            have -= labels[image]
    missing_images = total - int(chosen.sum())
    chosen[order[~chosen[order]][: max(0, missing_images)]] = True
    return chosen
