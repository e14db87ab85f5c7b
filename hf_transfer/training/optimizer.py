"""One optimizer, built once with every parameter: freezing toggles gradients, never the optimizer's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..backbones.layer_groups import LayerGroup


def parameter_groups(
    model: nn.Module, groups: Sequence[LayerGroup], weight_decay: float, *, decay_all: bool
) -> list[dict[str, Any]]:
    """Return optimizer groups, two for each layer group: with weight decay, and without (biases and norms).

    Frozen parameters are in their groups as well; without a gradient the optimizer passes them over.

    Args:
        model: the network.
        groups: its layer groups.
        weight_decay: the decay of the decayed ones.
        decay_all: decay biases and norms, too, as `torch.optim.Adam(model.parameters(), weight_decay=...)` does.
    """
    parameters = dict(model.named_parameters())
    result = []
    for group in groups:
        members = [parameters[name] for name in group.parameters]
        decayed = [parameter for parameter in members if decay_all or parameter.ndim > 1]
        plain = [parameter for parameter in members if not (decay_all or parameter.ndim > 1)]
        for chosen, decay in ((decayed, weight_decay), (plain, 0.0)):
            if chosen:
                result.append({"params": chosen, "weight_decay": decay, "name": group.name})
    return result
