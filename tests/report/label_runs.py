"""Run directories of several labels an image, written cheaply: what a run of the task multi_label leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.multi_label import best_f1_thresholds, multi_label_metrics, predicted_at, sigmoid

CLASSES = ["circle", "square", "<b>tri</b> | angle", "stripes", "nowhere"]
_SHARES = (0.5, 0.3, 0.2, 0.1, 0.0)


def draw(labels, size: int = 96) -> Image.Image:
    """Return an image that shows the shapes of the labels that are true, in the order of `CLASSES`."""
    image = Image.new("RGB", (size, size), (236, 236, 228))
    pen = ImageDraw.Draw(image)
    if labels[3]:
        for x in range(0, size, 12):
            pen.line([(x, 0), (x, size)], fill=(170, 170, 200), width=3)
    if labels[0]:
        pen.ellipse([8, 8, 42, 42], fill=(200, 60, 50))
    if labels[1]:
        pen.rectangle([52, 10, 86, 44], fill=(40, 90, 180))
    if labels[2]:
        pen.polygon([(48, 50), (20, 90), (76, 90)], fill=(40, 140, 70))
    return image


def labels_of(n: int, seed: int = 0) -> np.ndarray:
    """Return which classes n images show, bool [n, C]; some show none, `nowhere` is never shown."""
    return np.random.default_rng(seed).random((n, len(CLASSES))) < np.array(_SHARES)


def logits_of(labels: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """Return logits of a model of this skill, float32 [n, C]."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=labels.shape) * 1.2 - 2 + skill * labels).astype(np.float32)


def write_label_run(
    root: Path,
    *,
    skill: float = 3.0,
    seed: int = 0,
    n: int = 120,
    splits=("train", "validation", "test"),
    images: Path | None = None,
    groups: int | None = None,
    recipe=None,
    history: bool = True,
    thresholds_by: str | float = "validation",
) -> Path:
    """Write a finished run of the task multi_label.

    Args:
        root: the run directory to write.
        skill: by how much the logit of a class that is there is higher.
        seed: of the run; the images are the same for all seeds.
        n: images of each split.
        splits: those that were evaluated.
        images: where to write the test images as files; None for images that are nowhere.
        groups: how many groups the test images come in; None for none.
        recipe: what differs in the recipe.
        history: whether it was trained with steps.
        thresholds_by: as metrics.json has it.
    """
    root.mkdir(parents=True)
    truth = {split: labels_of(n, seed=place) for place, split in enumerate(("train", "validation", "test"))}
    logits = {split: logits_of(labels, skill, seed=10 * seed + place) for place, (split, labels) in enumerate(truth.items())}
    if thresholds_by == "validation":
        thresholds = best_f1_thresholds(sigmoid(logits["validation"]), truth["validation"])
    else:
        thresholds = np.full(len(CLASSES), float(thresholds_by))
    metrics: dict = {}
    for split in splits:
        together = [f"g{place * groups // n}" for place in range(n)] if groups and split == "test" else None
        metrics[split] = multi_label_metrics(logits[split], truth[split], CLASSES, thresholds, groups=together)
        if split != "train":
            ids = [f"photos/{split}_{place:03d}.png" for place in range(n)]
            paths: list[str | None] = [None] * n
            if images is not None and split == "test":
                images.mkdir(exist_ok=True)
                for place, labels in enumerate(truth[split]):
                    draw(labels).save(images / f"{place:03d}.png")
                    paths[place] = str(images / f"{place:03d}.png")
            predicted = predicted_at(logits[split], thresholds)
            found = Predictions(ids, paths, truth[split], predicted, logits[split], CLASSES, together, thresholds)
            found.write(root / "predictions" / f"{split}.parquet")
    metrics["thresholds"] = dict(zip(CLASSES, thresholds.tolist(), strict=True))
    metrics["thresholds_by"] = thresholds_by
    metrics["cost"] = {
        "train_seconds": 12.0 + seed,
        "total_seconds": 20.0,
        "parameters": 4_000_000,
        "trainable_parameters": {"full": 4_000_000},
        "images_per_second": 100.0,
        "device": "CPU",
        "precision": "fp32",
    }
    content = {
        "mode": "train",
        "seed": seed,
        "data": {"source": "shapes", "task": "multi_label"},
        "model": {"backbone": "timm:resnet18", "pretrained": True},
        "strategy": {"name": "full"},
        "training": {"num_train_epochs": 2, "learning_rate": 1e-3},
        "loss": {"name": "cross_entropy"},
        "evaluation": {"thresholds": thresholds_by},
    }
    environment = {
        "task": "multi_label",
        "class_names": CLASSES,
        "class_counts": {split: dict(zip(CLASSES, found.sum(axis=0).tolist(), strict=True)) for split, found in truth.items()},
        "backbone": "timm:resnet18",
        "backbone_license": "apache-2.0",
    }
    config = {
        "model_type": "resnet",
        "problem_type": "multi_label_classification",
        "thresholds": thresholds.tolist(),
        "id2label": {str(place): name for place, name in enumerate(CLASSES)},
    }
    _write(root / "recipe.json", content | (recipe or {}))
    _write(root / "environment.json", environment)
    _write(root / "metrics.json", metrics)
    _write(root / "model" / "config.json", config)
    (root / "README.md").write_text("# Card\n", encoding="utf-8")
    if history:
        _write_history(root / "history.csv")
    return root


def _write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_history(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "phase", "split", "loss", "mean_average_precision", "macro_f1", "learning_rate/head"])
        for step in range(10, 60, 10):
            writer.writerow([step, step / 25, "full", "train", 0.6 / step * 10, "", "", 1e-3])
            writer.writerow([step, step / 25, "full", "validation", 0.5 / step * 10, 0.9 - 1 / step, 0.8 - 1 / step, ""])
