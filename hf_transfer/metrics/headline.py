"""The figure that a run is judged by: accuracy, or mean average precision where images have several labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """A figure of a split that selects, ranks and is told first.

    Args:
        key: its key in metrics.json; `KEY_ci95` is that of its interval.
        name: what a sentence calls it.
        title: what a table calls it.
        baseline: key in metrics.json of what a model reaches that has learned nothing.
        baseline_words: what reaches that, as "always answering the most frequent class".
        baseline_short: the same in a few words, below a number.
    """

    key: str
    name: str
    title: str
    baseline: str
    baseline_words: str
    baseline_short: str

    @property
    def interval(self) -> str:
        """Its interval's key in metrics.json."""
        return f"{self.key}_ci95"


ACCURACY = Headline(
    "accuracy",
    "accuracy",
    "Accuracy",
    "majority_baseline",
    "always answering the most frequent class",
    "always the most frequent class",
)
MEAN_AVERAGE_PRECISION = Headline(
    "mean_average_precision",
    "mean average precision",
    "mAP",
    "random_baseline",
    "ranking the images at random",
    "images ranked at random",
)


def headline_of_task(task: object) -> Headline:
    """Return what the runs of a task, `data.task` of a recipe, are judged by; all but "multi_label" have one label an image."""
    return MEAN_AVERAGE_PRECISION if task == "multi_label" else ACCURACY


def headline_of(figures: Mapping[str, Any]) -> Headline:
    """Return what the figures of a split are judged by: mean average precision where they have one, else accuracy."""
    return MEAN_AVERAGE_PRECISION if MEAN_AVERAGE_PRECISION.key in figures else ACCURACY
