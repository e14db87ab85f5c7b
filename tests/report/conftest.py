"""Run directories written by hand: what a run leaves behind, without a run."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_transfer.metrics import classification_metrics

CLASSES = ["healthy", "<script>alert('x')</script> | rust", "`spot`_and_*more* $a$ [link](http://x.y)"]
GROUPS = ["stem", "stage1", "stage2", "head"]
HOME = "/home/alice/leaf images/photos"


def recipe(**changes):
    found = {
        "$schema": "schema.json",
        "schema_version": 1,
        "description": "ResNet-18 on leaves <b>bold</b>, from /home/alice/notes/plan.md",
        "reference": {"test_accuracy": 0.9, "source": "study R1 | table 2"},
        "expected": None,
        "mode": "train",
        "seed": 3,
        "output_dir": "/home/alice/runs/leaves",
        "data": {"source": HOME, "validation_fraction": 0.2, "split_seed": 0, "config_name": None, "revision": None},
        "model": {
            "backbone": "microsoft/resnet-18",
            "pretrained": True,
            "head": {"replace": "classifier", "hidden": []},
        },
        "strategy": {"name": "two_phase", "layer_decay": None},
        "augment": {"preset": "basic", "mixup": 0.0, "cutmix": 0.0},
        "training": {
            "num_train_epochs": 4,
            "learning_rate": 5e-5,
            "deepspeed": "/home/alice/ds.json",
            "my_token": "abc",
        },
        "loss": {"name": "cross_entropy", "class_weights": None},
        "evaluation": {"splits": ["train", "validation", "test"], "monitor": [], "extra": {}, "label_map": None},
        "hub": {"push": False, "repo_id": None},
    }
    return found | changes


def environment(classes, **changes):
    found = {
        "versions": {"torch": "2.15.0", "transformers": "5.23.0", "hf_transfer": "0.1.0"},
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "device": "cpu",
        "git_commit": "0123abc",
        "data_fingerprint": "f00d",
        "data_source": HOME,
        "class_names": classes,
        "class_counts": {
            split: {name: size + i for i, name in enumerate(classes)}
            for split, size in (("train", 120), ("validation", 30), ("test", 40))
        },
        "duplicates_across_splits": [["train: /home/alice/a.png", "test: /home/alice/b.png"]],
        "backbone": "microsoft/resnet-18",
        "backbone_revision": "abcdef0",
        "backbone_license": "apache-2.0",
        "backbone_hub_id": "microsoft/resnet-18",
    }
    return found | changes


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_history(path: Path, phases, epochs=2, steps_per_epoch=20, log=5, extra_splits=()):
    """Write a history of `phases`, each (name, trained groups, trainable parameters)."""
    columns = ["step", "epoch", "phase", "split", "loss", "accuracy", "macro_f1"]
    columns += [*(f"learning_rate/{group}" for group in GROUPS), "trainable_parameters"]
    step = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for phase, trained, parameters in phases:
            for _ in range(epochs * steps_per_epoch):
                step += 1
                row = {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    "phase": phase,
                    "trainable_parameters": parameters,
                }
                row |= {f"learning_rate/{group}": 1e-3 * (0.5 if group == "stem" else 1) for group in trained}
                loss = math.exp(-step / 40)
                if step % log == 0:
                    writer.writerow(row | {"split": "train", "loss": loss, "accuracy": 1 - loss / 2})
                if step % steps_per_epoch == 0:
                    for split in ("validation", *extra_splits):
                        scores = {"loss": loss + 0.1, "accuracy": 0.95 - loss / 2, "macro_f1": 0.9 - loss / 2}
                        writer.writerow(row | {"split": split} | scores)


def write_predictions(path: Path, labels, logits, classes, predicted=None, image=None):
    """Write predictions; every image is the file `image`, or one inside a data set."""
    predicted = np.asarray(logits).argmax(axis=1) if predicted is None else predicted
    table = pa.table(
        {
            "sample_id": pa.array([f"photos/{i}.png" for i in range(len(labels))]),
            "path": pa.array([None if image is None else str(image)] * len(labels), pa.string()),
            "label": pa.array(np.asarray(labels, dtype=np.int64)),
            "predicted": pa.array(np.asarray(predicted, dtype=np.int64)),
            "logits": pa.array(np.asarray(logits, dtype=np.float32).tolist(), pa.list_(pa.float32())),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(classes)}), path)


def logits_and_labels(n_classes, n, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += 2.5
    return logits, labels


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run directory; `splits` names those that were evaluated.

    Its images are one blue square, on the disk, or with `images=False` nowhere.
    """

    def make(
        classes=CLASSES,
        splits=("train", "validation", "test"),
        model_type="resnet",
        recipe_changes=None,
        environment_changes=None,
        history=True,
        images=True,
        further=None,
    ):
        run_dir = tmp_path / "leaves"
        run_dir.mkdir()
        image = tmp_path / "blue.png" if images else None
        if images:
            Image.new("RGB", (80, 80), (0, 0, 255)).save(image)
        write_json(run_dir / "recipe.json", recipe(**(recipe_changes or {})))
        write_json(run_dir / "environment.json", environment(classes, **(environment_changes or {})))
        metrics = {}
        for i, split in enumerate(splits):
            logits, labels = logits_and_labels(len(classes), max(150, 3 * len(classes)), seed=i)
            metrics[split] = classification_metrics(logits, labels, classes, skipped=i)
            if split != "train":
                write_predictions(run_dir / "predictions" / f"{split}.parquet", labels, logits, classes, image=image)
        metrics["cost"] = {
            "train_seconds": 93.25,
            "total_seconds": 180.0,
            "parameters": 11_178_051,
            "trainable_parameters": {"head": 1539, "all": 11_178_051},
            "peak_memory_mb": 1234.5,
            "images_per_second": 512.34,
            "device": "NVIDIA H100",
            "precision": "bf16",
        }
        for split, changes in (further or {}).items():
            metrics[split] = metrics.get(split, {}) | changes
        write_json(run_dir / "metrics.json", metrics)
        if history:
            write_history(run_dir / "history.csv", [("head", GROUPS[-1:], 1539), ("all", GROUPS, 11_178_051)])
        if model_type is not None:
            write_json(run_dir / "model" / "config.json", {"model_type": model_type})
        return run_dir

    return make


@pytest.fixture
def history_file(tmp_path):
    """A function that writes a history.csv of the given phases and returns its path."""

    def make(phases, **options):
        path = tmp_path / "history.csv"
        write_history(path, phases, **options)
        return path

    return make
