import numpy as np
import pytest
import torch

from hf_transfer.metrics.calibration import calibration_bins, expected_calibration_error
from hf_transfer.metrics.likelihood import top_probability


def by_loops(confidence, correct, n_bins):
    """The definition of Guo et al. 2017, one bin and one sample at a time."""
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = []
        for sample, value in enumerate(confidence):
            if (m - 1) / n_bins < value <= m / n_bins or (m == 1 and value == 0):
                inside.append(sample)
        if inside:
            right = sum(bool(correct[sample]) for sample in inside) / len(inside)
            sure = sum(confidence[sample] for sample in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(right - sure)
    return total


@pytest.mark.parametrize("n_bins", [1, 2, 10, 15])
def test_expected_calibration_error__agrees_with_loops(rng, n_bins):
    confidence = rng.random(400)
    correct = rng.random(400) < confidence**2
    found = expected_calibration_error(confidence, correct, n_bins)
    assert found == pytest.approx(by_loops(confidence, correct, n_bins), abs=1e-12)


def test_expected_calibration_error__agrees_with_torchmetrics(logits_and_labels):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = logits_and_labels
    probabilities = torch.from_numpy(logits).double().softmax(dim=1)
    reference = torchmetrics.multiclass_calibration_error(probabilities, torch.from_numpy(labels), 10, n_bins=15, norm="l1")
    found = expected_calibration_error(top_probability(logits), logits.argmax(axis=1) == labels)
    assert found == pytest.approx(reference.item(), abs=1e-6)


def test_expected_calibration_error__an_edge_belongs_to_the_bin_below():
    # Two bins: 0.5 and 0.25 share the first, so their errors of -0.5 and +0.75 partly cancel out.
    assert expected_calibration_error([0.5, 0.25], [False, True], n_bins=2) == pytest.approx(0.125)


def test_expected_calibration_error__ends_of_the_range():
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0
    assert expected_calibration_error([0.0, 1.0], [True, False]) == 1.0


@pytest.mark.parametrize(
    ("confidence", "correct", "n_bins", "message"),
    [
        ([], [], 15, r"expected confidence of shape \[samples\] with at least one sample, found \(0,\)"),
        ([[0.5]], [True], 15, r"with at least one sample, found \(1, 1\)"),
        ([0.5, 0.6], [True], 15, r"expected correct to be booleans of shape \(2,\), found bool of shape \(1,\)"),
        ([0.5], [1], 15, r"expected correct to be booleans of shape \(1,\), found int64 of shape \(1,\)"),
        ([0.5, 1.5, np.nan], [True] * 3, 15, "expected confidence between 0 and 1, found 2 of 3 values outside"),
        ([0.5], [True], 0, "expected at least one bin, found n_bins = 0"),
    ],
)
def test_expected_calibration_error__refuses(confidence, correct, n_bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidence, correct, n_bins)


def test_calibration_bins__counts_confidence_and_accuracy():
    found = calibration_bins([0.1, 0.5, 0.6, 0.8], [False, True, True, False], n_bins=2)
    assert found.counts.tolist() == [2, 2]
    assert found.confidence.tolist() == pytest.approx([0.3, 0.7])
    assert found.accuracy.tolist() == [0.5, 0.5]


def test_calibration_bins__an_empty_bin_has_no_mean():
    found = calibration_bins([0.9, 1.0], [True, False], n_bins=3)
    assert found.counts.tolist() == [0, 0, 2]
    assert np.isnan(found.confidence[:2]).all()
    assert np.isnan(found.accuracy[:2]).all()
