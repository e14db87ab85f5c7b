import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from hf_transfer.metrics.logme import logme


def slowly(features, labels):
    """The mean over classes of the largest log density of y under N(0, F F'/a + I/b), over n: searched from several starts."""
    n = len(labels)
    scores = []
    for c in np.unique(labels):
        y = (labels == c).astype(float)

        def negative(x, y=y):
            covariance = features @ features.T * np.exp(-x[0]) + np.eye(n) * np.exp(-x[1])
            return -multivariate_normal.logpdf(y, np.zeros(n), covariance)

        starts = [(0.0, 0.0), (4.0, 2.0), (-3.0, 1.0), (8.0, 1.0)]
        scores.append(max(-minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-6}).fun for start in starts))
    return np.mean(scores) / n


@pytest.mark.parametrize(("n", "d", "classes", "signal"), [(60, 5, 3, 1.0), (40, 12, 2, 0.2), (30, 45, 3, 0.5)])
def test_logme__is_the_maximum_of_the_evidence(rng, n, d, classes, signal):
    labels = rng.permutation(np.arange(n) % classes)
    features = rng.normal(size=(n, d)) + signal * rng.normal(size=(classes, d))[labels]
    assert logme(features, labels) == pytest.approx(slowly(features, labels), abs=1e-5)


def test_logme__better_features_score_higher(rng):
    labels = np.arange(400) % 4
    noise, centres = rng.normal(size=(400, 32)), rng.normal(size=(4, 32))
    scores = [logme((noise + s * centres[labels]).astype(np.float32), labels) for s in (0.0, 0.2, 0.5, 1.0, 3.0)]
    assert scores == sorted(scores)


def test_logme__does_not_depend_on_rotation_scale_or_class_numbers(rng):
    labels = rng.permutation(np.arange(90) % 3)
    features = rng.normal(size=(90, 6)) + np.eye(3, 6)[labels]
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert logme(features @ rotation * 100, labels * 7) == pytest.approx(logme(features, labels))


def test_logme__dependent_and_many_features(rng):
    labels = rng.permutation(np.arange(50) % 2)
    features = rng.normal(size=(50, 4))
    doubled = np.concatenate([features, features, np.zeros((50, 3))], axis=1)
    assert logme(doubled, labels) == pytest.approx(logme(features, labels))
    assert np.isfinite(logme(rng.normal(size=(20, 500)), np.arange(20) % 2))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones(3), [0, 1, 0], r"expected features to be real numbers \[n, d\], found float64 \[3\]"),
        (np.ones((3, 1)), [0, 1], "expected one label per row of scores, found 2 labels for 3 rows"),
        (np.array([[1.0], [np.nan]]), [0, 1], "expected finite features, found NaN or infinite values"),
        (np.ones((3, 1)), [2, 2, 2], "expected labels of at least two classes, found only class 2"),
        (np.zeros((3, 1)), [0, 1, 1], "expected features that tell images apart, found zeros only"),
    ],
)
def test_logme__refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        logme(features, labels)
