"""The report of a folder of runs: the leaderboard, its charts, and one page that shows all of it and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import UserError
from ..metrics.headline import ACCURACY, MEAN_AVERAGE_PRECISION
from ..run_directory import replacing
from .formats import count, finite, interval, number
from .html_report import REPORT, page_environment
from .leaderboard import Leaderboard, Table, build_leaderboard, write_leaderboard
from .leaderboard_table import facts, leaderboard_markdown, selection_words, selectors
from .names import plain
from .redaction import public_text
from .run_entries import study_of
from .run_overlay import (
    COLOURS,
    METRICS,
    Curve,
    FolderRun,
    choose_runs,
    colours_of,
    curves_of,
    draw_overlay,
    read_runs,
)
from .run_tables import Table as TextTable
from .run_tables import class_counts
from .study_figures import (
    CHARTED,
    Axis,
    FewShot,
    Pareto,
    axis_of,
    cost_of,
    difference_axis,
    draw_accuracy,
    draw_few_shot,
    draw_pareto,
    few_shot,
    fill_of,
    pareto,
    save_picture,
)
from .study_pictures import confusion_matrices, galleries
from .study_tables import environment_facts, leaderboard_rows, recipe_differences, state_of, unfinished_runs

LEADERBOARD_FILES = ("leaderboard.json", "leaderboard.csv", "leaderboard.md")
_TEMPLATE, _SCRIPT = "study_page.html.jinja", "study_page.js.jinja"
_DRAWN = (
    *(f"{headline.key}{end}" for headline in (ACCURACY, MEAN_AVERAGE_PRECISION) for end in ("", "_[0-9]*")),
    "pareto_*",
    "few_shot",
    "few_shot_[0-9]*",
    "curves",
)  # pictures of an earlier time that are not drawn now are removed
_MANY_CURVES = 8  # from here on the page begins with the curves of one split
_UNEVEN = 4  # times as many steps: from here on a script draws the curves across the share of the run


@dataclass(frozen=True)
class StudyReport:
    """What was written.

    Args:
        page: the HTML file.
        leaderboard: leaderboard.json, .csv and .md.
        pictures: PNG and SVG files.
        board: the leaderboard itself.
    """

    page: Path
    leaderboard: list[Path]
    pictures: list[Path]
    board: Leaderboard


def write_study_report(root: Path, output: Path | None = None, *, overlay: Sequence[str] = ()) -> StudyReport:
    """Write leaderboard, pictures and one self-contained HTML page of the runs below a folder.

    Runs that are still training are shown with their curves and how far they are; where none is finished there is no verdict.
    Foreign text is shown as text; the page runs no script but its own, which only sorts, filters and draws curves, and loads
    nothing. Without scripts everything is visible.

    Args:
        root: a study's folder, or any folder of runs.
        output: the HTML file; by default report.html in the folder.
        overlay: shell patterns of run directories, from the folder; only these runs' curves are overlaid then, and drawn as
            plots/overlay.png and .svg.

    Raises:
        UserError: there is no run, or a pattern matches none.
        RunDirectoryError: study.json is damaged.
    """
    study = study_of(root)
    chosen_cost = study.get("cheapest_by")
    board = build_leaderboard(root, cheapest_by=chosen_cost) if isinstance(chosen_cost, str) else build_leaderboard(root)
    runs = read_runs(root, board)
    overlaid = choose_runs(runs, overlay)
    page = root / REPORT if output is None else output
    if page.is_dir():
        raise UserError(f"{page}: expected a file to write the report into, found a directory")
    description = study["description"] if isinstance(study.get("description"), str) else ""
    write_leaderboard(root, board, leaderboard_markdown(board, description))
    page.parent.mkdir(parents=True, exist_ok=True)
    content = _content(root, page.parent, board, runs, overlaid, description=description, study=study, chosen=bool(overlay))
    pictures = _write_pictures(root, board, runs, overlaid if overlay else None)
    with replacing(page) as temporary:
        # A lone surrogate, which JSON can hold, is no character that a file can.
        temporary.write_bytes(page_environment().get_template(_TEMPLATE).render(**content).encode("utf-8", "replace"))
    return StudyReport(page, [root / name for name in LEADERBOARD_FILES], pictures, board)


def _write_pictures(
    root: Path, board: Leaderboard, runs: Sequence[FolderRun], overlaid: Sequence[FolderRun] | None
) -> list[Path]:
    folder, colours = root / "plots", colours_of(runs)
    folder.mkdir(exist_ok=True)
    for pattern in _DRAWN:
        for old in [path for kind in ("png", "svg") for path in folder.glob(f"{pattern}.{kind}")]:
            old.unlink(missing_ok=True)
    pictures = []
    for place, table in enumerate(board.tables, start=1):
        end = "" if place == 1 else f"_{place}"
        pictures += save_picture(partial(draw_accuracy, table, colours), folder / f"{table.verdict.headline.key}{end}")
        for cost in CHARTED:
            if chart := pareto(table, cost):
                pictures += save_picture(partial(draw_pareto, chart, colours), folder / f"pareto_{cost}{end}")
        if shots := few_shot(table, _whole_training_set(table, runs)):
            pictures += save_picture(partial(draw_few_shot, shots, _line_colours(shots)), folder / f"few_shot{end}")
    for stem, shown in (("curves", runs), ("overlay", overlaid)):
        if shown is not None and curves_of(shown):
            pictures += save_picture(partial(draw_overlay, shown, colours), folder / stem)
    return pictures


def _content(
    root: Path,
    beside: Path,
    board: Leaderboard,
    runs: Sequence[FolderRun],
    overlaid: Sequence[FolderRun],
    *,
    description: str,
    study: Mapping[str, Any],
    chosen: bool,
) -> dict[str, Any]:
    """Return what the template shows; a part that is None or empty, and its heading, is left out."""
    colours = colours_of(runs)
    links = {run.name: _link(root / run.name / REPORT, beside) for run in runs}
    curves = curves_of(overlaid)
    script = resources.files(__package__).joinpath(_SCRIPT).read_text(encoding="utf-8")
    return {
        "name": plain(root.resolve().name),
        "description": public_text(plain(description)) if description else "",
        "subtitle": _subtitle(board, len(runs)),
        "tables": [_table(table, place, runs, links, colours) for place, table in enumerate(board.tables, start=1)],
        "curves": _curve_charts(overlaid, curves, colours),
        "overlaid": f"{len(overlaid)} of {len(runs)}" if chosen else "",
        "data": _as_json(_curve_data(overlaid, curves)),
        "galleries": galleries(runs),
        "states": unfinished_runs(runs, board, study),
        "recipes": recipe_differences(runs, links),
        "environments": environment_facts(runs),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }


def _table(
    table: Table, place: int, runs: Sequence[FolderRun], links: Mapping[str, str | None], colours: Mapping[str, str]
) -> dict[str, Any]:
    verdict, headline = table.verdict, table.verdict.headline
    header, rows = leaderboard_rows(table, links, {run.name: run.saved for run in runs})
    shots = few_shot(table, _whole_training_set(table, runs))
    baselines = {row.majority_baseline for row in table.rows.values() if row.majority_baseline is not None}
    return {
        "id": place,
        "data": public_text(plain(table.data)),
        "words": plain(verdict.words),
        "notes": [plain(said) for said in verdict.notes],
        "warnings": [plain(said) for said in table.warnings],
        "tiles": _tiles(table),
        "header": header,
        "rows": rows,
        "facts": plain(facts(table)),
        "selection": _selection(table),
        "images": count(verdict.images),
        "groups": count(verdict.groups) if verdict.groups else "",
        "baseline": number(max(baselines)) if baselines else "",
        "baseline_share": max(baselines) if baselines else None,
        "chosen_on": verdict.chosen_on,
        "bars": _bars(table, colours),
        "difference_axis": difference_axis(table),
        "paretos": [_pareto(chart, colours) for cost in CHARTED if (chart := pareto(table, cost))],
        "few_shot": shots,
        "few_shot_colours": _line_colours(shots) if shots else [],
        "matrices": confusion_matrices(table, {run.name: run.saved for run in runs}) if headline == ACCURACY else [],
        "title": headline.title,
        "figure": headline.name,
    }


def _tiles(table: Table) -> list[tuple[str, str, str]]:
    """Return (title, figure, what it rests on) of what a reader wants to know first."""
    verdict = table.verdict
    leader = next(standing for standing in verdict.standings if standing.name == verdict.leader)
    tiles = [
        (f"{verdict.headline.title} (test)", number(leader.accuracy), f"95 % interval {interval(list(leader.accuracy_ci95))}")
    ]
    if not verdict.comparisons:
        return tiles
    paid, how = "", f"chosen on {verdict.chosen_on}"
    if verdict.cheapest and verdict.cost:
        cost = cost_of(verdict.cost)
        paid = f"{cost.title.lower()} {cost.shown(table.rows[verdict.cheapest].costs.get(verdict.cost))}"
    if len(verdict.tied) > 1:
        tiles.append(("Tied", str(len(verdict.tied)), f"of {len(verdict.standings)} candidates"))
    if verdict.cheapest == verdict.leader:
        how += f"; {'cheapest of the tied, ' if len(verdict.tied) > 1 else ''}{paid}"
    elif verdict.cheapest:
        tiles.append(("Cheapest of the tied", plain(verdict.cheapest), paid))
    return [("Winner" if verdict.winner else "Leader", plain(verdict.leader), how), *tiles]


def _selection(table: Table) -> tuple[TextTable, str] | None:
    if table.selection is None:
        return None
    header, *rows = selectors(table.selection)
    return TextTable(header, [[plain(cell) for cell in row] for row in rows]), selection_words(
        table.selection, table.verdict.headline.name
    )


def _bars(table: Table, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return each candidate's accuracy, from 0 to 1, and its difference to the leader, in shares of the chart's width."""
    axis = difference_axis(table)
    comparisons = {comparison.name: comparison for comparison in table.verdict.comparisons}
    bars = []
    for rank, standing in enumerate(table.verdict.standings, start=1):
        beside = comparisons.get(standing.name)
        low, high = standing.accuracy_ci95
        said = f"{table.verdict.headline.name} {number(standing.accuracy)}, 95 % interval {number(low)} to {number(high)}"
        difference = None
        if beside is not None and axis is not None:
            ends = beside.difference_ci95
            difference = {
                "value": axis.share(beside.difference),
                "low": axis.share(ends[0]),
                "high": axis.share(ends[1]),
                "said": f"{100 * beside.difference:+.2f} points beside the leader, 95 % interval "
                f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}",
            }
        bars.append(
            {
                "rank": rank,
                "name": plain(standing.name),
                "state": state_of(table, standing),
                "colour": colours[standing.name],
                "accuracy": standing.accuracy,
                "low": low,
                "high": high,
                "text": number(standing.accuracy),
                "said": said,
                "difference": difference,
            }
        )
    return bars


