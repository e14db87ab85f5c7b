"""Maps of importance: the methods that compute them by name, and what is done with every map, whoever computed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from ..backbones.backbone import Backbone
from ..errors import UserError, nearest

MapFunction = Callable[[Backbone, torch.Tensor, torch.Tensor, "str | None"], torch.Tensor]

# Values that differ by less than this share of the largest are one value, told apart only by rounding.
_CONSTANT = 1e-5
# A map with more cells than this shows single pixels; the few largest would leave everything else dark.
_FINE = 4096
_FINE_QUANTILE = 0.995
_PLATEAU = 0.99  # of the largest value


@dataclass(frozen=True)
class Method:
    """One way of explaining.

    Args:
        maps: (backbone, pixels [n, 3, H, W], targets [n], layer) -> float32 [n, h, w] on the CPU, larger where the input counts
            more, negative where it speaks against the target; the layer is None for a method without layers.
        layered: whether it reads a layer of the network.
        inside: whether it reads anything inside the network: a layer, attention, gradients.
        of_class: whether it explains a class; otherwise targets are ignored.
    """

    maps: MapFunction
    layered: bool = False
    inside: bool = True
    of_class: bool = True


def _activation_maps(
    backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, layer: str | None, *, method: str
) -> torch.Tensor:
    from .cam import class_activation_maps

    return class_activation_maps(backbone, pixels, targets, method=method, layer=layer)


def _rollout(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, layer: str | None) -> torch.Tensor:
    from .rollout import attention_rollout

    return attention_rollout(backbone, pixels)


def _integrated_gradients(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, layer: str | None) -> torch.Tensor:
    from .integrated_gradients import integrated_gradients

    return integrated_gradients(backbone, pixels, targets)


def _occlusion(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, layer: str | None) -> torch.Tensor:
    from .occlusion import occlusion_maps

    return occlusion_maps(backbone, pixels, targets)


METHODS: dict[str, Method] = {
    **{
        name: Method(partial(_activation_maps, method=name), layered=True, of_class=name != "eigencam")
        for name in ("gradcam", "gradcam++", "layercam", "hirescam", "eigencam")
    },
    "rollout": Method(_rollout, of_class=False),
    "integrated_gradients": Method(_integrated_gradients),
    "occlusion": Method(_occlusion, inside=False),
}


def method_named(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UserError: naming the known ones.
    """
    if name not in METHODS:
        raise UserError(f"no method is called '{name}'{nearest(name, METHODS)}; known: {', '.join(METHODS)}")
    return METHODS[name]


def blank_reason(raw: torch.Tensor) -> str | None:
    """Return why a map explains nothing, or None for a map that tells places apart.

    Args:
        raw: float32 [h, w], as a method returned it.
    """
    if not bool(torch.isfinite(raw).all()):
        bad = int((~torch.isfinite(raw)).sum())
        return f"the map is not finite: {bad} of {raw.numel()} values are NaN or infinite"
    low, high = float(raw.min()), float(raw.max())
    if high - low <= _CONSTANT * max(abs(low), abs(high)):
        return f"the map is constant: every place has the value {high:.3g}"
    if high <= 0:
        return "the map is empty: no place speaks for the class"
    return None


def is_blank(raw: torch.Tensor) -> bool:
    """Return whether a map [h, w] is constant, without any positive value, or not finite."""
    return blank_reason(raw) is not None


def peak(raw: torch.Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Return (x, y) of the place where a map is largest, in pixels of the input: the centre of its largest cell.

    Where activations saturate (ReLU6), many cells are as good as largest: of those within 1 % of the largest that are
    connected with it, it is the mean, or where that lies in none of them the centre of the one nearest to it. (Always a
    cell's centre would shift plateaus of even width by half a cell.) The centre of the first pixel is (0.5, 0.5).

    Args:
        raw: float32 [h, w], not blank.
        size: (height, width) of the input.
    """
    values = raw.cpu().numpy()
    regions, _ = ndimage.label(values >= _PLATEAU * values.max())
    rows, columns = np.nonzero(regions == regions.flat[values.argmax()])
    row, column = rows.mean(), columns.mean()
    closest = np.hypot(rows - row, columns - column).argmin()
    if max(abs(rows[closest] - row), abs(columns[closest] - column)) > 0.5:
        row, column = rows[closest], columns[closest]
    y, x = row + 0.5, column + 0.5
    return float(x * size[1] / raw.shape[1]), float(y * size[0] / raw.shape[0])


def upsampled(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps [n, h, w] brought bilinearly to the input's (height, width)."""
    return functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def normalized(raw: torch.Tensor) -> torch.Tensor:
    """Return a map for the eye, between 0 and 1: negative values become 0, then the smallest is 0 and the largest 1.

    In a map of more than 4,096 cells the 99.5th percentile is 1 and what is above it is cut. A blank map becomes 0 everywhere.

    Args:
        raw: float32 [h, w].
    """
    if is_blank(raw):
        return torch.zeros_like(raw)
    shown = raw.clamp(min=0)
    shown = shown - shown.min()
    top = float(shown.quantile(_FINE_QUANTILE)) if shown.numel() > _FINE else 0.0
    return (shown / (top or float(shown.max()))).clamp(max=1)
