"""Rows that card and page both show; names of phases and splits come first in a row and are still as the run wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .formats import NOTHING, count, finite
from .history import phase_spans
from .saved_run import SavedRun


def phase_rows(run: SavedRun) -> list[list[str]]:
    """Return of each phase: name, the trainable parameters that the run counted, their share, steps, last epoch."""
    counted = run.cost.get("trainable_parameters")
    counted = dict(counted) if isinstance(counted, Mapping) else {}
    spans = {span.name: span for span in phase_spans(run.history) if span.name}
    total = finite(run.cost.get("parameters"))
    rows = []
    for phase in dict.fromkeys([*counted, *spans]):
        span = spans.get(phase)
        trainable = finite(counted.get(phase, span.trainable_parameters if span else None))
        rows.append(
            [
                phase,
                count(trainable),
                NOTHING if trainable is None or not total else f"{100 * trainable / total:.3g} %",
                f"{span.start:,} to {span.end:,}" if span else NOTHING,
                f"{span.last_epoch:.4g}" if span and span.last_epoch is not None else NOTHING,
            ]
        )
    return rows


def data_rows(run: SavedRun, counts: Mapping[str, Mapping[str, Any]], splits: Iterable[str]) -> list[list[str]]:
    """Return of each split: name, images, those of its smallest and largest class, images evaluated, images skipped.

    Args:
        run: the run.
        counts: split to class to number of images.
        splits: in the order of the rows.
    """
    rows = []
    for split in splits:
        sizes = [size for value in counts.get(split, {}).values() if (size := finite(value)) is not None]
        figures = run.splits.get(split, {})
        summary = [count(of(sizes)) if sizes else NOTHING for of in (sum, min, max)]
        rows.append([split, *summary, count(figures.get("n")), count(figures.get("skipped"))])
    return rows
