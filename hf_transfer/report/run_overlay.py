"""The runs of a folder side by side, also those still training: what each logged, how far it is, and their curves overlaid."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError, UserError, listed
from ..recipe.words import candidate
from ..run_directory import RunDirectory, flat
from .figures import literal, new_figure
from .formats import finite
from .history import read_history
from .leaderboard import Leaderboard
from .names import shorten
from .run_entries import study_of
from .saved_run import SavedRun, read_object

METRICS = ("accuracy", "mean_average_precision", "loss")
MOST_POINTS = 160  # of a curve that is drawn: more cannot be told apart on a page

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow and with three more dark ones.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#B0528A",
    "#B77B00",
    "#2F9BD6",
    "#333333",
    "#7A5195",
    "#7A4A21",
    "#5F7A1E",
)
_STYLES = {"validation": "-", "train": (0, (4, 2))}
_OTHER_STYLES = (":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1)))
_LEGEND_CANDIDATES = 20


@dataclass(frozen=True)
class FolderRun:
    """One run of a folder, finished or not.

    Args:
        name: its directory, from the folder.
        candidate: what the leaderboard calls it, without its seed; its directory where that is all that tells it apart.
        saved: its files, as far as they are there.
        finished: whether it came to its end.
        problem: what is wrong with its files, or what it failed of; empty where nothing is.
    """

    name: str
    candidate: str
    saved: SavedRun
    finished: bool
    problem: str

    @property
    def seed(self) -> int:
        """Its seed."""
        seed = self.saved.recipe.get("seed")
        return seed if isinstance(seed, int) else 0

    @property
    def last_step(self) -> int:
        """The step at its end, at least 1: of an unfinished run as far as its recipe tells it, else the last that it logged."""
        history = self.saved.history
        step, epoch = (history[-1].step, history[-1].epoch) if history else (1, None)
        planned = finite(self.saved.section("training").get("num_train_epochs"))
        if self.finished or not (planned and epoch):
            return max(step, 1)
        return max(step, round(step * planned / epoch), 1)

    @property
    def splits(self) -> list[str]:
        """The splits that it logged, validation first and train last."""
        found = dict.fromkeys(row.split for row in self.saved.history)
        return sorted(found, key=lambda split: (split != "validation", split == "train", split))


@dataclass(frozen=True)
class Curve:
    """One line of an overlay.

    Args:
        run: place of its run among those that are overlaid.
        split: `train`, `validation` or a monitored split.
        metric: one of `METRICS`.
        points: (step, epoch, value), by step; the epoch is None where it was not logged.
    """

    run: int
    split: str
    metric: str
    points: list[tuple[int, float | None, float]]


def read_runs(root: Path, board: Leaderboard) -> list[FolderRun]:
    """Read every run below a folder, in the order of the leaderboard, those that it lacks after them.

    Args:
        root: the folder.
        board: its leaderboard.
    """
    named = {
        run: standing.name
        for table in board.tables
        for standing in table.verdict.standings
        for run in table.rows[standing.name].runs
    }
    keys = list(dict.fromkeys(key for table in board.tables for row in table.rows.values() for key in row.values))
    cells = study_of(root).get("cells")
    cells = cells if isinstance(cells, Mapping) else {}
    found = []
    for name in dict.fromkeys([*named, *board.left_out, *board.unfinished]):
        saved, problem = _read(root / name)
        called = named.get(name) or _candidate(cells.get(Path(name).name), saved.recipe, keys) or name
        problem = board.left_out.get(name) or problem or _failure(root, name)
        found.append(FolderRun(name, called, saved, RunDirectory(root / name).is_finished, problem))
    return found


def choose_runs(runs: Sequence[FolderRun], patterns: Sequence[str]) -> list[FolderRun]:
    """Return the runs whose directory matches one of the patterns, all of them where there is none.

    Args:
        runs: of a folder.
        patterns: as in a shell, on the directory from the folder; `*` matches slashes too.

    Raises:
        UserError: a pattern matches no run.
    """
    names = [run.name for run in runs]
    lost = [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(name, pattern) for name in names)]
    if lost:
        raise UserError(f"--overlay: no run matches {listed(lost)}; the runs are {listed(names, 20)}")
    return [run for run in runs if not patterns or any(fnmatch.fnmatchcase(run.name, pattern) for pattern in patterns)]


def curves_of(runs: Sequence[FolderRun], most: int = MOST_POINTS) -> list[Curve]:
    """Return every curve of some runs, none with more than `most` points: of the others the highs and lows are kept."""
    found = []
    for place, run in enumerate(runs):
        for split in run.splits:
            rows = [row for row in run.saved.history if row.split == split]
            for metric in METRICS:
                values = [(row.step, row.epoch, value) for row in rows if (value := getattr(row, metric)) is not None]
                if values:
                    found.append(Curve(place, split, metric, _thinned(values, most)))
    return found


def colours_of(runs: Sequence[FolderRun]) -> dict[str, str]:
    """Return a colour for each candidate, the same in every chart; they come again after ten."""
    names = dict.fromkeys(run.candidate for run in runs)
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def draw_overlay(runs: Sequence[FolderRun], colours: Mapping[str, str]) -> Any:
    """Return the figure with accuracy (or mean average precision) and loss against the step, a colour for each candidate.

    Validation is solid, train dashed and pale; monitored splits are dotted, each in a way of
    its own. A metric that no run logged has no panel.

    Raises:
        ValueError: no run has logged anything.
    """
    curves = curves_of(runs)
    panels = [metric for metric in METRICS if any(curve.metric == metric for curve in curves)]
    if not panels:
        raise ValueError("expected at least one run that logged a loss or an accuracy, found none")
    figure = new_figure(10.0, max(0.7 + 3.2 * len(panels), 5.5))  # room for the legend
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    styles = _styles(curves)
    for metric, axis in zip(panels, axes, strict=True):
        for curve in (curve for curve in curves if curve.metric == metric):
            steps, _, values = zip(*curve.points, strict=True)
            axis.plot(
                steps,
                values,
                color=colours[runs[curve.run].candidate],
                linestyle=styles[curve.split],
                linewidth=1.0 if curve.split == "train" else 1.6,
                alpha=0.45 if curve.split == "train" else 0.9,
                marker="o" if len(curve.points) < 3 else None,
                markersize=3,
            )
        axis.set_ylabel(metric.replace("_", " "))
        axis.grid(True, color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("step")
    _legend(figure, curves, list(dict.fromkeys(run.candidate for run in runs)), colours)
    return figure


def _styles(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return the style of each split's lines, in the order of the splits; those of monitored splits come again after four."""
    splits = list(dict.fromkeys(curve.split for curve in curves))
    others = [split for split in splits if split not in _STYLES]
    return {split: _STYLES.get(split) or _OTHER_STYLES[others.index(split) % len(_OTHER_STYLES)] for split in splits}


