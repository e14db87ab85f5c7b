"""The life of a cell, the same in every executor: locked, looked at, carried out, and what became of it written down once."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ..access_tokens import without_tokens
from ..errors import UserError
from ..run_directory import LEFT_OVER, RunDirectory, write_json
from .cell_run import carry_out
from .interruption import stop_if_asked
from .study import Cell
from .tuning import FOLDER


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Args:
        cell: its id.
        state: "carried_out" now, "done" before, "failed" now or before, or "elsewhere": another process is at it.
        error: what was wrong with one that failed.
        worker: host and number of the process that carried it out; empty where none did.
        began: when it was begun, in seconds since 1970; 0 where it was not carried out now.
        ended: when it was done with.
    """

    cell: str
    state: Literal["carried_out", "done", "failed", "elsewhere"]
    error: str = ""
    worker: str = ""
    began: float = 0.0
    ended: float = 0.0


def take(cell: Cell, root: Path, *, retry_failed: bool) -> Outcome:
    """Carry out one cell, unless it is finished, has failed before, or another process is at it.

    Args:
        cell: the cell.
        root: the study's folder.
        retry_failed: try it again where it failed before.
    """
    stop_if_asked()
    try:
        with FileLock(lock_of(cell, root), timeout=0):
            return settled(cell, root, retry_failed=retry_failed) or _carry_out(cell, root)
    except Timeout:
        return Outcome(cell.id, "elsewhere")


def settled(cell: Cell, root: Path, *, retry_failed: bool) -> Outcome | None:
    """Return what became of a cell that is not to be carried out any more; None where it is."""
    if RunDirectory(Path(cell.recipe.output_dir)).is_finished:
        return Outcome(cell.id, "done")
    if failure_of(cell.id, root).is_file() and not retry_failed:
        return Outcome(cell.id, "failed", error=_read_failure(failure_of(cell.id, root)))
    return None


def lock_of(cell: Cell, root: Path) -> Path:
    """Return the file that is locked while a process is at a cell; its folder is made."""
    (root / "locks").mkdir(parents=True, exist_ok=True)
    return root / "locks" / f"{cell.id}.lock"


def log_of(cell: Cell, root: Path) -> Path:
    """Return the file that holds what a cell says where a process of its own carries it out."""
    return root / "logs" / f"{cell.id}.log"


def write_failure(cell: str, root: Path, said: str, *, trace: str = "", seconds: float | None = None) -> Outcome:
    """Write down that a cell failed.

    Args:
        cell: its id.
        root: the study's folder.
        said: what was wrong.
        trace: the traceback, where it was not the user's mistake.
        seconds: how long it was at work, where that is known.
    """
    path = failure_of(cell, root)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"error": said, "traceback": trace, "seconds": seconds})
    return Outcome(cell, "failed", error=said, ended=time.time())


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Let everything this process writes to standard output and error go to the end of a file, C libraries included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in enumerate(saved, start=1):
            os.dup2(before, number)
            os.close(before)


def _carry_out(cell: Cell, root: Path) -> Outcome:
    began, worker = time.time(), f"{socket.gethostname()}:{os.getpid()}"
    _sweep(cell, root)
    try:
        carry_out(cell)
    except Exception as error:
        stop_if_asked()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        trace = "" if isinstance(error, UserError) else without_tokens(traceback.format_exc())
        said = without_tokens(f"{kind}{error}")
        print(f"failed: {cell.id}: {said}", file=sys.stderr)
        write_failure(cell.id, root, said, trace=trace, seconds=time.time() - began)
        return Outcome(cell.id, "failed", said, worker, began, time.time())
    else:
        failure_of(cell.id, root).unlink(missing_ok=True)
        return Outcome(cell.id, "carried_out", "", worker, began, time.time())
    finally:
        _free_gpu()


def _sweep(cell: Cell, root: Path) -> None:
    """Remove what processes that were killed at a cell have left half-written; who calls this holds the cell's lock."""
    directory = Path(cell.recipe.output_dir)
    beside = directory.parent.glob(f".{glob.escape(directory.name)}.*.tmp")
    for path in [*beside, *directory.rglob(".*.tmp"), *(root / FOLDER / cell.id).rglob(".*.tmp")]:
        if LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _free_gpu() -> None:
    """Let other processes have the memory of the GPU that the last cell held; that of the CPU each run frees when it begins."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def failure_of(cell: str, root: Path) -> Path:
    """Return the file that says why a cell failed, where it did."""
    return root / "failed" / f"{cell}.json"


def _read_failure(path: Path) -> str:
    from ..report.saved_run import read_object

    return str(read_object(path).get("error"))
