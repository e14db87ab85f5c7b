"""The pictures in plots/, drawn from what a run saved."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.predictions import Predictions
from .confusion import plot_confusion_matrix
from .curves import plot_curves
from .history import read_history

CURVES = Path("plots/curves.png")
CONFUSION_MATRIX = Path("plots/confusion_matrix.png")


def write_plots(run_dir: Path) -> None:
    """Draw the pictures that the files of a run directory allow.

    `plots/curves.png` where history.csv has rows (an evaluate-mode run has none), `plots/confusion_matrix.png` from the
    predictions on the test split, or on the validation split of a run without one.

    Args:
        run_dir: a run directory.

    Raises:
        RunDirectoryError: a file is there but damaged.
    """
    run_dir = Path(run_dir)
    history = run_dir / "history.csv"
    if history.is_file() and read_history(history):
        plot_curves(history, run_dir / CURVES)
    split = plotted_split(run_dir)
    if split is not None:
        found = Predictions.read(run_dir / "predictions" / f"{split}.parquet")
        plot_confusion_matrix(found.labels, found.predicted, found.class_names, run_dir / CONFUSION_MATRIX)


def plotted_split(run_dir: Path) -> str | None:
    """Return the split whose confusion matrix is drawn: test, else validation, else None."""
    for split in ("test", "validation"):
        if (run_dir / "predictions" / f"{split}.parquet").is_file():
            return split
    return None