def _legend(figure: Any, curves: Sequence[Curve], names: Sequence[str], colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colours[name], label=literal(shorten(name, 40))) for name in names[:_LEGEND_CANDIDATES]]
    if len(names) > len(lines):
        lines.append(Line2D([], [], linestyle="none", label=f"and {len(names) - len(lines)} more"))
    for split, style in _styles(curves).items():
        lines.append(Line2D([], [], color="#777777", linestyle=style, label=literal(shorten(split, 40))))
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=9)


def _read(path: Path) -> tuple[SavedRun, str]:
    """Return the files of a run that may not be finished, and what is wrong with those that cannot be read."""
    problems, history = [], []
    contents: dict[str, dict[str, Any]] = {}
    for name in ("recipe", "environment", "metrics", "model/config"):
        contents[name] = {}
        file = path / f"{name}.json"
        try:
            if file.is_file():
                contents[name] = read_object(file)
        except RunDirectoryError as error:
            problems.append(str(error))
    try:
        if (path / "history.csv").is_file():
            history = read_history(path / "history.csv")
    except RunDirectoryError as error:
        problems.append(str(error))
    config = contents["model/config"] or None
    saved = SavedRun(path, contents["recipe"], contents["environment"], contents["metrics"], config, history)
    return saved, " ".join(problems)


def _candidate(cell: object, recipe: Mapping[str, Any], keys: Sequence[str]) -> str:
    if isinstance(cell, Mapping):
        return candidate(cell)
    values = flat(dict(recipe))
    return candidate({key: values.get(key) for key in keys})


def _failure(root: Path, name: str) -> str:
    """Return what a study wrote down of a cell that failed."""
    path = root / "failed" / f"{Path(name).name}.json"
    return f"failed: {read_object(path).get('error', '')}" if path.is_file() else ""


def _thinned(points: list[tuple[int, float | None, float]], most: int) -> list[tuple[int, float | None, float]]:
    """Return the lowest and the highest point of each of `most` / 2 - 1 stretches, and the ends."""
    if len(points) <= most:
        return points
    stretches = most // 2 - 1
    kept = {0, len(points) - 1}
    for part in range(stretches):
        places = range(part * len(points) // stretches, (part + 1) * len(points) // stretches)
        kept |= {min(places, key=lambda place: points[place][2]), max(places, key=lambda place: points[place][2])}
    return [points[place] for place in sorted(kept)]
