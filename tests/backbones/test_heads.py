import pytest
import torch
from torch import nn

from hf_transfer.backbones.heads import build_head, divide_logits, initialize_head, last_linear


def hidden(size, activation="relu", dropout=0.0):
    return {"size": size, "activation": activation, "dropout": dropout}


def test_build_head__linear():
    head = build_head(8, 3)
    assert isinstance(head, nn.Linear)
    assert head(torch.rand(2, 8)).shape == (2, 3)


def test_build_head__hidden_layers():
    head = build_head(8, 3, [hidden(6, "tanh", 0.25), hidden(4)])
    assert [type(module) for module in head] == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear]
    assert head[2].p == 0.25
    assert head(torch.rand(2, 8)).shape == (2, 3)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "hardswish"])
def test_build_head__every_activation_of_the_schema(activation):
    assert type(build_head(8, 3, [hidden(4, activation)])[1]).__name__.lower() == activation


def test_initialize_head__depends_on_the_seed_alone():
    one, other, third = (build_head(64, 10, [hidden(32)]) for _ in range(3))
    torch.manual_seed(5)
    initialize_head(one, 7)
    torch.manual_seed(6)
    state = torch.random.get_rng_state()
    initialize_head(other, 7)
    assert torch.equal(torch.random.get_rng_state(), state)
    initialize_head(third, 8)
    for a, b, c in zip(one.parameters(), other.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == (a.ndim == 1)  # biases are zero


def test_initialize_head__starts_near_equal_probabilities():
    head = build_head(512, 10, [hidden(256)])
    initialize_head(head, 0)
    first, last = head[0], head[-1]
    assert first.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not first.bias.any() and not last.bias.any()
    probabilities = head(torch.randn(100, 512)).softmax(1)
    assert probabilities.min() > 0.03 and probabilities.max() < 0.3


def test_initialize_head__layer_without_bias():
    head = nn.Linear(4, 2, bias=False)
    initialize_head(head, 0)
    assert head.weight.abs().max() < 0.1


def test_last_linear__finds_the_last_of_a_width():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Dropout())
    assert last_linear(module) == "2"
    assert last_linear(module, "head") == "head.2"
    assert last_linear(module, "head", 8) == "head.0"
    assert last_linear(module, "head", 9) is None
    assert last_linear(nn.Sequential(nn.Conv2d(3, 4, 1))) is None
    assert last_linear(nn.Linear(2, 2), "classifier") == "classifier"


@pytest.mark.parametrize("layers", [[], [hidden(6, "gelu")]])
def test_divide_logits__every_logit_and_nothing_before_the_head(layers):
    body = nn.Linear(5, 8)
    model = nn.Sequential(body, build_head(8, 3, layers))
    inputs, before = torch.randn(4, 5), body.weight.clone()
    logits = model(inputs)
    divide_logits(model, ("1",), 2.5)
    torch.testing.assert_close(model(inputs), logits / 2.5)
    assert torch.equal(body.weight, before)


def test_divide_logits__several_heads_and_a_head_without_linear_layers():
    model = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2), "c": nn.ReLU()})
    features = torch.randn(3, 4)
    mean = (model["a"](features) + model["b"](features)) / 2
    divide_logits(model, ("a", "b"), 4.0)
    torch.testing.assert_close((model["a"](features) + model["b"](features)) / 2, mean / 4)
    with pytest.raises(ValueError, match="expected a linear layer in c, found none"):
        divide_logits(model, ("c",), 4.0)
