import numpy as np
import pytest
from scipy.stats import binomtest

from hf_transfer.metrics.intervals import difference_of_proportions, newcombe_difference, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
        # table I, method 3: the score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval__textbook_values(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert (round(interval[0], 4), round(interval[1], 4)) == (low, high)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 7, 1000, 50_000])
def test_wilson_interval__agrees_with_scipy(n, confidence):
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        reference = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
        interval = wilson_interval(successes, n, confidence)
        assert interval == pytest.approx((reference.low, reference.high), abs=1e-12)
        assert 0 <= interval[0] <= successes / n <= interval[1] <= 1


def test_wilson_interval__ends_are_exact():
    # With z^2 = 3.8415 and n = 10: high = z^2 / (n + z^2) when nothing succeeded, and its mirror image when all did.
    low, high = wilson_interval(0, 10)
    assert low == 0.0
    assert high == pytest.approx(3.841458820694124 / 13.841458820694124, abs=1e-12)
    assert wilson_interval(10, 10) == (pytest.approx(1 - high, abs=1e-12), 1.0)


def test_wilson_interval__numpy_integers_give_plain_floats():
    interval = wilson_interval(np.int64(3), np.int32(7))
    assert [type(end) for end in interval] == [float, float]


def test_wilson_interval__no_sample():
    with pytest.raises(ValueError, match="expected at least one sample, found n = 0"):
        wilson_interval(0, 0)


@pytest.mark.parametrize("successes", [-1, 11])
def test_wilson_interval__impossible_count(successes):
    with pytest.raises(ValueError, match=f"expected between 0 and 10 successes, found {successes}"):
        wilson_interval(successes, 10)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_wilson_interval__impossible_confidence(confidence):
    with pytest.raises(ValueError, match="expected a confidence between 0 and 1, such as"):
        wilson_interval(5, 10, confidence)


def test_wilson_interval__a_share_is_not_a_count():
    with pytest.raises(TypeError):
        wilson_interval(0.5, 10)


@pytest.mark.parametrize(
    ("successes_a", "n_a", "successes_b", "n_b", "low", "high"),
    [
        # R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17
        # (1998), table II, method 10, examples a to h.
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_newcombe_difference__published_examples(successes_a, n_a, successes_b, n_b, low, high):
    interval = newcombe_difference(successes_a, n_a, successes_b, n_b)
    assert (round(interval[0], 4), round(interval[1], 4)) == (low, high)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_newcombe_difference__swapping_the_samples_mirrors_the_interval(confidence):
    for successes_a, n_a, successes_b, n_b in [(0, 1, 1, 1), (3, 7, 7, 7), (390, 400, 360, 400), (0, 5, 0, 9)]:
        low, high = newcombe_difference(successes_a, n_a, successes_b, n_b, confidence)
        assert newcombe_difference(successes_b, n_b, successes_a, n_a, confidence) == (-high, -low)
        assert -1 <= low <= successes_a / n_a - successes_b / n_b <= high <= 1


def test_newcombe_difference__covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    a, b = rng.binomial(200, 0.9, 4000), rng.binomial(120, 0.8, 4000)
    ends = [newcombe_difference(successes_a, 200, successes_b, 120) for successes_a, successes_b in zip(a, b, strict=True)]
    assert np.mean([low <= 0.1 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.01)


def test_newcombe_difference__a_wrong_second_sample_is_named():
    with pytest.raises(ValueError, match="expected between 0 and 10 successes, found 11"):
        newcombe_difference(5, 10, 11, 10)
    with pytest.raises(ValueError, match="expected at least one sample, found n = 0"):
        newcombe_difference(5, 10, 0, 0)


def test_difference_of_proportions__of_wilson_intervals_is_newcombes():
    sides = [(0.9, wilson_interval(90, 100)), (0.7, wilson_interval(35, 50))]
    assert difference_of_proportions(*sides[0], *sides[1]) == newcombe_difference(90, 100, 35, 50)


def test_difference_of_proportions__longer_intervals_give_a_longer_one():
    short, long = (difference_of_proportions(0.9, ends, 0.7, (0.6, 0.8)) for ends in ((0.85, 0.93), (0.7, 0.97)))
    assert long[0] < short[0] and long[1] > short[1]
    assert difference_of_proportions(1.0, (0.0, 1.0), 0.0, (0.0, 1.0)) == (pytest.approx(1 - 2**0.5), 1.0)
