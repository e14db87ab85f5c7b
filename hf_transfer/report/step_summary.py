"""Which step of each run validation chooses, and what every split said there: reference study R5's summary, made honest.

The step is chosen on validation alone. What a split would have chosen for itself is shown too, in columns that say that nobody
may choose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..metrics.headline import ACCURACY, Headline
from .formats import NOTHING, count, number
from .history import HistoryRow
from .markdown import escape, table
from .names import plain
from .run_overlay import FolderRun

_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class StepSummary:
    """One run on one split.

    Args:
        run: its directory, from the folder; its name where the folder is the run.
        finished: whether it came to its end.
        step: of its best validation accuracy so far (mean average precision where images may have several labels), the
            earliest of equals; None where it logged none.
        phase: in which that step was.
        accuracy: of the split at that step; None where the split was not scored at it.
        best_step_not_selectable: of the split's own best accuracy, the earliest of equals.
        best_accuracy_not_selectable: that accuracy.
        headline: what the accuracies are.
    """

    run: str
    finished: bool
    step: int | None
    phase: str
    accuracy: float | None
    best_step_not_selectable: int | None
    best_accuracy_not_selectable: float | None
    headline: Headline = ACCURACY


def summarise_steps(runs: Sequence[FolderRun]) -> dict[str, list[StepSummary]]:
    """Return each split that a history has, train and validation first, to a line for each run that logged it."""
    found = dict.fromkeys(split for run in runs for split in run.splits)
    order = [split for split in _SPLITS if split in found] + [split for split in found if split not in _SPLITS]
    return {split: [_summary(run, split) for run in runs if split in run.splits] for split in order}


def summary_json(summary: dict[str, list[StepSummary]]) -> dict[str, Any]:
    """Return a summary as JSON-ready data."""
    return {split: [_named(line) for line in lines] for split, lines in summary.items()}


def _named(line: StepSummary) -> dict[str, Any]:
    """Return a line's values, an accuracy that is none under its own name."""
    values = asdict(line)
    del values["headline"]
    return {key.replace("accuracy", line.headline.key): value for key, value in values.items()}


def summary_markdown(summary: dict[str, list[StepSummary]]) -> str:
    """Return a Markdown table for each split; runs of one label an image and of several have one each."""
    parts = []
    for split, headline in ((split, found) for split, lines in summary.items() for found in _headlines(lines)):
        parts.append(f"## {escape(plain(split))}")
        lines = [line for line in summary[split] if line.headline == headline]
        if all(line.best_step_not_selectable is None for line in lines):
            parts.append(f"The runs logged no {headline.name} on this split, only its loss.")
            continue
        header = [
            "Run",
            "Step chosen on validation",
            "Phase",
            f"{headline.title} there",
            "Best step on this split (not selectable)",
            f"{headline.title} there (not selectable)",
        ]
        parts.append(table(header, [_cells(line) for line in lines]))
    if not parts:
        return "No run has logged anything yet.\n"
    if any(not line.finished for lines in summary.values() for line in lines):
        parts.append("Unfinished runs are marked with `*`: their step is the best so far.")
    return "\n\n".join(parts) + "\n"


def _headlines(lines: Sequence[StepSummary]) -> list[Headline]:
    return list(dict.fromkeys(line.headline for line in lines))


def _cells(line: StepSummary) -> list[str]:
    return [
        escape(plain(line.run)) + ("" if line.finished else " `*`"),
        count(line.step),
        escape(plain(line.phase)) if line.phase else NOTHING,
        number(line.accuracy),
        count(line.best_step_not_selectable),
        number(line.best_accuracy_not_selectable),
    ]


def _summary(run: FolderRun, split: str) -> StepSummary:
    chosen, best = best_step(run.saved.history, "validation"), best_step(run.saved.history, split)
    there = [row.headline for row in run.saved.history if row.split == split and chosen and row.step == chosen.step]
    return StepSummary(
        run=run.saved.path.resolve().name if run.name == "." else run.name,
        finished=run.finished,
        step=chosen.step if chosen else None,
        phase=chosen.phase if chosen else "",
        accuracy=there[0] if there else None,
        best_step_not_selectable=best.step if best else None,
        best_accuracy_not_selectable=best.headline if best else None,
        headline=run.saved.headline,
    )


def best_step(history: Sequence[HistoryRow], split: str) -> HistoryRow | None:
    """Return the line of a split with the best accuracy or mean average precision, the earliest of equals; None without one."""
    scored = [row for row in history if row.split == split and row.headline is not None]
    return max(scored, key=lambda row: (row.headline or 0.0, -row.step), default=None)
