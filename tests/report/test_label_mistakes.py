import numpy as np
import pytest

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.multi_label import binary_cross_entropy
from hf_transfer.report.label_mistakes import Said, label_errors, top_label_losses
from hf_transfer.report.label_scores import LabelScores

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=bool)
LOGITS = np.array([[4, -3, -3], [-2, 3, 2], [1, -5, -5], [-4, -1, -4]], dtype=np.float32)
THRESHOLDS = np.array([0.5, 0.5, 0.9])


def scores():
    predicted = 1 / (1 + np.exp(-LOGITS.astype(float))) >= THRESHOLDS
    ids = ["a", "b", "c", "d"]
    paths = [None, "/x/b.png", None, None]
    return LabelScores.of(Predictions(ids, paths, LABELS, predicted, LOGITS, ["cat", "dog", "owl"], None, THRESHOLDS))


def test_label_scores__of():
    found = scores()
    assert found.correct.tolist() == [True, False, False, False]
    assert found.missed.tolist() == [[False] * 3, [True, False, False], [False] * 3, [False, True, False]]
    assert found.wrong.tolist() == [
        [False] * 3,
        [False] * 3,
        [True, False, False],
        [False] * 3,
    ]  # 0.88 for an owl is too little
    assert found.loss.mean() == pytest.approx(binary_cross_entropy(LOGITS, LABELS), rel=1e-9)
    assert found.probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-4)))


def test_top_label_losses__name_what_was_right_missed_and_wrong():
    first, second, third, fourth = top_label_losses(scores(), 9)
    assert [e.sample_id for e in (first, second, third, fourth)] == ["b", "d", "c", "a"]
    assert first.path == "/x/b.png" and not first.is_right
    assert [said.name for said in first.right] == ["dog"] and [said.name for said in first.missed] == ["cat"]
    assert third.wrong == (Said("cat", pytest.approx(1 / (1 + np.exp(-1)))),)
    assert fourth.is_right and fourth.right[0].name == "cat"
    assert len(top_label_losses(scores(), 2)) == 2


def test_label_errors__each_kind_by_itself_most_images_first():
    errors = label_errors(scores(), 10, 5)
    told = [(error.label, error.kind, error.count, error.of) for error in errors]
    assert told == [("cat", "missed", 1, 2), ("dog", "missed", 1, 2), ("cat", "wrong", 1, 2)]
    assert [example.sample_id for example in errors[0].examples] == ["b"]
    assert len(label_errors(scores(), 1, 5)) == 1


def test_label_errors__surest_mistakes_first():
    logits = np.array([[-1.0], [-3.0], [-2.0], [2.0], [3.0]], dtype=np.float32)
    labels = np.array([[True], [True], [True], [False], [False]])
    found = LabelScores.of(Predictions(list("abcde"), [None] * 5, labels, logits >= 0, logits, ["x"], None, np.array([0.5])))
    wrong, missed = sorted(label_errors(found, 5, 2), key=lambda error: error.count)
    assert [example.sample_id for example in missed.examples] == ["b", "c"]
    assert [example.sample_id for example in wrong.examples] == ["e", "d"]
