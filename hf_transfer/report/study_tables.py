"""The tables of a folder's page as plain text: leaderboard, state of each run, differences of recipes and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..metrics.verdict import Comparison, Standing
from ..run_directory import MACHINE, REMARKS, RunDirectory, flat
from .formats import NOTHING, count, finite, interval, number
from .leaderboard import Leaderboard, Row, Table
from .names import plain
from .redaction import public, public_text
from .run_overlay import FolderRun
from .run_tables import environment_table
from .saved_run import SavedRun
from .step_summary import best_step
from .study_figures import CHARTED, cost_of
from .temperatures import over_runs


@dataclass(frozen=True)
class Cell:
    """A cell of the leaderboard: its text, what it is sorted by, and whether that is words."""

    text: str
    value: float | str | None
    words: bool = False


def _figure(value: float | None, shown: str) -> Cell:
    return Cell(NOTHING if value is None else shown, value)


def leaderboard_rows(
    table: Table, links: Mapping[str, str | None], runs: Mapping[str, SavedRun]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the header and the rows, best first; a column in which nothing is known is left out.

    Args:
        table: of a leaderboard.
        links: run to the address of its own report, None where it has none.
        runs: run to its files.
    """
    comparisons = {comparison.name: comparison for comparison in table.verdict.comparisons}
    lines = [
        _cells(table, standing, comparisons.get(standing.name))
        | {"Temperature (deviation)": _temperature([runs[name] for name in table.rows[standing.name].runs])}
        for standing in table.verdict.standings
    ]
    known = [title for title in lines[0] if any(line[title].value is not None for line in lines)]
    header = [
        {"title": title, "words": lines[0][title].words, "first": "ascending" if title in _LOW_FIRST else "descending"}
        for title in known
    ]
    rows = [
        {
            "rank": rank,
            "name": plain(standing.name),
            "state": state_of(table, standing),
            "runs": [(seed, plain(run), links.get(run)) for seed, run in zip(row.seeds, row.runs, strict=True)],
            "cells": [line[title] for title in known],
        }
        for rank, (standing, line) in enumerate(zip(table.verdict.standings, lines, strict=True), start=1)
        for row in [table.rows[standing.name]]
    ]
    return header, rows


_LOW_FIRST = frozenset(("Between seeds", "p", "Pretraining", *(cost_of(cost).title for cost in ("latency_ms", *CHARTED))))


def state_of(table: Table, standing: Standing) -> str:
    """Return `leader`, or how a candidate stands beside the leader: `tied`, `worse`, `better`."""
    if standing.name == table.verdict.leader:
        return "leader"
    found = [comparison.outcome for comparison in table.verdict.comparisons if comparison.name == standing.name]
    return found[0] if found else ""


def _cells(table: Table, standing: Standing, beside: Comparison | None) -> dict[str, Cell]:
    row = table.rows[standing.name]
    baseline = row.majority_baseline
    cells = {
        table.verdict.headline.title: _figure(standing.accuracy, number(standing.accuracy)),
        "95 % interval": _figure(standing.accuracy_ci95[0], interval(list(standing.accuracy_ci95))),
        "Between seeds": _figure(standing.seed_deviation, number(standing.seed_deviation)),
        "Validation": _figure(standing.validation_accuracy, number(standing.validation_accuracy)),
        "Beside the leader": Cell(NOTHING, None),
        "Its 95 % interval": Cell(NOTHING, None),
        "p": Cell(NOTHING, None),
    }
    if beside is not None:
        low, high = beside.difference_ci95
        cells["Beside the leader"] = _figure(beside.difference, f"{beside.difference:+.4f}")
        cells["Its 95 % interval"] = _figure(low, f"{low:+.4f} to {high:+.4f}")
        cells["p"] = _figure(beside.p_adjusted, "< 0.001" if beside.p_adjusted < 0.001 else number(beside.p_adjusted, 3))
    for cost, value in row.costs.items():
        cells[cost_of(cost).title] = _figure(value, cost_of(cost).shown(value))
    cells["Trials"] = _figure(row.trials, str(row.trials))
    cells["Tuned to"] = _tuned(row)
    cells["LogME"] = _figure(row.logme, number(row.logme, 3))
    cells["Input"] = _figure(row.input_size, f"{row.input_size} px")
    cells["Pretraining"] = Cell(NOTHING if row.pretraining is None else plain(row.pretraining), row.pretraining, words=True)
    cells["ImageNet"] = _figure(row.imagenet_top1, number(row.imagenet_top1))
    cells["Published"] = _figure(row.published, number(row.published))
    cells["Images"] = _figure(table.verdict.images, count(table.verdict.images))
    cells["Baseline"] = _figure(baseline, number(baseline))
    return cells


