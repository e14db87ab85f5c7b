"""A benchmark: checkpoints on data sets, one evaluation after another, and one table of all of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import pipeline
from .errors import RunDirectoryError, UserError, listed
from .recipe import Benchmark, Recipe, dump_recipe
from .report.benchmark_table import benchmark_row, write_benchmark
from .run_directory import RunDirectory


@dataclass(frozen=True)
class BenchmarkResult:
    """Where a benchmark is and what it found.

    Args:
        root: its directory.
        rows: one for each evaluation, see `benchmark_row`.
        failed: evaluations that could not be carried out, as {"model", "data", "error"}.
    """

    root: Path
    rows: list[dict[str, Any]]
    failed: list[dict[str, str]]


def run_benchmark(benchmark: Benchmark, *, resume: bool = False, overwrite: bool = False) -> BenchmarkResult:
    """Carry out every evaluation of a benchmark; one that cannot be carried out does not stop the others.

    Each evaluation is a run directory of its own inside the benchmark's, beside `benchmark.json`, `.csv` and `.md`, which are
    written anew after every evaluation.

    Args:
        benchmark: a checked benchmark.
        resume: keep the evaluations that are finished.
        overwrite: start anew.

    Raises:
        RunDirectoryError: when something is in the way; nothing has been written then.
    """
    root = Path(benchmark.output_dir)
    _check(benchmark, root, resume=resume, overwrite=overwrite)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    main = int(os.environ.get("RANK", "0")) == 0
    if main:
        write_benchmark(root, benchmark.description, rows, failed)  # the mark that this directory is a benchmark's
    for number, cell in enumerate(benchmark.cells, start=1):
        if main:
            print(f"{number} of {len(benchmark.cells)}: {cell.model.backbone} on {cell.data.source}", file=sys.stderr)
        try:
            result = pipeline.run(cell, resume=resume and _is_begun(cell), overwrite=overwrite)
            rows.append(benchmark_row(result.directory.root))
        except UserError as error:
            failed.append({"model": cell.model.backbone, "data": cell.data.source, "error": str(error)})
            if main:
                print(f"error: {error}", file=sys.stderr)
        if main:
            write_benchmark(root, benchmark.description, rows, failed)
    return BenchmarkResult(root, rows, failed)


def _check(benchmark: Benchmark, root: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start where something would be lost or silently reused."""
    if root.is_dir() and any(root.iterdir()) and not (root / "benchmark.json").is_file():
        raise RunDirectoryError(
            f"output_dir: {root} is not empty and holds no benchmark "
            f"({listed(sorted(path.name for path in root.iterdir()), 3)}); nothing was touched. Choose another output_dir."
        )
    for cell in benchmark.cells:
        directory = RunDirectory(Path(cell.output_dir))
        if not (resume and not directory.root.exists()):
            directory.check(dump_recipe(cell), resume=resume, overwrite=overwrite)


def _is_begun(cell: Recipe) -> bool:
    return Path(cell.output_dir).exists()
