import math

import numpy as np
import pytest
from scipy import stats

from hf_transfer.metrics import wilson_interval
from hf_transfer.metrics.crossed import (
    SeedVariance,
    accuracy_interval,
    detectable_difference,
    difference,
    measure,
    typical_seed_variance,
)
from hf_transfer.metrics.paired import compare_paired


def test_measure__variances_by_their_definitions(rng):
    correct = rng.random((3, 50)) < np.array([[0.7], [0.8], [0.9]])
    m = measure(correct)
    by_image, by_seed = correct.mean(axis=0), correct.mean(axis=1)
    assert m.accuracy == pytest.approx(correct.mean())
    assert m.seed_variance == pytest.approx(by_seed.var(ddof=1))
    assert m.image_variance == pytest.approx(by_image.var(ddof=1) / 50)
    left = correct - by_seed[:, None] - by_image + correct.mean()  # the interaction of a two-way table
    assert m.residual_variance == pytest.approx((left**2).sum() / (2 * 49) / 50)


def test_measure__groups_of_one_are_no_groups(rng):
    correct = rng.random((3, 40)) < 0.8
    plain, grouped = measure(correct), measure(correct, rng.permutation(40))
    assert (grouped.image_variance, grouped.residual_variance) == pytest.approx((plain.image_variance, plain.residual_variance))


