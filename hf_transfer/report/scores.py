"""What saved predictions say about each image: how sure the model was, whether it was right, and what that cost it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..evaluation.predictions import Predictions
from ..metrics.likelihood import PROBABILITY_FLOOR, log_partition
from .saved_run import SavedRun

_NO_SCORE = -1e4  # stands for a logit of -inf: far enough below every other that its probability is 0
_MOST_NATS = -np.log(PROBABILITY_FLOOR)


@dataclass(frozen=True)
class Scores:
    """Figures of each image of a split.

    Args:
        predictions: what they were computed from.
        confidence: float64 [n], probability of the predicted class; 0 where no class was predicted.
        own: float64 [n], probability of the true class.
        loss: float64 [n], -log of it in nats; 27.6 where a class was ruled out altogether, as in metrics.json.
        logits: whether the scores are logits that a temperature can divide; probabilities under a label map, and
            scores that rule a class out, are not.
    """

    predictions: Predictions
    confidence: NDArray[np.float64]
    own: NDArray[np.float64]
    loss: NDArray[np.float64]
    logits: bool

    @classmethod
    def read(cls, run: SavedRun, split: str) -> Scores:
        """Read predictions/SPLIT.parquet.

        Raises:
            RunDirectoryError: it is missing or damaged.
        """
        summed = "unmapped_classes" in run.splits.get(split, {})
        return cls.of(Predictions.read(run.path / "predictions" / f"{split}.parquet"), summed=summed)

    @classmethod
    def of(cls, predictions: Predictions, *, summed: bool = False, temperature: float = 1.0) -> Scores:
        """Return the figures of predictions.

        Args:
            predictions: of a split.
            summed: whether what they hold as logits are logarithms of summed probabilities, as a label map makes them: these
                need not add up to 1.
            temperature: what logits are divided by.
        """
        finite = bool(np.isfinite(predictions.logits).all())
        scores = predictions.logits if finite else np.maximum(predictions.logits, _NO_SCORE)
        if temperature != 1:
            scores = scores / temperature
        rows = np.arange(len(scores))
        partition = np.zeros(len(scores)) if summed else log_partition(scores)
        own = np.minimum(np.exp(scores[rows, predictions.labels] - partition), 1.0)
        guess = np.maximum(predictions.predicted, 0)
        confidence = np.where(predictions.predicted < 0, 0.0, np.minimum(np.exp(scores[rows, guess] - partition), 1.0))
        logits = finite and not summed
        # Not -log(own): a loss near 0 is lost in a probability near 1.
        loss = np.maximum(partition - scores[rows, predictions.labels], 0.0)
        return cls(predictions, confidence, own, loss if logits else np.minimum(loss, _MOST_NATS), logits)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is the label, bool [n]."""
        return np.asarray(self.predictions.predicted == self.predictions.labels)

    def scaled(self, temperature: float) -> Scores:
        """Return the figures with every logit divided by a temperature."""
        return Scores.of(self.predictions, temperature=temperature)
