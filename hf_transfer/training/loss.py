"""The training loss: cross-entropy or focal loss, hard or soft targets, class weights; the same for several labels an image.

This module does not know the Trainer, nor how images are mixed: it is given logits, labels and a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional

from ..data.class_weights import weights_in_order
from ..errors import Problem, RecipeError, listed


class _Loss:
    """What both losses are made from; see there."""

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


class ClassificationLoss(_Loss):
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

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the scalar loss, float32.

        Args:
            outputs: a model's output with "logits" [n, C], or "cls_logits" where it has none.
            labels: int64 [n], or for soft targets float [n, C] whose rows sum to 1.
            num_items_in_batch: samples, not label entries, of the whole optimizer step; None averages over these n.
        """
        total = torch.stack([self._total(logits, labels) for logits in _every_head(outputs)]).sum()
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


class MultiLabelLoss(_Loss):
    """Binary cross-entropy or sigmoid focal loss in float32, a mean over the classes, averaged over the samples of a step.

    With targets t (1 for a class that the image shows), p = sigmoid(logits) and C classes, a sample's loss is

        1/C sum_c  a_c t_c (1 - p_c)^gamma (-log p_c)  +  b_c (1 - t_c) p_c^gamma (-log(1 - p_c))

    where gamma is 0 for cross-entropy, and a and b are 1 without weights. Label smoothing e replaces t by (1 - e) t + e / 2,
    that of `ClassificationLoss` for the two answers of each class.

    Args:
        name: "cross_entropy", or "focal" (Lin et al. 2017, arXiv 1708.02002).
        label_smoothing: see above.
        class_weights: float32 [2, C], a and b, see `answer_weights`; or None.
        gamma: how much the focal loss weights well-classified answers down; 0 is cross-entropy.
    """

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the scalar loss, float32.

        Args:
            outputs: as for `ClassificationLoss`.
            labels: float [n, C], 0 to 1.
            num_items_in_batch: label entries of the whole optimizer step, C for each sample, as the Trainer counts them; None
                averages over these n.
        """
        total = torch.stack([self._total(logits, labels.float()) for logits in _every_head(outputs)]).sum()
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def _total(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the sum over samples and classes, for logits of one head."""
        targets = (1.0 - self.label_smoothing) * targets + self.label_smoothing / 2
        shown, absent = -functional.logsigmoid(logits), -functional.logsigmoid(-logits)
        if self.gamma > 0.0:
            # Kept above 0, as in `ClassificationLoss`.
            tiny = torch.finfo(torch.float32).tiny
            focus = [logits.neg().sigmoid().clamp_min(tiny) ** self.gamma, logits.sigmoid().clamp_min(tiny) ** self.gamma]
            shown, absent = shown * focus[0], absent * focus[1]
        if self.class_weights is not None:
            weights = self.class_weights.to(logits.device)
            shown, absent = shown * weights[0], absent * weights[1]
        return (targets * shown + (1.0 - targets) * absent).sum()


def _every_head(outputs: Any) -> list[torch.Tensor]:
    """Return the logits of a model's head and of auxiliary ones, float32 [n, C] each."""
    logits = outputs["logits"] if "logits" in outputs else outputs["cls_logits"]
    return [each.float() for each in (logits, *(outputs.get("auxiliary_logits") or ()))]


def answer_weights(positive: Sequence[float], class_counts: Sequence[int], images: int) -> torch.Tensor:
    """Return float32 [2, C]: what an image that shows a class weighs in that class's loss, and one that does not.

    With p_c the weight of the first against the second (torch's `pos_weight`) and n_c of the n training images showing the
    class, they are p_c s_c and s_c with s_c = n / (p_c n_c + n - n_c): their mean over the training images is 1, so weights
    change neither the scale of the loss nor how much a class counts against another.

    Args:
        positive: p_c, above 0.
        class_counts: n_c.
        images: n.
    """
    scales = [images / (p * n + images - n) for p, n in zip(positive, class_counts, strict=True)]
    return torch.tensor([[p * scale for p, scale in zip(positive, scales, strict=True)], scales], dtype=torch.float32)


def balanced_answers(class_counts: Sequence[int], images: int) -> list[float]:
    """Return (n - n_c) / n_c for each class: both answers to whether an image shows it weigh the same in total.

    It is torch's example of a `pos_weight`; with `answer_weights` the weights are n / (2 n_c) and n / (2 (n - n_c)), those that
    scikit-learn calls 'balanced' for a question of two answers. A class that every image shows has nothing to balance: 1.

    Args:
        class_counts: n_c, at least 1.
        images: n.
    """
    return [(images - count) / count or 1.0 for count in class_counts]


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
    chosen = weights_in_order("loss.class_weights", weights, class_names)
    mean = sum(weight * count for weight, count in zip(chosen, class_counts, strict=True)) / sum(class_counts)
    return torch.tensor([weight / mean for weight in chosen], dtype=torch.float32)


def mixed_targets(labels: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the soft targets of images that were mixed with others of their batch, float32 [n, C].

    Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) mix labels as they mix pixels.

    Args:
        labels: int64 [n]; or float32 [n, C], 1 for each class that an image shows.
        partner: int64 [n], the row that each image was mixed with.
        share: float32 [n], how much of each image is its own, 0 to 1.
        num_classes: C.
    """
    own = labels if labels.is_floating_point() else functional.one_hot(labels, num_classes).float()
    share = share[:, None]
    return share * own + (1.0 - share) * own[partner]
