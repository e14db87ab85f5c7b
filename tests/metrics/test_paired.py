import numpy as np
import pytest
from scipy.stats import binomtest

from hf_transfer.metrics.paired import compare_paired, mcnemar_exact, tango_interval

# Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009): 1, 1, 7, 12 children; complete
# response before and after consolidation therapy (Cavo et al. 2012): 59, 6, 16, 80 patients. Both are worked examples of
# M. W. Fagerland, S. Lydersen and P. Laake, Statistics in Medicine 33 (2014), 2850-2875, and of chapter 8 of their "Statistical
# Analysis of Contingency Tables" (2017), whose R package contingencytables has the four digits in its tests.
BENTUR = {"gained": 1, "lost": 7, "n": 21}
CAVO = {"gained": 6, "lost": 16, "n": 161}


@pytest.mark.parametrize(
    ("counts", "digits", "low", "high"), [(BENTUR, 3, -0.517, -0.026), (CAVO, 4, -0.1240, -0.0054)], ids=["bentur", "cavo"]
)
def test_tango_interval__published_values(counts, digits, low, high):
    found = tango_interval(**counts)
    assert (round(found[0], digits), round(found[1], digits)) == (low, high)


@pytest.mark.parametrize(("gained", "lost", "p"), [(1, 7, 0.070), (6, 16, 0.052479)], ids=["bentur", "cavo"])
def test_mcnemar_exact__published_values(gained, lost, p):
    assert mcnemar_exact(gained, lost) == pytest.approx(p, abs=5e-4 if p == 0.070 else 5e-7)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 1), (5, 0), (3, 3), (2, 9), (40, 61), (700, 800)])
def test_mcnemar_exact__is_the_binomial_test(gained, lost):
    reference = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(reference, rel=1e-9)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 9, 40), (0, 4, 25), (11, 11, 400), (1, 0, 44)])
def test_tango_interval__ends_solve_the_score_equation(gained, lost, n):
    # McNemar's statistic is T(0): an interval at the confidence of that very statistic ends at 0.
    if gained != lost:
        from statistics import NormalDist

        z = abs(gained - lost) / (gained + lost) ** 0.5
        ends = tango_interval(gained, lost, n, 2 * NormalDist().cdf(z) - 1)
        assert min(abs(end) for end in ends) < 1e-9
    low, high = tango_interval(gained, lost, n)
    assert low < (gained - lost) / n < high
    assert tango_interval(lost, gained, n) == (pytest.approx(-high), pytest.approx(-low))


def test_tango_interval__no_discordant_pair_has_a_width():
    low, high = tango_interval(0, 0, 50)
    assert high == pytest.approx(3.841458820694124 / (50 + 3.841458820694124))  # Wilson's upper end for 0 of 50
    assert low == pytest.approx(-high)


@pytest.mark.parametrize(("gained", "lost", "expected"), [(5, 0, 1.0), (0, 5, -1.0)])
def test_tango_interval__everything_changed(gained, lost, expected):
    interval = tango_interval(gained, lost, 5)
    assert interval[gained > 0] == expected
    assert -1 <= interval[0] <= interval[1] <= 1


def test_tango_interval__covers_what_it_claims():
    # 4,000 experiments of 400 images, 2 % gained and 4 % lost: the interval holds -0.02 in 95 % of them.
    draws = np.random.default_rng(0).multinomial(400, [0.02, 0.04, 0.94], size=4000)
    pairs, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    held = [low <= -0.02 <= high for low, high in (tango_interval(b, c, 400) for b, c in pairs)]
    assert 0.94 < np.average(held, weights=counts) < 0.96


def test_compare_paired__counts_both_sides():
    before = np.array([True, True, True, False, False, True])
    after = np.array([True, False, True, True, False, False])
    found = compare_paired(before, after)
    assert (found.n, found.gained, found.lost) == (6, 1, 2)
    assert (found.before, found.after) == (pytest.approx(4 / 6), pytest.approx(3 / 6))
    assert found.difference == pytest.approx(-1 / 6)
    assert found.difference_ci95 == tango_interval(1, 2, 6)
    assert found.p_value == 1.0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1, 0], [True, False], r"expected booleans \[n\], found int64 \[2\]"),
        ([[True]], [True], r"expected booleans \[n\], found bool \[1, 1\]"),
        ([True], [True, False], "expected the same images twice, found 1 and 2"),
        (np.array([], bool), np.array([], bool), "expected at least 1 images, found n = 0"),
    ],
)
def test_compare_paired__impossible_arrays(before, after, message):
    with pytest.raises(ValueError, match=message):
        compare_paired(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2, 9), "expected counts of 0 or more, found -1 and 2"),
        ((3, 4, 6), "expected at least 7 images, found n = 6"),
        ((0, 0, 5, 95), "expected a confidence between 0 and 1, such as 0.95, found 95"),
    ],
)
def test_tango_interval__impossible_counts(arguments, message):
    with pytest.raises(ValueError, match=message):
        tango_interval(*arguments)
