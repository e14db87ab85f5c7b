"""The folder of a small study, its runs made up: what they had right, and the few files that a leaderboard reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hf_transfer.evaluation.predictions import Predictions

IMAGES = 200


def write_run(run: Path, accuracy: float, seed: int = 0, backbone: str = "timm:resnet18", **recipe: Any) -> Path:
    """Write a finished run that had about so many of 200 test images right."""
    (run / "predictions").mkdir(parents=True)
    found = {
        "seed": seed,
        "data": {"source": "cats"},
        "model": {"backbone": backbone},
        "strategy": {"name": "linear_probe"},
        "hub": {},
        **recipe,
    }
    (run / "recipe.json").write_text(json.dumps(found))
    difficulty = np.random.default_rng(1).permutation(IMAGES) / IMAGES
    wrong = difficulty + np.random.default_rng([seed, len(backbone)]).normal(0, 0.02, IMAGES) > accuracy
    labels = np.arange(IMAGES) % 2
    predicted = np.where(wrong, 1 - labels, labels)
    Predictions(
        [f"{place:04d}.png" for place in range(IMAGES)],
        [None] * IMAGES,
        labels,
        predicted.astype(np.int64),
        np.eye(2, dtype=np.float32)[predicted],
        ["cat", "dog"],
    ).write(run / "predictions" / "test.parquet")
    metrics = {
        "validation": {"accuracy": accuracy},
        "test": {"accuracy": float(1 - wrong.mean()), "n": IMAGES, "majority_baseline": 0.5},
        "cost": {"train_seconds": 10.0, "total_seconds": 20.0, "parameters": 1000, "device": "CPU: one"},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    environment = {
        "python": "3.11",
        "versions": {"torch": "2.15.0"},
        "class_names": ["cat", "dog"],
        "class_counts": {"train": {"cat": 300, "dog": 300}, "test": {"cat": 100, "dog": 100}},
        "data_hub_id": None,
        "backbone_license": "apache-2.0",
    }
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "README.md").write_text("# Card")
    return run


def write_study(root: Path, seeds: int = 2, **study: Any) -> Path:
    """Write a study of two backbones, and a cell that was never carried out."""
    cells: dict[str, dict[str, Any]] = {}
    for backbone, accuracy in {"timm:resnet18": 0.7, "timm:resnet50": 0.9}.items():
        for seed in range(seeds):
            name = f"{backbone[5:]}-{seed}"
            write_run(root / "cells" / name, accuracy, seed, backbone)
            cells[name] = {"model.backbone": backbone, "seed": seed}
    cells["resnet101-0"] = {"model.backbone": "timm:resnet101", "seed": 0}
    facts = {
        "$schema": "../study_schema.json",
        "schema_version": 1,
        "description": "Which ResNet?",
        "output_dir": "runs/small",
        "base": {"data": {"source": "cats"}},
        "axes": {"model.backbone": ["timm:resnet18", "timm:resnet50", "timm:resnet101"], "seed": list(range(seeds))},
        "cheapest_by": "parameters",
        **study,
        "cells": cells,
    }
    (root / "study.json").write_text(json.dumps(facts))
    return root


def publish(run: Path, repo_id: str, *, private: bool = True) -> None:
    """Write the hub.json of a run."""
    facts = {"repo_id": repo_id, "revision": "main", "commit": "0" * 40, "private": private}
    (run / "hub.json").write_text(json.dumps(facts | {"url": f"https://huggingface.co/{repo_id}"}))
