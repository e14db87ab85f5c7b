"""Learning rates: transformers' schedules for each layer group, anew in each phase, as a closed form of the step."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import get_scheduler

from hf_transfer.strategies.phases import Phase
from hf_transfer.training.rates import RateSchedule

GROUPS = ("stem", "body", "head")
EVERYTHING = Phase("full", GROUPS)


def optimizer_of(rate=0.1):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate, "name": name} for name in GROUPS])


def schedule(kind="linear", options=None, warmup=0, steps=12, restarts=True, optimizer=None):
    optimizer = optimizer or optimizer_of()
    return RateSchedule(
        optimizer, kind, options, lambda count: min(warmup, count), steps=steps, steps_per_epoch=4, restarts=restarts
    )


def follow(rates, optimizer, steps):
    """Return the rates of the steps that come, by group."""
    seen = []
    for _ in range(steps):
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        rates.step()
    return seen


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("linear", None),
        ("cosine", None),
        ("cosine_with_restarts", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0}),
        ("constant", None),
        ("constant_with_warmup", None),
        ("inverse_sqrt", None),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 4}),
    ],
)
def test_rate_schedule__one_phase_is_transformers_own(kind, options, warmup):
    optimizer, other = optimizer_of(), optimizer_of()
    rates = schedule(kind, options, warmup, optimizer=optimizer)
    rates.begin(EVERYTHING, 0)
    theirs = get_scheduler(kind, other, warmup, 12, scheduler_specific_kwargs=dict(options or {}))
    assert follow(rates, optimizer, 12) == follow(theirs, other, 12)


def test_rate_schedule__multipliers_and_zero_for_what_is_frozen():
    optimizer = optimizer_of()
    rates = schedule("constant", optimizer=optimizer)
    rates.begin(Phase("upper", ("body", "head"), rates={"body": 0.25}), 0)
    assert follow(rates, optimizer, 2) == [(0.0, 0.025, 0.1)] * 2
    assert rates.peaks() == {"body": 0.025, "head": 0.1}


@pytest.mark.parametrize("restarts", [True, False])
def test_rate_schedule__restarts_in_each_phase_or_runs_through(restarts):
    optimizer = optimizer_of(1.0)
    rates = schedule("linear", restarts=restarts, optimizer=optimizer)
    rates.begin(Phase("first", ("head",), 1), 0)
    seen = follow(rates, optimizer, 4)
    rates.begin(Phase("rest", GROUPS, 2), 1)
    seen += follow(rates, optimizer, 8)
    expected = [1 - s / 4 for s in range(4)] + [1 - s / 8 for s in range(8)] if restarts else [1 - s / 12 for s in range(12)]
    assert [rate for _, _, rate in seen] == pytest.approx(expected)
    assert [rate for rate, _, _ in seen[:4]] == [0.0] * 4
    assert [rate for rate, _, _ in seen[4:]] == [rate for _, _, rate in seen[4:]]


def test_rate_schedule__warmup_is_counted_for_each_phase():
    asked = []
    optimizer = optimizer_of()
    rates = RateSchedule(optimizer, "linear", None, lambda n: asked.append(n) or n // 4, steps=12, steps_per_epoch=4)
    rates.begin(Phase("first", GROUPS, 1), 0)
    rates.begin(Phase("rest", GROUPS, 9), 1)  # longer than what is left
    assert asked == [12, 4, 8]


def test_rate_schedule__a_phase_without_an_end_lasts_what_is_left():
    optimizer = optimizer_of(1.0)
    rates = schedule("linear", optimizer=optimizer)
    rates.begin(EVERYTHING, 1)
    rates.last_epoch = 8
    rates.begin(EVERYTHING, 1)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("options", [{"mode": "max"}, {"mode": "max", "factor": 0.5, "patience": 1, "min_lr": 0.01}])
def test_rate_schedule__plateau_is_torchs_own_rule(options):
    values = [0.5, 0.6, 0.6, 0.6, 0.55, 0.6, 0.61, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    optimizer, other = optimizer_of(), optimizer_of()
    rates = schedule("reduce_lr_on_plateau", options, optimizer=optimizer)
    rates.begin(EVERYTHING, 0)
    theirs = ReduceLROnPlateau(other, **options)
    for count, value in enumerate(values, start=1):
        theirs.step(value)
        rates.tell(values[:count])
        assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in other.param_groups]
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_rate_schedule__plateau_after_a_warmup_keeps_the_ratio_of_the_groups():
    optimizer = optimizer_of()
    rates = schedule("reduce_lr_on_plateau", {"mode": "max", "patience": 0}, warmup=2, optimizer=optimizer)
    rates.begin(Phase("all", GROUPS, rates={"stem": 0.1, "body": 0.5}), 0)
    assert [head for _, _, head in follow(rates, optimizer, 3)] == [0.0, 0.05, 0.1]
    rates.tell([0.5, 0.5])
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.005, 0.01])


def test_rate_schedule__restored_count_and_told_phase_give_the_rates_of_an_unbroken_one():
    optimizer, other = optimizer_of(), optimizer_of()
    whole, resumed = schedule("cosine", warmup=1, optimizer=optimizer), schedule("cosine", warmup=1, optimizer=other)
    whole.begin(Phase("first", ("head",), 1), 0)
    follow(whole, optimizer, 4)
    whole.begin(EVERYTHING, 1)
    follow(whole, optimizer, 3)
    resumed.load_state_dict(whole.state_dict())
    resumed.begin(EVERYTHING, 1)
    assert follow(resumed, other, 5) == follow(whole, optimizer, 5)
    assert all(isinstance(value, int) for value in whole.state_dict().values())


def test_rate_schedule__greedy_is_no_function_of_the_step():
    with pytest.raises(ValueError, match="lr_scheduler_type 'greedy' is no function of the step"):
        schedule("greedy")


def test_rate_schedule__last_rates_are_told():
    optimizer = optimizer_of()
    rates = schedule(optimizer=optimizer)
    rates.begin(EVERYTHING, 0)
    follow(rates, optimizer, 6)
    assert math.isclose(rates.get_last_lr()[0], 0.05)
