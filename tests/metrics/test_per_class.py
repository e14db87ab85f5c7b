import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score

from hf_transfer.metrics.per_class import balanced_accuracy, class_scores, macro_f1, per_class


def by_counting(predicted, labels, n_classes):
    """Precision, recall and F1 of each class from the definitions, None where a denominator is 0."""
    result = []
    for c in range(n_classes):
        tp = sum(p == c and y == c for p, y in zip(predicted, labels, strict=True))
        fp = sum(p == c and y != c for p, y in zip(predicted, labels, strict=True))
        fn = sum(p != c and y == c for p, y in zip(predicted, labels, strict=True))
        n = tp + fn
        result.append(
            {
                "precision": tp / (tp + fp) if tp + fp else 0.0 if n else None,
                "recall": tp / n if n else None,
                "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
                "n": n,
            }
        )
    return result


def test_class_scores__agrees_with_torchmetrics(logits_and_labels):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = logits_and_labels
    predicted = logits.argmax(axis=1)
    scores = class_scores(predicted, labels, 10)
    arguments = (torch.from_numpy(predicted), torch.from_numpy(labels), 10)
    assert scores.precision == pytest.approx(torchmetrics.multiclass_precision(*arguments, average=None).numpy(), abs=1e-6)
    assert scores.recall == pytest.approx(torchmetrics.multiclass_recall(*arguments, average=None).numpy(), abs=1e-6)
    assert scores.f1 == pytest.approx(torchmetrics.multiclass_f1_score(*arguments, average=None).numpy(), abs=1e-6)
    assert scores.n.tolist() == np.bincount(labels, minlength=10).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_per_class__agrees_with_counting(seed):
    rng = np.random.default_rng(seed)
    # 12 classes of which some occur nowhere, some only as labels, some only as predictions; -1 is no prediction.
    labels = rng.choice(rng.choice(12, 5), size=20)
    predicted = rng.choice(np.append(rng.choice(12, 5), -1), size=20)
    names = [f"class {c}" for c in range(12)]
    expected = by_counting(predicted, labels, 12)
    found = per_class(predicted, labels, names)
    assert list(found) == names
    for values, reference in zip(found.values(), expected, strict=True):
        assert values == pytest.approx(reference)
    recalls = [values["recall"] for values in expected if values["recall"] is not None]
    f1s = [values["f1"] for values in expected if values["f1"] is not None]
    assert balanced_accuracy(predicted, labels) == pytest.approx(np.mean(recalls))
    assert macro_f1(predicted, labels) == pytest.approx(np.mean(f1s))


def test_per_class__agrees_with_sklearns_report(logits_and_labels):
    logits, labels = logits_and_labels
    names = [f"class {c}" for c in range(10)]
    predicted = logits.argmax(axis=1)
    report = classification_report(labels, predicted, target_names=names, output_dict=True)
    for name, values in per_class(predicted, labels, names).items():
        expected = {
            "precision": report[name]["precision"],
            "recall": report[name]["recall"],
            "f1": report[name]["f1-score"],
            "n": report[name]["support"],
        }
        assert values == pytest.approx(expected)


def test_per_class__undefined_values():
    # a: right; b: has samples, never predicted; c: predicted, has no samples; d: neither.
    assert per_class([0, 2], [0, 1], ["a", "b", "c", "d"]) == {
        "a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "n": 1},
        "b": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 1},
        "c": {"precision": 0.0, "recall": None, "f1": 0.0, "n": 0},
        "d": {"precision": None, "recall": None, "f1": None, "n": 0},
    }


def test_per_class__predicted_class_without_a_name():
    with pytest.raises(ValueError, match="expected predicted classes below 2, found 2"):
        per_class([0, 2], [0, 1], ["a", "b"])


def test_averages__agree_with_sklearn(logits_and_labels):
    logits, labels = logits_and_labels
    predicted = logits.argmax(axis=1)
    assert balanced_accuracy(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert macro_f1(predicted, labels) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_averages__no_prediction_is_wrong_and_no_class():
    assert balanced_accuracy([-1, 1], [0, 1]) == 0.5
    assert macro_f1([-1, 1], [0, 1]) == 0.5
    assert macro_f1([-1, -1], [0, 1]) == 0.0


def test_class_scores__few_samples_of_many_classes_do_not_warn():
    labels = np.arange(40) % 30  # scikit-learn 1.7 warns of more classes than half the samples
    assert macro_f1(labels, labels) == 1.0
