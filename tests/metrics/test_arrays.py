import numpy as np
import pytest

from hf_transfer.metrics.arrays import (
    NO_PREDICTION,
    label_array,
    predicted_classes,
    prediction_array,
    probability_array,
    score_array,
)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.int64])
def test_label_array__any_integers_become_int64(dtype):
    labels = label_array(np.array([0, 2, 1], dtype=dtype), n_classes=3, n=3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1]], r"expected labels of shape \[samples\], found \(1, 2\)"),
        (np.zeros(0, dtype=np.int64), "expected labels of at least one sample, found none"),
        ([0.0, 1.0], "expected labels to be integers, found dtype float64"),
        ([True, False], "expected labels to be integers, found dtype bool"),
        ([0, 1], "expected one label per row of scores, found 2 labels for 3 rows"),
        ([0, 3, 7], r"expected labels between 0 and 2, found 2 of 3 outside \(the first is 3\)"),
        ([0, -100, 1], r"expected labels between 0 and 2, found 1 of 3 outside \(the first is -100\)"),
    ],
)
def test_label_array__refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        label_array(labels, n_classes=3, n=3)


def test_label_array__open_upper_end_still_refuses_negative_labels():
    assert label_array([0, 1000]).tolist() == [0, 1000]
    with pytest.raises(ValueError, match="expected labels 0 or more, found 1 of 2 outside"):
        label_array([0, -1])


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ([0, 1], "expected one predicted class per label, found 2 predicted classes for 3 labels"),
        ([0, 1, -2], r"expected predicted classes of -1 \(none\) or more, found -2"),
        ([0.0, 1.0, 2.0], "expected predicted classes to be integers, found dtype float64"),
    ],
)
def test_prediction_array__refuses(predicted, message):
    with pytest.raises(ValueError, match=message):
        prediction_array(predicted, n=3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_score_array__keeps_the_precision(dtype):
    assert score_array(np.zeros((2, 3), dtype=dtype)).dtype == dtype


def test_score_array__integers_become_float64():
    assert score_array([[1, 2], [3, 4]]).dtype == np.float64


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"expected scores of shape \[samples, classes\] with at least one of each, found \(2,\)"),
        (np.zeros((0, 3)), r"found \(0, 3\)"),
        (np.zeros((3, 0)), r"found \(3, 0\)"),
        ([["a", "b"]], "expected scores to be real numbers, found dtype <U1"),
        ([[1j, 0]], "expected scores to be real numbers, found dtype complex128"),
    ],
)
def test_score_array__refuses(scores, message):
    with pytest.raises(ValueError, match=message):
        score_array(scores)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_score_array__counts_rows_that_are_not_finite(dtype):
    scores = np.zeros((5, 3), dtype=dtype)
    scores[1, 0] = scores[1, 2] = np.nan
    scores[2, 1] = np.inf
    scores[4, 1] = -np.inf
    with pytest.raises(ValueError, match=r"^logits: 3 of 5 rows hold NaN or infinite values, the first is row 1 \(count"):
        score_array(scores, name="logits", finite=True)
    with pytest.raises(ValueError, match=r"^scores: 2 of 5 rows hold NaN or infinite values, the first is row 1 \(count"):
        score_array(scores)


def test_probability_array__rows_may_add_up_to_less_than_one():
    probabilities = np.array([[0.2, 0.1], [0.0, 0.0], [0.5, 0.5005]])
    assert probability_array(probabilities) is probabilities


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.5], [-0.1, 0.2]], "1 of 2 rows hold negative values; pass logits as logits"),
        ([[0.5, 0.5], [0.8, 0.3], [2.0, 0.0]], r"2 of 3 rows add up to more than 1 \(up to 2\); pass logits as logits"),
        ([[0.5, np.nan]], "probabilities: 1 of 1 rows hold NaN"),
    ],
)
def test_probability_array__refuses(probabilities, message):
    with pytest.raises(ValueError, match=message):
        probability_array(probabilities)


def test_predicted_classes__first_of_equals():
    assert predicted_classes([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]]).tolist() == [1, 0]


def test_predicted_classes__none_where_no_class_has_a_score():
    assert predicted_classes([[-np.inf, -np.inf], [-np.inf, -5.0]]).tolist() == [NO_PREDICTION, 1]
