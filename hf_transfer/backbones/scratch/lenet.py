"""The LeNet-like network of PyTorch's CIFAR-10 tutorial."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..heads import build_head


class LeNet(nn.Module):
    """Two 5x5 convolutions without padding (6 and 16 channels), each with ReLU and 2x2 max pooling, then 120-84-classes.

    After LeNet-5 (LeCun et al. 1998, Proc. IEEE 86), in the form of PyTorch's CIFAR-10 tutorial, with its 62,006 parameters for
    10 classes at 32 x 32 pixels. Initialised as torch does by default, but for the head.

    Args:
        size: rows and columns of the images, at least 16.
        num_classes: outputs of the head.
    """

    hidden: tuple[dict[str, Any], ...] = tuple({"size": size, "activation": "relu", "dropout": 0.0} for size in (120, 84))
    """Hidden layers of the network's own head."""

    def __init__(self, size: int = 32, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        edge = ((size - 4) // 2 - 4) // 2
        self.head = build_head(16 * edge**2, num_classes, self.hidden)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of pixels [n, 3, size, size]."""
        return self.head(self.features(pixels).flatten(1))