def _pareto(chart: Pareto, colours: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": cost_of(chart.cost).title,
        "x": chart.x,
        "y": chart.y,
        "marks": [(mark, colours[mark.name], fill_of(mark, colours[mark.name])) for mark in chart.marks],
        "front": chart.front,
    }


def _line_colours(chart: FewShot) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(chart.lines))]


def _whole_training_set(table: Table, runs: Sequence[FolderRun]) -> float | None:
    """Return the images of a class of the largest training set of a table's runs."""
    names = {run for row in table.rows.values() for run in row.runs}
    means = []
    for run in runs:
        sizes = [finite(size) or 0 for size in class_counts(run.saved).get("train", {}).values()]
        if run.name in names and sizes:
            means.append(sum(sizes) / len(sizes))
    return max(means, default=None)


def _curve_data(runs: Sequence[FolderRun], curves: Sequence[Curve]) -> dict[str, Any]:
    """Return what a script needs to draw the curves anew."""
    candidates, splits = _curve_names(runs, curves)
    return {
        "runs": [
            {"name": plain(run.name), "candidate": plain(run.candidate), "seed": run.seed, "last": run.last_step}
            for run in runs
        ],
        "splits": [plain(split) for split in splits],
        "curves": [
            {
                "run": curve.run,
                "candidate": candidates.index(runs[curve.run].candidate),
                "split": splits.index(curve.split),
                "metric": curve.metric,
                "points": [[step, epoch, float(f"{value:.5g}")] for step, epoch, value in curve.points],
            }
            for curve in curves
        ],
    }


