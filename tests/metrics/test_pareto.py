import numpy as np
import pytest

from hf_transfer.metrics.pareto import pareto_front


def test_pareto_front__cheapest_first():
    assert pareto_front([0.9, 0.95, 0.8, 0.94], [3.0, 9.0, 1.0, 10.0]).tolist() == [2, 0, 1]


def test_pareto_front__equals():
    assert pareto_front([0.9, 0.9, 0.9], [2.0, 1.0, 1.0]).tolist() == [1, 2]  # as good for less; twins stay together
    assert pareto_front([0.9, 0.8], [1.0, 1.0]).tolist() == [0]


def test_pareto_front__unknown_cost():
    assert pareto_front([0.9, 0.99], [1.0, float("nan")]).tolist() == [0]
    assert pareto_front([], []).tolist() == []


def test_pareto_front__is_who_nobody_dominates(rng):
    accuracy, cost = rng.integers(0, 12, 80), rng.integers(0, 12, 80)
    free = [
        i
        for i in range(80)
        if not any(
            a >= accuracy[i] and c <= cost[i] and (a, c) != (accuracy[i], cost[i]) for a, c in zip(accuracy, cost, strict=True)
        )
    ]
    front = pareto_front(accuracy, cost)
    assert sorted(front) == free
    assert (np.diff(cost[front]) >= 0).all()


def test_pareto_front__refused():
    with pytest.raises(ValueError, match=r"expected one accuracy and one cost a candidate, found \[2\] and \[1\]"):
        pareto_front([0.9, 0.8], [1.0])
