"""Run directories of a made-up study, written cheaply: for tests and benchmarks of what reads many runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics import classification_metrics

CLASSES = [f"class {number}" for number in range(10)]
_EVALUATIONS, _LOGGED = 20, 200


def write_runs(root: Path, runs: int, images: int, seeds: int = 5) -> None:
    """Write finished run directories root/run_000, ... as a fine-tuning leaves them, without model and pictures.

    Candidates differ in their backbone, accuracy and cost. All were tested on the same images, some of which are harder than
    others for every run.

    Args:
        root: the folder to write into; made if need be.
        runs: how many.
        images: test images of each.
        seeds: runs of a candidate; the last candidate may have fewer.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(CLASSES), images)
    difficulty = rng.normal(size=images)
    for number in range(runs):
        candidate, seed = divmod(number, seeds)
        _write_run(root / f"run_{number:03d}", candidate, seed, labels, difficulty)


def _write_run(run: Path, candidate: int, seed: int, labels: np.ndarray, difficulty: np.ndarray) -> None:
    rng = np.random.default_rng([candidate, seed])
    skill = 2.0 / (1 + 0.1 * candidate)
    logits = rng.normal(size=(len(labels), len(CLASSES))).astype(np.float32)
    logits[np.arange(len(labels)), labels] += skill + 1.5 - difficulty
    ids = [f"images/{place:06d}.jpg" for place in range(len(labels))]
    Predictions(ids, [None] * len(ids), labels, logits.argmax(axis=1), logits, CLASSES).write(run / "predictions/test.parquet")
    test = classification_metrics(logits, labels, CLASSES)
    metrics = {
        "validation": {"accuracy": min(1.0, max(0.0, test["accuracy"] + rng.normal(0, 0.005))), "n": len(labels)},
        "test": test,
        "cost": {
            "train_seconds": 60.0 * (1 + candidate) + seed,
            "parameters": 5_000_000 * (1 + candidate),
            "trainable_parameters": {"all": 5_000_000 * (1 + candidate)},
            "device": "CPU",
        },
    }
    recipe = {
        "seed": seed,
        "data": {"source": "photos"},
        "model": {"backbone": f"timm:backbone_{candidate}"},
        "strategy": {"name": "full"},
        "training": {"num_train_epochs": _EVALUATIONS, "learning_rate": 0.001},
    }
    environment = {"versions": {"torch": "2.15.0"}, "python": "3.11.9", "device": "CPU"}
    for name, content in (("recipe", recipe), ("environment", environment), ("metrics", metrics)):
        (run / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    _write_history(run / "history.csv", skill, rng)
    (run / "README.md").write_text("# Card\n", encoding="utf-8")


def _write_history(path: Path, skill: float, rng: np.random.Generator) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "phase", "split", "loss", "accuracy", "macro_f1", "trainable_parameters"])
        for line in range(1, _LOGGED + 1):
            step, epoch = 10 * line, line * _EVALUATIONS / _LOGGED
            loss = float(np.exp(-epoch / 5) + 0.3 / skill + rng.normal(0, 0.03))
            writer.writerow([step, epoch, "full", "train", loss, "", "", 1000])
            if line % (_LOGGED // _EVALUATIONS) == 0:
                writer.writerow([step, epoch, "full", "validation", loss + 0.1, 0.9 - loss / 4, 0.9 - loss / 4, 1000])
