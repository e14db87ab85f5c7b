"""Every strategy as phases of a model's layer groups, and what does not fit told in one message."""

import pytest

from hf_transfer.errors import RecipeError
from hf_transfer.recipe.schema import Strategy
from hf_transfer.strategies.phases import Phase, Schedule
from hf_transfer.strategies.schedules import build_schedule, stages_of

CNN = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
VIT = ("stem", *(f"layers.{number}" for number in range(12)), "head")


def phases(groups=CNN, epochs=None, **section):
    return build_schedule(Strategy(**section), groups, epochs).phases


def problems(groups=CNN, epochs=None, **section):
    with pytest.raises(RecipeError) as caught:
        build_schedule(Strategy(**section), groups, epochs)
    return [str(problem) for problem in caught.value.problems]


def test_stages_of__a_network_of_four_stages_and_one_of_twelve_blocks():
    assert stages_of(CNN, 5) == [("head",), ("layer4",), ("layer3",), ("layer1", "layer2"), ("stem",)]
    blocks = VIT[1:-1]
    assert stages_of(VIT, 5) == [("head",), blocks[8:], blocks[4:8], blocks[:4], ("stem",)]


@pytest.mark.parametrize("groups", [CNN, VIT, ("stem", "a", "head"), ("a", "head")])
def test_stages_of__every_group_once_in_order_for_any_count(groups):
    for count in range(2, len(groups) + 1):
        stages = stages_of(groups, count)
        assert len(stages) == count and all(stages)
        assert [name for stage in reversed(stages) for name in stage] == list(groups)


@pytest.mark.parametrize("name", ["full", "lora", "two_phase"])
def test_build_schedule__everything_trains(name):
    expected = "full" if name == "two_phase" else name
    assert build_schedule(Strategy(name=name), CNN) == Schedule((Phase(expected, CNN),))


def test_build_schedule__linear_probe_and_norm_only():
    assert phases(name="linear_probe") == (Phase("linear_probe", ("head",)),)
    assert phases(name="norm_only") == (Phase("norm_only", CNN, parts="norms"),)


@pytest.mark.parametrize(("frozen", "trained"), [(0, CNN), (1, CNN[1:]), (3, CNN[3:]), (5, ("head",))])
def test_build_schedule__partial_freezes_from_the_stem_and_every_batch_norm(frozen, trained):
    schedule = build_schedule(Strategy(name="partial", frozen_groups=frozen), CNN)
    assert schedule.phases[0].groups == trained
    assert schedule.frozen_batch_norm
    assert not build_schedule(Strategy(name="partial", frozen_groups=frozen, frozen_batch_norm=False), CNN).frozen_batch_norm
    assert build_schedule(Strategy(name="two_phase", frozen_groups=frozen), CNN).phases[0].groups == trained


def test_build_schedule__too_many_frozen_groups():
    assert problems(name="partial", frozen_groups=6) == [
        "strategy.frozen_groups: expected at most 5, since the model has 6 layer groups; found 6"
    ]


def test_build_schedule__gradual_thaws_top_down():
    found = phases(name="gradual", phase_epochs=2, head_epochs=1, patience=3, min_delta=0.002, reset_optimizer=True)
    assert [(phase.name, phase.groups, phase.epochs) for phase in found] == [
        ("head", ("head",), 1),
        ("2 stages", ("layer4", "head"), 2),
        ("3 stages", ("layer3", "layer4", "head"), 2),
        ("4 stages", ("layer1", "layer2", "layer3", "layer4", "head"), 2),
        ("5 stages", CNN, 2),
    ]
    assert {(phase.patience, phase.min_delta) for phase in found} == {(3, 0.002)}
    assert [phase.reset_optimizer for phase in found] == [False, True, True, True, True]
    assert all(phase.rates == {} for phase in found)


@pytest.mark.parametrize(
    ("section", "epochs", "lengths"),
    [
        ({}, 12, [2, 2, 2, 2, 4]),
        ({"head_epochs": 4}, 12, [4, 2, 2, 2, 2]),
        ({"stages": 3}, 3, [1, 1, 1]),
        ({"phase_epochs": 2}, 10, [2, 2, 2, 2, 2]),
        ({"phase_epochs": 10, "head_epochs": 5}, 45.0, [5, 10, 10, 10, 10]),
    ],
)
def test_build_schedule__lengths_add_up(section, epochs, lengths):
    assert [phase.epochs for phase in phases(name="gradual", epochs=epochs, **section)] == lengths


@pytest.mark.parametrize(
    ("section", "epochs", "problem"),
    [
        ({}, None, "strategy.phase_epochs: strategy 'gradual' needs it, or training.num_train_epochs"),
        ({}, 4, "training.num_train_epochs: expected at least 5, an epoch for each of 5 phases; found 4"),
        (
            {"head_epochs": 3},
            6,
            "training.num_train_epochs: expected at least 7, 3 for the head and one for each phase after it; found 6",
        ),
        ({}, 7.5, "training.num_train_epochs: expected a whole number for strategy 'gradual', found 7.5"),
        (
            {"phase_epochs": 2, "head_epochs": 1},
            10,
            "training.num_train_epochs: expected 9 (1 for the head and 4 x 2), or nothing; found 10",
        ),
        ({"stages": 7, "phase_epochs": 1}, None, "strategy.stages: expected at most 6, the number of layer groups; found 7"),
    ],
)
def test_build_schedule__lengths_that_do_not_add_up(section, epochs, problem):
    assert problems(name="gradual", epochs=epochs, **section) == [problem]


