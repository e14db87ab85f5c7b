"""A plan fits into its time, gives up what matters least first, and is a study file that can be carried out."""

import pytest

from hf_transfer.backbones.shortlist import shortlist
from hf_transfer.errors import UserError
from hf_transfer.studies.backbone_cost import BackboneCost
from hf_transfer.studies.comparison import (
    make_plan,
    milliseconds_of,
    probe_seconds,
    seconds_of,
    study_of,
    training_seconds,
)
from hf_transfer.studies.study import Study, cells

SIZES = {"train": 1200, "validation": 400, "test": 400}
NAMES = [entry.name for entry in shortlist()]


def _costs(count, fast=0.005):
    return [BackboneCost(NAMES[place], 1000, place != 1, (224, 224), 10.0, 2 * fast, fast, 0.001) for place in range(count)]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("0.5h", 1800), ("2H", 7200)])
def test_seconds_of__durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "0m", "-5m", "20 minutes", "m"])
def test_seconds_of__what_is_none(text):
    with pytest.raises(UserError) as raised:
        seconds_of(text)
    assert str(raised.value) == f"--budget: expected a time such as 90s, 20m or 1h30m; found '{text}'"


def test_milliseconds_of__units():
    assert [milliseconds_of(text) for text in ("20ms", "20", "0.5s")] == [20, 20, 500]
    with pytest.raises(UserError, match="--max-latency: expected a time such as 20ms; found '20 fps'"):
        milliseconds_of("20 fps")


def test_costs__in_seconds():
    """1,600 images fast and 400 exact, all decoded; 3.3 passes of training an epoch; what else a cell takes."""
    (cost,) = _costs(1)
    assert probe_seconds(cost, SIZES, seeds=2) == pytest.approx(1600 * 0.005 + 400 * 0.01 + 2000 * 0.001 + 6 + 8)
    epoch = (1200 * 3.3 + 400) * 0.005 + 1600 * 0.001
    assert training_seconds(cost, SIZES, 3) == pytest.approx(3 * epoch + 800 * 0.011 + 12)


@pytest.mark.parametrize("minutes", [1, 2, 5, 10, 20, 60, 600])
def test_make_plan__fits_and_a_longer_time_never_does_less(minutes):
    costs = _costs(10)
    plan, longer = make_plan(costs, SIZES, 60 * minutes), make_plan(costs, SIZES, 120 * minutes)
    assert plan.seconds <= 60 * minutes
    assert plan.probed + plan.left_out == tuple(NAMES[:10])
    assert len(longer.probed) >= len(plan.probed)
    assert longer.finetune_top >= plan.finetune_top or longer.seeds > plan.seeds


def test_make_plan__what_there_is_time_for():
    costs = _costs(4)
    ample = make_plan(costs, SIZES, 36000)
    assert (ample.probed, ample.finetune_top, ample.seeds, ample.epochs) == (tuple(NAMES[:4]), 3, 3, 8)
    short = make_plan(costs, SIZES, 80)
    assert (len(short.probed), short.finetune_top, short.seeds) == (2, 0, 3)
    none = make_plan(costs, SIZES, 1)  # nothing fits: two probes are the least comparison there is
    assert (len(none.probed), none.finetune_top, none.seeds) == (2, 0, 1) and none.seconds > 1
    assert make_plan(_costs(1), SIZES, 36000).finetune_top == 1


def test_make_plan__a_search_costs_its_trials():
    costs = _costs(4)
    assert make_plan(costs, SIZES, 3000, trials=9).epochs < make_plan(costs, SIZES, 3000).epochs


def test_study_of__is_a_study_whose_cells_are_what_was_planned():
    plan = make_plan(_costs(4), SIZES, 36000)
    raw = study_of(plan, {"source": "package:textile", "test_fraction": 0.2}, "runs/x", "words", trials=4)
    study = Study.model_validate(raw)
    found = cells(study)
    count = {name: sum(cell.recipe.strategy.name == name for cell in found) for name in ("linear_probe", "knn", "full")}
    assert count == {"linear_probe": 12, "knn": 4, "full": 12}
    assert (study.funnel.finetune_top, study.tune.trials) == (3, 4)
    tuned = [cell for cell in found if cell.tune is not None]
    assert {cell.recipe.strategy.name for cell in tuned} == {"full"}
    assert tuned[0].recipe.training["num_train_epochs"] == plan.epochs
    rates = {cell.recipe.model.backbone: cell.recipe.training["learning_rate"] for cell in tuned}
    assert rates == {name: 1e-4 if place == 1 else 1e-3 for place, name in enumerate(NAMES[:4])}  # the second is a transformer
    timed = [cell for cell in found if cell.recipe.evaluation.speed]
    assert {(cell.recipe.strategy.name, cell.recipe.seed) for cell in timed} == {("linear_probe", 0)} and len(timed) == 4


def test_study_of__probes_only():
    raw = study_of(make_plan(_costs(3), SIZES, 1), {"source": "package:textile", "test_fraction": 0.2}, "runs/x", "words")
    assert "funnel" not in raw and "tune" not in raw
    assert {cell.recipe.strategy.name for cell in cells(Study.model_validate(raw))} == {"linear_probe", "knn"}
