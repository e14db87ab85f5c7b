"""The charts of a leaderboard: where everything goes, for the page's own SVG, and the same as pictures in plots/.

Places are shares of a chart's width and height, 0 to 1 from the lower left, so that a page can stretch a chart to any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics.headline import ACCURACY, Headline
from ..metrics.verdict import Standing
from ..run_directory import replacing
from .figures import drawing, literal, new_figure, save_figure
from .formats import count, duration, finite, megabytes, number
from .leaderboard import Table
from .names import plain, shorten

SAMPLES = "data.samples_per_class"
_LOGARITHMIC = 4  # times as much, from the least to the most: then an axis is logarithmic
_NAMED = 30  # candidates in the legend of a picture


@dataclass(frozen=True)
class Cost:
    """How a cost is called and written.

    Args:
        title: of its column.
        shown: the figure in full.
        short: for the ticks of an axis.
        unit: given the highest value, that in which the ticks are round.
    """

    title: str
    shown: Callable[[object], str]
    short: Callable[[float], str]
    unit: Callable[[float], float] = lambda highest: 1.0


def _seconds(value: float) -> str:
    if value < 120 and value != 60:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 3600 else f"{value / 3600:.3g} h"


def _time_unit(longest: float) -> float:
    """Return the seconds of the unit in which the ticks of an axis are round."""
    return 1.0 if longest < 120 else 60.0 if longest < 7200 else 3600.0


def _abbreviated(value: float) -> str:
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


_COSTS = {
    "train_seconds": Cost("Training time", duration, _seconds, _time_unit),
    "total_seconds": Cost("Total time", duration, _seconds, _time_unit),
    "latency_ms": Cost("Latency", lambda value: f"{number(value, 1)} ms", lambda value: f"{value:.3g} ms"),
    "parameters": Cost("Parameters", count, _abbreviated),
    "trainable_parameters": Cost("Trained parameters", count, _abbreviated),
    "peak_memory_mb": Cost("Peak memory", megabytes, lambda value: f"{value:,.4g} MB"),
}
CHARTED = ("train_seconds", "latency_ms", "parameters")
"""The costs that accuracy is drawn against."""


def cost_of(name: str) -> Cost:
    """Return how a cost is written, one that is not known here by its own name."""
    return _COSTS.get(name) or Cost(plain(name).replace("_", " "), lambda value: number(value, 2), lambda value: f"{value:.4g}")


@dataclass(frozen=True)
class Axis:
    """A scale, and where its ticks are.

    Args:
        low: value at share 0.
        high: value at share 1.
        ticks: (share, label).
        logarithmic: equal steps are equal factors.
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value is, held between 0 and 1."""
        return min(1.0, max(0.0, _share(value, self.low, self.high, self.logarithmic)))


def axis_of(values: Sequence[float], shown: Callable[[float], str], *, logarithmic: bool = False, unit: float = 1.0) -> Axis:
    """Return an axis on which all values have room.

    Args:
        values: at least one.
        shown: a tick's value as text.
        logarithmic: make it so where the values differ by much and are positive.
        unit: in which the ticks are round.
    """
    low, high = min(values), max(values)
    logarithmic = logarithmic and low > 0 and high / low >= _LOGARITHMIC
    if logarithmic:
        margin = (high / low) ** 0.06
        low, high = low / margin, high * margin
        ticks = [tick * unit for tick in _log_ticks(low / unit, high / unit)]
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
        ticks = [tick * unit for tick in _ticks(low / unit, high / unit)]
    return Axis(low, high, [(_share(tick, low, high, logarithmic), shown(tick)) for tick in ticks], logarithmic)


def _share(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        return math.log(value / low) / math.log(high / low) if value > 0 else 0.0
    return (value - low) / (high - low)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values between two, about `most` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high / low < 200 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]


@dataclass(frozen=True)
class Mark:
    """One candidate in a chart, its place in shares of it.

    Args:
        name: the candidate's.
        rank: its place in the leaderboard, from 1.
        x: of its cost.
        y: of its accuracy.
        low: of the lower end of its interval.
        high: of the upper end.
        front: no other is both better and cheaper.
        said: its figures in words.
    """

    name: str
    rank: int
    x: float
    y: float
    low: float
    high: float
    front: bool
    said: str


@dataclass(frozen=True)
class Pareto:
    """Accuracy against a cost.

    Args:
        cost: its name.
        x: axis of the cost.
        y: axis of the accuracy.
        marks: those off the front first, so that the front is drawn over them.
        headline: what the accuracy is.
    """

    cost: str
    x: Axis
    y: Axis
    marks: list[Mark]
    headline: Headline = ACCURACY

    @property
    def front(self) -> list[Mark]:
        """The marks on the front, cheapest first."""
        return sorted((mark for mark in self.marks if mark.front), key=lambda mark: mark.x)


def pareto(table: Table, cost: str) -> Pareto | None:
    """Return the chart of accuracy against a cost, None where fewer than two candidates are known to have it."""
    known = {name: value for name, row in table.rows.items() if (value := finite(row.costs.get(cost))) is not None}
    if len(known) < 2:
        return None
    standings = [(rank, found) for rank, found in enumerate(table.verdict.standings, start=1) if found.name in known]
    priced = cost_of(cost)
    x = axis_of(list(known.values()), priced.short, logarithmic=True, unit=priced.unit(max(known.values())))
    y = _accuracy_axis([found for _, found in standings])
    front = table.verdict.cost_front.get(cost, ())
    marks = []
    for rank, found in standings:
        price = known[found.name]
        figure = f"{table.verdict.headline.name} {number(found.accuracy)}"
        said = f"{plain(found.name)}: {figure}, {priced.title.lower()} {priced.shown(price)}"
        marks.append(_mark(found, rank, x.share(price), y, said, front=found.name in front))
    return Pareto(cost, x, y, sorted(marks, key=lambda mark: (mark.front, -mark.rank)), table.verdict.headline)


@dataclass(frozen=True)
class Line:
    """One way of training over numbers of training images.

    Args:
        name: what it is called, without that number.
        marks: by number.
    """

    name: str
    marks: list[Mark]


@dataclass(frozen=True)
class FewShot:
    """Accuracy against the number of training images of a class.

    Args:
        x: axis of the number.
        y: axis of the accuracy.
        lines: one for each way of training.
        headline: what the accuracy is.
    """

    x: Axis
    y: Axis
    lines: list[Line]
    headline: Headline = ACCURACY


def few_shot(table: Table, whole: float | None) -> FewShot | None:
    """Return the few-shot chart, None where no candidate has been trained on different numbers of images.

    Args:
        table: candidates, some of which differ in `data.samples_per_class`.
        whole: images of a class in the whole training set, for those that were trained on all; None leaves these out.
    """
    from ..recipe.words import candidate

    groups: dict[str, list[tuple[float, int, Standing]]] = {}
    for rank, standing in enumerate(table.verdict.standings, start=1):
        values = table.rows[standing.name].values
        images = finite(values.get(SAMPLES)) or whole if SAMPLES in values else None
        if images:
            name = candidate({key: value for key, value in values.items() if key != SAMPLES}) or table.verdict.headline.name
            groups.setdefault(name, []).append((images, rank, standing))
    groups = {name: found for name, found in groups.items() if len({images for images, _, _ in found}) > 1}
    if not groups:
        return None
    shown = [entry for found in groups.values() for entry in found]
    x = axis_of([images for images, _, _ in shown], lambda value: f"{value:,.4g}", logarithmic=True)
    numbers = sorted({images for images, _, _ in shown})
    if len(numbers) <= 6:  # the numbers that were chosen say more than round ones
        x = Axis(x.low, x.high, [(x.share(images), f"{images:,.4g}") for images in numbers], x.logarithmic)
    y = _accuracy_axis([standing for _, _, standing in shown])
    lines = []
    for name, found in groups.items():
        marks = [
            _mark(
                standing, rank, x.share(images), y, f"{plain(name)}, {images:,.4g} images a class: {number(standing.accuracy)}"
            )
            for images, rank, standing in sorted(found, key=lambda entry: entry[0])
        ]
        lines.append(Line(name, marks))
    return FewShot(x, y, lines, table.verdict.headline)


def _mark(standing: Standing, rank: int, x: float, y: Axis, said: str, *, front: bool = False) -> Mark:
    low, high = standing.accuracy_ci95
    return Mark(standing.name, rank, x, y.share(standing.accuracy), y.share(low), y.share(high), front, said)


def difference_axis(table: Table) -> Axis | None:
    """Return the axis of the differences to the leader, zero on it; None where there is nothing to compare."""
    ends = [end for comparison in table.verdict.comparisons for end in comparison.difference_ci95]
    return axis_of([*ends, 0.0], lambda value: f"{100 * value:+.3g}" if value else "0") if ends else None


def _accuracy_axis(standings: Sequence[Standing]) -> Axis:
    ends = [end for standing in standings for end in standing.accuracy_ci95]
    return axis_of(ends, lambda value: f"{value:.3g}")


def draw_accuracy(table: Table, colours: Mapping[str, str]) -> Any:
    """Return the figure with a bar for each candidate, from 0, with its 95 % interval; dotted: the baseline."""
    standings, headline = table.verdict.standings, table.verdict.headline
    figure = new_figure(9.0, 1.1 + 0.34 * len(standings))
    axis = figure.subplots()
    places = range(len(standings))
    values = [standing.accuracy for standing in standings]
    errors = [
        [max(0.0, standing.accuracy - standing.accuracy_ci95[0]) for standing in standings],
        [max(0.0, standing.accuracy_ci95[1] - standing.accuracy) for standing in standings],
    ]
    axis.barh(places, values, height=0.66, color=[colours[standing.name] for standing in standings])
    axis.errorbar(values, places, xerr=errors, fmt="none", ecolor="#1f2328", elinewidth=1.3, capsize=3)
    for place, standing in zip(places, standings, strict=True):
        axis.text(standing.accuracy_ci95[1] + 0.012, place, number(standing.accuracy), va="center", fontsize=9)
    baseline = max((row.majority_baseline or 0.0 for row in table.rows.values()), default=0.0)
    if baseline:
        axis.axvline(baseline, color="#59636e", linestyle=":", linewidth=1.2)
    axis.set_yticks(places, [literal(_ranked(rank, standing.name)) for rank, standing in enumerate(standings, start=1)])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.09)
    axis.set_xlabel(f"test {headline.name}, 95 % interval" + (f"; dotted: {headline.baseline_short}" if baseline else ""))
    return figure


def draw_pareto(chart: Pareto, colours: Mapping[str, str]) -> Any:
    """Return the figure of accuracy against a cost, the front joined by a line."""
    figure = new_figure(8.5, max(4.6, _legend_height(len(chart.marks))))
    axis = figure.subplots()
    axis.plot(*_places(chart.front), color="#8a8a8a", linewidth=1.4, zorder=1)
    for mark in chart.marks:
        axis.plot([mark.x, mark.x], [mark.low, mark.high], color=colours[mark.name], alpha=0.4, linewidth=1.6, zorder=2)
        colour = colours[mark.name]
        axis.plot(mark.x, mark.y, "o", markersize=14, mfc=fill_of(mark, colour), mec=colour, mew=2, zorder=3)
        axis.text(mark.x, mark.y, str(mark.rank), color="#1f2328", ha="center", va="center", fontsize=8, zorder=4)
    _scale(axis, chart)
    axis.set_xlabel(cost_of(chart.cost).title.lower())
    listed = sorted(chart.marks, key=lambda mark: mark.rank)
    _legend(figure, [(colours[mark.name], _ranked(mark.rank, mark.name)) for mark in listed])
    return figure


def fill_of(mark: Mark, colour: str) -> str:
    """Return what fills a mark, light enough for dark text: a tint of its colour on the front, white off it."""
    if not mark.front:
        return "#ffffff"
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + 0.32 * (part - 255)):02x}" for part in parts)


def draw_few_shot(chart: FewShot, colours: Sequence[str]) -> Any:
    """Return the figure of accuracy against training images of a class, `colours` being those of the lines."""
    figure = new_figure(8.5, max(4.4, _legend_height(len(chart.lines))))
    axis = figure.subplots()
    for line, colour in zip(chart.lines, colours, strict=True):
        axis.plot(*_places(line.marks), "o-", color=colour, linewidth=1.8, markersize=5)
        for mark in line.marks:
            axis.plot([mark.x, mark.x], [mark.low, mark.high], color=colour, alpha=0.4, linewidth=1.6)
    _scale(axis, chart)
    axis.set_xlabel("training images of a class")
    _legend(figure, [(colour, line.name) for line, colour in zip(chart.lines, colours, strict=True)])
    return figure


def save_picture(draw: Callable[[], Any], stem: Path) -> list[Path]:
    """Save a figure, built by `draw`, as PNG and SVG; return both files."""
    import matplotlib

    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with drawing():
        matplotlib.rcParams["svg.hashsalt"] = "hf-transfer-learning"  # equal figures give equal bytes
        figure = draw()
        save_figure(figure, files[0])
        with replacing(files[1]) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return files


def _ranked(rank: int, name: str) -> str:
    return f"{rank}  {shorten(plain(name), 44)}"


def _places(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    return [mark.x for mark in marks], [mark.y for mark in marks]


def _scale(axis: Any, chart: Pareto | FewShot) -> None:
    """Label the axes of a figure that is drawn in shares."""
    axis.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"test {chart.headline.name}, 95 % interval")
    axis.set_xticks([place for place, _ in chart.x.ticks], [label for _, label in chart.x.ticks])
    axis.set_yticks([place for place, _ in chart.y.ticks], [label for _, label in chart.y.ticks])
    axis.grid(True, color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)


def _legend_height(entries: int) -> float:
    """Return the inches that a legend needs."""
    return 0.4 + 0.2 * (min(entries, _NAMED) + 1)


def _legend(figure: Any, entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    shown = [Line2D([], [], color=colour, marker="o", label=literal(name)) for colour, name in entries[:_NAMED]]
    if len(entries) > len(shown):
        shown.append(Line2D([], [], linestyle="none", label=f"and {len(entries) - len(shown)} more"))
    figure.legend(handles=shown, loc="outside right upper", frameon=False, fontsize=8.5)
