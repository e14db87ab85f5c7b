"""Fixed sinusoid codes of positions and of distances."""

from __future__ import annotations

import torch


def sinusoid(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Return the sinusoid code of positions on one axis (Vaswani et al. 2017, arXiv 1706.03762), float32 [n, width].

    With w_k = 10000^(-2k / width), k = 0 ... width / 2 - 1, it is (sin(w_0 p), sin(w_1 p), ..., cos(w_0 p), cos(w_1 p), ...).

    Args:
        positions: float32 [n]; negative ones are distances.
        width: even.
    """
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width)
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Return a code for each cell of a grid in row-major order, float32 [rows * columns, width].

    The first half of a code is the row's `sinusoid`, the second half the column's, as in MoCo v3 (Chen et al. 2021, arXiv
    2104.02057, which has the column first).

    Args:
        rows: of the grid.
        columns: of the grid.
        width: divisible by 4.
    """
    row_codes = sinusoid(torch.arange(rows, dtype=torch.float32), width // 2)
    column_codes = sinusoid(torch.arange(columns, dtype=torch.float32), width // 2)
    return torch.cat([row_codes.repeat_interleave(columns, 0), column_codes.repeat(rows, 1)], dim=1)
