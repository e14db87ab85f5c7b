"""The names in `evaluation.monitor`: a split, its first N images, or a further test set."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import Problem, nearest

_PART = re.compile(r"(train|validation|test)_([0-9]+)")
_ALL_OF_TRAIN = "train_all"


@dataclass(frozen=True)
class Monitored:
    """What one name stands for.

    Args:
        name: as the recipe has it.
        split: the split, or the further test set, whose images are scored.
        first: how many of them, in the split's own order; None for all.
    """

    name: str
    split: str
    first: int | None = None

    @property
    def row(self) -> str:
        """What logs, history.csv and metrics.json call it: `train` is taken there, by the loss of the training itself."""
        return _ALL_OF_TRAIN if self.name == "train" else self.name

    @property
    def is_test(self) -> bool:
        """Whether these are images that a test figure may rest on."""
        return self.split not in ("train", "validation")


def monitored(name: str) -> Monitored:
    """Return what a name stands for that `monitor_problems` has nothing against, as the recipe or logs have it."""
    if name == _ALL_OF_TRAIN:
        return Monitored(name, "train")
    part = _PART.fullmatch(name)
    return Monitored(name, part[1], int(part[2])) if part else Monitored(name, name)


def monitor_problems(names: Sequence[str], extra: Collection[str]) -> list[Problem]:
    """Return one `Problem` for each name that cannot be monitored.

    Args:
        names: the recipe's `evaluation.monitor`.
        extra: names of the further test sets in `evaluation.extra`.
    """
    found = ((place, _problem(name, names[:place], extra)) for place, name in enumerate(names))
    return [Problem(f"evaluation.monitor.{place}", problem) for place, problem in found if problem]


def _problem(name: str, before: Sequence[str], extra: Collection[str]) -> str:
    """Return what is wrong with a name, given those before it; empty where nothing is."""
    part = _PART.fullmatch(name)
    if monitored(name).row in [monitored(other).row for other in before]:
        return f"expected each name once; found '{name}' again"
    if (part or name == _ALL_OF_TRAIN) and name in extra:
        return f"'{name}' stands for images of {monitored(name).split}, and is a name in evaluation.extra; rename it there"
    if name == "validation":
        return "validation is scored at every evaluation anyway; remove it, or name a part of it, such as validation_200"
    if part and part[2].startswith("0"):
        return f"expected a number of images from 1 on, without leading zeros; found '{name}'"
    if not part and name not in ("train", _ALL_OF_TRAIN, "test", *extra):
        return (
            "expected train, test, the first N images of a split (train_200, validation_200, test_200) or a name in "
            f"evaluation.extra; found '{name}'{nearest(name, ['train', 'test', *extra])}"
        )
    return ""
