"""From which probability each class is predicted, where an image may show several, and how that was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..backbones.task import is_multi_label
from ..errors import BackboneError
from ..metrics.multi_label import DEFAULT_THRESHOLD, best_f1_thresholds, sigmoid


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each class.

    Args:
        values: float64 [C].
        by: "validation" where they were chosen there, "checkpoint" where the model brought them, or the number they all are.
    """

    values: NDArray[np.float64]
    by: str | float

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the entries of metrics.json: thresholds {class: number}, and thresholds_by."""
        return {"thresholds": dict(zip(class_names, self.values.tolist(), strict=True)), "thresholds_by": self.by}


def decide_thresholds(
    asked: float | Literal["validation"],
    num_classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    own: NDArray[np.float64] | None = None,
) -> Thresholds:
    """Return the thresholds that figures rest on; they never come from test images.

    Args:
        asked: the recipe's `evaluation.thresholds`.
        num_classes: C.
        validation: logits float32 [m, C] of the model that is scored on the validation images, and their labels bool [m, C];
            None where validation is not read.
        own: thresholds that the model states, float64 [C], used where validation is not read.
    """
    if not isinstance(asked, str):
        return Thresholds(np.full(num_classes, asked), asked)
    if validation is not None:
        logits, labels = validation
        return Thresholds(best_f1_thresholds(sigmoid(logits), labels), "validation")
    if own is not None:
        return Thresholds(own, "checkpoint")
    return Thresholds(np.full(num_classes, DEFAULT_THRESHOLD), DEFAULT_THRESHOLD)


def model_thresholds(config: Any) -> NDArray[np.float64] | None:
    """Return the probability from which each class is said, float64 [C]; None for a model whose classes exclude each other.

    A checkpoint that states none, as others' do, says a class from 0.5 on.

    Args:
        config: the model's.

    Raises:
        BackboneError: when what it states is not a probability for each class.
    """
    if not is_multi_label(config):
        return None
    stated = getattr(config, "thresholds", None)
    if stated is None:
        return np.full(config.num_labels, DEFAULT_THRESHOLD)
    try:
        thresholds = np.asarray(stated, dtype=np.float64)
    except (TypeError, ValueError):
        thresholds = np.empty(0)
    if thresholds.shape != (config.num_labels,) or not ((thresholds > 0) & (thresholds < 1)).all():
        raise BackboneError(
            f"config.json: thresholds: expected {config.num_labels} numbers above 0 and below 1, one a class; found {stated}"
        )
    return thresholds
