"""MixStyle: the style of an image, its channels' means and deviations, is mixed with another image's during training."""

from __future__ import annotations

import torch
from torch import nn


class MixStyle(nn.Module):
    """Mix the channel statistics of the images of a batch (Zhou et al. 2021, arXiv 2104.02008), in training only.

    With mu and sigma the mean and deviation of each channel over the cells of its map, x~ another image of the batch drawn by
    a random permutation, and l ~ Beta(alpha, alpha) for each image,

        gamma = l sigma(x) + (1 - l) sigma(x~),  beta = l mu(x) + (1 - l) mu(x~)
        MixStyle(x) = gamma (x - mu(x)) / sigma(x) + beta

    A batch is mixed with probability p and left alone otherwise. No gradient flows through mu and sigma. sigma is
    sqrt(variance + eps) with the paper's biased variance, computed in float32.

    Args:
        p: probability that a batch is mixed.
        alpha: both parameters of the Beta distribution.
        eps: added to the variance.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = p
        self.alpha = alpha
        self.eps = eps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps [n, C, h, w], mixed or as they came."""
        if not self.training or float(torch.rand(())) >= self.p:
            return maps
        # In float64: with alpha 0.1 both gamma variates behind a Beta variate may be too small for float32.
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        share = torch.distributions.Beta(alpha, alpha).sample((len(maps), 1, 1, 1))
        return mix_style(maps, torch.randperm(len(maps)), share.float(), self.eps)


def mix_style(maps: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Return maps with mixed statistics.

    Args:
        maps: [n, C, h, w].
        partner: int64 [n], the row that each image is mixed with.
        share: float32 [n, 1, 1, 1], how much of each image's statistics is its own.
        eps: added to the variance.
    """
    partner, share = partner.to(maps.device), share.to(maps.device)
    with torch.no_grad():
        variance, mean = torch.var_mean(maps.float(), (2, 3), correction=0, keepdim=True)
        deviation = (variance + eps).sqrt()
        scale = torch.lerp(deviation[partner], deviation, share) / deviation
        shift = torch.lerp(mean[partner], mean, share) - mean * scale
    return torch.addcmul(shift.to(maps.dtype), maps, scale.to(maps.dtype))
