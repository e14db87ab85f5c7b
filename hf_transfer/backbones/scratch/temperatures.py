"""The temperatures that the attention of a network has learned."""

from __future__ import annotations

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
