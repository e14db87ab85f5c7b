"""Score a model on splits: logits once, a predictions file, and every metric from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backbones.backbone import Backbone
from ..data.build import Splits
from ..metrics import classification_metrics, classification_metrics_from_probabilities
from ..metrics.arrays import predicted_classes
from .inference import predict_logits
from .labels import align_labels, model_class_names
from .predictions import Predictions


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
    write: bool = True,
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each wanted split, and write predictions/SPLIT.parquet.

    The predictions of the training split are not kept: they are a check of the fit, nobody's result.

    Args:
        backbone: the model to score, with its own preprocessing.
        splits: the images.
        wanted: names of the splits.
        predictions: folder of the predictions files.
        device: where to compute.
        batch_size: images at a time on each process.
        workers: loader processes.
        label_map: see `align_labels`.
        write: whether this process writes files.

    Raises:
        LabelError: when the classes of the data and of the model do not match by name.
    """
    alignment = align_labels(splits.class_names, model_class_names(backbone.model.config), label_map)
    results = {}
    for split in wanted:
        logits = predict_logits(
            backbone.model,
            backbone.preprocessing,
            splits.tables[split],
            device=device,
            batch_size=batch_size,
            workers=workers,
            channels_last=backbone.is_convolutional,
            description=f"evaluate {split}",
        )
        metrics = score_split(
            split, alignment.apply(logits), splits, predictions if write else None, probabilities=not alignment.exact
        )
        if not alignment.exact:
            metrics["unmapped_classes"] = alignment.unmapped
        results[split] = metrics
    return results


def score_split(
    split: str, scores: np.ndarray, splits: Splits, predictions: Path | None, *, probabilities: bool = False
) -> dict[str, Any]:
    """Return the metrics of one split, and write its predictions unless it is the training split.

    Args:
        split: its name.
        scores: float32 [n, C] in the data set's order of classes.
        splits: the images.
        predictions: folder of the predictions files; None to write none.
        probabilities: whether the scores are probabilities, whose logarithms are then kept, instead of logits.
    """
    table = splits.tables[split]
    measure = classification_metrics_from_probabilities if probabilities else classification_metrics
    metrics = measure(scores, table.labels, splits.class_names, skipped=len(splits.skipped.get(split, ())))
    with np.errstate(divide="ignore"):
        kept = np.log(scores) if probabilities else scores
    if predictions is not None and split != "train":
        Predictions.of(table, kept, predicted_classes(kept), splits.class_names).write(predictions / f"{split}.parquet")
    return metrics
