"""The funnel: frozen features of every backbone first, then the other strategies for those that did best on validation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import UserError, listed
from ..metrics.headline import ACCURACY, Headline, headline_of, headline_of_task
from ..recipe.words import FROZEN
from ..run_directory import RunDirectory, write_json
from .cell_life import failure_of, lock_of
from .study import Cell, Funnel, Study, cells

FILE = "funnel.json"


@dataclass(frozen=True)
class Ranked:
    """A backbone in the funnel.

    Args:
        model: what names it: its `model` section, as JSON.
        backbone: its name.
        validation_accuracy: of the strategy that ranks, the mean over seeds; None where all of its cells failed. Mean average
            precision where images may have several labels.
        seeds: how many seeds that is the mean of.
        parameters: of the whole network, None where no cell is done; decides between equals, the fewer the better.
        goes_on: whether it is fine-tuned.
    """

    model: str
    backbone: str
    validation_accuracy: float | None
    seeds: int
    parameters: float | None
    goes_on: bool


def stages(study: Study, chosen: Sequence[Cell], root: Path) -> Iterator[list[Cell]]:
    """Yield the cells that may be carried out now, and those that come next once these are done.

    Without a funnel there is one stage. With one, the first holds the cells of strategies that only read frozen features; the
    second the other cells of the backbones that go on, decided by what is on disk then and written to funnel.json.

    Args:
        study: the study.
        chosen: the cells that are to be carried out.
        root: the study's folder.

    Raises:
        UserError: when cells that rank the backbones are neither done nor failed, because they are not among `chosen`.
    """
    if study.funnel is None:
        yield list(chosen)
        return
    frozen = [cell for cell in chosen if cell.recipe.strategy.name in FROZEN]
    others = [cell for cell in chosen if cell.recipe.strategy.name not in FROZEN]
    if frozen:
        yield frozen
    if others:
        ranking = rank_backbones(study.funnel, cells(study), root)
        write_ranking(root, study.funnel, ranking, headline_of_task(others[0].recipe.data.task))
        going_on = {ranked.model for ranked in ranking if ranked.goes_on}
        yield [cell for cell in others if _model(cell) in going_on]


def left_out(study: Study, some: Sequence[Cell], root: Path) -> set[str] | None:
    """Return the ids of those cells that the funnel does not let begin; None while what ranks the backbones is not done.

    Args:
        study: the study; without a funnel nothing is left out.
        some: cells of it.
        root: its folder.
    """
    if study.funnel is None:
        return set()
    every = cells(study)
    if any(not _is_known(cell, root) for cell in every if cell.recipe.strategy.name == study.funnel.rank_by):
        return None
    going_on = {ranked.model for ranked in rank_backbones(study.funnel, every, root) if ranked.goes_on}
    return {cell.id for cell in some if cell.recipe.strategy.name not in FROZEN and _model(cell) not in going_on}


def check_rankable(study: Study, chosen: Sequence[Cell], root: Path) -> None:
    """Stop before anything is carried out where the backbones could not be ranked afterwards.

    Raises:
        UserError: naming cells that rank, are not done and are not among those to be carried out.
    """
    if study.funnel is None or all(cell.recipe.strategy.name in FROZEN for cell in chosen):
        return
    ranking = [cell for cell in cells(study) if cell.recipe.strategy.name == study.funnel.rank_by]
    now = {cell.id for cell in chosen}
    _refuse([cell for cell in ranking if cell.id not in now and not _is_known(cell, root)], ranking)


def _refuse(missing: Sequence[Cell], ranking: Sequence[Cell]) -> None:
    if missing:
        raise UserError(
            f"funnel: {len(missing)} of {len(ranking)} cells that rank the backbones are not done "
            f"({listed([cell.id for cell in missing], 3)}); carry them out first, without --only or with patterns that include "
            "them"
        )


def rank_backbones(funnel: Funnel, every: Sequence[Cell], root: Path) -> list[Ranked]:
    """Return the backbones of a study, the best on validation first; those whose cells failed come last and do not go on.

    What another process is carrying out is waited for.

    Args:
        funnel: how many go on, and what ranks.
        every: all cells of the study.
        root: the study's folder.

    Raises:
        UserError: naming cells that rank and are neither done nor failed.
    """
    ranking = [cell for cell in every if cell.recipe.strategy.name == funnel.rank_by]
    _refuse([cell for cell in ranking if not _is_settled(cell, root)], ranking)
    found = [_rank(model, [cell for cell in ranking if _model(cell) == model]) for model in dict.fromkeys(map(_model, ranking))]
    found.sort(key=_order)
    return [
        replace(ranked, goes_on=place < funnel.finetune_top and ranked.validation_accuracy is not None)
        for place, ranked in enumerate(found)
    ]


def write_ranking(root: Path, funnel: Funnel, ranking: Sequence[Ranked], headline: Headline = ACCURACY) -> None:
    """Write funnel.json: what ranked the backbones, by which figure, and who went on."""
    rows = [
        {key.replace(ACCURACY.key, headline.key): value for key, value in asdict(ranked).items()}
        | {"model": json.loads(ranked.model)}
        for ranked in ranking
    ]
    write_json(root / FILE, {"rank_by": funnel.rank_by, "finetune_top": funnel.finetune_top, "ranking": rows})


def _rank(model: str, found: Sequence[Cell]) -> Ranked:
    done = [directory for cell in found if (directory := RunDirectory(Path(cell.recipe.output_dir))).is_finished]
    metrics = [directory.read_metrics() for directory in done]
    return Ranked(
        model,
        found[0].recipe.model.backbone,
        validation_accuracy=statistics.fmean(_reached(one["validation"]) for one in metrics) if metrics else None,
        seeds=len(done),
        parameters=metrics[0]["cost"]["parameters"] if metrics else None,
        goes_on=False,
    )


def _reached(figures: Mapping[str, Any]) -> float:
    return figures[headline_of(figures).key] or 0.0  # undefined where no image shows any class


def _order(ranked: Ranked) -> tuple[float, float]:
    if ranked.validation_accuracy is None or ranked.parameters is None:
        return (math.inf, math.inf)
    return (-ranked.validation_accuracy, ranked.parameters)


def _is_settled(cell: Cell, root: Path) -> bool:
    """Return whether a cell is done or has failed, waiting while another process is at it."""
    if not _is_known(cell, root):
        with FileLock(lock_of(cell, root)):
            pass
    return _is_known(cell, root)


def _is_known(cell: Cell, root: Path) -> bool:
    return RunDirectory(Path(cell.recipe.output_dir)).is_finished or failure_of(cell.id, root).is_file()


def _model(cell: Cell) -> str:
    return cell.recipe.model.model_dump_json()
