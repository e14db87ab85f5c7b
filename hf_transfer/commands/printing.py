"""What several commands say in the same words."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..access_tokens import without_tokens

if TYPE_CHECKING:
    from ..benchmark import BenchmarkResult
    from ..deploy.hub import Published
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


def tell_the_card(run: Path) -> None:
    """Write the model card of a run anew, which has something new to tell of; an edited card stays, and that is said."""
    from ..report.model_card import refresh_model_card

    card = run / "README.md"
    if card.is_file() and (run / "metrics.json").is_file() and not refresh_model_card(run):
        print(f"{card} was edited, or written by an earlier version, so it was left as it is", file=sys.stderr)


def print_result(result: RunResult, as_json: bool) -> None:
    """Print the figures of a finished run, on one process."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if result.unpublished is not None:
        print(f"error: {without_tokens(result.unpublished)}", file=sys.stderr)
    if as_json:
        hub = {} if result.published is None else {"hub": asdict(result.published)}
        print(json.dumps({"directory": str(result.directory.root), "metrics": result.metrics, **hub}, indent=2))
        return
    from ..report.summary import summary

    print(summary(result.directory.root, result.metrics))
    if result.published is not None:
        print(published_text(result.published))


def published_text(published: Published) -> str:
    """Return what a person reads of a push."""
    seen = "private" if published.private else "public"
    done = "pushed to" if published.changed else "nothing has changed since the last push to"
    return f"{done} {published.url} ({seen}; {published.revision} at {published.commit[:8]})"