def test_build_schedule__discriminative_rates_fall_from_head_to_stem():
    (phase,) = phases(name="discriminative")
    assert phase.groups == CNN
    assert phase.rates == {"head": 1, "layer4": 0.4, "layer3": 0.3, "layer2": 0.2, "layer1": 0.2, "stem": 0.1}
    assert phases(("stem", "a", "head"), name="discriminative")[0].rates == {"head": 1, "a": 0.4, "stem": 0.3}


def test_build_schedule__multipliers_for_each_stage():
    assert problems(name="discriminative", multipliers=[1, 0.5]) == [
        "strategy.multipliers: expected 5 numbers, one for each stage from head to stem; found 2"
    ]
    (phase,) = phases(name="discriminative", multipliers=[1, 0.5], stages=2)
    assert phase.rates == {"head": 1, **dict.fromkeys(CNN[:-1], 0.5)}


def test_build_schedule__complete_is_gradual_and_discriminative():
    found = phases(name="complete", phase_epochs=1)
    assert [phase.groups for phase in found] == [phase.groups for phase in phases(name="gradual", phase_epochs=1)]
    assert found[1].rates == {"layer4": 0.4, "head": 1}
    assert found[-1].rates == phases(name="discriminative")[0].rates


def test_build_schedule__layer_decay_combines_with_any():
    (phase,) = phases(name="full", layer_decay=0.5)
    assert phase.rates == {"head": 1, "layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625, "stem": 0.03125}
    (phase,) = phases(name="discriminative", layer_decay=0.5)
    assert phase.rates["layer4"] == 0.4 * 0.5 and phase.rates["stem"] == 0.1 * 0.03125


def test_build_schedule__custom_phases_by_name_and_pattern():
    spelt = [
        {"name": "top", "train": ["layer4", "head"], "epochs": 2, "rates": {"layer4": 0.1}, "patience": 4, "min_delta": 0.5},
        {"name": "all", "train": ["*"], "rates": {"layer*": 0.3, "stem": 0.2}, "reset_optimizer": True},
    ]
    expected = (
        Phase("top", ("layer4", "head"), 2, {"layer4": 0.1}, patience=4, min_delta=0.5),
        Phase("all", CNN, None, {**dict.fromkeys(CNN[1:5], 0.3), "stem": 0.2}, reset_optimizer=True),
    )
    assert phases(name="custom", phases=spelt, epochs=5) == expected


def test_build_schedule__a_custom_phase_in_the_middle_may_last_the_rest():
    spelt = [{"name": "a", "train": ["head"]}, {"name": "b", "train": ["*"], "epochs": 2}]
    assert [phase.epochs for phase in phases(name="custom", phases=spelt, epochs=7)] == [5, 2]


def test_build_schedule__all_problems_of_custom_phases_at_once():
    spelt = [
        {"name": "a", "train": ["hed"], "epochs": 1},
        {"name": "a", "train": ["head"], "rates": {"stem": 0.1}, "epochs": 2},
    ]
    listed = "stem, layer1, layer2, layer3, layer4, head"
    assert problems(name="custom", phases=spelt, epochs=5) == [
        f"strategy.phases.0.train: no layer group fits 'hed' (did you mean 'head'?); there are {listed}",
        "strategy.phases.1.rates: no layer group that trains in this phase fits 'stem'; there are head",
        "strategy.phases.1.name: expected each name once; found 'a' again",
        "training.num_train_epochs: expected 3, the sum of the phases, or nothing; found 5",
    ]


@pytest.mark.parametrize(
    ("lengths", "epochs", "problem"),
    [
        ([None, None], 5, "strategy.phases.1.epochs: is required: one phase at most may last the rest of the training"),
        ([2, None], None, "training.num_train_epochs: is required, since phase 'p1' has no epochs"),
        ([2, None], 2, "training.num_train_epochs: expected more than 2, the other phases; found 2"),
    ],
)
def test_build_schedule__custom_lengths(lengths, epochs, problem):
    spelt = [{"name": f"p{number}", "train": ["head"], "epochs": length} for number, length in enumerate(lengths)]
    assert problems(name="custom", phases=spelt, epochs=epochs) == [problem]


def test_build_schedule__scheduler_global_does_not_restart():
    assert build_schedule(Strategy(name="gradual", phase_epochs=1), CNN).restarts
    assert not build_schedule(Strategy(name="gradual", phase_epochs=1, scheduler="global"), CNN).restarts


def test_build_schedule__a_strategy_without_phases():
    with pytest.raises(ValueError, match="strategy 'knn' has no phases"):
        build_schedule(Strategy(name="knn"), CNN)
