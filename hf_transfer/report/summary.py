"""What a run prints when it is done: the figures with their intervals, and where everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ROWS = ("train", "validation", "test")


def summary(root: Path, metrics: dict[str, Any]) -> str:
    """Return a readable summary of a finished run.

    Args:
        root: the run directory.
        metrics: content of its metrics.json.
    """
    lines = [
        f"{'split':<12}{'n':>8}  {'accuracy (95 % interval)':<28}{'balanced':>9}{'macro F1':>9}"
        f"{'NLL':>8}{'ECE':>7}{'majority':>9}"
    ]
    for split in _ROWS:
        row = metrics.get(split)
        if row is None:
            continue
        low, high = row["accuracy_ci95"]
        interval = f"{row['accuracy']:.4f} ({low:.4f} to {high:.4f})"
        lines.append(
            f"{split:<12}{row['n']:>8}  {interval:<28}{row['balanced_accuracy']:>9.4f}{row['macro_f1']:>9.4f}"
            f"{row['nll']:>8.4f}{row['ece']:>7.4f}{row['majority_baseline']:>9.4f}"
        )
        if row.get("skipped"):
            lines.append(f"{'':<12}{row['skipped']} unreadable images left out")
        if row.get("unmapped_classes"):
            lines.append(
                f"{'':<12}no class of the checkpoint stands for {', '.join(row['unmapped_classes'])}: counted as wrong"
            )
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
    lines.append(f"run directory: {root}")
    return "\n".join(lines)
