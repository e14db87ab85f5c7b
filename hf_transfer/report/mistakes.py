"""Which images cost the most, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Scores


@dataclass(frozen=True)
class Example:
    """One image and what was said of it.

    Args:
        sample_id: its id.
        path: its file, None for an image that is stored in a data set.
        label: its class.
        predicted: the class it was given, None where there was none.
        confidence: probability of the class it was given.
        own: probability of its class.
        loss: -log of that, in nats.
    """

    sample_id: str
    path: str | None
    label: str
    predicted: str | None
    confidence: float
    own: float
    loss: float

    @property
    def is_right(self) -> bool:
        """Whether it was given its class."""
        return self.label == self.predicted


@dataclass(frozen=True)
class ConfusedPair:
    """A class and another that its images are taken for.

    Args:
        label: the true class.
        predicted: the other.
        count: images of the class that were taken for the other.
        of: images of the class.
        examples: some of them, the surest mistakes first.
    """

    label: str
    predicted: str
    count: int
    of: int
    examples: list[Example]


def top_losses(scores: Scores, most: int) -> list[Example]:
    """Return the images with the highest loss, at most `most`, the highest first; equal ones in the file's order."""
    return _examples(scores, np.argsort(-scores.loss, kind="stable")[:most])


def confused_pairs(scores: Scores, most: int, examples: int) -> list[ConfusedPair]:
    """Return the pairs of a true and a predicted class with the most images, at most `most`.

    Among pairs with equally many images, the one with the larger share of its true class comes first. Images that were given
    no class are in no pair.

    Args:
        scores: of a split.
        most: how many pairs.
        examples: how many images of each.
    """
    found = scores.predictions
    n_classes = len(found.class_names)
    wrong = np.flatnonzero(~scores.correct & (found.predicted >= 0))
    sizes = np.bincount(found.labels, minlength=n_classes)
    keys, counts = np.unique(found.labels[wrong] * n_classes + found.predicted[wrong], return_counts=True)
    order = np.lexsort((keys, -counts / sizes[keys // n_classes], -counts))[:most]
    pairs = []
    for key, count in zip(keys[order].tolist(), counts[order].tolist(), strict=True):
        label, predicted = divmod(key, n_classes)
        members = wrong[(found.labels[wrong] == label) & (found.predicted[wrong] == predicted)]
        surest = members[np.argsort(-scores.confidence[members], kind="stable")][:examples]
        pairs.append(
            ConfusedPair(
                label=found.class_names[label],
                predicted=found.class_names[predicted],
                count=count,
                of=int(sizes[label]),
                examples=_examples(scores, surest),
            )
        )
    return pairs


def _examples(scores: Scores, rows: Sequence[int] | np.ndarray) -> list[Example]:
    found = scores.predictions
    return [
        Example(
            sample_id=found.sample_ids[row],
            path=found.paths[row],
            label=found.class_names[found.labels[row]],
            predicted=found.class_names[found.predicted[row]] if found.predicted[row] >= 0 else None,
            confidence=float(scores.confidence[row]),
            own=float(scores.own[row]),
            loss=float(scores.loss[row]),
        )
        for row in rows
    ]
