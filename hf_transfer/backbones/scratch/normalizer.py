"""An input normaliser inside the network: statistics of the pixels that it has been trained on, instead of a table's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Normalization = Literal["scalar", "channel", "none"]


class InputNormalizer(nn.Module):
    """Normalise pixels by a running mean m and variance s^2: (x - m) / sqrt(s^2 + eps).

    Each training batch moves the statistics as batch norm does (Ioffe and Szegedy 2015, arXiv 1502.03167), by
    m <- (1 - a) m + a mean(x), likewise s^2, from m = 0 and s^2 = 1. Unlike batch norm it normalises by the running statistics
    in training, too, so that a batch's own brightness is never lost and evaluation sees the function that was trained. The
    statistics are buffers: saved with the model, no parameters. In eval mode, and so where the stem is frozen, nothing moves.

    Args:
        kind: "scalar" for one mean and variance over all pixels of all channels, "channel" for one of each channel.
        momentum: a, what the newest batch counts.
        eps: added to the variance.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, kind: Literal["scalar", "channel"] = "scalar", momentum: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self._over = (0, 1, 2, 3) if kind == "scalar" else (0, 2, 3)
        shape = (1, 1 if kind == "scalar" else 3, 1, 1)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalised pixels, [n, 3, h, w] as they came."""
        if self.training:
            self._update(pixels.detach())
        return (pixels - self.running_mean) * torch.rsqrt(self.running_var + self.eps)

    @torch.no_grad()
    def _update(self, pixels: torch.Tensor) -> None:
        variance, mean = torch.var_mean(pixels.float(), self._over, correction=0, keepdim=True)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def build_normalizer(kind: Normalization) -> nn.Module:
    """Return the normaliser, or for "none" a module that leaves pixels as they are."""
    return nn.Identity() if kind == "none" else InputNormalizer(kind)
