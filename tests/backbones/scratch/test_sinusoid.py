import math

import pytest
import torch

from hf_transfer.backbones.scratch.sinusoid import grid_positions, sinusoid


def code(position, width):
    rates = [10000 ** (-2 * k / width) for k in range(width // 2)]
    return [math.sin(rate * position) for rate in rates] + [math.cos(rate * position) for rate in rates]


def test_sinusoid__equals_the_formula():
    table = sinusoid(torch.tensor([-3.0, 0.0, 1.0, 17.0]), 16)
    for row, position in zip(table, (-3, 0, 1, 17), strict=True):
        assert row.tolist() == pytest.approx(code(position, 16), abs=1e-5)


def test_grid_positions__row_first_in_row_major_order():
    table = grid_positions(3, 4, 32)
    assert table.shape == (12, 32)
    for row in range(3):
        for column in range(4):
            assert table[4 * row + column].tolist() == pytest.approx(code(row, 16) + code(column, 16), abs=1e-5)
    assert len(torch.unique(table, dim=0)) == 12
