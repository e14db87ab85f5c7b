import numpy as np
import pytest

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics import classification_metrics, classification_metrics_from_probabilities
from hf_transfer.metrics.arrays import predicted_classes
from hf_transfer.metrics.calibration import expected_calibration_error
from hf_transfer.report.saved_run import SavedRun
from hf_transfer.report.scores import Scores

CLASSES = ["a", "b", "c"]


def predictions(logits, labels):
    logits, labels = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    ids = [f"image/{i}" for i in range(len(labels))]
    return Predictions(ids, [None] * len(ids), labels, predicted_classes(logits), logits, CLASSES)


def plausible():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    logits = rng.normal(scale=3, size=(200, 3))
    logits[np.arange(200), labels] += 2
    return logits.astype(np.float32), labels


def assert_same_figures(scores, metrics):
    assert scores.loss.mean() == pytest.approx(metrics["nll"], rel=1e-9)
    assert expected_calibration_error(scores.confidence, scores.correct) == pytest.approx(metrics["ece"], abs=1e-12)
    assert scores.correct.mean() == metrics["accuracy"]


def test_scores__of_logits_are_those_of_metrics():
    logits, labels = plausible()
    scores = Scores.of(predictions(logits, labels))
    assert_same_figures(scores, classification_metrics(logits, labels, CLASSES))
    assert scores.logits
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    assert scores.own == pytest.approx(probabilities[np.arange(200), labels])


def test_scores__of_summed_probabilities_are_those_of_metrics():
    # Rows that add up to less than 1, a class that nothing stands for, and a row without any prediction.
    probabilities = np.array([[0.5, 0.2, 0.0], [0.1, 0.6, 0.0], [0.0, 0.0, 0.0], [0.3, 0.1, 0.0]])
    labels = np.array([0, 0, 1, 2])
    with np.errstate(divide="ignore"):
        found = predictions(np.log(probabilities), labels)
    scores = Scores.of(found, summed=True)
    metrics = classification_metrics_from_probabilities(probabilities, labels, CLASSES)
    assert scores.loss.mean() == pytest.approx(metrics["nll"], rel=1e-6)
    assert scores.confidence == pytest.approx([0.5, 0.6, 0.0, 0.3])
    assert scores.own == pytest.approx([0.5, 0.1, 0.0, 0.0])
    assert scores.correct.tolist() == [True, False, False, False]
    assert not scores.logits


def test_scores__of_neighbours_that_rule_classes_out():
    probabilities = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        scores = Scores.of(predictions(np.log(probabilities), [1, 1, 2]))
    assert scores.confidence == pytest.approx([1.0, 0.75, 0.5])
    assert scores.loss == pytest.approx([-np.log(1e-12), -np.log(0.75), -np.log(0.5)])
    assert not scores.logits


def test_scores__scaled_by_a_temperature():
    logits, labels = plausible()
    scaled = Scores.of(predictions(logits, labels)).scaled(2.5)
    assert_same_figures(scaled, classification_metrics(logits / np.float32(2.5), labels, CLASSES))


def test_scores__huge_losses_are_kept():
    scores = Scores.of(predictions([[0.0, 500.0, 0.0]], [0]))
    assert scores.loss.tolist() == [500.0]
    assert scores.own.tolist() == pytest.approx([0.0])


@pytest.mark.parametrize(("further", "logits"), [({}, True), ({"test": {"unmapped_classes": []}}, False)])
def test_scores_read__under_a_label_map_scores_are_no_logits(make_run, further, logits):
    assert Scores.read(SavedRun.read(make_run(further=further)), "test").logits is logits
