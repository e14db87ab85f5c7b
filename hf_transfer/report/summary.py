"""What a run prints when it is done: the figures with their intervals, and where everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .saved_run import SPLITS, split_metrics
from .temperatures import learned_temperatures
from .watched import watched_test


def summary(root: Path, metrics: dict[str, Any]) -> str:
    """Return a readable summary of a finished run.

    Args:
        root: the run directory.
        metrics: content of its metrics.json.
    """
    found = split_metrics(metrics)
    order = [split for split in SPLITS if split in found] + [name for name in found if name not in SPLITS]
    width = max([10, *map(len, order)]) + 2
    lines = [
        f"{'split':<{width}}{'n':>8}  {'accuracy (95 % interval)':<28}{'balanced':>9}{'macro F1':>9}"
        f"{'NLL':>8}{'ECE':>7}{'majority':>9}"
    ]
    for split in order:
        lines += _split_lines(split, found[split], width)
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


def _split_lines(split: str, row: dict[str, Any], width: int) -> list[str]:
    low, high = row["accuracy_ci95"]
    interval = f"{row['accuracy']:.4f} ({low:.4f} to {high:.4f})"
    lines = [
        f"{split:<{width}}{row['n']:>8}  {interval:<28}{row['balanced_accuracy']:>9.4f}{row['macro_f1']:>9.4f}"
        f"{row['nll']:>8.4f}{row['ece']:>7.4f}{row['majority_baseline']:>9.4f}"
    ]
    if row.get("groups"):
        groups = "1 group" if row["groups"] == 1 else f"{row['groups']} groups"
        lines.append(f"{'':<{width}}in {groups}, which the interval takes to be drawn whole")
    if row.get("shift"):
        shift = row["shift"]
        low, high = shift["ci95"]
        lines.append(f"{'':<{width}}accuracy against {shift['against']}: {shift['accuracy']:+.4f} ({low:+.4f} to {high:+.4f})")
    if row.get("skipped"):
        lines.append(f"{'':<{width}}{row['skipped']} unreadable images left out")
    if row.get("unmapped_classes"):
        lines.append(
            f"{'':<{width}}no class of the checkpoint stands for {', '.join(row['unmapped_classes'])}: counted as wrong"
        )
    return lines


def _robustness_lines(split: str, row: dict[str, Any]) -> list[str]:
    """Return accuracy by corruption and severity, a line each; none where it was not measured."""
    robustness = row.get("robustness") or {}
    severities = sorted({severity for found in robustness.values() for severity in found})
    if not severities:
        return []
    title = f"{split}, corrupted"
    width = max(map(len, [title, *robustness])) + 2
    lines = [f"{title:<{width}}{'none':>8}" + "".join(f"{severity:>8}" for severity in severities) + "  (severity)"]
    for corruption, found in robustness.items():
        cells = [f"{found[severity]['accuracy']:>8.4f}" if severity in found else f"{'':>8}" for severity in severities]
        lines.append(f"{corruption:<{width}}{row['accuracy']:>8.4f}" + "".join(cells))
    return lines
