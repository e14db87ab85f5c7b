"""Carry out one cell of a study: its search, where it has one, and its run."""

from __future__ import annotations

from pathlib import Path

from .. import pipeline
from ..run_directory import RunDirectory
from .study import Cell


def carry_out(cell: Cell) -> None:
    """Carry out a cell, or go on with it where it was cut off.

    Raises:
        UserError: when its recipe cannot be carried out.
    """
    pipeline.run(cell.recipe, resume=RunDirectory(Path(cell.recipe.output_dir)).recipe.is_file())
