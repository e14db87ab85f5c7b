"""The pictures in plots/, drawn from what a run saved."""

from __future__ import annotations

from pathlib import Path

from .binary import plot_binary_curves
from .calibration import CALIBRATION, write_calibration
from .class_scores import plot_class_scores
from .confusion import plot_confusion_matrix
from .curves import plot_curves
from .findings import Findings
from .label_curves import plot_precision_recall
from .label_findings import LabelFindings
from .label_reliability import plot_label_reliability
from .label_sheets import plot_label_errors, plot_top_label_losses
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
PRECISION_RECALL = Path("plots/precision_recall.png")
LABEL_ERRORS = Path("plots/label_errors.png")
EXPLANATIONS = Path("plots/explanations.png")
"""Drawn by `hf-transfer explain`, not here; shown where it is there."""

_DRAWN = (
    *(CURVES, TEMPERATURES, CONFUSION_MATRIX, PER_CLASS, RELIABILITY, BINARY_CURVES, TOP_LOSSES, CONFUSED_PAIRS),
    *(PRECISION_RECALL, LABEL_ERRORS),
)
PICTURES = (*_DRAWN, EXPLANATIONS)
SHOW_IMAGES = (TOP_LOSSES, CONFUSED_PAIRS, LABEL_ERRORS, EXPLANATIONS)
"""Those of them that show images of the data set."""


def write_plots(run_dir: Path) -> Findings | LabelFindings | None:
    """Draw the pictures that the files of a run directory allow, and fit the temperature of calibration.json.

    `curves` where history.csv has rows (an evaluate-mode run has none), `temperatures` where attention has learned some. Of the
    test split, or of the validation split in a run without one: `confusion_matrix`, `per_class`, `reliability`, `top_losses`,
    `confused_pairs` where there are mistakes, and `binary_curves` where there are two classes. Where an image may have several
    labels, there are `precision_recall`, `per_class`, `reliability`, `top_losses` and, where there are mistakes, `label_errors`
    instead, and no temperature. A picture of an earlier time that is not drawn now is removed.

    Args:
        run_dir: a run directory with at least recipe.json and metrics.json.

    Returns:
        What was found in the predictions, for `write_report`; None where there are none.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    run = SavedRun.read(run_dir)
    found = read_findings(run)
    for picture in _DRAWN:
        (run.path / picture).unlink(missing_ok=True)
    if run.history:
        plot_curves(run.path / "history.csv", run.path / CURVES)
    if temperatures := learned_temperatures(run.metrics):
        plot_temperatures(temperatures, run.path / TEMPERATURES)
    if found is None:
        return None
    per_class = run.splits.get(found.split, {}).get("per_class")
    if per_class:
        plot_class_scores(per_class, run.path / PER_CLASS)
    if isinstance(found, LabelFindings):
        (run.path / CALIBRATION).unlink(missing_ok=True)
        _plot_labels(run.path, found)
    else:
        _plot_classes(run, found)
    return found


def read_findings(run: SavedRun) -> Findings | LabelFindings | None:
    """Return what the predictions on the plotted split show; None where there are none.

    Raises:
        RunDirectoryError: the predictions are damaged.
    """
    split = plotted_split(run.path)
    if split is None:
        return None
    return (LabelFindings if run.multi_label else Findings).read(run, split)


def _plot_classes(run: SavedRun, found: Findings) -> None:
    calibration = write_calibration(run)
    scores, predictions = found.scores, found.scores.predictions
    plot_confusion_matrix(predictions.labels, predictions.predicted, predictions.class_names, run.path / CONFUSION_MATRIX)
    temperature = calibration["temperature"] if calibration is not None and scores.logits else None
    plot_reliability(scores, temperature, found.split, run.path / RELIABILITY)
    plot_binary_curves(predictions, run.path / BINARY_CURVES)
    plot_top_losses(found.losses, found.images, run.path / TOP_LOSSES)
    if found.pairs:
        plot_confused_pairs(found.pairs, found.images, run.path / CONFUSED_PAIRS)


def _plot_labels(root: Path, found: LabelFindings) -> None:
    plot_precision_recall(found.scores, root / PRECISION_RECALL)
    plot_label_reliability(found.scores, found.split, root / RELIABILITY)
    plot_top_label_losses(found.losses, found.images, root / TOP_LOSSES)
    if found.errors:
        plot_label_errors(found.errors, found.images, root / LABEL_ERRORS)


def plotted_split(run_dir: Path) -> str | None:
    """Return the split whose predictions are drawn: test, else validation, else None."""
    for split in ("test", "validation"):
        if (run_dir / "predictions" / f"{split}.parquet").is_file():
            return split
    return None
