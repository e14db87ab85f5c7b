"""Tests of metrics of several labels an image, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, log_loss

from hf_transfer.metrics.multi_label import (
    average_precision,
    best_f1_thresholds,
    binary_cross_entropy,
    logit,
    mean_average_precision_ci95,
    multi_label_metrics,
    predicted_at,
    quick_multi_label_metrics,
    random_average_precision,
    sigmoid,
)

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Logits [300, 5] with ties, and labels of very different prevalence; the last class has no positive."""
    rng = np.random.default_rng(0)
    labels = rng.random((300, 5)) < [0.6, 0.3, 0.1, 0.02, 0.0]
    return np.round(rng.normal(size=(300, 5)) + 1.5 * labels, 1).astype(np.float32), labels


def test_sigmoid__and_its_inverse():
    found = sigmoid([-1000.0, -2.0, 0.0, 2.0, 1000.0])
    np.testing.assert_allclose(found, [0, 0.11920292, 0.5, 0.88079708, 1], atol=1e-8)
    np.testing.assert_allclose(logit(found), [-27.631, -2, 0, 2, 27.631], atol=1e-3)


def test_average_precision__is_that_of_scikit_learn_with_ties(scored):
    logits, labels = scored
    expected = [average_precision_score(labels[:, c], logits[:, c]) for c in range(4)]
    np.testing.assert_allclose(average_precision(logits, labels), [*expected, np.nan], rtol=1e-12)


def test_average_precision__equal_scores_say_nothing():
    np.testing.assert_allclose(average_precision(np.zeros((4, 1)), [[1], [0], [0], [0]]), [0.25])


def test_average_precision__refuses_labels_that_are_no_flags():
    with pytest.raises(ValueError, match=r"expected a label for each score, \[2, 3\], found labels of shape \[2\]"):
        average_precision(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="expected labels that are true or false, or 0 or 1, found dtype int64"):
        average_precision(np.zeros((2, 1)), [[0], [2]])


def test_best_f1_thresholds__between_the_scores_that_it_separates():
    probabilities = [[0.9, 0.2], [0.7, 0.4], [0.3, 0.1], [0.1, 0.8]]
    labels = [[1, 0], [1, 1], [0, 0], [0, 1]]
    np.testing.assert_allclose(best_f1_thresholds(probabilities, labels), [0.5, 0.3])


def test_best_f1_thresholds__best_of_all_cuts(scored):
    logits, labels = scored
    chosen = best_f1_thresholds(sigmoid(logits), labels)
    for c in range(4):
        reached = f1_score(labels[:, c], sigmoid(logits[:, c]) >= chosen[c])
        cuts = [f1_score(labels[:, c], logits[:, c] >= cut) for cut in np.unique(logits[:, c])]
        assert reached == pytest.approx(max(cuts))
    assert chosen[4] == 0.5  # no positive says where


def test_best_f1_thresholds__ties_go_to_the_nearest_to_a_half():
    # Cuts after the first image and after the third have F1 2/3: thresholds 0.75 and 0.35.
    assert best_f1_thresholds([[0.9], [0.6], [0.5], [0.2]], [[1], [0], [1], [0]]) == pytest.approx([0.35])
    assert best_f1_thresholds([[0.9], [0.6], [0.5]], [[1], [0], [0]]) == pytest.approx([0.75])
    assert best_f1_thresholds([[0.4], [0.4]], [[1], [0]]) == pytest.approx([0.2])  # below all of them: half the lowest
    ends = best_f1_thresholds([[1.0, 0.0], [np.nextafter(1.0, 0.0), 0.0]], [[1, 1], [0, 0]])
    assert (ends > 0).all() and (ends < 1).all()
    with pytest.raises(ValueError, match="pass logits through a sigmoid"):
        best_f1_thresholds([[2.0]], [[1]])


