"""What the cells of a study will cost, as far as cells like them were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..recipe.words import SEED
from ..run_directory import RunDirectory
from .study import Cell


def estimates(cells: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """Return one row a cell: `id`, `values`, `state`, `seconds`, and `measured_on`, the cell whose time that is.

    The time of a cell that is not done is that of a done one which differs in the fewest axes, the seed not counted, and has
    the same backbone and strategy; None where there is none. `state` is "done", "begun", "failed" or "new".

    Args:
        cells: the cells.
        root: the study's folder.
    """
    seconds = {cell.id: _seconds(cell) for cell in cells}
    rows = []
    for cell in cells:
        like = [other for other in cells if seconds[other.id] is not None and _alike(cell, other)]
        nearest = min(like, key=lambda other: _distance(cell, other), default=None)
        rows.append(
            {
                "id": cell.id,
                "values": cell.values,
                "state": _state(cell, root),
                "seconds": None if nearest is None else seconds[nearest.id],
                "measured_on": None if nearest is None else nearest.id,
            }
        )
    return rows


def _seconds(cell: Cell) -> float | None:
    try:
        metrics = json.loads(Path(cell.recipe.output_dir, "metrics.json").read_text(encoding="utf-8"))
        return float(metrics["cost"]["total_seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _alike(cell: Cell, other: Cell) -> bool:
    return (cell.recipe.model, cell.recipe.strategy) == (other.recipe.model, other.recipe.strategy)


def _distance(cell: Cell, other: Cell) -> int:
    different = [key for key, value in cell.values.items() if key != SEED and other.values.get(key) != value]
    return 2 * len(different) + (cell.id != other.id)


def _state(cell: Cell, root: Path) -> str:
    directory = RunDirectory(Path(cell.recipe.output_dir))
    if directory.is_finished:
        return "done"
    if (root / "failed" / f"{cell.id}.json").is_file():
        return "failed"
    return "begun" if directory.root.is_dir() else "new"
