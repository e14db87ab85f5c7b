"""When a phase is on: a pure function of the schedule and the evaluations."""

import pytest

from hf_transfer.strategies.phases import Evaluation, Phase, Schedule, first_stall, timeline

A, B, C = Phase("a", ("head",), 2), Phase("b", ("layer2", "head"), 3), Phase("c", ("stem", "layer2", "head"))


def names(phases, epoch, evaluations=(), greater=True):
    return [
        (span.phase.name, span.start, span.end, span.reason) for span in timeline(phases, evaluations, epoch, greater=greater)
    ]


@pytest.mark.parametrize(
    ("epoch", "spans"),
    [
        (0.0, [("a", 0, None, "")]),
        (1.99, [("a", 0, None, "")]),
        (2.0, [("a", 0, 2, "epochs"), ("b", 2, None, "")]),
        (4.5, [("a", 0, 2, "epochs"), ("b", 2, None, "")]),
        (5.0, [("a", 0, 2, "epochs"), ("b", 2, 5, "epochs"), ("c", 5, None, "")]),
        (99.5, [("a", 0, 2, "epochs"), ("b", 2, 5, "epochs"), ("c", 5, None, "")]),
    ],
)
def test_timeline__without_patience_is_a_function_of_the_epoch(epoch, spans):
    assert names((A, B, C), epoch) == spans


def test_timeline__a_last_phase_with_an_end_has_ended():
    assert names((A, B), 5.0) == [("a", 0, 2, "epochs"), ("b", 2, 5, "epochs")]


def patient(name, epochs=10, patience=2, min_delta=0.01):
    return Phase(name, ("head",), epochs, patience=patience, min_delta=min_delta)


def test_timeline__a_plateau_ends_a_phase_sooner():
    values = [0.5, 0.6, 0.605, 0.609, 0.4, 0.3]
    evaluations = [Evaluation(epoch + 1.0, value) for epoch, value in enumerate(values)]
    phases = (patient("a"), patient("b"))
    assert names(phases, 3.0, evaluations[:3]) == [("a", 0, None, "")]
    assert names(phases, 4.0, evaluations[:4]) == [("a", 0, 4, "plateau"), ("b", 4, None, "")]
    # The second phase counts anew: 0.4 is its first value, worse than what the first phase had reached.
    assert names(phases, 6.0, evaluations) == [("a", 0, 4, "plateau"), ("b", 4, None, "")]


def test_timeline__a_plateau_inside_an_epoch_ends_the_phase_with_the_epoch():
    evaluations = [Evaluation(quarter / 4, 0.5) for quarter in range(1, 4)]
    phases = (patient("a"), patient("b"))
    assert names(phases, 0.75, evaluations) == [("a", 0, None, "")]
    assert names(phases, 1.0, evaluations) == [("a", 0, 1, "plateau"), ("b", 1, None, "")]


def test_timeline__what_is_evaluated_at_the_end_of_a_phase_is_its_own():
    evaluations = [Evaluation(1.0, 0.9), Evaluation(2.0, 0.1), Evaluation(3.0, 0.1), Evaluation(4.0, 0.1)]
    phases = (patient("a", epochs=1), patient("b"))
    assert names(phases, 3.0, evaluations[:3])[-1] == ("b", 1, None, "")
    assert names(phases, 4.0, evaluations)[-1] == ("b", 1, 4, "plateau")


def test_timeline__at_its_last_epoch_a_phase_ends_by_its_epochs():
    evaluations = [Evaluation(1.0, 0.5), Evaluation(2.0, 0.5), Evaluation(3.0, 0.5)]
    assert names((patient("a", epochs=3), B), 3.0, evaluations)[0] == ("a", 0, 3, "epochs")


def test_timeline__a_loss_improves_downwards():
    falling = [Evaluation(epoch + 1.0, 1.0 - epoch / 10) for epoch in range(5)]
    assert names((patient("a"),), 5.0, falling, greater=False) == [("a", 0, None, "")]
    assert names((patient("a"),), 5.0, falling, greater=True) == [("a", 0, 3, "plateau")]


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "position"),
    [
        ([], 1, 0.0, None),
        ([0.1], 1, 0.0, None),
        ([0.1, 0.1], 1, 0.0, 1),
        ([0.1, 0.2, 0.2, 0.2], 2, 0.0, 3),
        ([0.1, 0.2, 0.2, 0.3, 0.3], 2, 0.0, None),
        ([0.10, 0.14, 0.18, 0.22], 2, 0.05, None),  # slow, but 0.18 is better than 0.10 by more than 0.05
        ([0.10, 0.12, 0.14, 0.22], 2, 0.05, 2),
    ],
)
def test_first_stall__counts_from_the_best(values, patience, min_delta, position):
    assert first_stall(values, patience, min_delta, greater=True) == position
    assert first_stall([-value for value in values], patience, min_delta, greater=False) == position


def test_schedule__epochs_are_those_of_its_phases():
    assert Schedule((A, B)).epochs == 5
    assert Schedule((A, C)).epochs is None
