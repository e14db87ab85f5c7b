"""Carry out a study: every cell once, stage by stage, whoever carries them out and whatever happens to some of them."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from .. import pipeline
from ..errors import UserError, listed
from ..run_directory import check_folder_of_runs, write_json
from .cell_life import Outcome, lock_of, settled, take
from .funnel import check_rankable, stages
from .study import Cell, Study
from .tuning import check_available

MARK = "study.json"


class Executor(Protocol):
    """Carries out the cells of one stage."""

    def __call__(self, cells: Sequence[Cell], root: Path, *, retry_failed: bool) -> Generator[Outcome, None, None]:
        """Yield what became of each cell, in any order, as it becomes known.

        Args:
            cells: those that are to be carried out, one at least.
            root: the study's folder.
            retry_failed: try those again that failed before.
        """


@dataclass
class StudyResult:
    """What became of each cell.

    Args:
        root: the study's folder.
        done: ids of the cells that are finished.
        carried_out: those of them that were carried out now.
        failed: id to what was wrong.
        elsewhere: ids of cells that another process is at.
        left: ids of cells that were not begun: the funnel let their backbones go.
        outcomes: of each cell, as it became known.
    """

    root: Path
    done: list[str] = field(default_factory=list)
    carried_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def record(self, outcome: Outcome) -> None:
        """Add what became of a cell."""
        self.outcomes.append(outcome)
        if outcome.cell in self.left:
            self.left.remove(outcome.cell)
        if outcome.cell in self.elsewhere:
            self.elsewhere.remove(outcome.cell)
        if outcome.state == "failed":
            self.failed[outcome.cell] = outcome.error
        elif outcome.state == "elsewhere":
            self.elsewhere.append(outcome.cell)
        else:
            self.done.append(outcome.cell)
            if outcome.state == "carried_out":
                self.carried_out.append(outcome.cell)


def in_turn(cells: Sequence[Cell], root: Path, *, retry_failed: bool) -> Generator[Outcome, None, None]:
    """Carry out cells in this process, one after another."""
    begin_work(cells)
    for number, cell in enumerate(cells, start=1):
        print(f"{number} of {len(cells)}: {cell.id}", file=sys.stderr)
        yield take(cell, root, retry_failed=retry_failed)


def begin_work(cells: Sequence[Cell]) -> None:
    """Prepare this process for cells, and do once what several of them need: the features of their images."""
    from .sharing import share_features

    pipeline.prepare_process(next((cell.recipe for cell in cells if pipeline.needs_hub(cell.recipe)), cells[0].recipe))
    share_features(cells)


def run_study(
    study: Study,
    cells: Sequence[Cell],
    *,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    executor: Executor = in_turn,
    patience: float = 8.0,
) -> StudyResult:
    """Carry out the cells that are not finished; one that fails is written down and does not stop the others.

    Cells are named by what they depend on, so a finished one is never carried out again, also after the study file has
    changed. One that was cut off goes on where it stopped. Several processes may work on one study at once: each takes the
    cells that no other is at.

    Args:
        study: the study.
        cells: its cells.
        only: patterns of ids, as in a shell; none means all.
        retry_failed: try those again that failed before.
        executor: carries out the cells of a stage.
        patience: seconds, at the end of a stage, for cells that another process is at: the children of one that was killed
            hold its locks until they notice.

    Raises:
        RunDirectoryError: when the folder holds something else; nothing has been written then.
        UserError: when no cell matches `only`, a cell is to be watched that evaluates nothing, cells that rank a funnel's
            backbones are left out by it and not done, or what a search needs is not installed.
    """
    root = Path(study.output_dir)
    chosen = choose_cells(cells, only)
    check_available(chosen)
    for cell in chosen:
        pipeline.check_watchable(cell.recipe)
    check_folder_of_runs(root, MARK, "study")
    check_rankable(study, chosen, root)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / MARK, study.model_dump(mode="json", by_alias=True) | {"cells": {cell.id: cell.values for cell in cells}})
    result = StudyResult(root, left=[cell.id for cell in chosen])
    for stage in stages(study, chosen, root):
        _execute(executor, stage, result, retry_failed=retry_failed)
        freed = _freed([cell for cell in stage if cell.id in result.elsewhere], root, patience)
        if freed:
            _execute(executor, freed, result, retry_failed=retry_failed)
    return result


def choose_cells(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Return the cells whose ids match one of some patterns, as in a shell; all of them where there is no pattern.

    Raises:
        UserError: when none matches.
    """
    chosen = [cell for cell in cells if not only or any(fnmatch.fnmatch(cell.id, pattern) for pattern in only)]
    if not chosen:
        raise UserError(f"--only: no cell matches {listed(only)}; the cells are {listed([cell.id for cell in cells], 20)}")
    return chosen


def seconds_between_cells(outcomes: Sequence[Outcome]) -> float:
    """Return the mean time in seconds that a worker spends between two cells that it carries out: what scheduling costs.

    Args:
        outcomes: of a study.

    Raises:
        ValueError: when no worker carried out two cells.
    """
    by_worker = defaultdict(list)
    for outcome in outcomes:
        if outcome.worker:
            by_worker[outcome.worker].append((outcome.began, outcome.ended))
    gaps = [after[0] - before[1] for spans in map(sorted, by_worker.values()) for before, after in itertools.pairwise(spans)]
    if not gaps:
        raise ValueError("expected a worker that carried out two cells, found none")
    return statistics.fmean(gaps)


def _execute(executor: Executor, cells: Sequence[Cell], result: StudyResult, *, retry_failed: bool) -> None:
    """Let the cells that are not settled be carried out, and record what becomes of every one."""
    waiting = []
    for cell in cells:
        known = settled(cell, result.root, retry_failed=retry_failed)
        if known is None:
            waiting.append(cell)
        else:
            result.record(known)
    if waiting:
        with contextlib.closing(executor(waiting, result.root, retry_failed=retry_failed)) as outcomes:
            for outcome in outcomes:
                result.record(outcome)


def _freed(cells: Sequence[Cell], root: Path, patience: float) -> list[Cell]:
    """Return those of some cells whose locks become free within some seconds."""
    deadline = time.monotonic() + patience
    freed = []
    for cell in cells:
        with contextlib.suppress(Timeout), FileLock(lock_of(cell, root), timeout=max(0.0, deadline - time.monotonic())):
            freed.append(cell)
    return freed
