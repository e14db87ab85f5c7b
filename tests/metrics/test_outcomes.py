import numpy as np
import pytest

from hf_transfer.metrics.outcomes import correct_array, correct_pair, group_index, sum_by_group


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3)), r"expected correct to be booleans \[seeds, images\], found float64 \[2, 3\]"),
        (np.ones(3, dtype=bool), r"expected correct to be booleans \[seeds, images\], found bool \[3\]"),
        (np.ones((0, 3), dtype=bool), r"expected correct of at least one seed and two images, found \[0, 3\]"),
        (np.ones((3, 1), dtype=bool), r"expected correct of at least one seed and two images, found \[3, 1\]"),
    ],
)
def test_correct_array__refused(array, message):
    with pytest.raises(ValueError, match=message):
        correct_array(array)


def test_correct_pair__other_images():
    with pytest.raises(ValueError, match="expected the same images twice, found 5 and 6"):
        correct_pair(np.ones((2, 5), dtype=bool), np.ones((3, 6), dtype=bool))


def test_group_index__any_names():
    assert group_index(["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert group_index(None, 3) is None


def test_group_index__refused():
    with pytest.raises(ValueError, match=r"expected one group an image, \[4\], found \[3\]"):
        group_index([1, 2, 3], 4)
    with pytest.raises(ValueError, match="expected at least two groups of images, found only p7"):
        group_index(["p7", "p7"], 2)


def test_sum_by_group__last_axis():
    values = np.arange(12).reshape(2, 6)
    assert sum_by_group(values, group_index([0, 1, 0, 1, 2, 2], 6)).tolist() == [[2, 4, 9], [14, 16, 21]]
    assert sum_by_group(values[0], None).dtype == np.float64
