"""Insertion and deletion: does the probability follow the pixels that a map calls important?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from ..backbones.backbone import Backbone
from .maps import upsampled
from .occlusion import target_probabilities

_BLUR = {"kernel_size": [11, 11], "sigma": [5.0, 5.0]}  # as in the paper's code


@dataclass(frozen=True)
class Curves:
    """How the target's probability changes as pixels go or come in the order of a map, and of a random one.

    Args:
        fractions: float64 [s + 1], share of the pixels changed, from 0 to 1.
        deletion: float64 [s + 1], probability while the most important pixels are covered first.
        insertion: float64 [s + 1], probability while they are uncovered first in a blurred image.
        random_deletion: as `deletion`, in the order of a random map of the same resolution.
        random_insertion: as `insertion`, in that order.
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray

    def auc(self) -> dict[str, float]:
        """Return the area under each curve: between 0 and 1, good is a low deletion and a high insertion."""
        names = ("deletion", "insertion", "random_deletion", "random_insertion")
        return {f"{name}_auc": _area(getattr(self, name)) for name in names}


def insertion_deletion(
    backbone: Backbone,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    maps: torch.Tensor,
    *,
    seeds: Sequence[int],
    steps: int = 28,
    batch_size: int = 64,
) -> list[Curves]:
    """Return the insertion and deletion curves of maps, beside those of a random map.

    Deletion covers pixels with the checkpoint's mean colour (0 after normalisation); insertion begins with the image blurred
    (Gaussian, 11 x 11, sigma 5) and ends with the image. The random map has as many cells as the map it stands beside: single
    pixels sprinkled at random would disturb a network far more than patches do.

    Source: Petsiuk, Das & Saenko, "RISE: randomized input sampling for explanation of black-box models", BMVC 2018,
    arXiv 1806.07421.

    Args:
        backbone: the model, in eval mode.
        pixels: float32 [n, 3, H, W], preprocessed, on the model's device.
        targets: int64 [n], the class whose probability is followed.
        maps: float32 [n, h, w], larger where the input counts more; finite.
        seeds: seed of the random map of each image [n].
        steps: how many equal parts the pixels are changed in.
        batch_size: images that go through the model at once; bounds the memory.
    """
    size = (pixels.shape[2], pixels.shape[3])
    blurred = gaussian_blur(pixels, **_BLUR)
    curves = []
    for image, hazy, target, own, seed in zip(pixels, blurred, targets, maps, seeds, strict=True):
        random_map = torch.rand(own.shape, generator=torch.Generator().manual_seed(seed))
        values = []
        for order in (_order(own, size), _order(random_map, size)):
            for start, end in ((image, torch.zeros_like(image)), (hazy, image)):
                values.append(_curve(backbone, start, end, target, order.to(image.device), steps, batch_size))
        curves.append(Curves(np.linspace(0, 1, steps + 1), *values))
    return curves


def _area(values: np.ndarray) -> float:
    """Return the area under values at equal distances from 0 to 1 (trapezoids)."""
    return float((values[1:] + values[:-1]).mean() / 2)


def _order(raw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return for each pixel [H, W] the share of pixels that come before it, the most important first."""
    flat = upsampled(raw[None].float(), size).flatten()
    places = flat.argsort(descending=True, stable=True)
    shares = torch.empty_like(flat)
    shares[places] = torch.arange(flat.numel(), dtype=flat.dtype) / flat.numel()
    return shares.reshape(size)


def _curve(
    backbone: Backbone,
    start: torch.Tensor,
    end: torch.Tensor,
    target: torch.Tensor,
    order: torch.Tensor,
    steps: int,
    batch_size: int,
) -> np.ndarray:
    """Return the target's probability [steps + 1] as pixels of `start` become those of `end` in this order."""
    values = []
    with torch.no_grad():
        for some in torch.linspace(0, 1, steps + 1).to(order).split(batch_size):
            mixed = torch.where(order < some[:, None, None], 1.0, 0.0)[:, None]
            values.append(target_probabilities(backbone, torch.lerp(start, end, mixed), target.expand(len(some))))
    return torch.cat(values).numpy()
