"""A grid of linear heads trained at once: every learning rate, weight decay and normalisation in one matrix product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch.nn import functional

from .heads import Candidate, Standardization
from .scores import validation_scores

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
WEIGHT_DECAYS = (0.0, 1e-2, 1e-1)
NORMALIZATIONS = ("none", "standardize")

Optimizer = Literal["adamw", "adam"]
Shape = Callable[[int, int], float]
"""(steps taken, steps of the training) to the share of the peak learning rate in the next step."""


def half_cosine(step: int, steps: int) -> float:
    """Return the share of the peak learning rate after some of the steps: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class HeadGrid:
    """Linear heads for every pair of learning rate and weight decay, trained side by side.

    The grid of learning rates follows the linear evaluation of DINOv2 (Oquab et al. 2023, arXiv 2304.07193, appendix B.3); the
    optimizer is AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), whose decay leaves out the bias, or Adam (Kingma and Ba
    2015, arXiv 1412.6980), whose decay is part of the gradient, the bias included, as `torch.optim.Adam` has it. So a learning
    rate means what it means when the head is trained live. The problem is convex: heads start at zero.

    Args:
        width: d.
        num_classes: C.
        pairs: (learning rate, weight decay) of each of the K heads.
        steps: of the whole training.
        optimizer: "adamw" or "adam".
        shape: of the learning rates over the steps.

    Attributes:
        weight: float32 [d, K * C].
        bias: float32 [K * C].
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        pairs: Sequence[tuple[float, float]],
        steps: int,
        *,
        optimizer: Optimizer = "adamw",
        shape: Shape = half_cosine,
    ) -> None:
        self.num_classes, self.pairs, self.steps = num_classes, list(pairs), steps
        self.optimizer, self.shape = optimizer, shape
        columns = len(self.pairs) * num_classes
        self.weight, self.bias = torch.zeros(width, columns), torch.zeros(columns)
        self._moments = [[torch.zeros_like(tensor) for _ in range(2)] for tensor in (self.weight, self.bias)]
        self._rates = torch.tensor([rate for rate, _ in self.pairs]).repeat_interleave(num_classes)
        self._decays = torch.tensor([decay for _, decay in self.pairs]).repeat_interleave(num_classes)
        self._step = 0

    @property
    def share(self) -> float:
        """The share of the peak learning rates in the next step."""
        return self.shape(self._step, self.steps)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, K, C] for float32 [n, d]."""
        return torch.addmm(self.bias, features, self.weight).unflatten(1, (len(self.pairs), self.num_classes))

    def step(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step of every head on a batch and return their losses before it, float32 [K].

        Args:
            features: float32 [n, d].
            labels: int64 [n], or bool [n, C] where an image may show several classes: the loss is then the mean binary
                cross-entropy.
        """
        logits = self.logits(features)
        # The losses, and the gradient of their mean with respect to the logits.
        if labels.ndim == 2:
            targets = labels.to(logits.dtype)[:, None, :].expand_as(logits)
            losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((0, 2))
            error = ((logits.sigmoid() - targets) / labels.numel()).flatten(1)
        else:
            log_probabilities = functional.log_softmax(logits, dim=-1)
            targets = functional.one_hot(labels, self.num_classes).to(logits.dtype)[:, None, :]
            losses = -(log_probabilities * targets).sum(-1).mean(0)
            error = ((log_probabilities.exp() - targets) / len(labels)).flatten(1)
        rates = self._rates * self.share
        self._step += 1
        self._update(0, self.weight, features.T @ error, rates, self._decays)
        self._update(1, self.bias, error.sum(0), rates, self._decays if self.optimizer == "adam" else None)
        return losses

    def heads(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the weight [C, d] and bias [C] of each head."""
        weights = self.weight.T.unflatten(0, (len(self.pairs), self.num_classes))
        return [(w.clone(), b.clone()) for w, b in zip(weights, self.bias.unflatten(0, weights.shape[:2]), strict=True)]

    def _update(
        self, number: int, tensor: torch.Tensor, gradient: torch.Tensor, rates: torch.Tensor, decays: torch.Tensor | None
    ) -> None:
        first, second = self._moments[number]
        if decays is not None and self.optimizer == "adam":
            gradient = gradient + tensor * decays
        elif decays is not None:
            tensor.mul_(1 - rates * decays)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        denominator = (second / (1 - 0.999**self._step)).sqrt_().add_(1e-8)
        tensor.sub_(first / denominator * (rates / (1 - 0.9**self._step)))


def fit_grid(
    views: Sequence[torch.Tensor],
    labels: torch.Tensor,
    validation: torch.Tensor,
    validation_labels: torch.Tensor,
    num_classes: int,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    normalizations: Sequence[str] = NORMALIZATIONS,
    epochs: int = 100,
    batch_size: int = 256,
    optimizer: Optimizer = "adamw",
    shape: Shape = half_cosine,
    seed: int = 0,
    curve_points: int = 20,
) -> list[Candidate]:
    """Train every combination at once and return them, scored on validation at `curve_points` epochs and at the end.

    Args:
        views: training features, float [n, d] for each augmented view; epoch e trains on view e modulo their number.
        labels: int64 [n], or bool [n, C].
        validation: float [m, d].
        validation_labels: int64 [m], or bool [m, C].
        num_classes: C.
        learning_rates: peak learning rates.
        weight_decays: weight decays, as the optimizer has them.
        normalizations: of "none" and "standardize"; statistics come from the training features.
        epochs: passes over the training features.
        batch_size: rows of a step.
        optimizer: "adamw" or "adam".
        shape: of the learning rates over the steps.
        seed: of the order of the rows.
        curve_points: how many epochs leave a point on the curves.
    """
    pairs = list(itertools.product(learning_rates, weight_decays))
    count, width = views[0].shape
    steps = epochs * math.ceil(count / batch_size)
    standardization = Standardization.fit(views[0] if len(views) == 1 else torch.cat([view.float() for view in views]))
    grids = {name: HeadGrid(width, num_classes, pairs, steps, optimizer=optimizer, shape=shape) for name in normalizations}
    curves: dict[str, list[list[dict[str, float]]]] = {name: [[] for _ in pairs] for name in normalizations}
    recorded = {round(point * epochs / curve_points) for point in range(1, curve_points + 1)} | {epochs}
    transforms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"none": torch.Tensor.float, "standardize": standardization}
    inputs = {name: [transforms[name](view) for view in views] for name in normalizations}
    held_out = {name: transforms[name](validation) for name in normalizations}
    for epoch in range(epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        losses = {name: torch.zeros(len(pairs)) for name in normalizations}
        for rows in order.split(batch_size):
            for name, grid in grids.items():
                losses[name] += grid.step(inputs[name][epoch % len(views)][rows], labels[rows]) * (len(rows) / count)
        if epoch + 1 in recorded:
            for name, grid in grids.items():
                for curve, (rate, _), loss, logits in zip(
                    curves[name], pairs, losses[name].tolist(), grid.logits(held_out[name]).unbind(1), strict=True
                ):
                    now = {"epoch": float(epoch + 1), "train_loss": loss, "learning_rate": rate * grid.share}
                    curve.append(now | validation_scores(logits, validation_labels))
    candidates = []
    for name, grid in grids.items():
        for (rate, decay), (weight, bias), curve in zip(pairs, grid.heads(), curves[name], strict=True):
            if name == "standardize":
                weight, bias = standardization.fold(weight, bias)
            settings = {"learning_rate": rate, "weight_decay": decay, "normalization": name, "epochs": epochs}
            scores = {key: value for key, value in curve[-1].items() if key not in ("epoch", "train_loss", "learning_rate")}
            candidates.append(Candidate(optimizer, settings, weight, bias, scores, curve))
    return candidates