def _curve_names(runs: Sequence[FolderRun], curves: Sequence[Curve]) -> tuple[list[str], list[str]]:
    """Return the candidates and the splits that have curves, in order."""
    return list(dict.fromkeys(runs[curve.run].candidate for curve in curves)), list(dict.fromkeys(c.split for c in curves))


def _curve_charts(runs: Sequence[FolderRun], curves: Sequence[Curve], colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the overlay as it is drawn without a script, against the step; None without a curve."""
    if not curves:
        return None
    x = axis_of([0, *(point[0] for curve in curves for point in curve.points)], lambda value: f"{value:,.6g}")
    panels: list[dict[str, Any]] = []
    for metric in METRICS:
        there = [(place, curve) for place, curve in enumerate(curves) if curve.metric == metric]
        if there:
            y = axis_of([point[2] for _, curve in there for point in curve.points], lambda value: f"{value:.4g}")
            there.sort(key=lambda entry: entry[1].split == "validation")  # drawn last, it lies over the paler lines
            lines = [
                _line(place, curve, runs[curve.run], x, y) | {"colour": colours[runs[curve.run].candidate]}
                for place, curve in there
            ]
            panels.append({"metric": metric.replace("_", " "), "y": y, "lines": lines})
    candidates, splits = _curve_names(runs, curves)
    lengths = [runs[curve.run].last_step for curve in curves]
    few = len(curves) <= _MANY_CURVES or "validation" not in splits
    return {
        "x": x,
        "panels": panels,
        "candidates": [(plain(name), colours[name]) for name in candidates],
        "splits": [(plain(split), few or split == "validation") for split in splits],
        "seeds": sorted({runs[curve.run].seed for curve in curves}),
        "uneven": max(lengths) >= _UNEVEN * min(lengths),
    }


def _line(place: int, curve: Curve, run: FolderRun, x: Axis, y: Axis) -> dict[str, Any]:
    points = curve.points * 2 if len(curve.points) == 1 else curve.points  # a line of no length is drawn as a dot
    return {
        "place": place,
        "split": curve.split if curve.split in ("train", "validation") else "other",
        "path": "M" + "L".join(f"{1000 * x.share(step):.1f} {1000 - 1000 * y.share(value):.1f}" for step, _, value in points),
        "said": f"{plain(run.candidate)}, seed {run.seed}, {plain(curve.split)}",
    }


def _counted(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 's'}"


def _subtitle(board: Leaderboard, runs: int) -> str:
    candidates = sum(len(table.rows) for table in board.tables)
    compared = sum(len(row.runs) for table in board.tables for row in table.rows.values())
    said = f"{_counted(candidates, 'candidate')}, {_counted(runs, 'run')}"
    return said if compared == runs else f"{said}, {compared} of them compared"


def _link(path: Path, beside: Path) -> str | None:
    """Return a run's own report as an address from the page's folder; None where it has none."""
    if not path.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(path, beside)).as_posix())
    except ValueError:  # on another drive
        return None


def _as_json(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand inside a script element: none of its characters can end it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def written_by_others(root: Path) -> list[Path]:
    """Return files in a folder that a report would replace although no report or study wrote them."""
    if any((root / mark).is_file() for mark in ("study.json", LEADERBOARD_FILES[0])):
        return []
    return [root / name for name in (REPORT.name, *LEADERBOARD_FILES, "plots") if (root / name).exists()]
