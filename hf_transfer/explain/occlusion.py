"""Occlusion: how much of the target class's probability is lost when a square of the input is covered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch

from ..backbones.backbone import Backbone
from ..evaluation.inference import probabilities

Fill = Literal["mean", "black"]

# Differences of float32 probabilities below this are rounding.
_ROUNDING = 1e-6


def occlusion_maps(
    backbone: Backbone,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    fill: Fill = "mean",
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the drop of each image's target probability as a square slides over the input.

        map[i, j] = p(target | image) - p(target | image with the square centred on cell (i, j) covered)

    The input is divided into ceil(H / stride) x ceil(W / stride) cells of equal size, and the square stands on the centre of
    each in turn; at the border it is cut off. Values are signed: negative where covering raises the probability. What is
    smaller than 1e-6 is rounding and becomes 0.

    Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 4.2.

    Args:
        backbone: the model, in eval mode.
        pixels: float32 [n, 3, H, W], preprocessed, on the model's device.
        targets: int64 [n], the class whose probability is watched.
        window: side of the square in input pixels; by default a seventh of the shorter side.
        stride: side of a cell in input pixels; by default half the window.
        fill: what the square shows: the checkpoint's mean colour (0 after normalisation) or black.
        batch_size: covered images that go through the model at once; bounds the memory.

    Returns:
        float32 [n, h, w] on the CPU, each value between -1 and 1.
    """
    height, width = pixels.shape[-2:]
    window = window or max(2, round(min(height, width) / 7))
    stride = stride or max(1, window // 2)
    colour = covering_colour(backbone, fill).to(pixels)
    cells = (math.ceil(height / stride), math.ceil(width / stride))
    squares = [(top, left) for top in _spans(height, cells[0], window) for left in _spans(width, cells[1], window)]
    maps = []
    with torch.no_grad():
        whole = target_probabilities(backbone, pixels, targets)
        for image, target, before in zip(pixels, targets, whole, strict=True):
            after = [
                target_probabilities(backbone, covered, target.expand(len(covered)))
                for covered in _covered(image, squares, colour, batch_size)
            ]
            maps.append((before - torch.cat(after)).reshape(cells))
    drops = torch.stack(maps)
    return torch.where(drops.abs() < _ROUNDING, 0.0, drops).float()


def covering_colour(backbone: Backbone, fill: Fill) -> torch.Tensor:
    """Return the input values, float32 [3], of a covered pixel."""
    return torch.zeros(3) if fill == "mean" else backbone.preprocessing.low


def target_probabilities(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the probability of each image's target class, without gradient: float64 [n] on the CPU.

    Args:
        backbone: the model, in eval mode.
        pixels: float32 [n, 3, H, W] on the model's device.
        targets: int64 [n].
    """
    logits = backbone.model(pixel_values=pixels).logits.float().cpu().numpy()
    return torch.from_numpy(probabilities(logits, backbone.model.config)).gather(1, targets.cpu()[:, None])[:, 0]


def _spans(length: int, cells: int, window: int) -> list[slice]:
    """Return where the window stands along one side: centred on each cell, cut off at the border."""
    starts = [round((cell + 0.5) * length / cells - window / 2) for cell in range(cells)]
    return [slice(max(0, start), min(length, start + window)) for start in starts]


def _covered(
    image: torch.Tensor, squares: list[tuple[slice, slice]], colour: torch.Tensor, batch_size: int
) -> Iterator[torch.Tensor]:
    for first in range(0, len(squares), batch_size):
        some = squares[first : first + batch_size]
        copies = image.repeat(len(some), 1, 1, 1)
        for copy, (rows, columns) in zip(copies, some, strict=True):
            copy[:, rows, columns] = colour[:, None, None]
        yield copies
