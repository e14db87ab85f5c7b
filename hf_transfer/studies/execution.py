"""Carry out a study: every cell once, in this process, whatever happens to some of them."""

from __future__ import annotations

import fnmatch
import gc
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from .. import pipeline
from ..access_tokens import without_tokens
from ..errors import RunDirectoryError, UserError, listed
from ..run_directory import RunDirectory, write_json
from .cell_run import carry_out
from .study import Cell, Study

MARK = "study.json"


@dataclass
class StudyResult:
    """What became of each cell.

    Args:
        root: the study's folder.
        done: ids of the cells that are finished.
        carried_out: those of them that were carried out now.
        failed: id to what was wrong.
        elsewhere: ids of cells that another process is at.
        left: ids of cells that were not begun.
    """

    root: Path
    done: list[str] = field(default_factory=list)
    carried_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def run_study(study: Study, cells: Sequence[Cell], *, only: Sequence[str] = (), retry_failed: bool = False) -> StudyResult:
    """Carry out the cells that are not finished; one that fails is written down and does not stop the others.

    Cells are named by what they depend on, so a finished one is never carried out again, also after the study file has
    changed. One that was cut off goes on where it stopped. Several processes may work on one study at once: each takes the
    cells that no other is at.

    Args:
        study: the study.
        cells: its cells.
        only: patterns of ids, as in a shell; none means all.
        retry_failed: try those again that failed before.

    Raises:
        RunDirectoryError: when the folder holds something else; nothing has been written then.
        UserError: when no cell matches `only`.
    """
    root = Path(study.output_dir)
    chosen = [cell for cell in cells if not only or any(fnmatch.fnmatch(cell.id, pattern) for pattern in only)]
    if not chosen:
        raise UserError(f"--only: no cell matches {listed(only)}; the cells are {listed([cell.id for cell in cells], 20)}")
    _check(root)
    pipeline.prepare_process(next((cell.recipe for cell in chosen if pipeline.needs_hub(cell.recipe)), chosen[0].recipe))
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / MARK, study.model_dump(mode="json", by_alias=True) | {"cells": {cell.id: cell.values for cell in cells}})
    result = StudyResult(root, left=[cell.id for cell in chosen])
    for number, cell in enumerate(chosen, start=1):
        _take(cell, f"{number} of {len(chosen)}", root, result, retry_failed=retry_failed)
        result.left.remove(cell.id)
    return result


def _take(cell: Cell, place: str, root: Path, result: StudyResult, *, retry_failed: bool) -> None:
    """Carry out one cell, unless it is finished, has failed before, or is being carried out."""
    directory, failure = RunDirectory(Path(cell.recipe.output_dir)), root / "failed" / f"{cell.id}.json"
    (root / "locks").mkdir(exist_ok=True)
    try:
        with FileLock(root / "locks" / f"{cell.id}.lock", timeout=0):
            if directory.is_finished:
                result.done.append(cell.id)
            elif failure.is_file() and not retry_failed:
                result.failed[cell.id] = _read_failure(failure)
            else:
                _carry_out(cell, place, failure, result)
    except Timeout:
        result.elsewhere.append(cell.id)


def _carry_out(cell: Cell, place: str, failure: Path, result: StudyResult) -> None:
    began = time.perf_counter()
    print(f"{place}: {cell.id}", file=sys.stderr)
    try:
        carry_out(cell)
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        said = without_tokens(f"{kind}{error}")
        trace = "" if isinstance(error, UserError) else without_tokens(traceback.format_exc())
        failure.parent.mkdir(exist_ok=True)
        write_json(failure, {"error": said, "traceback": trace, "seconds": time.perf_counter() - began})
        result.failed[cell.id] = said
        print(f"failed: {cell.id}: {said}", file=sys.stderr)
    else:
        failure.unlink(missing_ok=True)
        result.done.append(cell.id)
        result.carried_out.append(cell.id)
    finally:
        _free_memory()


def _free_memory() -> None:
    """Let go of what the last cell held, before the next one needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_failure(path: Path) -> str:
    from ..report.saved_run import read_object

    return str(read_object(path).get("error"))


def _check(root: Path) -> None:
    """Refuse a folder that holds something else than a study."""
    if root.is_file():
        raise RunDirectoryError(f"output_dir: {root} is a file; expected a folder or nothing")
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    if there and MARK not in there:
        raise RunDirectoryError(
            f"output_dir: {root} is not empty and holds no study ({listed(there, 3)}); nothing was touched. Choose another "
            "output_dir."
        )