def test_measure__copies_of_an_image_tell_no_more(rng):
    correct = rng.random((2, 40)) < 0.8
    copies = measure(np.repeat(correct, 5, axis=1), np.arange(200) // 5)
    assert copies.image_variance == pytest.approx(measure(correct).image_variance)
    assert copies.residual_variance == pytest.approx(measure(correct).residual_variance)


def test_measure__uneven_groups_have_the_jackknife_s_variance(rng):
    groups = np.repeat([0, 1, 2, 3], [60, 20, 15, 5])
    correct = rng.random((1, 100)) < np.array([0.9, 0.3, 0.6, 0.5])[groups]
    without = [correct[0, groups != group].mean() for group in range(4)]
    m = measure(correct, groups)
    assert m.image_variance == pytest.approx(3 / 4 * sum((accuracy - m.accuracy) ** 2 for accuracy in without))
    assert m.units == pytest.approx(1 / (0.6**2 + 0.2**2 + 0.15**2 + 0.05**2))


def test_accuracy_interval__a_group_that_holds_nearly_all_images_says_little_of_others(rng):
    groups = np.repeat(np.arange(11), [900] + [10] * 10)
    low, high = accuracy_interval(measure(rng.random((1, 1000)) < 0.8, groups))
    assert low < 0.01 and high > 0.99


@pytest.mark.parametrize("share", [5, 8])  # of ten; whether sums of halves or of fifths come out as 0 or nearly so
def test_accuracy_interval__groups_that_are_equally_good_are_still_few(share):
    correct = np.tile(np.arange(10) < share, 2)[None]
    low, high = accuracy_interval(measure(correct, np.repeat([0, 1], 10)))
    independent = wilson_interval(2 * share, 20)
    assert low < independent[0] - 0.1 and high > independent[1] + 0.05


def test_typical_seed_variance__is_right_on_average_and_robust(rng):
    networks = [measure(rng.random((3, 400)) < (0.9 + 0.02 * rng.normal(size=(3, 1))).clip(0, 1)) for _ in range(300)]
    expected = 0.02**2 + np.mean([m.residual_variance for m in networks])
    assert typical_seed_variance(networks).variance == pytest.approx(expected, rel=0.15)
    diverged = measure(np.arange(400) < np.array([[360], [20], [370]]))
    usual, with_it = typical_seed_variance(networks[:6]), typical_seed_variance([*networks[:6], diverged])
    assert (usual.degrees_of_freedom, with_it.degrees_of_freedom) == (12, 14)
    assert with_it.variance < 3 * usual.variance < diverged.seed_variance / 10


def test_typical_seed_variance__one_seed_each():
    assert typical_seed_variance([measure(np.ones((1, 5), dtype=bool))]) is None


def test_accuracy_interval__one_seed_is_wilson(rng):
    correct = rng.random((1, 400)) < 0.95
    assert accuracy_interval(measure(correct), SeedVariance(1.0, 5)) == wilson_interval(int(correct.sum()), 400)


def test_accuracy_interval__copied_seeds_tell_no_more_of_images(rng):
    correct = rng.random((1, 400)) < 0.9
    expected = wilson_interval(int(correct.sum()), 400)
    assert accuracy_interval(measure(np.repeat(correct, 3, axis=0))) == pytest.approx(expected, abs=3e-4)


def test_accuracy_interval__all_right():
    low, high = accuracy_interval(measure(np.ones((3, 400), dtype=bool)))
    assert (low, high) == pytest.approx(wilson_interval(400, 400))
    assert high == 1.0
    assert accuracy_interval(measure(np.zeros((3, 400), dtype=bool)))[0] == 0.0


def test_accuracy_interval__seeds_make_it_longer(rng):
    alike = np.arange(1000) < np.array([[900], [901], [899]])
    apart = np.arange(1000) < np.array([[900], [930], [870]])
    short, long = (np.subtract(*accuracy_interval(measure(x))[::-1]) for x in (alike, apart))
    assert long > 3 * short
    shared = accuracy_interval(measure(alike), SeedVariance(0.03**2, 12))
    assert np.subtract(*shared[::-1]) > 1.5 * short  # never credited with less than what is typical


def test_difference__where_only_seeds_differ_it_is_the_t_test():
    n = 1_000_000  # so many images hardly matter
    rights = {"a": (0.90, 0.92, 0.94), "b": (0.85, 0.89, 0.87)}
    a, b = (measure(np.tile(np.arange(100), n // 100) < 100 * np.array(r)[:, None]) for r in rights.values())
    pooled = SeedVariance(np.var(rights["a"], ddof=1), 4)
    found = difference(a, b, pooled)
    expected = stats.ttest_ind(rights["a"], rights["b"])
    assert found.value == pytest.approx(0.05)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.01)
    assert found.ci95 == pytest.approx(expected.confidence_interval(), rel=0.01)


def test_difference__one_seed_each_is_about_networks(rng):
    a, b = rng.random((1, 300)) < 0.9, rng.random((1, 300)) < 0.8
    found = difference(measure(a), measure(b))
    assert found.p_value is None
    assert found.ci95 == compare_paired(b[0], a[0]).difference_ci95


def test_difference__one_seed_on_one_side_leaves_seeds_out(rng):
    a, b = rng.random((3, 300)) < 0.9, rng.random((1, 300)) < 0.8
    found = difference(measure(a), measure(b), SeedVariance(1.0, 2))
    d = a.mean(axis=0) - b[0]
    assert found.p_value is None
    assert found.standard_error == pytest.approx(math.sqrt(d.var(ddof=1) / 300 + 1 / 300**2))


def test_difference__a_candidate_that_differs_clearly_stands_for_itself():
    # Variances of 1e-6 and 1e-2 between seeds, beside a typical 1e-6.
    steady, wild = (measure(np.arange(4000) < 4000 * np.array(r)[:, None]) for r in ((0.9, 0.901, 0.902), (0.6, 0.7, 0.8)))
    found = difference(steady, wild, SeedVariance(1e-6, 10))
    assert found.degrees_of_freedom < 2.5
    assert found.standard_error > 0.1 / math.sqrt(3)


def test_difference__no_disagreement_is_not_certainty():
    right = measure(np.ones((3, 400), dtype=bool))
    found = difference(right, right)
    assert (found.value, found.p_value) == (0.0, 1.0)
    assert found.ci95 == pytest.approx((-0.0049, 0.0049), abs=1e-4)


def test_difference__other_images():
    a, b = (np.arange(n)[None] < 5 for n in (10, 12))
    with pytest.raises(ValueError, match="expected the same images and groups, found 10 images and 12 images"):
        difference(measure(a), measure(b))
    with pytest.raises(ValueError, match="found 10 images in 5 groups and 10 images"):
        difference(measure(a, np.arange(10) // 2), measure(a))


def test_detectable_difference__of_a_known_error():
    found = difference(*(measure(np.arange(400)[None] < right) for right in (380, 360)))
    assert detectable_difference(found) == pytest.approx(2.81 * found.standard_error, rel=0.01)
    assert detectable_difference(found, 0.01) > detectable_difference(found, 0.05) > detectable_difference(found, 0.05, 0.5)
