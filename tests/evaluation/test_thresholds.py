"""Where thresholds come from."""

import numpy as np
import pytest
from transformers import ResNetConfig

from hf_transfer.errors import BackboneError
from hf_transfer.evaluation.thresholds import decide_thresholds, model_thresholds

VALIDATION = (np.array([[2.0, -2.0], [-2.0, 0.0]]), np.array([[True, False], [False, True]]))
OWN = np.array([0.2, 0.3])


def test_decide_thresholds__a_number_is_for_every_class():
    found = decide_thresholds(0.3, 2, VALIDATION, OWN)
    assert found.report(["a", "b"]) == {"thresholds": {"a": 0.3, "b": 0.3}, "thresholds_by": 0.3}


def test_decide_thresholds__validation_comes_before_what_the_model_states():
    found = decide_thresholds("validation", 2, VALIDATION, OWN)
    assert found.by == "validation"
    assert found.values == pytest.approx([0.5, (0.5 + 1 / (1 + np.exp(2))) / 2])


def test_decide_thresholds__without_validation():
    assert decide_thresholds("validation", 2, own=OWN).report(["a", "b"]) == {
        "thresholds": {"a": 0.2, "b": 0.3},
        "thresholds_by": "checkpoint",
    }
    assert decide_thresholds("validation", 2).report(["a", "b"]) == {"thresholds": {"a": 0.5, "b": 0.5}, "thresholds_by": 0.5}


def config(**entries):
    return ResNetConfig(num_labels=2, **entries)


def test_model_thresholds__of_a_configuration():
    several = {"problem_type": "multi_label_classification"}
    assert model_thresholds(config(thresholds=[0.2, 0.3])) is None
    assert model_thresholds(config(**several)).tolist() == [0.5, 0.5]
    assert model_thresholds(config(**several, thresholds=[0.2, 0.3])).tolist() == [0.2, 0.3]


@pytest.mark.parametrize("stated", [[0.2], [0.0, 0.5], ["x", 0.5], 0.5])
def test_model_thresholds__that_are_none(stated):
    with pytest.raises(BackboneError, match="expected 2 numbers above 0 and below 1, one a class; found"):
        model_thresholds(config(problem_type="multi_label_classification", thresholds=stated))
