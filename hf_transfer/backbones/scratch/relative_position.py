"""Relative positions in the attention scores, in two dimensions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .sinusoid import sinusoid


class RelativePosition(nn.Module):
    """The terms of Transformer-XL's attention that know distances (Dai et al. 2019, arXiv 1901.02860, section 3.3).

    The score of query i and key j is, before it is divided by sqrt(width of a head),

        q_i . k_j + q_i . W r_ij + u . k_j + v . W r_ij

    with u and v learned for each layer and head and a projection W without bias for each layer: width^2 + 2 width parameters
    (66,048 for a width of 256). Transformer-XL is one-dimensional; here i and j are cells of a grid, and r_ij is the code of
    their distance in rows beside the code of their distance in columns, each of half the width (see `sinusoid`). So W r_ij is
    the sum of a term of the rows and a term of the columns, and (q_i + v) . W r_ij costs rows + columns products for each query
    instead of rows x columns.

    The class token stands nowhere: its distance to a patch, and a patch's to it, has the code zero, so that such pairs are
    scored by q_i . k_j + u . k_j. No other positions are added to the tokens, as in Transformer-XL.

    Args:
        rows: of the grid of patches.
        columns: of the grid.
        heads: of the attention.
        width: of the tokens.
    """

    row_codes: torch.Tensor
    column_codes: torch.Tensor

    def __init__(self, rows: int, columns: int, heads: int, width: int) -> None:
        super().__init__()
        self.grid = (rows, columns)
        self.projection = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.empty(heads, 1, width // heads))  # u
        self.position_bias = nn.Parameter(torch.empty(heads, 1, width // heads))  # v
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
        for name, count in (("row_codes", rows), ("column_codes", columns)):
            distances = torch.arange(1 - count, count, dtype=torch.float32)
            self.register_buffer(name, sinusoid(distances, width // 2))

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """Return (q_i + v) . W r_ij for each pair of tokens, [n, heads, 1 + cells, 1 + cells]; 0 where the class token is.

        Args:
            query: [n, heads, 1 + cells, width of a head], the class token first.
        """
        patches = (query[:, :, 1:] + self.position_bias).unflatten(2, self.grid)
        row_weight, column_weight = self.projection.weight.chunk(2, dim=1)
        rows = self._projected(self.row_codes, row_weight, self.grid[0])
        columns = self._projected(self.column_codes, column_weight, self.grid[1])
        # Query cell (y, x), key cell (r, c).
        by_row = torch.einsum("nhyxd,yrhd->nhyxr", patches, rows)
        by_column = torch.einsum("nhyxd,xchd->nhyxc", patches, columns)
        scores = by_row[..., :, None] + by_column[..., None, :]
        return functional.pad(scores.flatten(4, 5).flatten(2, 3), (1, 0, 1, 0))

    def _projected(self, codes: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
        """Return W r for each query and key position on one axis, [count, count, heads, width of a head]."""
        projected = functional.linear(codes, weight).unflatten(1, (self.content_bias.shape[0], -1))
        positions = torch.arange(count, device=codes.device)
        return projected[positions[:, None] - positions + count - 1]
