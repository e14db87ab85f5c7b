"""What a run directory says of its own training, without importing torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .schema import Data


@dataclass(frozen=True)
class TrainedRun:
    """A directory that training left.

    Args:
        data: the `data` section of its recipe.
        splits: what was evaluated when training was over.
        fingerprint: digest of everything it read; None where the run was cut off before that was written.
    """

    data: Data
    splits: tuple[str, ...]
    fingerprint: str | None


def trained_run(checkpoint: str) -> TrainedRun | None:
    """Return what is known of a run; None for a checkpoint that is no directory of a training run of this format."""
    try:
        root = Path(checkpoint).expanduser()
        recipe = json.loads((root / "recipe.json").read_text(encoding="utf-8"))
        if recipe["mode"] != "train":
            return None
        data, splits = Data.model_validate(recipe["data"]), tuple(map(str, recipe["evaluation"]["splits"]))
    except (OSError, RuntimeError, ValueError, LookupError, TypeError):
        return None
    try:
        environment = json.loads((root / "environment.json").read_text(encoding="utf-8"))
        fingerprint = str(environment["data_fingerprint"])
    except (OSError, ValueError, LookupError, TypeError):
        fingerprint = None
    return TrainedRun(data, splits, fingerprint)
