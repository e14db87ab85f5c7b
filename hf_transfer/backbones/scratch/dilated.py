"""A toy network of four dilated convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .normalizer import Normalization, build_normalizer

_CHANNELS = 32
_DILATIONS = (1, 2, 4, 8)


class DilatedNetwork(nn.Module):
    """Four 3x3 convolutions with 32 channels and dilations 1, 2, 4, 8, each with batch norm and GELU, then global pooling.

    Maps keep the size of the image; the receptive field is 31 x 31 pixels (dilations as in Yu and Koltun 2016, arXiv
    1511.07122). 61,896 parameters with 1,000 classes: the convolutions have biases (864 + 3 x 9,216 weights, 4 x 32 biases,
    4 x 64 of the norms, 33,000 of the head). Initialised as torch does by default.

    Args:
        normalizer: how the network normalises its input, see `InputNormalizer`.
        num_classes: outputs of the head.
    """

    hidden: tuple[dict[str, Any], ...] = ()
    """Hidden layers of the network's own head."""

    def __init__(self, *, normalizer: Normalization = "scalar", num_classes: int = 1000) -> None:
        super().__init__()
        self.normalizer = build_normalizer(normalizer)
        self.features = nn.Sequential()
        for number, dilation in enumerate(_DILATIONS):
            convolution = nn.Conv2d(3 if number == 0 else _CHANNELS, _CHANNELS, 3, padding=dilation, dilation=dilation)
            self.features.append(nn.Sequential(convolution, nn.BatchNorm2d(_CHANNELS), nn.GELU()))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(_CHANNELS, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of pixels [n, 3, h, w]."""
        return self.head(self.pool(self.features(self.normalizer(pixels))).flatten(1))
