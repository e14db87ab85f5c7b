"""Weights of classes by name."""

import numpy as np
import pytest

from hf_transfer.data.class_weights import sampling_weights
from hf_transfer.errors import RecipeError

NAMES, COUNTS = ["cat", "dog", "owl"], np.array([70, 20, 10])


def test_sampling_weights__balanced_gives_each_class_the_same_total():
    np.testing.assert_allclose(sampling_weights("balanced", NAMES, COUNTS) * COUNTS, 1)


def test_sampling_weights__named_ones_are_put_in_the_order_of_the_classes():
    assert sampling_weights({"owl": 3, "cat": 1, "dog": 2}, NAMES, COUNTS).tolist() == [1, 2, 3]


def test_sampling_weights__all_that_is_wrong_is_told_at_once():
    with pytest.raises(RecipeError) as caught:
        sampling_weights({"cat": 1, "dgo": 2}, NAMES, COUNTS)
    assert [str(problem) for problem in caught.value.problems] == [
        "data.sampling: 'dgo' is not a class of the data set (did you mean 'dog'?)",
        "data.sampling: expected a weight for every class; found none for 'dog', 'owl'",
    ]
