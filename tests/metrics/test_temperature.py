import numpy as np
import pytest

from hf_transfer.metrics.likelihood import negative_log_likelihood
from hf_transfer.metrics.temperature import fit_sigmoid_temperature, fit_temperature


def sampled(rng, n=4000, n_classes=5, scale=2.0):
    """Logits and labels drawn from their own softmax: calibrated by construction."""
    logits = rng.normal(scale=scale, size=(n, n_classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.5, 12.0])
def test_fit_temperature__finds_the_one_that_logits_were_multiplied_by(rng, temperature):
    logits, labels = sampled(rng)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fit_temperature__agrees_with_scipy(logits_and_labels, dtype):
    from scipy.optimize import minimize_scalar

    logits, labels = logits_and_labels
    logits = (3 * logits).astype(dtype)
    reference = minimize_scalar(
        lambda inverse: negative_log_likelihood(logits.astype(np.float64) * inverse, labels),
        bounds=(0.01, 100),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels) == pytest.approx(1 / reference.x, rel=1e-5)


def test_fit_temperature__lowers_the_likelihood_on_both_sides(logits_and_labels):
    logits, labels = logits_and_labels
    fitted = fit_temperature(logits, labels)
    best = negative_log_likelihood(logits / fitted, labels)
    assert best <= negative_log_likelihood(logits, labels)
    assert best < negative_log_likelihood(logits / (fitted * 1.01), labels)
    assert best < negative_log_likelihood(logits / (fitted * 0.99), labels)


def test_fit_temperature__a_constant_added_to_a_sample_changes_nothing(logits_and_labels, rng):
    logits, labels = logits_and_labels
    shifted = logits.astype(np.float64) + rng.normal(scale=1000, size=(len(logits), 1))
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-5)


def test_fit_temperature__perfect_model_stays_as_it_is():
    assert fit_temperature([[4.0, 0.0], [0.0, 1.0]], [0, 1]) == 1.0


def test_fit_temperature__equal_logits_stay_as_they_are():
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 1.0


def test_fit_temperature__one_mistake_among_sure_answers_is_enough():
    logits = np.tile([8.0, 0.0], (100, 1))
    # 99 of 100 are right: softmax must say 0.99, so the margin must be log(99).
    assert fit_temperature(logits, [0] * 99 + [1]) == pytest.approx(8 / np.log(99))


def test_fit_temperature__worse_than_useless_gets_the_highest():
    assert fit_temperature([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0]], [1, 0, 1]) == 100.0


def test_fit_temperature__huge_and_tiny_logits_stay_within_bounds(rng):
    logits, labels = sampled(rng, n=500)
    assert fit_temperature(logits * 1e6, labels) == 100.0
    assert fit_temperature(logits * 1e-6, labels) == 0.01


def test_fit_temperature__logits_that_overflow_when_scaled():
    assert fit_temperature([[1e38, -1e38], [0.0, 1.0], [2.0, 1.0]], [0, 0, 0]) > 0.01


def test_fit_temperature__larger_than_a_block(rng):
    logits, labels = sampled(rng, n=1500, n_classes=1000)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)


def test_fit_temperature__refuses_what_is_no_logit():
    with pytest.raises(ValueError, match="logits: 1 of 2 rows hold NaN or infinite values"):
        fit_temperature([[0.0, -np.inf], [0.0, 1.0]], [0, 1])
    with pytest.raises(ValueError, match="one label per row of scores, found 1 labels for 2 rows"):
        fit_temperature([[0.0, 1.0], [0.0, 1.0]], [0])


def several(temperature: float = 1.0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [n, 3], scaled by a temperature, and labels that come true as often as the sigmoids say."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(n, 3)) * 2
    return logits * temperature, rng.random((n, 3)) < 1 / (1 + np.exp(-logits))


def test_fit_sigmoid_temperature__finds_the_minimum_of_the_binary_cross_entropy():
    logits, labels = several(3.0)
    from scipy.optimize import minimize_scalar

    signed = np.where(labels, logits, -logits)
    reference = minimize_scalar(lambda b: np.logaddexp(0, -b * signed).mean(), bounds=(0.01, 10), options={"xatol": 1e-10})
    assert fit_sigmoid_temperature(logits, labels) == pytest.approx(1 / reference.x, rel=1e-5)
    assert fit_sigmoid_temperature(logits, labels) == pytest.approx(3, rel=0.15)


def test_fit_sigmoid_temperature__one_where_every_answer_is_right():
    logits, labels = several()
    assert fit_sigmoid_temperature(logits, logits > 0) == 1.0
    assert fit_sigmoid_temperature(np.zeros((2, 3)), labels[:2]) == 1.0
    assert fit_sigmoid_temperature(logits, logits < 0) == 100.0
