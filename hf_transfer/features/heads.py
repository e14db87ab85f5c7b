"""Linear heads on features: what a candidate is, how standardised features are folded into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Standardization:
    """An affine map of features: (x - mean) / scale.

    Args:
        mean: float32 [d].
        scale: float32 [d], positive.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def fit(cls, features: torch.Tensor) -> Standardization:
        """Return the map that gives float [n, d] training features zero mean and unit deviation, constant ones left at 0."""
        deviation, mean = torch.std_mean(features.float(), dim=0, correction=0)
        return cls(mean, torch.where(deviation > 1e-6 * (mean.abs() + 1e-6), deviation, torch.ones_like(deviation)))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return standardised float32 [n, d]."""
        return (features.float() - self.mean) / self.scale

    def fold(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the head on raw features that gives what this one gives on standardised features.

        W ((x - m) / s) + b = (W / s) x + (b - (W / s) m), computed in float64.

        Args:
            weight: float [C, d].
            bias: float [C].
        """
        folded = weight.double() / self.scale.double()
        return folded.float(), (bias.double() - folded @ self.mean.double()).float()


@dataclass
class Candidate:
    """One fitted linear head.

    Args:
        method: "adamw", "adam" or "logistic_regression".
        settings: its hyperparameters.
        weight: float32 [C, d], on raw features.
        bias: float32 [C].
        scores: on validation, see `scores.validation_scores`.
        curve: of each recorded epoch: epoch, train_loss, the learning_rate at its end, and the scores on validation.
    """

    method: str
    settings: dict[str, Any]
    weight: torch.Tensor
    bias: torch.Tensor
    scores: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """How many parameters the head has."""
        return self.weight.numel() + self.bias.numel()

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, C] for raw features [n, d]."""
        return torch.nn.functional.linear(features.float(), self.weight, self.bias)
