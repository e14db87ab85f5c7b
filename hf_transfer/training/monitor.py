"""Splits that are watched while a model trains: scored beside validation at every evaluation, read by nothing but logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data.build import Splits
from ..data.dataset import ImageDataset
from ..data.decoding import Decoder
from ..errors import DataError, listed
from ..metrics import quick_metrics, quick_multi_label_metrics
from ..metrics.likelihood import negative_log_likelihood
from ..metrics.multi_label import binary_cross_entropy
from ..recipe.monitored import monitored

if TYPE_CHECKING:
    import torch
    from PIL import Image

Scored = tuple[np.ndarray, np.ndarray]
"""Logits [n, C] and labels, int64 [n] or float32 [n, C], of images, in the order of their split."""


def check_monitored(names: Sequence[str], splits: Splits) -> None:
    """Stop where a monitored split is not there, or has fewer images than are asked for.

    Args:
        names: the recipe's `evaluation.monitor`.
        splits: the images of the run.

    Raises:
        DataError: listing everything that is missing.
    """
    problems = []
    sizes = {name: len(table) for name, table in (splits.tables | splits.extra).items()}
    for watched in map(monitored, names):
        size = sizes.get(watched.split)
        if size is None:
            problems.append(f"'{watched.name}': there is no {watched.split} split; data.test_fraction (0.2, say) holds one out")
        elif watched.first is not None and watched.first > size:
            problems.append(f"'{watched.name}': expected at most the {size:,} images that {watched.split} has")
    if problems:
        raise DataError("evaluation.monitor: " + "; ".join(problems))


def one_sided(names: Sequence[str], splits: Splits) -> list[str]:
    """Return a sentence for each part of a split that lacks classes which the split has: class folders come one by one.

    Args:
        names: the recipe's `evaluation.monitor`, as `check_monitored` lets it pass.
        splits: the images of the run.
    """
    said = []
    for watched in map(monitored, names):
        table = splits.table(watched.split)
        there, all_classes = _classes(table.labels[: watched.first]), len(_classes(table.labels))
        if len(there) < all_classes:
            classes = listed([splits.class_names[label] for label in there])
            said.append(
                f"evaluation.monitor: the first {watched.first:,} images of {watched.split} are of {len(there)} of its "
                f"{all_classes} classes ({classes}), in the split's own order; their figures say nothing of the others"
            )
    return said


def _classes(labels: np.ndarray) -> np.ndarray:
    """Return the classes that occur among labels [n], or among flags [n, C]."""
    return np.flatnonzero(labels.any(axis=0)) if labels.ndim == 2 else np.unique(labels)


class Monitor:
    """What is scored beside validation, each image once, and the figures that come of it.

    Args:
        names: the recipe's `evaluation.monitor`.
        splits: the images of the run.
        preprocessing: what evaluation makes of an image; draws nothing.
        decoder: how images are decoded, see `ImageDataset`.

    Attributes:
        data: split to those of its images that have to be scored, the first ones; without validation, which is scored anyway.

    Raises:
        DataError: see `check_monitored`.
    """

    def __init__(
        self,
        names: Sequence[str],
        splits: Splits,
        preprocessing: Callable[[Image.Image], torch.Tensor],
        decoder: Decoder | None = None,
    ) -> None:
        check_monitored(names, splits)
        self._watched = list(map(monitored, names))
        counts: dict[str, int] = {}
        for watched in self._watched:
            size = len(splits.table(watched.split)) if watched.first is None else watched.first
            counts[watched.split] = max(size, counts.get(watched.split, 0))
        self.needs_validation = counts.pop("validation", 0) > 0
        self.data = {
            split: ImageDataset(splits.table(split).select(np.arange(count)), preprocessing, decoder=decoder)
            for split, count in counts.items()
        }

    def figures(self, scored: Mapping[str, Scored]) -> dict[str, dict[str, float]]:
        """Return for each name, as logs have it, its loss (mean cross-entropy, in nats), accuracy and macro F1.

        Where an image may show several classes it is the binary cross-entropy, the mean average precision and macro F1.

        Logits that are not finite cost the loss of their split, and nothing else: nothing here may end a training.

        Args:
            scored: split to its images, at least as many as are watched.
        """
        found = {}
        for watched in self._watched:
            logits, labels = (array[: watched.first] for array in scored[watched.split])
            if not np.isfinite(logits).all():
                found[watched.row] = {"loss": float("nan")}
            elif labels.ndim == 2:
                loss = binary_cross_entropy(logits, labels)
                found[watched.row] = {"loss": loss, **quick_multi_label_metrics(logits, labels)}
            else:
                found[watched.row] = {"loss": negative_log_likelihood(logits, labels), **quick_metrics(logits, labels)}
        return found
