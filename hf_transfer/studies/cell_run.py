"""Carry out one cell of a study: its search, where it has one, and its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import pipeline
from ..recipe import Recipe, dump_recipe
from ..run_directory import RunDirectory, replacing, write_json
from .study import Cell
from .tuning import FOLDER, search, with_values

TUNING = "tuning.json"
"""What a run directory tells of the search that came before it, see `tuning.search`."""


def carry_out(cell: Cell) -> None:
    """Carry out a cell, or go on with it where it was cut off.

    A cell that is tuned is trained anew with the setting that was chosen: seed and setting are those of a trial, so it is the
    model of that trial, and what it cost is the cost of one run. The search lies in `tuning/ID` of the study's folder.

    Raises:
        UserError: when its recipe cannot be carried out, or every trial of its search failed.
    """
    directory = RunDirectory(Path(cell.recipe.output_dir))
    recipe = cell.recipe if cell.tune is None else _tuned(cell, directory)
    pipeline.run(recipe, resume=directory.recipe.is_file())


def _tuned(cell: Cell, directory: RunDirectory) -> Recipe:
    """Return the recipe with what the search chose, its directory begun."""
    if directory.recipe.is_file():
        tuning = json.loads((directory.root / TUNING).read_text(encoding="utf-8"))
        return with_values(cell.recipe, tuning["chosen"])
    directory.check({}, resume=False, overwrite=False)
    tuning = search(cell, directory.root.parents[1] / FOLDER / cell.id)
    recipe = with_values(cell.recipe, tuning["chosen"])
    _begin(directory.root, recipe, tuning)
    return recipe


def _begin(root: Path, recipe: Recipe, tuning: dict[str, Any]) -> None:
    """Begin a run with its search written down: the directory appears with both, so none is ever finished without."""
    from ..training.arguments import training_defaults

    resolved = recipe.model_copy(update={"training": training_defaults(recipe.training, recipe.strategy, recipe.data.task)})
    root.parent.mkdir(parents=True, exist_ok=True)
    with replacing(root) as temporary:
        RunDirectory(temporary).begin(dump_recipe(resolved), overwrite=False)
        write_json(temporary / TUNING, tuning)
