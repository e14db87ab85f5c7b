"""The training loss."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class CrossEntropy:
    """Cross-entropy in float32, averaged over all samples of an optimizer step.

    The Trainer counts the samples of the whole step, over accumulated batches and processes; dividing by that count makes
    accumulation, several processes and ragged last batches equal to one large batch.

    Args:
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the scalar loss of logits [n, C] and labels int64 [n]."""
        logits = outputs["logits"] if "logits" in outputs else outputs["cls_logits"]
        if num_items_in_batch is None:
            return functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        total = functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing, reduction="sum")
        return total / num_items_in_batch
