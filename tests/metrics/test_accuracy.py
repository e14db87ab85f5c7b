import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from hf_transfer.metrics import wilson_interval
from hf_transfer.metrics.accuracy import accuracy, accuracy_ci95, majority_baseline, top_k_accuracy


def test_accuracy__agrees_with_sklearn(logits_and_labels):
    logits, labels = logits_and_labels
    predicted = logits.argmax(axis=1)
    assert accuracy(predicted, labels) == accuracy_score(labels, predicted)


def test_accuracy__no_prediction_is_wrong():
    assert accuracy([-1, 1, 0, 0], [0, 1, 0, 1]) == 0.5


def test_accuracy_ci95__without_groups_is_wilson(rng):
    correct = rng.random(300) < 0.9
    assert accuracy_ci95(correct) == wilson_interval(int(correct.sum()), 300)


def test_accuracy_ci95__copies_of_an_image_tell_no_more(rng):
    correct = rng.random(60) < 0.8
    low, high = accuracy_ci95(np.repeat(correct, 10), np.repeat(np.arange(60), 10))
    once = accuracy_ci95(correct)
    assert (low, high) == pytest.approx(once, abs=0.005)  # a t quantile in place of the normal one
    assert high - low > 3 * np.subtract(*accuracy_ci95(np.repeat(correct, 10))[::-1])


def test_accuracy_ci95__a_single_group_says_nothing_of_others():
    assert accuracy_ci95([True, True, False], ["a", "a", "a"]) == (0.0, 1.0)


def test_accuracy_ci95__nothing_but_right_groups():
    low, high = accuracy_ci95(np.ones(40, dtype=bool), np.arange(40) // 8)
    assert high == 1.0
    assert low == pytest.approx(wilson_interval(5, 5)[0])


def test_accuracy_ci95__covers_the_truth_as_often_as_it_says(rng):
    """Forty groups of one to forty images, each as hard as it is: the mean over images of such groups."""
    covered, plain = [], []
    for _ in range(600):
        sizes = rng.geometric(0.1, 40)
        groups = np.repeat(np.arange(40), sizes)
        correct = rng.random(len(groups)) < np.repeat(rng.beta(8, 2, 40), sizes)
        for found, interval in ((covered, accuracy_ci95(correct, groups)), (plain, accuracy_ci95(correct))):
            found.append(interval[0] <= 0.8 <= interval[1])
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(plain) < 0.9


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_accuracy__agrees_with_sklearn(logits_and_labels, k):
    logits, labels = logits_and_labels
    assert top_k_accuracy(logits, labels, k) == pytest.approx(top_k_accuracy_score(labels, logits, k=k))


def test_top_k_accuracy__one_guess_is_accuracy_even_with_equal_scores(rng):
    scores = rng.integers(0, 3, size=(200, 6)).astype(np.float32)
    labels = rng.integers(0, 6, size=200)
    assert top_k_accuracy(scores, labels, k=1) == accuracy(scores.argmax(axis=1), labels)


def test_top_k_accuracy__equal_scores_rank_by_position(rng):
    scores = rng.integers(0, 3, size=(200, 6)).astype(np.float32)
    labels = rng.integers(0, 6, size=200)
    ranked = np.argsort(-scores, axis=1, kind="stable")
    hits = [label in row[:3] for row, label in zip(ranked, labels, strict=True)]
    assert top_k_accuracy(scores, labels, k=3) == np.mean(hits)


def test_top_k_accuracy__a_class_without_score_is_no_guess():
    scores = np.full((2, 6), -np.inf)
    scores[:, 4] = 0.5
    assert top_k_accuracy(scores, [0, 4], k=5) == 0.5


@pytest.mark.parametrize("k", [0, 3, 5])
def test_top_k_accuracy__k_outside_the_classes(k):
    with pytest.raises(ValueError, match=f"expected k between 1 and 2 with 3 classes, found {k}"):
        top_k_accuracy(np.zeros((2, 3)), [0, 1], k)


def test_majority_baseline__share_of_the_most_frequent_class():
    assert majority_baseline([2, 2, 2, 0, 7, 7, 2, 1]) == 0.5
    assert majority_baseline([4]) == 1.0
