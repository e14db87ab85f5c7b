import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from hf_transfer.metrics import likelihood
from hf_transfer.metrics.likelihood import (
    log_partition,
    negative_log_likelihood,
    negative_log_likelihood_of_probabilities,
    top_probability,
)


def test_log_partition__agrees_with_scipy(logits_and_labels):
    logits, _ = logits_and_labels
    assert log_partition(logits) == pytest.approx(logsumexp(logits.astype(np.float64), axis=1), rel=1e-14)


@pytest.mark.parametrize("block", [1, 10, 70, 4_999, 5_000])
def test_log_partition__blocks_do_not_show(logits_and_labels, monkeypatch, block):
    logits, _ = logits_and_labels
    whole = log_partition(logits)
    monkeypatch.setattr(likelihood, "_BLOCK_VALUES", block)
    assert log_partition(logits).tolist() == whole.tolist()


def test_log_partition__leaves_its_input_alone(rng):
    logits = rng.normal(size=(4, 3))
    before = logits.copy()
    log_partition(logits)
    assert (logits == before).all()


def test_negative_log_likelihood__agrees_with_cross_entropy(logits_and_labels):
    logits, labels = logits_and_labels
    reference = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert negative_log_likelihood(logits, labels) == pytest.approx(reference.item(), rel=1e-12)


def test_negative_log_likelihood__is_in_nats():
    assert negative_log_likelihood(np.zeros((3, 4)), [0, 1, 2]) == pytest.approx(math.log(4))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_negative_log_likelihood__large_logits_do_not_overflow(dtype):
    logits = np.array([[60_000.0, 0.0], [-60_000.0, 0.0]], dtype=dtype)
    assert negative_log_likelihood(logits, [0, 1]) == 0.0
    assert negative_log_likelihood(logits, [1, 0]) == pytest.approx(60_000, rel=1e-3)


def test_top_probability__agrees_with_softmax(logits_and_labels):
    logits, _ = logits_and_labels
    reference = torch.from_numpy(logits).double().softmax(dim=1).amax(dim=1).numpy()
    assert top_probability(logits) == pytest.approx(reference, rel=1e-12)


def test_top_probability__never_above_one():
    logits = np.float32([[1e6, 0.0, 0.0], [30.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    top = top_probability(logits)
    assert (top <= 1).all()
    assert top[0] == 1.0


def test_negative_log_likelihood_of_probabilities__agrees_with_logits(logits_and_labels):
    logits, labels = logits_and_labels
    probabilities = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    found = negative_log_likelihood_of_probabilities(probabilities, labels)
    assert found == pytest.approx(negative_log_likelihood(logits, labels), rel=1e-12)


def test_negative_log_likelihood_of_probabilities__floor():
    found = negative_log_likelihood_of_probabilities([[0.0, 0.5], [0.0, 1.0]], [0, 1])
    assert found == pytest.approx(-math.log(1e-12) / 2)
    assert negative_log_likelihood_of_probabilities([[1e-30, 0.5]], [0]) == pytest.approx(27.631, abs=1e-3)


def test_negative_log_likelihood_of_probabilities__slightly_above_one_costs_nothing():
    found = negative_log_likelihood_of_probabilities(np.float32([[1.0000001, 0.0]]), [0])
    assert found == 0.0
    assert math.copysign(1, found) == 1
