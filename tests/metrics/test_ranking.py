import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from hf_transfer.metrics.ranking import draw_images, drawn_mean_average_precision, reflected_interval


def ranked(n=60, classes=4, seed=0):
    """Return scores with ties, and labels; the last class has none."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, classes)) < 0.3
    labels[:, -1] = False
    return np.round(rng.normal(size=(n, classes)) + labels, 1), labels


def expected(scores, labels):
    found = [average_precision_score(labels[:, c], scores[:, c]) for c in range(labels.shape[1]) if labels[:, c].any()]
    return np.mean(found)


def test_drawn_mean_average_precision__is_that_of_the_images_repeated():
    scores, labels = ranked()
    weights = draw_images(60, draws=5, seed=1)
    found = drawn_mean_average_precision(scores, labels, weights)
    for value, times in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(60), times)
        assert value == pytest.approx(expected(scores[rows], labels[rows]), abs=1e-12)
    whole = drawn_mean_average_precision(scores, labels, np.ones((1, 60), dtype=int))
    assert whole == pytest.approx([expected(scores, labels)], abs=1e-12)


def test_drawn_mean_average_precision__nothing_to_find():
    scores, labels = ranked()
    assert np.isnan(drawn_mean_average_precision(scores, np.zeros_like(labels), np.ones((2, 60)))).all()
    only_first = np.zeros((2, 60), dtype=int)
    only_first[:, np.flatnonzero(~labels.any(axis=1))[0]] = 3
    assert np.isnan(drawn_mean_average_precision(scores, labels, only_first)).all()


def test_drawn_mean_average_precision__many_draws_at_a_time_or_one():
    scores, labels = ranked()
    weights = draw_images(60, draws=40)
    together = drawn_mean_average_precision(scores, labels, weights)
    one_by_one = [drawn_mean_average_precision(scores, labels, times[None])[0] for times in weights]
    assert together == pytest.approx(one_by_one, rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "said"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2), dtype=int), np.ones((1, 3)), "expected scores [n, C] and booleans [n, C], found"),
        (np.zeros((3, 2)), np.zeros((2, 2), dtype=bool), np.ones((1, 3)), "expected scores [n, C] and booleans [n, C], found"),
        (np.zeros((3, 2)), np.zeros((3, 2), dtype=bool), np.ones(3), "expected weights [draws, 3], found [3]"),
    ],
)
def test_drawn_mean_average_precision__other_shapes(scores, labels, weights, said):
    with pytest.raises(ValueError) as caught:
        drawn_mean_average_precision(scores, labels, weights)
    assert said in str(caught.value)


def test_draw_images__whole_groups():
    groups = np.repeat(["a", "b", "c"], [1, 4, 2])
    drawn = draw_images(7, groups, draws=50)
    assert drawn.shape == (50, 7)
    assert all(len(set(times[groups == name].tolist())) == 1 for times in drawn for name in "abc")
    assert (drawn[:, [0, 1, 5]].sum(axis=1) == 3).all()  # three groups are drawn
    assert (draw_images(7, draws=50).sum(axis=1) == 7).all()
    assert np.array_equal(draw_images(7, draws=5, seed=2), draw_images(7, draws=5, seed=2))
    with pytest.raises(ValueError, match="expected at least one draw, found 0"):
        draw_images(7, draws=0)


def test_reflected_interval__leaves_out_what_is_undefined_and_keeps_to_0_and_1():
    assert reflected_interval(0.5, [*np.linspace(0.2, 0.9, 201), np.nan], 100) == pytest.approx((0.1175, 0.7825))
    assert reflected_interval(0.9, [*np.linspace(0.5, 0.9, 201)], 98) == pytest.approx((0.88, 1.0))


def test_reflected_interval__a_perfect_ranking_may_err_on_the_next_image():
    assert reflected_interval(1.0, np.ones(100), 98) == pytest.approx((0.98, 1.0))
