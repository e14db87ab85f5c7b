"""calibration.json: the temperature that fits the validation split, and what it would make of each split's probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..metrics.calibration import expected_calibration_error
from ..metrics.temperature import fit_temperature
from ..run_directory import write_json
from .saved_run import SavedRun
from .scores import Scores

CALIBRATION = Path("calibration.json")


def write_calibration(run: SavedRun) -> dict[str, Any] | None:
    """Fit a temperature to the saved logits of the validation split and write calibration.json.

    It holds {"temperature", "fitted_on": "validation", "n", "splits": {split: {"nll", "ece", "nll_scaled", "ece_scaled"}}} for
    every split whose predictions were saved. The saved model and its figures stay as they are.

    Args:
        run: a run directory.

    Returns:
        What was written; None, and no file, where there is nothing to fit: no predictions on the validation split, or
        scores that are no logits (under a label map, or that rule classes out, as nearest neighbours do).

    Raises:
        RunDirectoryError: a predictions file is damaged.
    """
    target = run.path / CALIBRATION
    saved = predicted_splits(run)
    validation = Scores.read(run, "validation") if "validation" in saved else None
    if validation is None or not validation.logits:
        target.unlink(missing_ok=True)
        return None
    temperature = fit_temperature(validation.predictions.logits, validation.predictions.labels)
    splits = {}
    for split in saved:
        scores = validation if split == "validation" else Scores.read(run, split)
        if scores.logits:
            scaled = scores.scaled(temperature)
            splits[split] = {
                "nll": float(scores.loss.mean()),
                "ece": expected_calibration_error(scores.confidence, scores.correct),
                "nll_scaled": float(scaled.loss.mean()),
                "ece_scaled": expected_calibration_error(scaled.confidence, scaled.correct),
            }
    found = {
        "temperature": temperature,
        "fitted_on": "validation",
        "n": len(validation.loss),
        "splits": splits,
    }
    write_json(target, found)
    return found


def predicted_splits(run: SavedRun) -> list[str]:
    """Return the splits whose predictions were saved, in the order of metrics.json."""
    return [split for split in run.splits if (run.path / "predictions" / f"{split}.parquet").is_file()]
