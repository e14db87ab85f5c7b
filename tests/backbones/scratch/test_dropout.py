import pytest
import torch

from hf_transfer.backbones.scratch.dropout import Dropout, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_mask__keeps_one_minus_p_wherever_a_value_stands(p):
    torch.manual_seed(0)
    dropped = 1 - keep_mask(torch.Size((50_000, 2, 4)), p).double()
    # Four values share a draw of 64 bits.
    parts = dropped.flatten().view(-1, 4)
    five_deviations = 5 * (p * (1 - p) / len(parts)) ** 0.5
    assert parts.mean(0).sub(p).abs().max() < five_deviations
    assert torch.corrcoef(parts.T).fill_diagonal_(0).abs().max() < 0.02


def test_dropout__is_zero_or_scaled_and_so_is_its_gradient():
    torch.manual_seed(0)
    values = torch.rand(7, 3, 5) + 1
    values.requires_grad_()
    out = Dropout(0.3)(values)
    kept = out != 0
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.allclose(out[kept], values[kept] / 0.7)
    out.sum().backward()
    assert torch.allclose(values.grad, kept / 0.7)


def test_dropout__follows_the_seed():
    values, dropout = torch.rand(3, 7), Dropout(0.5)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(dropout(values))
    assert torch.equal(*drawn)
    assert not torch.equal(dropout(values), drawn[0])


def test_dropout__eval_changes_nothing_and_draws_nothing():
    values, state = torch.rand(3, 4), torch.random.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dropout__keeps_the_dtype(dtype):
    assert Dropout(0.5)(torch.rand(3, 4, dtype=dtype)).dtype == dtype
