import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from hf_transfer.metrics import (
    classification_metrics,
    classification_metrics_from_probabilities,
    quick_metrics,
    wilson_interval,
)
from hf_transfer.metrics.accuracy import accuracy_ci95
from hf_transfer.metrics.calibration import expected_calibration_error

KEYS = [
    "accuracy",
    "accuracy_ci95",
    "top5_accuracy",
    "balanced_accuracy",
    "macro_f1",
    "per_class",
    "nll",
    "ece",
    "majority_baseline",
    "n",
    "skipped",
]
NAMES = [f"class {c}" for c in range(10)]


def plain(value):
    """Whether a value is made of nothing but plain Python objects."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(plain(inner) for inner in value)
    return type(value) in (int, float, type(None))


def softmax(logits):
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def test_classification_metrics__agrees_with_the_references(logits_and_labels):
    logits, labels = logits_and_labels
    metrics = classification_metrics(logits, labels, NAMES, skipped=3)
    predicted = logits.argmax(axis=1)
    right = int((predicted == labels).sum())
    calibration = expected_calibration_error(softmax(logits).max(axis=1), predicted == labels)
    assert list(metrics) == KEYS
    assert metrics["accuracy"] == right / 500
    assert metrics["accuracy_ci95"] == list(wilson_interval(right, 500))
    assert metrics["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert list(metrics["per_class"]) == NAMES
    assert metrics["nll"] == pytest.approx(torch.nn.functional.cross_entropy(*map(torch.from_numpy, (logits, labels))))
    assert metrics["ece"] == pytest.approx(calibration, abs=1e-12)
    assert metrics["majority_baseline"] == np.bincount(labels).max() / 500
    assert (metrics["n"], metrics["skipped"]) == (500, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_classification_metrics__is_plain_json(logits_and_labels, dtype):
    logits, labels = logits_and_labels
    # Two classes more than occur anywhere, and one that is never predicted.
    logits = np.hstack([logits, np.full((500, 2), -50.0)]).astype(dtype)
    logits[:, 0] = -60.0
    metrics = classification_metrics(logits, labels.astype(np.int32), [*NAMES, "x", "y"], skipped=np.int64(1))
    assert plain(metrics)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["per_class"]["x"] == {"precision": None, "recall": None, "f1": None, "n": 0}
    assert metrics["per_class"]["class 0"]["precision"] == 0.0


@pytest.mark.parametrize(("n_classes", "present"), [(2, False), (5, False), (6, True)])
def test_classification_metrics__top5_only_with_more_than_5_classes(rng, n_classes, present):
    logits = rng.normal(size=(20, n_classes))
    labels = rng.integers(0, n_classes, 20)
    metrics = classification_metrics(logits, labels, NAMES[:n_classes])
    assert list(metrics) == [key for key in KEYS if present or key != "top5_accuracy"]


def test_classification_metrics__groups_widen_the_interval_and_are_counted(logits_and_labels):
    logits, labels = logits_and_labels
    groups = [f"patient {row // 10}" for row in range(500)]
    grouped = classification_metrics(logits, labels, NAMES, groups=groups)
    assert plain(grouped)
    assert list(grouped) == [*KEYS[:-1], "groups", "skipped"]
    assert grouped["groups"] == 50
    correct = logits.argmax(axis=1) == labels
    assert grouped["accuracy_ci95"] == list(accuracy_ci95(correct, groups))
    from_softmax = classification_metrics_from_probabilities(softmax(logits), labels, NAMES, groups=groups)
    assert from_softmax["accuracy_ci95"] == grouped["accuracy_ci95"]
    with pytest.raises(ValueError, match=r"expected one group an image, \[500\], found \[499\]"):
        classification_metrics(logits, labels, NAMES, groups=groups[:-1])


def test_classification_metrics__one_sample_of_one_class():
    metrics = classification_metrics([[0.3]], [0], ["only"])
    assert (metrics["accuracy"], metrics["nll"], metrics["ece"], metrics["majority_baseline"]) == (1.0, 0.0, 0.0, 1.0)
    assert metrics["accuracy_ci95"] == [pytest.approx(0.2065, abs=1e-4), 1.0]


def test_classification_metrics__logits_not_finite(logits_and_labels):
    logits, labels = logits_and_labels
    logits[3] = np.nan
    logits[7, 1] = -np.inf
    with pytest.raises(ValueError, match=r"^logits: 2 of 500 rows hold NaN or infinite values, the first is row 3"):
        classification_metrics(logits, labels, NAMES)
    with pytest.raises(ValueError, match=r"^logits: 2 of 500 rows hold NaN or infinite values, the first is row 3"):
        quick_metrics(logits, labels)


@pytest.mark.parametrize("function", [classification_metrics, classification_metrics_from_probabilities])
@pytest.mark.parametrize(
    ("labels", "names", "skipped", "message"),
    [
        ([0, 1], ["a", "b"], 0, "expected one name per class, found 2 names for 3 classes"),
        ([0, 1], ["a", "b", "a"], 0, "expected each class name once, found repeated: a"),
        ([0, 1], ["a", "b", "c"], -1, "expected 0 or more skipped samples, found -1"),
        ([0, 3], ["a", "b", "c"], 0, "expected labels between 0 and 2, found 1 of 2 outside"),
        ([0], ["a", "b", "c"], 0, "expected one label per row of scores, found 1 labels for 2 rows"),
    ],
)
def test_classification_metrics__refuses(function, labels, names, skipped, message):
    with pytest.raises(ValueError, match=message):
        function(np.full((2, 3), 0.25), labels, names, skipped=skipped)


def test_classification_metrics__no_sample():
    with pytest.raises(ValueError, match="with at least one of each, found \\(0, 3\\)"):
        classification_metrics(np.zeros((0, 3)), np.zeros(0, dtype=int), ["a", "b", "c"])


def test_from_probabilities__softmax_gives_the_metrics_of_the_logits(logits_and_labels):
    logits, labels = logits_and_labels
    expected = classification_metrics(logits, labels, NAMES, skipped=2)
    found = classification_metrics_from_probabilities(softmax(logits), labels, NAMES, skipped=2)
    assert list(found) == list(expected)
    for key in ("nll", "ece"):
        assert found.pop(key) == pytest.approx(expected.pop(key), rel=1e-9)
    assert found == expected


def test_from_probabilities__a_class_that_nothing_stands_for_is_always_wrong():
    # Class 0 has no mapped score; the rows of its samples hold what other classes got, or nothing at all.
    probabilities = np.array([[0.0, 0.3, 0.1], [0.0, 0.0, 0.0], [0.0, 0.6, 0.2], [0.0, 0.1, 0.9]])
    metrics = classification_metrics_from_probabilities(probabilities, [0, 0, 1, 2], ["unmapped", "b", "c"])
    assert metrics["accuracy"] == 0.5
    assert metrics["balanced_accuracy"] == pytest.approx(2 / 3)
    assert metrics["per_class"]["unmapped"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 2}
    assert metrics["nll"] == pytest.approx(-np.mean(np.log([1e-12, 1e-12, 0.6, 0.9])))
    # Alone in their bins: 0.3 wrong, 0 wrong, 0.6 right, 0.9 right.
    assert metrics["ece"] == pytest.approx((0.3 + 0 + 0.4 + 0.1) / 4)
    assert plain(metrics)


def test_from_probabilities__an_unmapped_class_is_not_among_the_first_five():
    probabilities = np.zeros((3, 8))
    probabilities[:, :3] = [0.5, 0.3, 0.2]
    metrics = classification_metrics_from_probabilities(probabilities, [2, 3, 4], NAMES[:8])
    assert metrics["top5_accuracy"] == pytest.approx(1 / 3)


def test_from_probabilities__logits_are_refused(logits_and_labels):
    with pytest.raises(ValueError, match="rows hold negative values; pass logits as logits"):
        classification_metrics_from_probabilities(*logits_and_labels, NAMES)


def test_quick_metrics__are_the_summarys_numbers(logits_and_labels):
    logits, labels = logits_and_labels
    metrics = classification_metrics(logits, labels, NAMES)
    assert quick_metrics(logits, labels) == {"accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]}


def test_import__loads_nothing_heavy():
    code = (
        "import sys, hf_transfer.metrics; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'evaluate', 'sklearn') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
