"""The temperatures that the attention of a network has learned."""

from __future__ import annotations

import statistics
from typing import Any

from torch import nn

from .attention import SelfAttention


def temperatures(model: nn.Module) -> list[float]:
    """Return the learned temperature of each attention layer, shallow to deep; empty where none is learned.

    1 is where training begins; above 1 attention is more even than plain attention's, below 1 it is sharper.

    Args:
        model: a network, or anything that has one inside.
    """
    layers = [module.temperature for module in model.modules() if isinstance(module, SelfAttention)]
    return [float(temperature.detach()) for temperature in layers if temperature is not None]


def temperature_metrics(model: nn.Module) -> dict[str, Any]:
    """Return what metrics.json tells of the learned temperatures, as `attention_temperatures`; empty where none is learned.

    That is their `values` by layer, shallow to deep, the `mean`, and the standard `deviation` over the layers, which are all
    there are: the sum of squares is divided by their number.

    Args:
        model: a network, or anything that has one inside.
    """
    values = temperatures(model)
    if not values:
        return {}
    mean = statistics.fmean(values)
    return {"attention_temperatures": {"values": values, "mean": mean, "deviation": statistics.pstdev(values, mean)}}
