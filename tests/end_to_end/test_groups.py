"""A run on images that belong together: splits, predictions, intervals and a leaderboard know it."""

import json

import numpy as np
import pytest

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.accuracy import accuracy_ci95
from hf_transfer.report.leaderboard import build_leaderboard

RECIPE = {
    "data": {
        "source": "package:textile",
        "group_column": r"path:(\w+/textile_\d{3})",
        "test_fraction": 0.2,
        "max_train_samples": 60,
        "max_validation_samples": 40,
        "max_test_samples": 80,
    },
    "model": {"backbone": "scratch:lenet"},
    "training": {"num_train_epochs": 1, "per_device_train_batch_size": 32, "disable_tqdm": True},
    "evaluation": {"speed": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    (root / "recipe.json").write_text(json.dumps({**RECIPE, "output_dir": str(root / "run")}))
    assert main(["run", str(root / "recipe.json")]) == 0
    return root / "run"


def test_run__metrics_are_clustered_by_group(run):
    metrics = json.loads((run / "metrics.json").read_text())
    predictions = {split: Predictions.read(run / "predictions" / f"{split}.parquet") for split in ("validation", "test")}
    for split, found in predictions.items():
        correct = np.asarray(found.predicted) == found.labels
        assert metrics[split]["groups"] == len(set(found.groups)) < metrics[split]["n"]
        assert metrics[split]["accuracy_ci95"] == list(accuracy_ci95(correct, found.groups))
    assert not set(predictions["validation"].groups) & set(predictions["test"].groups)


def test_leaderboard__of_a_run_with_groups(run):
    (table,) = build_leaderboard(run).tables
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert (table.verdict.images, table.verdict.groups) == (80, test["groups"])
    assert list(table.verdict.standings[0].accuracy_ci95) == test["accuracy_ci95"]
    assert f"these 80 test images in {test['groups']} groups and one seed" in table.verdict.words
