"""Images that belong together (one patient, one part, one burst of photographs), and splits that keep them on one side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..errors import DataError, listed

FOLDER = "folder"
PATH = "path:"

_PASSES = 10
"""How often every group is reconsidered at most; two or three times are usual."""

_FEW = 30
"""In classes of more groups than this, groups are moved but not exchanged: one of them is too small to matter."""


def groups_of_paths(paths: Sequence[str], rule: str, *, key: str = "data.group_column") -> np.ndarray:
    """Return the group of each image, told by its path.

    Args:
        paths: below the folder that holds the class folders, with "/", such as `cat/walk_07/0001.jpg`.
        rule: `folder`: images of one folder inside the class folders belong together, whatever their class
            (`walk_07`); or `path:` and a regular expression that is searched in the path and whose one group in
            parentheses names the group (`path:(patient_\\d+)`).
        key: what an error calls the rule.

    Returns:
        Text [n].

    Raises:
        DataError: when the rule is neither, or some paths name no group.
    """
    if rule == FOLDER:
        found = [path.partition("/")[2].rpartition("/")[0] for path in paths]
        wanted = "expected images in folders inside the class folders"
    elif rule.startswith(PATH):
        pattern = _pattern(rule.removeprefix(PATH), key)
        matches = [pattern.search(path) for path in paths]
        found = ["" if match is None else match[1] or "" for match in matches]
        wanted = f"expected '{pattern.pattern}' to find a group in the path of every image"
    else:
        raise DataError(
            f"{key}: expected 'folder' (the images of one folder inside the class folders belong together) or 'path:' and a "
            f"regular expression with one group in parentheses, such as 'path:(patient_\\d+)'; found '{rule}'"
        )
    without = [path for path, group in zip(paths, found, strict=True) if not group]
    if without:
        raise DataError(f"{key}: {wanted}; {len(without)} of {len(paths)} have none: {listed(without, 3)}")
    return np.array(found)


def _pattern(text: str, key: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise DataError(f"{key}: '{text}' is no regular expression: {error}") from None
    if pattern.groups != 1:
        raise DataError(
            f"{key}: expected a regular expression with one group in parentheses, found {pattern.groups} in '{text}'"
        )
    return pattern


def assign_groups(
    groups: np.ndarray, labels: np.ndarray, fractions: Sequence[float], order: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Share whole groups among parts so that each part has its share of every class, as nearly as groups allow.

    What is made small is first the number of classes that are missing in a part, then Pearson's statistic

        sum over parts p and classes c of (n_pc - f_p N_c)^2 / (f_p N_c)

    with n_pc images of class c in part p, N_c of it in all, f_p the part's fraction. In the given order each group goes
    where that is smallest; then groups are moved, and exchanged in classes of few groups, while it helps. It is no
    exhaustive search. Groups that share no class, directly or through others, have no influence on each other.

    Args:
        groups: text [n], the group of each image.
        labels: int64 [n].
        fractions: share of each of the P parts, each above 0, together 1.
        order: the positions of the sorted distinct groups [G], in the order in which they are placed.

    Returns:
        int64 [n], the part of each image; and (part, class) of each class that is missing in a part.
    """
    names, index = np.unique(groups, return_inverse=True)
    state = _Parts(index, labels, len(names), fractions)
    for group in order:
        state.settle(group)
    for _ in range(_PASSES):
        moved = [state.settle(group) for group in order]
        exchanged = [state.exchange(members) for members in state.members_of_small_classes(order)]
        if not any(moved) and not any(exchanged):
            break
    missing = [(int(part), int(state.classes[c])) for part, c in np.argwhere(state.have == 0)]
    return state.part[index], missing


class _Parts:
    """Groups in parts, and how far each part is from its share of every class.

    Args:
        index: int64 [n], the group of each image, 0 ... G - 1.
        labels: int64 [n].
        count: number of groups G.
        fractions: share of each part.
    """

    def __init__(self, index: np.ndarray, labels: np.ndarray, count: int, fractions: Sequence[float]) -> None:
        self.classes, places = np.unique(labels, return_inverse=True)
        cells, sizes = np.unique(index * len(self.classes) + places, return_counts=True)
        starts = np.searchsorted(cells // len(self.classes), np.arange(count + 1))
        bounds = list(pairwise(starts))
        self.of_group = [cells[low:high] % len(self.classes) for low, high in bounds]
        self.sizes = [sizes[low:high] for low, high in bounds]
        self.kind = [(tuple(found), tuple(size)) for found, size in zip(self.of_group, self.sizes, strict=True)]
        self.target = np.outer(fractions, np.bincount(places)).astype(np.float64)
        self.have = np.zeros(self.target.shape, dtype=np.int64)
        self.part = np.full(count, -1)

    def settle(self, group: int) -> bool:
        """Put a group where it fits best; return whether it was moved from another part."""
        before = int(self.part[group])
        if before >= 0:
            self._place(group, before, -1)
        found = []
        for part in range(len(self.have)):
            self._place(group, part, 1)
            found.append(self._badness(self.of_group[group]))
            self._place(group, part, -1)
        best = before if before >= 0 else 0
        for part, badness in enumerate(found):
            if _better(badness, found[best]):
                best = part
        self._place(group, best, 1)
        self.part[group] = best
        return before >= 0 and best != before

    def exchange(self, members: Sequence[int]) -> bool:
        """Exchange the parts of two of these groups wherever that helps; return whether any were."""
        helped = False
        for place, one in enumerate(members):
            for other in members[place + 1 :]:
                here, there = self.part[one], self.part[other]
                if here == there or self.kind[one] == self.kind[other]:
                    continue
                concerned = np.union1d(self.of_group[one], self.of_group[other])
                before = self._badness(concerned)
                self._swap(one, other)
                if _better(self._badness(concerned), before):
                    helped = True
                else:
                    self._swap(one, other)
        return helped

    def members_of_small_classes(self, order: np.ndarray) -> list[list[int]]:
        """Return the groups of each class that has few of them, in the given order."""
        members: list[list[int]] = [[] for _ in self.classes]
        for group in order:
            for c in self.of_group[group]:
                members[c].append(int(group))
        return [found for found in members if len(found) <= _FEW]

    def _swap(self, one: int, other: int) -> None:
        here, there = self.part[one], self.part[other]
        for group, old, new in ((one, here, there), (other, there, here)):
            self._place(group, old, -1)
            self._place(group, new, 1)
            self.part[group] = new

    def _place(self, group: int, part: int, sign: int) -> None:
        self.have[part, self.of_group[group]] += sign * self.sizes[group]

    def _badness(self, classes: np.ndarray) -> tuple[int, float]:
        have, target = self.have[:, classes], self.target[:, classes]
        return int((have == 0).sum()), float(((have - target) ** 2 / target).sum())


def _better(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Return whether one badness is less than another, by more than the last bits, which may differ between machines."""
    return one[0] < other[0] or (one[0] == other[0] and one[1] < other[1] - 1e-9)
