"""What saved predictions of several labels an image say about each image: what was said, what was missed, what it cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..evaluation.predictions import Predictions
from ..metrics.multi_label import sigmoid
from .saved_run import SavedRun


@dataclass(frozen=True)
class LabelScores:
    """Figures of each image of a split.

    Args:
        predictions: what they were computed from.
        probabilities: float64 [n, C], of each class, whatever the others are.
        loss: float64 [n], the mean over the classes of -log of the probability of what is true, in nats.
    """

    predictions: Predictions
    probabilities: NDArray[np.float64]
    loss: NDArray[np.float64]

    @classmethod
    def read(cls, run: SavedRun, split: str) -> LabelScores:
        """Read predictions/SPLIT.parquet.

        Raises:
            RunDirectoryError: it is missing or damaged.
        """
        return cls.of(Predictions.read(run.path / "predictions" / f"{split}.parquet"))

    @classmethod
    def of(cls, predictions: Predictions) -> LabelScores:
        """Return the figures of predictions."""
        logits = predictions.logits.astype(np.float64)
        against = np.where(predictions.labels, -logits, logits)
        return cls(predictions, sigmoid(logits), np.logaddexp(0.0, against).mean(axis=1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether all labels of each image are right, bool [n]."""
        return np.asarray((self.predictions.predicted == self.predictions.labels).all(axis=1))

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Which classes an image shows that were not said, bool [n, C]."""
        return np.asarray(self.predictions.labels & ~self.predictions.predicted)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which classes were said that an image does not show, bool [n, C]."""
        return np.asarray(self.predictions.predicted & ~self.predictions.labels)
