"""Several checkpoints on several data sets: an evaluation recipe whose `model` or `data` is a list."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem, RecipeError
from .loading import apply_overrides, parse_recipe, read_recipe
from .schema import Recipe


@dataclass(frozen=True)
class Benchmark:
    """One evaluation for each pair of a data set and a checkpoint.

    Args:
        output_dir: the directory of all of them.
        description: one sentence.
        cells: the evaluations, data set by data set; each one's output directory lies inside `output_dir`.
    """

    output_dir: str
    description: str
    cells: tuple[Recipe, ...]


def load_any(path: str | Path, overrides: Sequence[str] = ()) -> Recipe | Benchmark:
    """Read a recipe file that is one run, or a benchmark.

    Raises:
        RecipeError: listing all problems found.
    """
    return parse_any(read_recipe(path), overrides, source=str(path))


def parse_any(raw: dict[str, Any], overrides: Sequence[str] = (), source: str = "the recipe") -> Recipe | Benchmark:
    """Check a recipe that is already a dictionary, which stays as it is; see `load_any`."""
    if not any(isinstance(raw.get(key), list) for key in ("model", "data")):
        return parse_recipe(raw, overrides, source)
    raw = copy.deepcopy(raw)
    problems = apply_overrides(raw, overrides)
    if raw.get("mode") != "evaluate":
        problems.append(Problem("mode", "expected 'evaluate': a list of models or data sets is scored, not trained"))
        raw["mode"] = "evaluate"
    models, datas = _listed(raw, "model"), _listed(raw, "data")
    problems += [Problem(key, "expected at least one, found an empty list") for key in ("model", "data") if raw.get(key) == []]
    model_names, data_names = _names(models, "backbone"), _names(datas, "source")
    cells = []
    for d, data in enumerate(datas):
        for m, model in enumerate(models):
            cell = {**raw, "model": model, "data": data}
            if isinstance(raw.get("output_dir"), str) and raw["output_dir"]:
                cell["output_dir"] = f"{raw['output_dir']}/{data_names[d]}/{model_names[m]}"
            try:
                cells.append(parse_recipe({key: cell[key] for key in cell if key in raw}, source=source))
            except RecipeError as error:
                positions = {key: n for key, n in (("model", m), ("data", d)) if isinstance(raw.get(key), list)}
                found = [Problem(_placed(problem.path, positions), problem.message) for problem in error.problems]
                problems += [problem for problem in found if problem not in problems]
    if problems:
        raise RecipeError(problems, source)
    return Benchmark(str(raw["output_dir"]), str(raw.get("description", "")), tuple(cells))


def _listed(raw: dict[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    return value if isinstance(value, list) else [value]


def _placed(path: str, positions: dict[str, int]) -> str:
    head, dot, rest = path.partition(".")
    return f"{head}.{positions[head]}{dot}{rest}" if head in positions else path


def _names(sections: list[Any], key: str) -> list[str]:
    """Return a folder name for each section, no two alike."""
    names: list[str] = []
    for section in sections:
        value = str(section.get(key)) if isinstance(section, dict) else "unnamed"
        last = value.rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^\w.-]+", "-", last).strip("-.") or "unnamed"
        taken = {other.casefold() for other in names}  # some disks take A and a for the same name
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(name if name.casefold() not in taken else next(n for n in numbered if n.casefold() not in taken))
    return names
