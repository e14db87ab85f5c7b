"""What the cells of a study will cost, as far as it can be told from those that were measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..backbones.shortlist import shortlist
from ..recipe import Recipe
from ..recipe.schema import Data
from ..recipe.words import FROZEN, SEED
from ..run_directory import RunDirectory
from .cell_life import failure_of
from .study import Cell
from .tuning import FOLDER

Basis = Literal["measured", "alike", "scaled"]
_EPOCHS = 3.0  # of transformers, where a recipe says nothing
_BACKWARD = 3.0  # a training step computes its forward pass three times over: once, and twice as much to go back
_SUBSETS = {"max_train_samples": None, "samples_per_class": None}


@dataclass(frozen=True)
class _Measured:
    """A cell that is done.

    Args:
        cell: the cell.
        seconds: of its run.
        searched: seconds of its search.
        images: split to the number of images of each class.
        from_cache: whether it found features that another run had computed, and nobody knows what that took.
        alone: seconds of its run had nobody computed its features before, as far as that is known.
    """

    cell: Cell
    seconds: float
    searched: float
    images: Mapping[str, Sequence[int]]
    from_cache: bool
    alone: float


def estimates(cells: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """Return one row a cell: `id`, `values`, `state`, `seconds`, `measured_on` and `basis`.

    `state` is "done", "begun", "failed" or "new". `seconds` is None where nothing is known, else by `basis`:

    - "measured": what the cell itself took, its search included;
    - "alike": what another one took, `measured_on`, with the same model, strategy and amount of work;
    - "scaled": what another one took, times the ratio of the work: GMACs of the backbones (as the shortlist has them) times the
      images that pass through them, an image that is trained on counting three times in each epoch. Of several, that of the
      same strategy whose work is nearest. Loading, decoding and drawing do not grow with the GMACs, so it is rough.

    A cell that is tuned and not done takes as many runs as it has trials, and one.

    Args:
        cells: the cells.
        root: the study's folder.
    """
    measured = {cell.id: found for cell in cells if (found := _measure(cell)) is not None}
    return [{"id": cell.id, "values": cell.values, "state": _state(cell, root), **_estimate(cell, measured)} for cell in cells]


def _estimate(cell: Cell, measured: Mapping[str, _Measured]) -> dict[str, Any]:
    if cell.id in measured:
        own = measured[cell.id]
        return _told(own.seconds + own.searched, own, "measured")
    runs = 1 if cell.tune is None else cell.tune.trials + 1
    ratios = [(other, ratio) for other in measured.values() if (ratio := _ratio(cell, other)) is not None]
    alike = [other for other, ratio in ratios if ratio == 1 and _same_kind(cell, other.cell)]
    if alike:
        nearest = min(alike, key=lambda other: (_distance(cell, other.cell), other.seconds))
        return _told(runs * nearest.seconds, nearest, "alike")
    scaled = [(other, ratio) for other, ratio in ratios if not other.from_cache]
    if scaled:
        other, ratio = min(scaled, key=lambda pair: (*_unlike(cell, pair[0].cell), abs(math.log(pair[1]))))
        return _told(runs * ratio * other.alone, other, "scaled")
    return {"seconds": None, "measured_on": None, "basis": None}


def _told(seconds: float, other: _Measured, basis: Basis) -> dict[str, Any]:
    return {"seconds": seconds, "measured_on": other.cell.id, "basis": basis}


def _measure(cell: Cell) -> _Measured | None:
    root = Path(cell.recipe.output_dir)
    try:
        cost = _read(root / "metrics.json")["cost"]
        seconds = float(cost["total_seconds"])
        known = "extraction_seconds" in cost
        others = float(cost["extraction_seconds"]) - float(cost["extraction_spent_seconds"]) if known else 0.0
        counts = _read(root / "environment.json")["class_counts"]
        images = {split: [int(count) for count in of_class.values()] for split, of_class in counts.items()}
        probe = root / "probe.json"  # none where the frozen backbone saw every image in every epoch
        features = _read(probe)["features"] if cell.recipe.strategy.name in FROZEN and probe.is_file() else {}
        searched = float(_read(root / "tuning.json")["seconds"]) if cell.tune is not None else 0.0
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    from_cache = not known and features.get("computed") != features.get("total")
    return _Measured(cell, seconds, searched, images, from_cache=from_cache, alone=seconds + others)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _same_kind(cell: Cell, other: Cell) -> bool:
    return (cell.recipe.model, cell.recipe.strategy) == (other.recipe.model, other.recipe.strategy)


def _unlike(cell: Cell, other: Cell) -> tuple[bool, bool]:
    return (cell.recipe.strategy != other.recipe.strategy, cell.recipe.model != other.recipe.model)


def _distance(cell: Cell, other: Cell) -> int:
    return sum(key != SEED and other.values.get(key) != value for key, value in cell.values.items())


def _ratio(cell: Cell, other: _Measured) -> float | None:
    """Return how many times the work of a measured cell another one is, None where that cannot be told."""
    networks = _gmacs_ratio(cell.recipe.model.backbone, other.cell.recipe.model.backbone)
    passes = _passes_ratio(cell.recipe, other)
    return None if networks is None or passes is None else networks * passes


def _gmacs_ratio(name: str, other: str) -> float | None:
    if name == other:
        return 1.0
    gmacs = {entry.name: entry.gmacs for entry in shortlist()}
    mine, theirs = gmacs.get(name), gmacs.get(other)
    return None if mine is None or theirs is None else mine / theirs


def _passes_ratio(recipe: Recipe, other: _Measured) -> float | None:
    theirs = other.cell.recipe
    if recipe.mode != theirs.mode:
        return None
    if (recipe.data, recipe.strategy, recipe.training) == (theirs.data, theirs.strategy, theirs.training):
        return 1.0
    if recipe.mode == "evaluate":
        return None
    train = _train_images(recipe.data, theirs.data, other.images["train"])
    if train is None:
        return None
    sizes = {split: sum(counts) for split, counts in other.images.items()}
    mine, measured = _passes(recipe, sizes | {"train": train}), _passes(theirs, sizes)
    return None if mine is None or measured is None else mine / measured


def _train_images(data: Data, other: Data, counts: Sequence[int]) -> int | None:
    """Return how many images a cell trains on, given those of each class that another one trained on."""
    if data == other:
        return sum(counts)
    if data.model_copy(update=_SUBSETS) != other.model_copy(update=_SUBSETS):
        return None
    whole = other.max_train_samples is None and other.samples_per_class is None
    if data.samples_per_class is not None:
        return sum(min(data.samples_per_class, count) if whole else data.samples_per_class for count in counts)
    if data.max_train_samples is not None:
        return min(data.max_train_samples, sum(counts)) if whole else data.max_train_samples
    return sum(counts) if whole else None


def _passes(recipe: Recipe, sizes: Mapping[str, int]) -> float | None:
    """Return how many images pass through the network forwards, as a measure of the work; None where that cannot be told."""
    known, strategy = sizes["train"] + sizes["validation"], recipe.strategy
    scored = [*recipe.evaluation.splits, *recipe.evaluation.extra]
    if any(split not in sizes for split in scored):
        return None
    if strategy.name in FROZEN:
        return known + sum(sizes[split] for split in scored if split not in ("train", "validation"))
    if strategy.phases or strategy.head_epochs or strategy.phase_epochs or recipe.training.get("max_steps", -1) > 0:
        return None
    epochs = recipe.training.get("num_train_epochs", _EPOCHS)
    trained = epochs * (_BACKWARD * sizes["train"] + sizes["validation"])
    return float(trained + sum(sizes[split] for split in scored) + (known if strategy.name == "two_phase" else 0))


def _state(cell: Cell, root: Path) -> str:
    directory = RunDirectory(Path(cell.recipe.output_dir))
    if directory.is_finished:
        return "done"
    if failure_of(cell.id, root).is_file():
        return "failed"
    return "begun" if directory.root.is_dir() or (root / FOLDER / cell.id).is_dir() else "new"