def test_multi_label_metrics__agree_with_scikit_learn(scored):
    logits, labels = scored
    found = multi_label_metrics(logits, labels, NAMES, [0.5, 0.4, 0.3, 0.2, 0.999], skipped=2)
    predicted = predicted_at(logits, [0.5, 0.4, 0.3, 0.2, 0.999])
    assert not predicted[:, 4].any()
    defined = [average_precision_score(labels[:, c], logits[:, c]) for c in range(4)]
    assert found["mean_average_precision"] == pytest.approx(np.mean(defined))
    assert found["macro_f1"] == pytest.approx(f1_score(labels[:, :4], predicted[:, :4], average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert found["hamming_accuracy"] == pytest.approx(1 - hamming_loss(labels, predicted))
    assert found["subset_accuracy"] == pytest.approx((labels == predicted).all(axis=1).mean())
    nll = np.mean([log_loss(labels[:, c], sigmoid(logits[:, c]), labels=[False, True]) for c in range(5)])
    assert found["nll"] == pytest.approx(nll) == binary_cross_entropy(logits, labels)
    assert found["random_baseline"] == pytest.approx(random_average_precision(labels[:, :4].sum(axis=0), len(labels)).mean())
    assert found["labels_per_image"] == pytest.approx(labels.sum() / 300)
    assert (found["n"], found["skipped"]) == (300, 2)
    assert found["per_class"]["e"] == {
        "average_precision": None, "precision": None, "recall": None, "f1": None, "threshold": 0.999, "n": 0,
    }  # fmt: skip
    assert found["per_class"]["b"]["threshold"] == 0.4
    assert list(found)[-2:] == ["n", "skipped"]


def test_multi_label_metrics__a_class_that_is_never_predicted():
    found = multi_label_metrics([[-9.0, 9.0], [-9.0, 9.0]], [[1, 1], [0, 1]], ["a", "b"], [0.5, 0.5])
    assert found["per_class"]["a"] == {
        "average_precision": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "threshold": 0.5, "n": 1,
    }  # fmt: skip
    assert found["subset_accuracy"] == 0.5


def test_multi_label_metrics__nothing_shown_and_nothing_predicted():
    found = multi_label_metrics(np.full((3, 2), -5.0), np.zeros((3, 2)), ["a", "b"], [0.5, 0.5])
    undefined = [name for name, value in found.items() if value is None]
    assert undefined == ["mean_average_precision", "macro_f1", "micro_f1", "random_baseline"]
    assert found["mean_average_precision_ci95"] == [0.0, 1.0]
    assert found["subset_accuracy"] == found["hamming_accuracy"] == 1.0


def test_multi_label_metrics__groups(scored):
    logits, labels = scored
    found = multi_label_metrics(logits, labels, NAMES, [0.5] * 5, groups=np.arange(300) // 10)
    assert list(found)[-3:] == ["n", "groups", "skipped"]
    assert found["groups"] == 30


def test_mean_average_precision_ci95__wider_where_images_come_in_groups(scored):
    logits, labels = scored
    low, high = mean_average_precision_ci95(logits, labels)
    mean = np.nanmean(average_precision(logits, labels))
    assert low < mean < high
    assert (low, high) == mean_average_precision_ci95(logits, labels)
    twins = np.repeat(np.arange(300), 4)
    grouped = mean_average_precision_ci95(logits[twins], labels[twins], twins)
    single = mean_average_precision_ci95(logits[twins], labels[twins])
    assert grouped[1] - grouped[0] > 1.5 * (single[1] - single[0])
    assert mean_average_precision_ci95(logits, labels, np.zeros(300)) == (0.0, 1.0)


def test_quick_multi_label_metrics__at_a_half(scored):
    logits, labels = scored
    found = quick_multi_label_metrics(logits, labels.astype(np.float32))
    full = multi_label_metrics(logits, labels, NAMES, [0.5] * 5)
    assert found == {name: full[name] for name in ("mean_average_precision", "macro_f1")}
    assert quick_multi_label_metrics([[-1.0]], [[0.0]]) == {"mean_average_precision": 0.0, "macro_f1": 0.0}


@pytest.mark.parametrize("positives", [1, 3, 10, 30])
def test_random_average_precision__is_the_mean_over_random_orders(positives):
    rng = np.random.default_rng(0)
    labels = np.zeros((30, 4000), dtype=bool)
    labels[:positives] = True
    drawn = average_precision(rng.random(labels.shape), labels)  # each class is an order of its own
    assert random_average_precision([positives], 30) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(4000) + 1e-9)
