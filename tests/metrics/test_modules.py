import doctest

import evaluate
import numpy as np
import pytest

from hf_transfer.metrics import classification_metrics, modules
from hf_transfer.metrics.modules import (
    Accuracy,
    BalancedAccuracy,
    ExpectedCalibrationError,
    MacroF1,
    NegativeLogLikelihood,
    TopKAccuracy,
)

NAMES = [f"class {c}" for c in range(10)]


@pytest.fixture
def expected(logits_and_labels):
    return classification_metrics(*logits_and_labels, NAMES)


@pytest.mark.parametrize(
    ("metric", "keys"),
    [
        (Accuracy, ["accuracy", "accuracy_ci95", "n"]),
        (BalancedAccuracy, ["balanced_accuracy"]),
        (MacroF1, ["macro_f1"]),
    ],
)
def test_class_metrics__are_the_summarys_numbers(logits_and_labels, expected, metric, keys):
    logits, labels = logits_and_labels
    found = metric().compute(predictions=logits.argmax(axis=1), references=labels)
    assert found == {key: expected[key] for key in keys}


@pytest.mark.parametrize(
    ("metric", "key"),
    [(TopKAccuracy, "top5_accuracy"), (NegativeLogLikelihood, "nll"), (ExpectedCalibrationError, "ece")],
)
def test_score_metrics__are_the_summarys_numbers(logits_and_labels, expected, metric, key):
    logits, labels = logits_and_labels
    found = metric().compute(predictions=logits, references=labels)
    assert found == {key: pytest.approx(expected[key], rel=1e-12)}


def test_top_k_accuracy__another_k(logits_and_labels, expected):
    logits, labels = logits_and_labels
    found = TopKAccuracy(k=1).compute(predictions=logits, references=labels)
    assert found == {"top1_accuracy": expected["accuracy"]}


def test_combine__class_metrics(logits_and_labels, expected):
    logits, labels = logits_and_labels
    combined = evaluate.combine([Accuracy(), BalancedAccuracy(), MacroF1()])
    found = combined.compute(predictions=logits.argmax(axis=1), references=labels)
    keys = ["accuracy", "accuracy_ci95", "n", "balanced_accuracy", "macro_f1"]
    assert found == {key: expected[key] for key in keys}


def test_combine__score_metrics(logits_and_labels, expected):
    logits, labels = logits_and_labels
    combined = evaluate.combine([TopKAccuracy(), NegativeLogLikelihood(), ExpectedCalibrationError()])
    found = combined.compute(predictions=logits, references=labels)
    assert found == pytest.approx({key: expected[key] for key in ("top5_accuracy", "nll", "ece")})


def test_accuracy__batches_add_up_and_a_second_use_starts_afresh(logits_and_labels, expected):
    logits, labels = logits_and_labels
    metric, predicted = Accuracy(), logits.argmax(axis=1)
    for start in range(0, 500, 64):
        metric.add_batch(predictions=predicted[start : start + 64], references=labels[start : start + 64])
    assert metric.compute()["accuracy"] == expected["accuracy"]
    assert metric.compute(predictions=[1], references=[1])["n"] == 1


def test_metrics__leave_the_random_state_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    Accuracy().compute(predictions=[0, 1], references=[0, 1])
    assert np.random.get_state()[1].tolist() == before


def test_module_example__runs():
    assert doctest.testmod(modules).failed == 0
