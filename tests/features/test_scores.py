import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional

from hf_transfer.features.heads import Candidate
from hf_transfer.features.scores import choose, validation_scores


def candidate(accuracy, loss, macro_f1=0.5):
    return Candidate("adamw", {}, torch.zeros(2, 1), torch.zeros(2), {"accuracy": accuracy, "loss": loss, "macro_f1": macro_f1})


@pytest.mark.parametrize("occurring", [5, 3, 1])
def test_validation_scores__equal_those_of_sklearn_and_torch(occurring):
    generator = torch.Generator().manual_seed(occurring)
    labels = torch.randint(occurring, (60,), generator=generator)
    logits = torch.randn(60, 6, generator=generator)
    logits[:, 5] -= 100  # a class that occurs nowhere
    logits[torch.arange(60), labels] += 1
    predicted = logits.argmax(1)
    scores = validation_scores(logits, labels)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))


def test_validation_scores__by_hand():
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 2, 0]])
    scores = validation_scores(logits, torch.tensor([0, 1, 1, 1]))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # class 2 does not occur
    assert scores["loss"] == pytest.approx(math.log(math.e**2 + 2) - 2 * 3 / 4)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("accuracy", 2), ("loss", 0), ("macro_f1", 3)],
)
def test_choose__by_each_metric(metric, expected):
    candidates = [
        candidate(0.7, 0.1, 0.6),
        candidate(0.9, 0.5, 0.7),
        candidate(0.9, 0.4, 0.7),  # as accurate as the one before, at a lower loss
        candidate(0.8, 0.6, 0.8),
    ]
    assert choose(candidates, metric) == expected


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_choose__never_one_without_a_finite_loss(metric, loss):
    candidates = [candidate(1.0, loss, 1.0), candidate(0.1, 9.0, 0.1), candidate(1.0, loss, 1.0)]
    assert choose(candidates, metric) == 1


@pytest.mark.parametrize("candidates", [[], [candidate(1.0, math.nan), candidate(1.0, math.inf)]])
def test_choose__none_is_finite(candidates):
    with pytest.raises(ValueError, match="finite"):
        choose(candidates, "accuracy")


def test_validation_scores__of_several_labels():
    logits = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [1.0, 3.0]])
    labels = torch.tensor([[True, False], [False, False], [True, True]])
    found = validation_scores(logits, labels)
    assert found["mean_average_precision"] == 1.0
    assert found["macro_f1"] == pytest.approx((1.0 + 2 / 3) / 2)
    assert found["loss"] == pytest.approx(float(functional.binary_cross_entropy_with_logits(logits, labels.float())))
    diverged = validation_scores(logits * torch.nan, labels)
    assert (diverged["mean_average_precision"], math.isnan(diverged["loss"])) == (0.0, True)
