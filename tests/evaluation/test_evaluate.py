"""The metrics of a split, and how further test sets differ from the test split."""

import datasets
import numpy as np

from hf_transfer.data.build import Splits, build_splits
from hf_transfer.data.table import ImageTable, StoredImages
from hf_transfer.evaluation.evaluate import add_shifts, score_split
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.evaluation.thresholds import Thresholds
from hf_transfer.metrics.accuracy import accuracy_ci95
from hf_transfer.metrics.intervals import difference_of_proportions, newcombe_difference
from hf_transfer.metrics.multi_label import multi_label_metrics, predicted_at, sigmoid
from hf_transfer.recipe.schema import Data


def test_add_shifts__against_test_or_else_validation():
    metrics = {"validation": {"accuracy": 0.5, "n": 10}, "winter": {"accuracy": 0.25, "n": 20}}
    add_shifts(metrics, ["winter"])
    assert metrics["winter"]["shift"] == {
        "accuracy": -0.25,
        "ci95": list(newcombe_difference(5, 20, 5, 10)),
        "against": "validation",
    }
    metrics["test"] = {"accuracy": 0.75, "n": 8}
    add_shifts(metrics, ["winter"])
    assert metrics["winter"]["shift"]["accuracy"] == -0.5
    assert metrics["winter"]["shift"]["against"] == "test"


def test_add_shifts__nothing_to_differ_from():
    metrics = {"winter": {"accuracy": 0.25, "n": 20}}
    add_shifts(metrics, ["winter"])
    assert "shift" not in metrics["winter"]


def test_add_shifts__of_groups_from_their_intervals():
    test = {"accuracy": 0.75, "n": 80, "accuracy_ci95": [0.5, 0.9], "groups": 4}
    metrics = {"test": test, "winter": {"accuracy": 0.25, "n": 20, "accuracy_ci95": [0.1, 0.5]}}
    add_shifts(metrics, ["winter"])
    assert metrics["winter"]["shift"]["ci95"] == list(difference_of_proportions(0.25, (0.1, 0.5), 0.75, (0.5, 0.9)))


def test_score_split__groups_in_metrics_and_predictions(tmp_path):
    section = Data(source="package:textile", group_column=r"path:(\w+/textile_\d{3})", max_test_samples=90)
    splits = build_splits(section, ["test"], training=False)
    table = splits.tables["test"]
    logits = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32) + 2 * np.eye(3, dtype=np.float32)[table.labels]
    metrics = score_split("test", logits, splits, tmp_path)
    assert metrics["groups"] == len(set(table.groups)) < metrics["n"] == 90
    assert metrics["accuracy_ci95"] == list(accuracy_ci95(logits.argmax(axis=1) == table.labels, table.groups))
    assert Predictions.read(tmp_path / "test.parquet").groups == table.groups.tolist()


def several(name="test"):
    """Splits of images that show several classes, with logits."""
    rng = np.random.default_rng(0)
    labels = rng.random((60, 3)) < [0.5, 0.3, 0.1]
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 60})
    table = ImageTable(StoredImages(rows, "image"), np.arange(60), labels, np.array([f"{row}.png" for row in range(60)]))
    return Splits({name: table}, ["a", "b", "c"], ""), (rng.normal(size=(60, 3)) + labels).astype(np.float32)


def test_score_split__of_several_labels(tmp_path):
    splits, logits = several()
    limits = Thresholds(np.array([0.5, 0.4, 0.3]), "validation")
    metrics = score_split("test", logits, splits, tmp_path, thresholds=limits)
    expected = multi_label_metrics(logits, splits.tables["test"].labels, ["a", "b", "c"], limits.values)
    assert metrics == expected
    found = Predictions.read(tmp_path / "test.parquet")
    np.testing.assert_array_equal(found.predicted, predicted_at(logits, limits.values))
    np.testing.assert_array_equal(found.thresholds, limits.values)


def test_score_split__of_several_labels_from_probabilities(tmp_path):
    splits, logits = several()
    probabilities = sigmoid(logits)
    probabilities[0] = [0, 1, 0.5]
    limits = Thresholds(np.full(3, 0.5), 0.5)
    metrics = score_split("test", probabilities, splits, tmp_path, probabilities=True, thresholds=limits)
    found = Predictions.read(tmp_path / "test.parquet")
    np.testing.assert_allclose(sigmoid(found.logits), probabilities, atol=1e-6)
    assert np.isfinite(metrics["nll"])


def test_add_shifts__of_several_labels_are_of_mean_average_precision():
    test = {"mean_average_precision": 0.75, "mean_average_precision_ci95": [0.6, 0.9], "n": 80}
    winter = {"mean_average_precision": 0.5, "mean_average_precision_ci95": [0.3, 0.7], "n": 20}
    summer = {"mean_average_precision": None, "mean_average_precision_ci95": [0.0, 1.0], "n": 20}
    metrics = {"thresholds_by": 0.5, "test": test, "winter": winter, "summer": summer}
    add_shifts(metrics, ["winter", "summer"])
    assert winter["shift"] == {
        "mean_average_precision": -0.25,
        "ci95": list(difference_of_proportions(0.5, (0.3, 0.7), 0.75, (0.6, 0.9))),
        "against": "test",
    }
    assert "shift" not in summer


def test_add_shifts__not_between_means_over_different_classes():
    test, winter = (
        {
            "mean_average_precision": 0.75,
            "mean_average_precision_ci95": [0.6, 0.9],
            "n": 80,
            "per_class": {"cat": {"average_precision": 0.75}, "dog": {"average_precision": dog}},
        }
        for dog in (0.75, None)
    )
    metrics = {"test": test, "winter": winter}
    add_shifts(metrics, ["winter"])
    assert "shift" not in winter
