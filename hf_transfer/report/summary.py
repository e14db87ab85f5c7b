"""What a run prints when it is done: the figures with their intervals, and where everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..metrics.headline import ACCURACY, headline_of
from .formats import NOTHING, finite
from .saved_run import SPLITS, split_metrics
from .temperatures import learned_temperatures
from .watched import watched_test

_HEADER = f"{'n':>8}  {'accuracy (95 % interval)':<28}{'balanced':>9}{'macro F1':>9}{'NLL':>8}{'ECE':>7}{'majority':>9}"
_LABELS_HEADER = f"{'n':>8}  {'mAP (95 % interval)':<28}{'macro F1':>9}{'micro F1':>9}{'all right':>10}{'NLL':>8}{'random':>9}"


def summary(root: Path, metrics: dict[str, Any]) -> str:
    """Return a readable summary of a finished run.

    Args:
        root: the run directory.
        metrics: content of its metrics.json.
    """
    found = split_metrics(metrics)
    order = [split for split in SPLITS if split in found] + [name for name in found if name not in SPLITS]
    width = max([10, *map(len, order)]) + 2
    several = any(headline_of(row) != ACCURACY for row in found.values())
    lines = [f"{'split':<{width}}{_LABELS_HEADER if several else _HEADER}"]
    for split in order:
        row = found[split]
        lines.append(f"{split:<{width}}{_label_figures(row) if several else _figures(row)}")
        lines += [f"{'':<{width}}{said}" for said in _remarks(row)]
    if several and metrics.get("thresholds"):
        lines.append(_thresholds(metrics))
    for split in order:
        lines += _robustness_lines(split, found[split])
    cost = metrics.get("cost", {})
    if cost:
        trained = "".join(
            f", {count:,} of {cost['parameters']:,} parameters trained ({phase})"
            for phase, count in cost.get("trainable_parameters", {}).items()
        )
        training = f"training {cost['train_seconds']:.0f} s, " if "train_seconds" in cost else ""
        lines.append(
            f"{training}all {cost['total_seconds']:.0f} s, {cost['images_per_second']:.0f} images/s, {cost['precision']}, "
            f"{cost['device']}{trained}"
        )
    if temperatures := learned_temperatures(metrics):
        lines.append(f"learned temperatures of the attention: {temperatures.words}")
    if watched := watched_test(metrics):
        lines.append(f"warning: {watched}")
    lines.append(f"run directory: {root}")
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> str:
    return (
        f"{row['n']:>8}  {_with_interval(row['accuracy'], row['accuracy_ci95']):<28}{row['balanced_accuracy']:>9.4f}"
        f"{row['macro_f1']:>9.4f}{row['nll']:>8.4f}{row['ece']:>7.4f}{row['majority_baseline']:>9.4f}"
    )


def _label_figures(row: dict[str, Any]) -> str:
    """Return the figures of a split whose images may have several labels; some are undefined where no class is there."""
    interval = _with_interval(row["mean_average_precision"], row["mean_average_precision_ci95"])
    return (
        f"{row['n']:>8}  {interval:<28}{_figure(row['macro_f1']):>9}{_figure(row['micro_f1']):>9}"
        f"{_figure(row['subset_accuracy']):>10}{row['nll']:>8.4f}{_figure(row['random_baseline']):>9}"
    )


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _with_interval(value: float | None, bounds: list[float]) -> str:
    return NOTHING if value is None else f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})"


def _remarks(row: dict[str, Any]) -> list[str]:
    """Return what a reader has to know of a split besides its figures."""
    said = []
    if row.get("groups"):
        groups = "1 group" if row["groups"] == 1 else f"{row['groups']} groups"
        said.append(f"in {groups}, which the interval takes to be drawn whole")
    if shift := row.get("shift"):
        headline, (low, high) = headline_of(shift), shift["ci95"]
        said.append(f"{headline.name} against {shift['against']}: {shift[headline.key]:+.4f} ({low:+.4f} to {high:+.4f})")
    if row.get("skipped"):
        said.append(f"{row['skipped']} unreadable images left out")
    if row.get("unmapped_classes"):
        said.append(f"no class of the checkpoint stands for {', '.join(row['unmapped_classes'])}: counted as wrong")
    return said


def _thresholds(metrics: dict[str, Any]) -> str:
    """Return from which probability a class is said, in a line."""
    values = [value for value in metrics["thresholds"].values() if finite(value) is not None]
    if finite(metrics.get("thresholds_by")) is not None:
        return f"a class is said from a probability of {metrics['thresholds_by']:g} on"
    range_of = f"{min(values):.3f} to {max(values):.3f}, see metrics.json"
    if metrics.get("thresholds_by") == "checkpoint":
        return f"a class is said from the checkpoint's own threshold on: {range_of}"
    return f"a class is said from the probability on that has its best F1 on validation: {range_of}"


def _robustness_lines(split: str, row: dict[str, Any]) -> list[str]:
    """Return accuracy (or mean average precision) by corruption and severity, a line each; none where it was not measured."""
    robustness = row.get("robustness") or {}
    severities = sorted({severity for found in robustness.values() for severity in found})
    if not severities:
        return []
    title = f"{split}, corrupted"
    width = max(map(len, [title, *robustness])) + 2
    lines = [f"{title:<{width}}{'none':>8}" + "".join(f"{severity:>8}" for severity in severities) + "  (severity)"]
    for corruption, found in robustness.items():
        key = headline_of(row).key
        cells = [f"{_figure(found[severity][key]):>8}" if severity in found else f"{'':>8}" for severity in severities]
        lines.append(f"{corruption:<{width}}{_figure(row[key]):>8}" + "".join(cells))
    return lines
