"""Of several labels an image: which images cost the most, which labels are missed and which are said though not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .label_scores import LabelScores


@dataclass(frozen=True)
class Said:
    """A class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class LabelExample:
    """One image and what was said of it.

    Args:
        sample_id: its id.
        path: its file, None for an image that is stored in a data set.
        right: classes that it shows and that were said.
        missed: classes that it shows and that were not said.
        wrong: classes that were said and that it does not show.
        loss: mean over the classes of -log of the probability of what is true, in nats.
    """

    sample_id: str
    path: str | None
    right: tuple[Said, ...]
    missed: tuple[Said, ...]
    wrong: tuple[Said, ...]
    loss: float

    @property
    def is_right(self) -> bool:
        """Whether all its labels are right."""
        return not (self.missed or self.wrong)


@dataclass(frozen=True)
class LabelError:
    """A class and one of the two mistakes that can be made with it.

    Args:
        label: the class.
        kind: "missed", it is there and was not said; "wrong", it was said and is not there.
        count: images with this mistake.
        of: images that could have had it: those that show the class, or those that do not.
        examples: some of them, the surest mistakes first.
    """

    label: str
    kind: Literal["missed", "wrong"]
    count: int
    of: int
    examples: list[LabelExample]


def top_label_losses(scores: LabelScores, most: int) -> list[LabelExample]:
    """Return the images with the highest loss, at most `most`, the highest first; equal ones in the file's order."""
    return _examples(scores, np.argsort(-scores.loss, kind="stable")[:most])


def label_errors(scores: LabelScores, most: int, examples: int) -> list[LabelError]:
    """Return the classes that are missed or wrongly said in the most images, at most `most`, each kind by itself.

    Args:
        scores: of a split.
        most: how many.
        examples: how many images of each.
    """
    found = scores.predictions
    shown = found.labels.sum(axis=0)
    kinds: list[tuple[Literal["missed", "wrong"], NDArray[np.bool_], NDArray[np.int64], float]] = [
        ("missed", scores.missed, shown, 1.0),
        ("wrong", scores.wrong, len(found.labels) - shown, -1.0),
    ]
    errors = []
    for kind, mistakes, possible, sign in kinds:
        for label in np.flatnonzero(mistakes.any(axis=0)).tolist():
            rows = np.flatnonzero(mistakes[:, label])
            surest = rows[np.argsort(sign * scores.probabilities[rows, label], kind="stable")][:examples]
            errors.append(
                LabelError(found.class_names[label], kind, len(rows), int(possible[label]), _examples(scores, surest))
            )
    return sorted(errors, key=lambda error: (-error.count, -error.count / error.of))[:most]


def _examples(scores: LabelScores, rows: Sequence[int] | NDArray[np.intp]) -> list[LabelExample]:
    found = scores.predictions
    right = found.labels & found.predicted

    def said(flags: NDArray[np.bool_], row: int) -> tuple[Said, ...]:
        return tuple(
            Said(found.class_names[label], float(scores.probabilities[row, label])) for label in np.flatnonzero(flags[row])
        )

    return [
        LabelExample(
            sample_id=found.sample_ids[row],
            path=found.paths[row],
            right=said(right, row),
            missed=said(scores.missed, row),
            wrong=said(scores.wrong, row),
            loss=float(scores.loss[row]),
        )
        for row in map(int, rows)
    ]
