"""The linear probe on features: a grid of heads and logistic regressions, one of them chosen on validation."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..recipe.training_arguments import FEATURE_FIELDS
from .grid import LEARNING_RATES, NORMALIZATIONS, WEIGHT_DECAYS, Optimizer, Shape, fit_grid, half_cosine
from .heads import Candidate
from .scores import choose

# Beyond this many multiplications of one pass, logistic regression takes longer than it is worth; the grid remains.
_LOGISTIC_LIMIT = 2e10
# What heads on features honour for these values only; any other needs the Trainer.
_OPTIMIZERS: Mapping[str, Optimizer] = {"adam": "adam", "adamw_torch": "adamw", "adamw_torch_fused": "adamw"}
_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Args:
        candidates: every head that was fitted.
        chosen: position of the best on validation.
        metric: what it was chosen by.
        seconds: of fitting and choosing, from features in memory to the chosen head.
    """

    candidates: list[Candidate]
    chosen: int
    metric: str
    seconds: float

    @property
    def head(self) -> Candidate:
        """The chosen head."""
        return self.candidates[self.chosen]

    def report(self) -> list[dict[str, Any]]:
        """Return every candidate, JSON-ready: method, settings, validation scores (null where it diverged), whether chosen."""
        return [
            {
                "method": candidate.method,
                **candidate.settings,
                "validation": {name: score if math.isfinite(score) else None for name, score in candidate.scores.items()},
                "chosen": number == self.chosen,
            }
            for number, candidate in enumerate(self.candidates)
        ]

    def write_history(self, path: Path, phase: str, train_size: int, batch_size: int) -> None:
        """Write the chosen head's curve as history.csv; a logistic regression has its last point only."""
        head = self.head
        steps = math.ceil(train_size / batch_size)
        curve = head.curve or [{"epoch": 0.0, **head.scores}]
        figures = ["loss", *(name for name in head.scores if name != "loss")]
        columns = ["step", "epoch", "phase", "split", *figures, "learning_rate/head"]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*columns, "trainable_parameters"])
            writer.writeheader()
            for point in curve:
                step = round(point["epoch"]) * steps
                common = {"step": step, "epoch": point["epoch"], "phase": phase, "trainable_parameters": head.parameters}
                if "train_loss" in point:
                    trained = {"loss": point["train_loss"], "learning_rate/head": point["learning_rate"]}
                    writer.writerow({**common, "split": "train", **trained})
                scores = {name: point[name] for name in figures}
                writer.writerow({**common, "split": "validation", **scores})


def live_reason(
    training: Mapping[str, Any],
    *,
    cache: bool,
    augment_preset: str,
    views: int,
    hidden_head: bool,
    for_trainer: Mapping[str, bool],
) -> str | None:
    """Return why a frozen backbone has to see every image in every epoch, or None where its features are enough.

    Args:
        training: the recipe's own `training` section, without defaults.
        cache: `features.cache`.
        augment_preset: `augment.preset`.
        views: `features.views`.
        hidden_head: whether the head has hidden layers.
        for_trainer: sections and keys that only the Trainer heeds, and whether the recipe asks for them.
    """
    if not cache:
        return "features.cache is false"
    if augment_preset != "none" and views == 1:
        return f"augment.preset is '{augment_preset}' (features.views would cache that many views of each image)"
    if hidden_head:
        return "model.head.hidden makes the head more than linear"
    if asked := [name for name, value in for_trainer.items() if value]:
        return f"{asked[0]} is for the Trainer"
    others = sorted(name for name, value in training.items() if not _is_honoured(name, value))
    return f"training.{others[0]} is for the Trainer" if others else None


def _is_honoured(name: str, value: Any) -> bool:
    """Return whether heads on features do what a field of the `training` section says."""
    if name == "optim":
        return value in _OPTIMIZERS
    if name == "lr_scheduler_type":
        return value in _SCHEDULES
    return name == "warmup_steps" or name in FEATURE_FIELDS


