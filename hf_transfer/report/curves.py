"""The training curves: loss, accuracy (or mean average precision) and learning rates against the step, phase by phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import drawing, literal, new_figure, save_figure
from .history import HistoryRow, PhaseSpan, phase_spans, read_history
from .names import shorten, shown_names

WIDTH = 9.0  # inches, as all sizes here
_CURVE_HEIGHT, _RATE_HEIGHT, _MARGIN = 2.9, 2.1, 0.75

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = {"train": "#0072B2", "validation": "#D55E00"}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#8a8a8a"

_MANY_POINTS = 60  # from here on a curve has no markers, and the train curve is drawn with its moving average
_LEGEND_GROUPS = 9
_MANY_PHASES = 12  # from here on phases are numbered


def plot_curves(history_csv: Path, output: Path) -> None:
    """Draw loss, accuracy and learning rates against the step into a PNG.

    Phases, where there is more than one, are shaded in turn and named above the first panel. A panel without a single
    value in the file is left out. Layer groups that always had the same learning rate share a line; a frozen group has
    none.

    Args:
        history_csv: a run's history.csv.
        output: the PNG to write, 1350 pixels wide; its folder is made if need be.

    Raises:
        RunDirectoryError: the file is missing or is no history.
        ValueError: it has no rows.
    """
    rows = read_history(history_csv)
    with drawing():
        save_figure(draw_curves(rows), output)


def draw_curves(rows: Sequence[HistoryRow]) -> Any:
    """Return the figure of `plot_curves`; see there."""
    if not rows:
        raise ValueError("expected at least one row of history, found none")
    panels = [name for name in ("loss", "accuracy", "mean average precision", "learning rate") if _has_values(rows, name)]
    heights = [_RATE_HEIGHT if name == "learning rate" else _CURVE_HEIGHT for name in panels]
    figure = new_figure(WIDTH, sum(heights) + _MARGIN)
    if not panels:
        figure.text(0.5, 0.5, "history.csv holds no loss, accuracy or learning rate", ha="center", color=_GREY)
        return figure
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    last_step = max(row.step for row in rows)
    for name, axis in zip(panels, axes, strict=True):
        if name == "learning rate":
            _draw_learning_rates(axis, rows)
        else:
            _draw_metric(axis, rows, name)
        axis.set_ylabel(name)
        axis.grid(True, color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.set_xlim(0, max(last_step, 1) * 1.012)
        axis.margins(x=0)
    epochs = max((row.epoch for row in rows if row.epoch is not None), default=None)
    axes[-1].set_xlabel("step" if epochs is None else f"step ({epochs:.4g} epoch{'' if epochs == 1 else 's'} in all)")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    spans = [span for span in phase_spans(rows) if span.end > span.start]
    if len(spans) > 1:
        _mark_phases(axes, spans)
    figure.align_ylabels(axes)
    return figure


def _has_values(rows: Sequence[HistoryRow], panel: str) -> bool:
    if panel == "learning rate":
        return any(row.learning_rates for row in rows)
    return any(_value(row, panel) is not None for row in rows)


def _value(row: HistoryRow, metric: str) -> float | None:
    return getattr(row, metric.replace(" ", "_"))


def _draw_metric(axis: Any, rows: Sequence[HistoryRow], metric: str) -> None:
    found = {row.split for row in rows}
    others = sorted(found - set(_COLOURS))
    for split in [*(name for name in _COLOURS if name in found), *others]:
        points = [(row.step, value) for row in rows if row.split == split and (value := _value(row, metric)) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        colour = _COLOURS.get(split) or _OTHER_COLOURS[others.index(split) % len(_OTHER_COLOURS)]
        label = literal(shorten(split, 20))
        style = "--" if split in others else "-"
        if len(points) < _MANY_POINTS:
            size = 5 if len(points) <= 20 else 3
            axis.plot(steps, values, style, color=colour, marker="o", markersize=size, linewidth=1.8, label=label)
        elif split == "train":
            window = max(5, len(points) // 40)
            axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            smooth = _moving_average(values, window)
            axis.plot(steps, smooth, color=colour, linewidth=1.8, label=f"{label}\n(mean of {window} lines)")
        else:
            axis.plot(steps, values, style, color=colour, linewidth=1.8, label=label)
    if metric != "loss":
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.02), min(high, 1.02))
    _legend(axis)


def _draw_learning_rates(axis: Any, rows: Sequence[HistoryRow]) -> None:
    import matplotlib

    series = _learning_rate_series(rows)
    # Viridis from the stem (dark) to the head (bright), its pale end left out.
    colours = [matplotlib.colormaps["viridis"](0.88 * i / max(len(series) - 1, 1)) for i in range(len(series))]
    stride = math.ceil(len(series) / _LEGEND_GROUPS)
    for i, (groups, steps, rates) in enumerate(series):
        named = i % stride == 0 or i == len(series) - 1
        marker = "o" if len(steps) < _MANY_POINTS // 2 else None
        label = literal(_group_label(groups)) if named else "_nolegend_"
        # A line that later ones cover is drawn wider, so that its edges still show.
        covered = sum(_overlap(rates, other) for _, _, other in series[i + 1 :])
        width = min(1.8 + 1.3 * covered, 9.0)
        axis.plot(steps, rates, color=colours[i], linewidth=width, marker=marker, markersize=3, label=label)
    peaks = [max(rate for rate in rates if not math.isnan(rate)) for _, _, rates in series]
    if min(peaks) > 0 and max(peaks) / min(peaks) >= 30:
        axis.set_yscale("log")
        # A schedule that ends near zero must not squeeze the rest into the upper edge.
        axis.set_ylim(min(peaks) / 20, max(peaks) * 2)
    else:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axis.set_ylim(bottom=0)
    _legend(axis)


def _learning_rate_series(rows: Sequence[HistoryRow]) -> list[tuple[list[str], list[int], list[float]]]:
    """Return (groups, steps, rates) of each distinct learning rate; a rate is NaN while its groups are frozen."""
    by_step: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.learning_rates:
            by_step.setdefault(row.step, {}).update(row.learning_rates)
        elif row.split == "train":
            by_step.setdefault(row.step, {})
    steps = sorted(by_step)
    named = {group for rates in by_step.values() for group in rates}
    # The order of the columns is the order of the layers.
    order = sorted(named, key=_column_order(rows).__getitem__)
    merged: dict[tuple[float | None, ...], list[str]] = {}
    for group in order:
        merged.setdefault(tuple(by_step[step].get(group) for step in steps), []).append(group)
    return [(groups, steps, [math.nan if rate is None else rate for rate in rates]) for rates, groups in merged.items()]


def _overlap(rates: Sequence[float], others: Sequence[float]) -> bool:
    both = [(rate, other) for rate, other in zip(rates, others, strict=True) if not math.isnan(rate + other)]
    return bool(both) and all(math.isclose(rate, other, rel_tol=0.02, abs_tol=1e-12) for rate, other in both)


def _column_order(rows: Sequence[HistoryRow]) -> dict[str, int]:
    """Return the position of each group; rows list their groups in column order, the fullest row knows most of it."""
    order: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: -len(row.learning_rates)):
        for group in row.learning_rates:
            order.setdefault(group, len(order))
    return order


def _group_label(groups: Sequence[str]) -> str:
    # What tells `timm_model.blocks.3` from its neighbours stands at its end.
    names = [".".join(group.split(".")[-2:]) for group in groups]
    if len(names) == 1:
        return shorten(names[0], 20)
    if len(names) == 2:
        return f"{shorten(names[0], 10)}, {shorten(names[1], 10)}"
    return f"{shorten(names[0], 10)} to {shorten(names[-1], 10)} ({len(names)})"


def _mark_phases(axes: Any, spans: Sequence[PhaseSpan]) -> None:
    inches_per_step = (WIDTH - 2.3) / max(spans[-1].end, 1)
    rooms = [int((span.end - span.start) * inches_per_step / 0.085) for span in spans]
    names = [span.name or f"phase {i}" for i, span in enumerate(spans, start=1)]
    fitting = all(len(name) <= room for name, room in zip(names, rooms, strict=True))
    if not fitting:
        names = shown_names(names, 18) if len(spans) <= _MANY_PHASES else [str(i + 1) for i in range(len(spans))]
    slanted = not fitting and len(spans) <= _MANY_PHASES
    for i, (span, name) in enumerate(zip(spans, names, strict=True)):
        for axis in axes:
            if i % 2:
                axis.axvspan(span.start, span.end, color="#000000", alpha=0.045, linewidth=0, zorder=0)
            if i:
                axis.axvline(span.start, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        label = literal(name)
        if fitting and span.trainable_parameters is not None and min(rooms) >= 15:
            label += f"\n{_abbreviated(span.trainable_parameters)} trained"
        axes[0].annotate(
            label,
            xy=((span.start + span.end) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="left" if slanted else "center",
            va="bottom",
            rotation=30 if slanted else 0,
            rotation_mode="anchor",
            fontsize=9,
            color="#444444",
        )


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        legend = axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9, borderaxespad=0)
        for line in legend.get_lines():
            line.set_linewidth(2)


def _moving_average(values: Sequence[float], window: int) -> list[float]:
    """Return the centred mean over `window` values, over fewer at both ends."""
    half = window // 2
    return [sum(part) / len(part) for part in (values[max(0, i - half) : i + half + 1] for i in range(len(values)))]


def _abbreviated(count: int) -> str:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
