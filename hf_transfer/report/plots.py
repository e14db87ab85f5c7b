"""The pictures in plots/, drawn from what a run saved."""

from __future__ import annotations

from pathlib import Path

from .binary import plot_binary_curves
from .calibration import write_calibration
from .class_scores import plot_class_scores
from .confusion import plot_confusion_matrix
from .curves import plot_curves
from .findings import Findings
from .reliability import plot_reliability
from .saved_run import SavedRun
from .sheets import plot_confused_pairs, plot_top_losses
from .temperatures import learned_temperatures, plot_temperatures

CURVES = Path("plots/curves.png")
TEMPERATURES = Path("plots/temperatures.png")
CONFUSION_MATRIX = Path("plots/confusion_matrix.png")
PER_CLASS = Path("plots/per_class.png")
RELIABILITY = Path("plots/reliability.png")
BINARY_CURVES = Path("plots/binary_curves.png")
TOP_LOSSES = Path("plots/top_losses.png")
CONFUSED_PAIRS = Path("plots/confused_pairs.png")
EXPLANATIONS = Path("plots/explanations.png")
"""Drawn by `hf-transfer explain`, not here; shown where it is there."""

_DRAWN = (CURVES, TEMPERATURES, CONFUSION_MATRIX, PER_CLASS, RELIABILITY, BINARY_CURVES, TOP_LOSSES, CONFUSED_PAIRS)
PICTURES = (*_DRAWN, EXPLANATIONS)
SHOW_IMAGES = (TOP_LOSSES, CONFUSED_PAIRS, EXPLANATIONS)
"""Those of them that show images of the data set."""


def write_plots(run_dir: Path) -> Findings | None:
    """Draw the pictures that the files of a run directory allow, and fit the temperature of calibration.json.

    `curves` where history.csv has rows (an evaluate-mode run has none), `temperatures` where attention has learned some. Of the
    test split, or of the validation split in a run without one: `confusion_matrix`, `per_class`, `reliability`, `top_losses`,
    `confused_pairs` where there are mistakes, and `binary_curves` where there are two classes. A picture of an earlier time
    that is not drawn now is removed.

    Args:
        run_dir: a run directory with at least recipe.json and metrics.json.

    Returns:
        What was found in the predictions, for `write_report`; None where there are none.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    run = SavedRun.read(run_dir)
    split = plotted_split(run.path)
    found = None if split is None else Findings.read(run, split)
    for picture in _DRAWN:
        (run.path / picture).unlink(missing_ok=True)
    if run.history:
        plot_curves(run.path / "history.csv", run.path / CURVES)
    if temperatures := learned_temperatures(run.metrics):
        plot_temperatures(temperatures, run.path / TEMPERATURES)
    if split is None or found is None:
        return None
    calibration = write_calibration(run)
    scores, predictions = found.scores, found.scores.predictions
    plot_confusion_matrix(predictions.labels, predictions.predicted, predictions.class_names, run.path / CONFUSION_MATRIX)
    per_class = run.splits.get(split, {}).get("per_class")
    if per_class:
        plot_class_scores(per_class, run.path / PER_CLASS)
    temperature = calibration["temperature"] if calibration is not None and scores.logits else None
    plot_reliability(scores, temperature, split, run.path / RELIABILITY)
    plot_binary_curves(predictions, run.path / BINARY_CURVES)
    plot_top_losses(found.losses, found.images, run.path / TOP_LOSSES)
    if found.pairs:
        plot_confused_pairs(found.pairs, found.images, run.path / CONFUSED_PAIRS)
    return found


def plotted_split(run_dir: Path) -> str | None:
    """Return the split whose predictions are drawn: test, else validation, else None."""
    for split in ("test", "validation"):
        if (run_dir / "predictions" / f"{split}.parquet").is_file():
            return split
    return None
