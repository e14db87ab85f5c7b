"""What several commands say in the same words."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..benchmark import BenchmarkResult
    from ..pipeline import RunResult

OVERRIDE_HELP = "change a key of the recipe, such as training.num_train_epochs=1"


def print_benchmark(result: BenchmarkResult, as_json: bool) -> None:
    """Print the table of a finished benchmark, on one process."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if as_json:
        print(json.dumps({"directory": str(result.root), "rows": result.rows, "failed": result.failed}, indent=2))
        return
    from ..report.benchmark_table import benchmark_text

    print(benchmark_text(result.rows, result.failed))
    print(f"directory: {result.root}")


@contextlib.contextmanager
def telling_the_card(run: Path) -> Iterator[None]:
    """Write the model card of a run anew after a block that gave the run something to tell of; an edited card stays."""
    from ..report.model_card import model_card_text, refresh_model_card

    card = run / "README.md"
    if not (card.is_file() and (run / "metrics.json").is_file()):
        yield
        return
    before = model_card_text(run)
    yield
    if model_card_text(run) != before and not refresh_model_card(run, before):
        print(f"{card} was edited since it was written, so it was left as it is", file=sys.stderr)


def print_result(result: RunResult, as_json: bool) -> None:
    """Print the figures of a finished run, on one process."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if as_json:
        print(json.dumps({"directory": str(result.directory.root), "metrics": result.metrics}, indent=2))
        return
    from ..report.summary import summary

    print(summary(result.directory.root, result.metrics))
