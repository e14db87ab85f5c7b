"""Classification heads, and where a model keeps its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
}


def build_head(in_features: int, num_labels: int, hidden: Sequence[dict[str, Any]] = ()) -> nn.Module:
    """Return a classification head: float [n, in_features] to logits [n, num_labels].

    Args:
        in_features: width of the features.
        num_labels: number of classes.
        hidden: hidden layers as {"size", "activation", "dropout"}; none gives a single linear layer.
    """
    layers: list[nn.Module] = []
    for layer in hidden:
        layers += [nn.Linear(in_features, layer["size"]), _ACTIVATIONS[layer["activation"]]()]
        if layer["dropout"] > 0:
            layers.append(nn.Dropout(layer["dropout"]))
        in_features = layer["size"]
    layers.append(nn.Linear(in_features, num_labels))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def initialize_head(head: nn.Module, seed: int) -> None:
    """Initialise a new head from `seed` alone, whatever was drawn before.

    The output layer is drawn from a normal distribution of deviation 0.01 with zero bias, so that training starts near equal
    probabilities; hidden layers follow He et al. (2015), arXiv 1502.01852.
    """
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for position, linear in enumerate(linears):
            weight = torch.empty(linear.weight.shape)
            if position == len(linears) - 1:
                nn.init.normal_(weight, std=0.01, generator=generator)
            else:
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            linear.weight.copy_(weight)
            if linear.bias is not None:
                linear.bias.zero_()


def last_linear(module: nn.Module, prefix: str = "", out_features: int | None = None) -> str | None:
    """Return the path of the last linear layer inside `module` (of this width), or None when there is none."""
    found = None
    for name, child in module.named_modules(prefix=prefix):
        if isinstance(child, nn.Linear) and out_features in (None, child.out_features):
            found = name
    return found


def divide_logits(model: nn.Module, heads: Sequence[str], temperature: float) -> None:
    """Divide the logits of a model by a temperature, in the last linear layer of each of its heads.

    Every prediction stays; every probability moves towards 1 / C where the temperature is above 1.

    Args:
        model: changed in place.
        heads: paths of the modules that form the classifier head.
        temperature: above 0.
    """
    with torch.no_grad():
        for head in heads:
            path = last_linear(model.get_submodule(head), head)
            if path is None:
                raise ValueError(f"expected a linear layer in {head}, found none")
            for parameter in model.get_submodule(path).parameters():
                parameter.div_(temperature)