def _temperature(runs: Sequence[SavedRun]) -> Cell:
    """Return the learned temperature, mean (deviation) over the layers, of a candidate's seeds."""
    found = over_runs([run.metrics for run in runs])
    return Cell(NOTHING, None) if found is None else Cell(f"{number(found[0], 3)} ({number(found[1], 3)})", found[0])


def _tuned(row: Row) -> Cell:
    """Return what the searches chose, the values of all seeds beside one another."""
    said = "; ".join(f"{key.rpartition('.')[2]} {', '.join(map(_brief, values))}" for key, values in row.tuned.items())
    return Cell(plain(said) if said else NOTHING, said or None, words=True)


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else _text(value)


def unfinished_runs(runs: Sequence[FolderRun], board: Leaderboard, study: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far each run is that is in no table, and the cells of a study that were not begun."""
    rows = []
    for run in runs:
        if run.finished and not run.problem:
            continue
        last = run.saved.history[-1] if run.saved.history else None
        best = best_step(run.saved.history, "validation")
        rows.append(
            {
                "name": plain(run.name),
                "candidate": plain(run.candidate),
                "seed": str(run.seed),
                "state": _how_far(run),
                "step": count(last.step) if last else NOTHING,
                "phase": plain(last.phase) if last and last.phase else NOTHING,
                "best": f"{number(best.headline)} at step {count(best.step)}" if best else NOTHING,
                "written": _last_written(run.saved.path),
                "problem": public_text(plain(run.problem)) if run.problem else "",
            }
        )
    cells, begun = study.get("cells"), {Path(run.name).name for run in runs}
    waiting = [plain(cell) for cell in cells if cell not in begun] if isinstance(cells, Mapping) else []
    return {"rows": rows, "waiting": waiting}


def _how_far(run: FolderRun) -> str:
    if run.finished:
        return "finished, but left out"
    epochs = finite(run.saved.section("training").get("num_train_epochs"))
    done = max((row.epoch for row in run.saved.history if row.epoch is not None), default=None)
    if done is None:
        return "begun, nothing logged yet"
    if not epochs:
        return f"epoch {done:.4g}"
    return f"epoch {done:.4g} of {epochs:.4g} ({min(100, 100 * done / epochs):.0f} %)"


def _last_written(path: Path) -> str:
    """Return when a run last wrote one of the files that it keeps on writing, in UTC."""
    directory = RunDirectory(path)
    times = [file.stat().st_mtime for file in (directory.recipe, directory.history, directory.checkpoints) if file.exists()]
    return datetime.fromtimestamp(max(times), timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if times else NOTHING


def recipe_differences(runs: Sequence[FolderRun], links: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what differs between the recipes, a column a key, what they share, and each in full."""
    flats = [flat(public(run.saved.recipe)) for run in runs]
    keys = list(dict.fromkeys(key for recipe in flats for key in recipe))
    keys = [key for key in keys if key and key.partition(".")[0] not in REMARKS and key not in MACHINE]
    varying = [key for key in keys if len({_text(recipe.get(key)) for recipe in flats}) > 1]
    common = {key: _text(flats[0].get(key)) for key in keys if key not in varying}
    return {
        "header": [plain(key) for key in varying],
        "rows": [
            {
                "name": plain(run.name),
                "link": links.get(run.name),
                "values": [plain(_text(recipe[key])) if key in recipe else NOTHING for key in varying],
                "full": json.dumps(public(run.saved.recipe), indent=2, ensure_ascii=False),
            }
            for run, recipe in zip(runs, flats, strict=True)
        ],
        "common": [(plain(key), plain(value)) for key, value in common.items()],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def environment_facts(runs: Sequence[FolderRun]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each fact of the environments with its values; where they differ, with the runs of each."""
    facts: dict[str, dict[str, list[str]]] = {}
    there = [run for run in runs if run.saved.environment]
    for run in there:
        table = environment_table(run.saved)
        for name, value in table.rows if table else ():
            facts.setdefault(name, {}).setdefault(value, []).append(run.name)
    return [(name, [(value, _who(found, len(there))) for value, found in values.items()]) for name, values in facts.items()]


def _who(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return ""
    return plain(names[0]) if len(names) == 1 else f"{len(names)} runs"
