"""What a sweep of learning rates says."""

import math

import pytest

from hf_transfer.errors import UserError
from hf_transfer.training.range_test import judge, smooth

RATES = [10 ** (-6 + step / 10) for step in range(60)]


def valley(rate):
    """A loss that falls most steeply at 1e-3, is least at 1e-2 and bursts beyond."""
    position = math.log10(rate)
    return 2.0 - 1 / (1 + math.exp(-6 * (position + 3))) + max(0.0, position + 2) ** 2 * 5


def test_smooth__is_corrected_for_its_start():
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smooth([1.0, 3.0]) == pytest.approx([1.0, (0.09 * 1 + 0.1 * 3) / 0.19])


def test_judge__steepest_fall_before_the_minimum():
    found = judge(RATES, [valley(rate) for rate in RATES])
    assert 5e-4 < found.suggestion < 4e-3
    assert found.suggestion < found.minimum < 0.1
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 60


def test_judge__what_follows_a_loss_that_is_not_finite_is_left_out():
    losses = [valley(rate) for rate in RATES[:45]] + [math.nan, 0.0]
    found = judge(RATES, losses)
    assert len(found.losses) == 45 and found.minimum < RATES[45]


@pytest.mark.parametrize("losses", [[1.0 + step for step in range(20)], [math.nan], [1.0, 0.9]])
def test_judge__a_loss_that_never_falls_is_no_ground_for_a_suggestion(losses):
    with pytest.raises(UserError, match="find-lr: the loss never fell, so no learning rate can be suggested"):
        judge(RATES, losses)
