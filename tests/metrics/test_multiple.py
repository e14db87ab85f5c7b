import numpy as np
import pytest

from hf_transfer.metrics.multiple import holm, holm_after_selection


def test_holm__worked_example():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm__is_that_of_statsmodels(rng):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = rng.random(20) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_holm__by_its_definition(rng):
    p = rng.random(9) ** 2
    for level in np.linspace(0.001, 0.999, 200):
        rejected = np.zeros(9, dtype=bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] > level / (9 - step):
                break
            rejected[i] = True
        assert ((holm(p) <= level) == rejected).all()


def test_holm_after_selection__factors_are_pairs_left():
    assert holm_after_selection([0.02, 0.001, 0.005]).tolist() == pytest.approx([0.02, 0.006, 0.015])
    assert holm_after_selection([0.2]).tolist() == [0.2]


@pytest.mark.parametrize("adjust", [holm, holm_after_selection])
def test_adjusted__edges(adjust):
    assert adjust([]).tolist() == []
    assert adjust([1.0, 1.0, 0.9]).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"expected p-values between 0 and 1, found \[0.5, nan\]"):
        adjust([0.5, float("nan")])
    with pytest.raises(ValueError, match=r"expected p-values \[m\], found \[1, 1\]"):
        adjust([[0.5]])
