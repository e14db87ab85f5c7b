import numpy as np

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.mistakes import confused_pairs, top_losses
from hf_transfer.report.scores import Scores


def scores(labels, logits, predicted=None):
    logits, labels = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    predicted = logits.argmax(axis=1) if predicted is None else np.asarray(predicted)
    ids = [f"image/{i}" for i in range(len(labels))]
    return Scores.of(Predictions(ids, [None] * len(ids), labels, predicted, logits, ["a", "b", "c"][: logits.shape[1]]))


def ids(examples):
    return [example.sample_id for example in examples]


def test_top_losses__highest_first():
    found = top_losses(scores([0, 0, 1, 1], [[1, 0], [0, 5], [0, 1], [9, 0]]), 3)
    assert ids(found) == ["image/3", "image/1", "image/0"]
    worst = found[0]
    assert (worst.label, worst.predicted, worst.is_right) == ("b", "a", False)
    assert round(worst.loss, 4) == 9.0001
    assert round(worst.confidence + worst.own, 9) == 1.0
    assert found[2].is_right


def test_top_losses__no_class_given():
    example = top_losses(scores([0], [[1, 0]], predicted=[-1]), 5)[0]
    assert (example.predicted, example.is_right, example.confidence) == (None, False, 0.0)


def test_confused_pairs__most_images_first_then_larger_share():
    a, b, c = [9, 0, 0], [0, 9, 0], [0, 0, 9]
    labels = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    logits = [b, b, c, a, a, c, b, b, a, c]
    pairs = confused_pairs(scores(labels, logits), most=3, examples=1)
    assert [(pair.label, pair.predicted, pair.count, pair.of) for pair in pairs] == [
        ("a", "b", 2, 5),
        ("c", "a", 1, 2),
        ("b", "c", 1, 3),
    ]
    assert [len(pair.examples) for pair in pairs] == [1, 1, 1]


def test_confused_pairs__surest_mistakes_are_shown():
    pair = confused_pairs(scores([0, 0, 0], [[0, 1, 0], [0, 7, 0], [0, 3, 0]]), most=1, examples=2)[0]
    assert ids(pair.examples) == ["image/1", "image/2"]


def test_confused_pairs__no_mistakes_and_no_predictions():
    assert confused_pairs(scores([0, 1], [[1, 0], [0, 1]]), 5, 5) == []
    assert confused_pairs(scores([0, 1], [[1, 0], [0, 1]], predicted=[-1, -1]), 5, 5) == []
