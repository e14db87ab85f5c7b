"""The training loss: cross-entropy or focal loss, hard or soft targets, class weights.

This module does not know the Trainer, nor how images are mixed: it is given logits, labels and a count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional

from ..errors import Problem, RecipeError, listed, nearest


class ClassificationLoss:
    """Cross-entropy or focal loss in float32, averaged over all samples of an optimizer step.

    With targets t, class weights w and probabilities p = softmax(logits), a sample's loss is

        -sum_c t_c w_c (1 - p_c)^gamma log p_c

    where gamma is 0 for cross-entropy. Label smoothing e replaces t by (1 - e) t + e / C before the weights apply, as torch's
    `cross_entropy` does.

    The Trainer counts the samples of the whole step, over accumulated batches and processes; dividing by that count makes
    accumulation, several processes and ragged last batches equal to one large batch. Weighted losses are divided by the count,
    too, not by the sum of the weights, which each batch would have its own of; weights whose mean over the training images is 1
    (`balanced_weights`, `named_weights`) keep the scale of the unweighted loss.

    Args:
        name: "cross_entropy", or "focal" (Lin et al. 2017, arXiv 1708.02002).
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
        class_weights: float32 [C], or None for equal weights.
        gamma: how much the focal loss weights well-classified samples down; 0 is cross-entropy.
    """

    def __init__(
        self,
        name: Literal["cross_entropy", "focal"] = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
        gamma: float = 2.0,
    ) -> None:
        self.gamma = gamma if name == "focal" else 0.0
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the scalar loss, float32.

        Args:
            outputs: a model's output with "logits" [n, C], or "cls_logits" where it has none.
            labels: int64 [n], or for soft targets float [n, C] whose rows sum to 1.
            num_items_in_batch: samples, not label entries, of the whole optimizer step; None averages over these n.
        """
        logits = outputs["logits"] if "logits" in outputs else outputs["cls_logits"]
        several = (logits, *(outputs.get("auxiliary_logits") or ()))
        total = torch.stack([self._total(each.float(), labels) for each in several]).sum()
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum over the samples, for logits of one head."""
        labels = labels.float() if labels.is_floating_point() else labels
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.gamma == 0.0:
            return functional.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing, reduction="sum")
        return self._focal(logits, labels, weights)

    def _focal(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        classes = logits.shape[-1]
        targets = labels if labels.is_floating_point() else functional.one_hot(labels, classes).float()
        targets = (1.0 - self.label_smoothing) * targets + self.label_smoothing / classes
        log_p = functional.log_softmax(logits, dim=-1)
        # Where 1 - p is 0, its power has an infinite slope for gamma < 1, which times log p = 0 would be NaN. With the smallest
        # normal number in its place the gradient is finite, and 0 there, as in the limit.
        wrong = (1.0 - log_p.exp()).clamp_min(torch.finfo(torch.float32).tiny)
        terms = targets * wrong**self.gamma * log_p
        return -(terms if weights is None else terms * weights).sum()


def balanced_weights(class_counts: Sequence[int], class_names: Sequence[str] | None = None) -> torch.Tensor:
    """Return float32 [C]: n / (C n_c), the weights that scikit-learn calls 'balanced'.

    All classes weigh the same in total, and the mean over the training images is 1.

    Args:
        class_counts: training images of each class.
        class_names: what a message calls the classes; their numbers where there are none.

    Raises:
        RecipeError: when a class has no training image.
    """
    names = class_names or [str(number) for number in range(len(class_counts))]
    if empty := [f"'{name}'" for name, count in zip(names, class_counts, strict=True) if count == 0]:
        problem = f"'balanced' needs training images of every class; found none of {listed(empty)}"
        raise RecipeError([Problem("loss.class_weights", problem)])
    images = sum(class_counts)
    return torch.tensor([images / (len(class_counts) * count) for count in class_counts], dtype=torch.float32)


def named_weights(weights: Mapping[str, float], class_names: Sequence[str], class_counts: Sequence[int]) -> torch.Tensor:
    """Return float32 [C]: the user's weights in the order of the classes, scaled to a mean of 1 over the training images.

    Args:
        weights: class name to a number above 0; only their ratios matter.
        class_names: the classes of the data set.
        class_counts: training images of each class.

    Raises:
        RecipeError: listing every name that is no class, every class without a weight, every weight that is not above 0.
    """
    messages = [
        f"'{name}' is not a class of the data set{nearest(name, class_names)}" for name in weights if name not in class_names
    ]
    if missing := [f"'{name}'" for name in class_names if name not in weights]:
        messages.append(f"expected a weight for every class; found none for {listed(missing)}")
    messages += [
        f"expected a number above 0 for '{name}', found {weight:g}"
        for name, weight in weights.items()
        if not 0 < weight < math.inf
    ]
    if messages:
        raise RecipeError([Problem("loss.class_weights", message) for message in messages])
    chosen = [weights[name] for name in class_names]
    mean = sum(weight * count for weight, count in zip(chosen, class_counts, strict=True)) / sum(class_counts)
    return torch.tensor([weight / mean for weight in chosen], dtype=torch.float32)


def mixed_targets(labels: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the soft targets of images that were mixed with others of their batch, float32 [n, C].

    Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) mix labels as they mix pixels.

    Args:
        labels: int64 [n].
        partner: int64 [n], the row that each image was mixed with.
        share: float32 [n], how much of each image is its own, 0 to 1.
        num_classes: C.
    """
    own = functional.one_hot(labels, num_classes).float()
    share = share[:, None]
    return share * own + (1.0 - share) * own[partner]
