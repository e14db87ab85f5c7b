import itertools
import math

import pytest
import torch

from hf_transfer.backbones.scratch.attention import SelfAttention
from hf_transfer.backbones.scratch.relative_position import RelativePosition

WIDTH, HEADS, GRID = 32, 2, (2, 3)
LENGTH = 1 + GRID[0] * GRID[1]


def attention_of(relative=False, temperature=None, **options):
    torch.manual_seed(0)
    position = RelativePosition(*GRID, HEADS, WIDTH) if relative else None
    attention = SelfAttention(WIDTH, HEADS, position=position, temperature=temperature, **options)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.eval()


def reference(attention, tokens):
    """Attention by loops over images, heads, queries and keys; also the weights [n, heads, L, L]."""
    size = WIDTH // HEADS
    query, key, value = attention.qkv(tokens).split(WIDTH, dim=-1)
    positions = None
    if attention.position is not None:
        split = query.unflatten(2, (HEADS, size)).transpose(1, 2)
        positions = attention.position(split)
    weights = torch.zeros(len(tokens), HEADS, LENGTH, LENGTH)
    out = torch.zeros_like(tokens)
    divisor = 1.0 if attention.temperature is None else float(attention.temperature)
    for image, head in itertools.product(range(len(tokens)), range(HEADS)):
        part = slice(head * size, (head + 1) * size)
        for i in range(LENGTH):
            scores = []
            for j in range(LENGTH):
                score = query[image, i, part] @ key[image, j, part]
                if positions is not None:
                    score = score + attention.position.content_bias[head, 0] @ key[image, j, part]
                    score = score + positions[image, head, i, j]
                hidden = attention.masked_diagonal and i == j
                scores.append(-math.inf if hidden else float(score) / math.sqrt(size) / divisor)
            exponentials = [math.exp(score - max(scores)) for score in scores]
            for j in range(LENGTH):
                weights[image, head, i, j] = exponentials[j] / sum(exponentials)
                out[image, i, part] += weights[image, head, i, j] * value[image, j, part]
    return attention.projection(out), weights


@pytest.mark.parametrize("temperature", [None, "exponential", "plain"])
@pytest.mark.parametrize("masked_diagonal", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_self_attention__equals_loops(relative, masked_diagonal, temperature):
    attention = attention_of(relative, temperature, masked_diagonal=masked_diagonal, qkv_bias=not relative)
    tokens = torch.randn(2, LENGTH, WIDTH)
    with torch.no_grad():
        expected, weights = reference(attention, tokens)
        assert torch.allclose(attention(tokens), expected, atol=1e-4)
    if masked_diagonal:
        assert not weights.diagonal(dim1=2, dim2=3).any()


def test_self_attention__masked_token_does_not_see_itself():
    attention = attention_of(masked_diagonal=True)
    tokens = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
    # The values alone: what token i becomes must not depend on its own value. Queries are made constant.
    with torch.no_grad():
        attention.qkv.weight[: 2 * WIDTH] = 0
    for i in (0, 3):
        (gradient,) = torch.autograd.grad(attention(tokens)[0, i].sum(), tokens)
        assert not gradient[0, i].any()
        assert (gradient[0].abs().sum(1) > 0).sum() == LENGTH - 1


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("temperature", ["exponential", "plain"])
def test_self_attention__gradient_of_the_temperature(temperature, relative):
    attention = attention_of(relative, temperature).double()
    tokens = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    parameter = attention.log_temperature if temperature == "exponential" else attention.plain_temperature

    def value(at):
        with torch.no_grad():
            parameter.fill_(at)
            return float(attention(tokens).square().sum())

    for at in (0.7, 1.3):
        slope = (value(at + 1e-5) - value(at - 1e-5)) / 2e-5
        value(at)
        attention.zero_grad()
        attention(tokens).square().sum().backward()
        assert float(parameter.grad) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("temperature", ["exponential", "plain"])
def test_self_attention__begins_as_without_temperature(temperature):
    torch.manual_seed(0)
    plain = SelfAttention(WIDTH, HEADS)
    learned = SelfAttention(WIDTH, HEADS, temperature=temperature)
    learned.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randn(2, LENGTH, WIDTH)
    assert float(learned.temperature.detach()) == 1.0
    assert torch.equal(learned(tokens), plain(tokens))
    assert plain.temperature is None


def test_self_attention__gradients_with_relative_positions_are_those_of_plain_arithmetic():
    attention = attention_of(True, "exponential", masked_diagonal=True).double()
    tokens = torch.randn(1, LENGTH, WIDTH, dtype=torch.float64)
    parameters = [attention.position.content_bias, attention.position.position_bias, attention.position.projection.weight]

    def scored(*values):
        names = ("position.content_bias", "position.position_bias", "position.projection.weight")
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), (tokens,))

    values = tuple(parameter.detach().requires_grad_() for parameter in parameters)
    assert torch.autograd.gradcheck(scored, values, fast_mode=True)


def test_self_attention__dropout_in_training_only():
    attention = attention_of(dropout=0.5)
    tokens = torch.randn(1, LENGTH, WIDTH)
    assert torch.equal(attention(tokens), attention(tokens))
    attention.train()
    assert not torch.equal(attention(tokens), attention(tokens))


def test_self_attention__autocast_computes_in_half_precision():
    attention = attention_of(True, "plain", masked_diagonal=True)
    for parameter in attention.parameters():
        parameter.requires_grad_(False).mul_(0.4)
    tokens = torch.randn(1, LENGTH, WIDTH)
    exact = attention(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(tokens)
    assert found.dtype == torch.bfloat16
    assert float((found.float() - exact).norm() / exact.norm()) < 0.02
