"""A benchmark: checkpoints on data sets, one evaluation after another, and one table of all of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import pipeline
from .errors import RunDirectoryError, UserError
from .recipe import Benchmark, dump_recipe
from .report.benchmark_table import benchmark_row, ranked, read_benchmark, write_benchmark
from .run_directory import RunDirectory, check_folder_of_runs


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
    written anew after every evaluation. Under several processes the first evaluation that fails ends all of it: the processes
    would otherwise not fail together.

    Args:
        benchmark: a checked benchmark.
        resume: keep the evaluations that are finished, and the rows of others that are in the table.
        overwrite: start anew.

    Raises:
        RunDirectoryError: when something is in the way; nothing has been written then.
    """
    root = Path(benchmark.output_dir)
    pipeline.prepare_process(next((cell for cell in benchmark.cells if pipeline.needs_hub(cell)), benchmark.cells[0]))
    state = pipeline.process_state(benchmark.cells[0].training)
    _check(benchmark, root, resume=resume, overwrite=overwrite)
    rows = {row["run"]: row for row in read_benchmark(root)} if resume else {}
    failed: list[dict[str, str]] = []
    state.wait_for_everyone()  # every process has looked at the directory before one of them writes into it
    if state.is_main_process:
        # The mark that this directory is a benchmark's.
        write_benchmark(root, benchmark.description, list(rows.values()), failed)
    for number, cell in enumerate(benchmark.cells, start=1):
        if state.is_main_process:
            print(f"{number} of {len(benchmark.cells)}: {cell.model.backbone} on {cell.data.source}", file=sys.stderr)
        try:
            result = pipeline.run(cell, resume=resume, overwrite=overwrite)
        except UserError as error:
            if state.num_processes > 1:
                raise
            failed.append({"model": cell.model.backbone, "data": cell.data.source, "error": str(error)})
            print(f"error: {error}", file=sys.stderr)
        else:
            row = benchmark_row(result.directory.root, root)
            rows[row["run"]] = row
        if state.is_main_process:
            write_benchmark(root, benchmark.description, list(rows.values()), failed)
    return BenchmarkResult(root, ranked(list(rows.values())), failed)


def _check(benchmark: Benchmark, root: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start where something would be lost or silently reused."""
    there = check_folder_of_runs(root, "benchmark.json", "benchmark")
    if there and not (resume or overwrite):
        raise RunDirectoryError(
            f"output_dir: {root} holds a benchmark; nothing was touched. Go on with it with --resume, start anew with "
            "--overwrite, or choose another output_dir."
        )
    for cell in benchmark.cells:
        RunDirectory(Path(cell.output_dir)).check(dump_recipe(cell), resume=resume, overwrite=overwrite)
