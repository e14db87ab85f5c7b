"""What sizes our own networks can have. Imports no torch, so that a name can be checked at once."""

from __future__ import annotations

HEAD_WIDTH = 64
"""Width of an attention head; the width of the tokens is a multiple of it."""

SMALLEST_LENET = 16
"""Rows and columns of the smallest image that leaves a cell after both poolings of the LeNet."""


def stage_sizes(size: int) -> list[int]:
    """Return how many rows and columns the maps of a ResNet's four stages have, for images of size x size pixels.

    The stem halves twice, each stage but the first once, always rounding up.
    """
    return [-(-size // 2 ** (level + 1)) for level in range(1, 5)]
