import pytest
import torch

from hf_transfer.features.heads import Candidate, Standardization


def features(count=200, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-2, 2, width)
    return torch.randn(count, width, generator=generator) * scales + 3 * scales


def test_standardization__zero_mean_and_unit_deviation():
    found = Standardization.fit(features())(features())
    assert torch.allclose(found.mean(0), torch.zeros(7), atol=1e-5)
    assert torch.allclose(found.std(0, correction=0), torch.ones(7), atol=1e-5)


def test_standardization__half_precision_is_computed_in_float32():
    half = features().bfloat16()
    found = Standardization.fit(half)(half)
    assert found.dtype == torch.float32
    assert torch.equal(found, Standardization.fit(half.float())(half.float()))


@pytest.mark.parametrize("count", [1, 3, 5000])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e-20])
def test_standardization__constant_columns_are_left_at_zero(count, value):
    raw = features(count)
    raw[:, 2] = value
    standardization = Standardization.fit(raw)
    assert standardization.scale[2] == 1
    assert (standardization.scale > 0).all()
    found = standardization(raw)
    assert found.isfinite().all()
    assert found[:, 2].abs().max() < 1e-3


def test_fold__gives_the_same_logits_on_raw_features():
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(3, 7, generator=generator), torch.randn(3, generator=generator)
    raw = features()
    raw[:, 4] = 5.0  # a constant column
    standardization = Standardization.fit(raw)
    other = features(seed=2)
    folded = Candidate("adamw", {}, *standardization.fold(weight, bias))
    assert folded.weight.dtype == folded.bias.dtype == torch.float32
    for some in (raw, other):
        expected = torch.nn.functional.linear(standardization(some), weight, bias)
        assert torch.allclose(folded.logits(some), expected, rtol=1e-4, atol=1e-4)


def test_candidate__logits_of_half_precision_features_are_float32():
    candidate = Candidate("adamw", {}, torch.ones(2, 3), torch.tensor([0.0, 1.0]))
    logits = candidate.logits(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert logits.tolist() == [[6.0, 7.0]]
