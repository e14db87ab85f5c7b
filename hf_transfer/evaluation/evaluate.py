"""Score a model on splits: logits once, a predictions file, and every metric from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..backbones.backbone import Backbone
from ..data.build import Splits
from ..data.table import ImageTable
from ..errors import BackboneError
from ..metrics import classification_metrics, classification_metrics_from_probabilities, multi_label_metrics
from ..metrics.accuracy import accuracy_ci95
from ..metrics.arrays import predicted_classes
from ..metrics.headline import headline_of
from ..metrics.intervals import difference_of_proportions, newcombe_difference
from ..metrics.multi_label import logit, mean_average_precision, mean_average_precision_ci95, predicted_at
from .inference import predict_logits, predict_views, tta_scores
from .labels import LabelAlignment, align_labels, model_class_names
from .predictions import Predictions
from .thresholds import Thresholds, decide_thresholds, model_thresholds
from .views import TTA, build_corruptions


def evaluate_splits(
    backbone: Backbone,
    splits: Splits,
    wanted: Sequence[str],
    predictions: Path,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    label_map: str | Mapping[str, Sequence[str]] | None = None,
    tta: str = "none",
    corruptions: Sequence[str] = (),
    thresholds: float | Literal["validation"] = "validation",
    decoding: str = "full",
    seed: int = 0,
    write: bool = True,
) -> dict[str, Any]:
    """Return the metrics of each wanted split, and write predictions/SPLIT.parquet.

    The predictions of the training split are not kept: they are a check of the fit, nobody's result. Where an image may show
    several classes the thresholds are returned, too; see `decide_thresholds`.

    Args:
        backbone: the model to score, with its own preprocessing.
        splits: the images.
        wanted: names of splits and further test sets.
        predictions: folder of the predictions files.
        device: where to compute.
        batch_size: images at a time on each process.
        workers: loader processes.
        label_map: see `align_labels`.
        tta: views whose probabilities are averaged, one of `views.TTA`.
        corruptions: names of corruptions, each scored at severities 1 to 5, under "robustness" of a split.
        thresholds: the recipe's `evaluation.thresholds`; heeded where an image may show several classes.
        decoding: how images are decoded, see `evaluation_decoder`.
        seed: of corruptions that draw.
        write: whether this process writes files.

    Raises:
        LabelError: when the classes of the data and of the model do not match by name.
    """
    alignment = align_labels(splits.class_names, model_class_names(backbone.model.config), label_map)
    passes: dict[str, Any] = {
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "channels_last": backbone.is_convolutional,
        "decoding": decoding,
    }

    def scores(split: str) -> np.ndarray:
        return _logits(backbone, splits.table(split), split, tta, passes, multi_label=splits.multi_label)

    results: dict[str, Any] = {}
    known: dict[str, np.ndarray] = {}
    limits = None
    if splits.multi_label:
        validation = None
        if thresholds == "validation" and "validation" in splits.tables:
            known["validation"] = scores("validation")
            validation = alignment.apply(known["validation"]), splits.tables["validation"].labels
        stated = model_thresholds(backbone.model.config) if hasattr(backbone.model.config, "thresholds") else None
        own = None if stated is None else alignment.apply(stated[None])[0]
        limits = decide_thresholds(thresholds, len(splits.class_names), validation, own)
        results = limits.report(splits.class_names)
    for split in wanted:
        table = splits.table(split)
        logits = known[split] if split in known else scores(split)
        metrics = score_split(
            split,
            alignment.apply(logits),
            splits,
            predictions if write else None,
            probabilities=not alignment.exact,
            thresholds=limits,
        )
        if not alignment.exact:
            metrics["unmapped_classes"] = alignment.unmapped
        if corruptions:
            metrics["robustness"] = _robustness(backbone, table, alignment, corruptions, seed, f"corrupt {split}", passes)
        results[split] = metrics
    return results


def _logits(
    backbone: Backbone, table: ImageTable, split: str, tta: str, passes: dict[str, Any], *, multi_label: bool
) -> np.ndarray:
    """Return float32 logits [n, C'] of a model for the images of a split, C' being its own classes."""
    description = f"evaluate {split}"
    if tta == "none":
        logits = predict_logits(backbone.model, backbone.preprocessing, table, description=description, **passes)
    else:
        views = predict_views(backbone.model, backbone.preprocessing, table, TTA[tta], description=description, **passes)
        logits = tta_scores(views, multi_label=multi_label)
    if not np.isfinite(logits).all():
        raise BackboneError(
            f"model.backbone: {backbone.provenance.name} gives logits that are not finite for "
            f"{int((~np.isfinite(logits)).any(axis=1).sum())} of the {len(table)} images of {split}: its weights are "
            "damaged, or its training diverged"
        )
    return logits


def _robustness(
    backbone: Backbone,
    table: ImageTable,
    alignment: LabelAlignment,
    corruptions: Sequence[str],
    seed: int,
    description: str,
    passes: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return {corruption: {severity: {accuracy, accuracy_ci95}}}; each image is decoded once.

    Where an image may show several classes it is the mean average precision.
    """
    views = build_corruptions(backbone.preprocessing, corruptions, seed=seed)
    logits = predict_views(
        backbone.model, backbone.preprocessing, table, list(views.values()), description=description, **passes
    )
    found: dict[str, dict[str, Any]] = {name: {} for name in corruptions}
    for position, (name, severity) in enumerate(views):
        if table.multi_label:
            scores = alignment.apply(logits[:, position])
            figure = mean_average_precision(scores, table.labels)
            found[name][str(severity)] = {
                "mean_average_precision": None if np.isnan(figure) else figure,
                "mean_average_precision_ci95": list(mean_average_precision_ci95(scores, table.labels, table.groups)),
            }
            continue
        right = alignment.predict(logits[:, position]) == table.labels
        found[name][str(severity)] = {
            "accuracy": float(right.mean()),
            "accuracy_ci95": list(accuracy_ci95(right, table.groups)),
        }
    return found


def add_shifts(metrics: dict[str, dict[str, Any]], extra: Sequence[str]) -> None:
    """Add to each further test set how its accuracy differs from that of the test split, in place.

    `shift` is {"accuracy", "ci95", "against"}: the difference, and Newcombe's interval for two independent samples, from
    clustered intervals where images come in groups. Where an image may show several classes it is the difference of the mean
    average precisions, and its interval is put together from theirs in the same way; there is none where a class is shown in
    one of them only, for the means would be of different classes. Without a test split the validation split is what it differs
    from; without both there is no shift.
    """
    against = next((split for split in ("test", "validation") if split in metrics), None)
    for name in extra:
        if against is None or name not in metrics:
            continue
        found, base = metrics[name], metrics[against]
        figure = headline_of(found)
        if found[figure.key] is None or base[figure.key] is None or _ranked_classes(found) != _ranked_classes(base):
            continue
        if figure.key != "accuracy" or "groups" in found or "groups" in base:
            sides = [(split[figure.key], split[figure.interval]) for split in (found, base)]
            interval = difference_of_proportions(*sides[0], *sides[1])
        else:
            right = [round(split["accuracy"] * split["n"]) for split in (found, base)]
            interval = newcombe_difference(right[0], found["n"], right[1], base["n"])
        found["shift"] = {
            figure.key: found[figure.key] - base[figure.key],
            "ci95": list(interval),
            "against": against,
        }


def _ranked_classes(figures: dict[str, Any]) -> set[str]:
    """Return the classes that have an average precision; none where images have one label."""
    classes = figures.get("per_class", {}).items()
    return {name for name, values in classes if values.get("average_precision") is not None}


def score_split(
    split: str,
    scores: np.ndarray,
    splits: Splits,
    predictions: Path | None,
    *,
    probabilities: bool = False,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Return the metrics of one split, and write its predictions unless it is the training split.

    Args:
        split: its name.
        scores: float32 [n, C] in the data set's order of classes.
        splits: the images.
        predictions: folder of the predictions files; None to write none.
        probabilities: whether the scores are probabilities, whose logarithms (or `logits_of` for several labels an image) are
            then kept, instead of logits.
        thresholds: of the classes, where an image may show several.
    """
    table, names = splits.table(split), splits.class_names
    told: dict[str, Any] = {"skipped": len(splits.skipped.get(split, ())), "groups": table.groups}
    if thresholds is not None:
        kept = logits_of(scores) if probabilities else scores
        metrics = multi_label_metrics(kept, table.labels, names, thresholds.values, **told)
        found = Predictions.of(table, kept, predicted_at(kept, thresholds.values), names, thresholds.values)
    else:
        measure = classification_metrics_from_probabilities if probabilities else classification_metrics
        metrics = measure(scores, table.labels, names, **told)
        with np.errstate(divide="ignore"):
            kept = np.log(scores) if probabilities else scores
        found = Predictions.of(table, kept, predicted_classes(kept), names)
    if predictions is not None and split != "train":
        found.write(predictions / f"{split}.parquet")
    return metrics


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the logits whose sigmoids are these probabilities, float32 [n, C]; those of 0 and 1 are -27.6 and 27.6."""
    return logit(probabilities).astype(np.float32)
