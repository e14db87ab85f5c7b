"""Our own networks by the name of their architecture, as configurations of saved models have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .dilated import DilatedNetwork
from .lenet import LeNet
from .resnet import ResNet
from .vision_transformer import VisionTransformer

Network = ResNet | VisionTransformer | DilatedNetwork | LeNet

ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "resnet": ResNet,
    "vision_transformer": VisionTransformer,
    "dilated": DilatedNetwork,
    "lenet": LeNet,
}


def build_scratch(architecture: str, arguments: Mapping[str, Any]) -> Network:
    """Return the network with its own head for 1,000 classes at `head`, and random weights.

    Args:
        architecture: a key of `ARCHITECTURES`.
        arguments: of its constructor.
    """
    return ARCHITECTURES[architecture](**arguments)
