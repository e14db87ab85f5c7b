"""What a layer puts out, as maps [n, C, h, w] in image order, whatever library laid it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UserError

# Tokens in front of the patches: class, distillation and register tokens (DeiT 2, DINOv2 1, DINOv3 5, timm's reg8 8 or 9).
_PREFIXES = (0, 1, 2, 4, 5, 8, 9)


def to_maps(output: Any, size: tuple[int, int], layer: str, module: nn.Module) -> torch.Tensor:
    """Return a layer's output as maps.

    Args:
        output: what the layer put out: a tensor [n, C, h, w], [n, h, w, C] (timm's and torchvision's Swin) or [n, L, C]
            (tokens in row-major image order, class and register tokens in front), or a tuple or mapping that begins with one.
        size: (height, width) of the network's input in pixels.
        layer: path of the layer, for messages.
        module: the layer; it settles whether [n, 8, 8, 8] is channels first.

    Returns:
        A view [n, C, h, w], row 0 at the top of the image and column 0 at its left.

    Raises:
        UserError: when the output has no grid, or more than one that fits.
    """
    tensor = first_tensor(output)
    if tensor is not None and tensor.ndim == 4:
        return _channels_first(tensor, size, layer, module)
    if tensor is not None and tensor.ndim == 3:
        prefix, height, width = token_grid(tensor.shape[1], size, layer)
        return tensor[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
    found = "no tensor" if tensor is None else f"shape {list(tensor.shape)}"
    raise _no_maps(layer, f"expected maps [n, C, h, w] or [n, h, w, C] or tokens [n, L, C], found {found}")


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return the first tensor of nested tuples and mappings, None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    parts: Sequence[Any] = ()
    if isinstance(output, Mapping):
        parts = tuple(output.values())
    elif isinstance(output, (tuple, list)):
        parts = output
    return next((tensor for tensor in map(first_tensor, parts) if tensor is not None), None)


def token_grid(count: int, size: tuple[int, int], layer: str) -> tuple[int, int, int]:
    """Return how many tokens stand in front of the patches, and the patches' grid.

    The grid has one cell for each s x s pixels of the input (rounded down as patch embeddings do, or up as padding does), for
    some stride s; what is left over must be a usual number of class, distillation and register tokens. Among several, a stride
    that divides the input and fewer tokens in front are likelier; where these two disagree nothing is guessed.

    Args:
        count: tokens in all.
        size: (height, width) of the input in pixels.
        layer: path of the layer, for messages.

    Returns:
        (tokens in front, rows, columns).

    Raises:
        UserError: when no grid fits, or it cannot be told which.
    """
    readings = {(prefix, grid, exact) for grid, exact in _grids(size) if (prefix := count - grid[0] * grid[1]) in _PREFIXES}
    if not readings:
        raise _no_maps(layer, f"its {count} tokens form no grid over an input of {size[0]} x {size[1]} pixels")
    fewest = min(readings)[0]
    likeliest = {(prefix, grid) for prefix, grid, _ in readings if prefix == fewest}
    dividing = sorted((prefix, grid) for prefix, grid, exact in readings if exact)
    likeliest.update(dividing[:1])
    if len(likeliest) > 1:
        told = " or ".join(f"{rows} x {columns} and {prefix} in front" for prefix, (rows, columns) in sorted(likeliest))
        raise _no_maps(layer, f"its {count} tokens could be {told}")
    prefix, (rows, columns) = likeliest.pop()
    return prefix, rows, columns


def _grids(size: tuple[int, int]) -> Iterator[tuple[tuple[int, int], bool]]:
    """Yield each (rows, columns) that a stride can give, and whether the stride divides the input."""
    height, width = size
    for stride in range(1, max(size) + 1):
        exact = height % stride == 0 and width % stride == 0
        if min(size) >= stride:
            yield (height // stride, width // stride), exact
        if not exact:
            yield (-(-height // stride), -(-width // stride)), False


def _channels_first(tensor: torch.Tensor, size: tuple[int, int], layer: str, module: nn.Module) -> torch.Tensor:
    """Choose the reading whose grid has the input's proportions; where both have, by the kind of layers inside."""
    last, first = _distortion(tensor.shape[1:3], size), _distortion(tensor.shape[2:4], size)
    if min(last, first) > 2.0:
        raise _no_maps(layer, f"no grid of {list(tensor.shape)} fits an input of {size[0]} x {size[1]} pixels")
    if last == first:
        # Convolutions and their norms, which libraries name ...2d, read and write channels first.
        two_dimensional = any(type(part).__name__.endswith("2d") for part in module.modules())
        is_first = two_dimensional or not any(isinstance(part, (nn.LayerNorm, nn.Linear)) for part in module.modules())
    else:
        is_first = first < last
    return tensor if is_first else tensor.permute(0, 3, 1, 2)


def _distortion(grid: Sequence[int], size: tuple[int, int]) -> float:
    """Return by which factor a cell's height and width in pixels differ, infinite where the grid is finer than the input."""
    if any(cells > pixels for cells, pixels in zip(grid, size, strict=True)):
        return float("inf")
    tall, wide = size[0] / grid[0], size[1] / grid[1]
    return max(tall / wide, wide / tall)


def _no_maps(layer: str, why: str) -> UserError:
    return UserError(f"layer '{layer}' puts out no maps: {why}; choose another layer")