def fit_probe(
    views: Sequence[torch.Tensor],
    labels: torch.Tensor,
    validation: torch.Tensor,
    validation_labels: torch.Tensor,
    num_classes: int,
    *,
    training: Mapping[str, Any],
    seed: int,
) -> Probe:
    """Fit every candidate and choose on validation.

    What the recipe's `training` section names is held: a learning rate, a weight decay, a number of epochs, a batch size, the
    shape of the learning rates. What it does not name is searched (learning rate, weight decay, normalisation) or has a default
    (100 epochs of batches of 256, half a cosine). An optimizer that is named gets the features as they are and has no other
    method beside it: rates and decays would mean something else on standardised ones.

    Args:
        views: training features, float [n, d] for each view.
        labels: int64 [n], or bool [n, C] where an image may show several classes.
        validation: float [m, d].
        validation_labels: int64 [m], or bool [m, C].
        num_classes: C.
        training: the honoured keys of the section.
        seed: of the order of the rows.

    Raises:
        UserError: when the features are not finite, or no head has a finite loss.
    """
    from .logistic import fit_independent_logistic, fit_logistic  # brings scikit-learn, whose import is not part of the fit

    began = time.perf_counter()
    if not all(bool(features.isfinite().all()) for features in (*views, validation)):
        raise UserError(
            "the features are not finite: the backbone overflows in this precision. "
            "Set training.bf16 and training.fp16 to false."
        )
    rate, decay, optimizer = (training.get(name) for name in ("learning_rate", "weight_decay", "optim"))
    candidates = fit_grid(
        views,
        labels,
        validation,
        validation_labels,
        num_classes,
        learning_rates=LEARNING_RATES if rate is None else (rate,),
        weight_decays=WEIGHT_DECAYS if decay is None else (decay,),
        normalizations=NORMALIZATIONS if optimizer is None else ("none",),
        epochs=probe_epochs(training),
        batch_size=probe_batch_size(training),
        optimizer="adamw" if optimizer is None else _OPTIMIZERS[optimizer],
        shape=_shape(training),
        seed=seed,
    )
    count, width = views[0].shape
    if (rate, decay, optimizer) == (None, None, None) and count * len(views) * width * num_classes <= _LOGISTIC_LIMIT:
        every = torch.cat([view.float() for view in views])
        fit = fit_logistic if labels.ndim == 1 else fit_independent_logistic
        candidates += fit(every, torch.cat([labels] * len(views)), validation, validation_labels)
    metric = training.get("metric_for_best_model") or next(iter(candidates[0].scores))
    try:
        chosen = choose(candidates, metric)
    except ValueError:
        raise UserError("training.learning_rate: every head diverged; lower it, or leave it out to have it searched") from None
    return Probe(candidates, chosen, metric, time.perf_counter() - began)


def probe_epochs(training: Mapping[str, Any]) -> int:
    """Return the epochs of the grid: the recipe's, rounded up, or 100."""
    return math.ceil(training.get("num_train_epochs") or 100)


def probe_batch_size(training: Mapping[str, Any]) -> int:
    """Return the rows of a step: the recipe's, or 256."""
    return training.get("per_device_train_batch_size") or 256


def _shape(training: Mapping[str, Any]) -> Shape:
    """Return the shape of the learning rates, transformers' of that name; half a cosine, without warmup, by default."""
    kind = training.get("lr_scheduler_type") or "cosine"
    asked = 0 if kind == "constant" else training.get("warmup_steps") or 0

    def share(step: int, steps: int) -> float:
        warmup = int(asked) if asked >= 1 else math.ceil(steps * asked)
        if step < warmup:
            return step / warmup
        if kind == "linear":
            return (steps - step) / max(1, steps - warmup)
        return half_cosine(step - warmup, max(1, steps - warmup)) if kind == "cosine" else 1.0

    return share
