"""What a run directory says of its own training, without importing torch."""

from __future__ import annotations

import json
from pathlib import Path

from .schema import Data


def training_data(checkpoint: str) -> Data | None:
    """Return the `data` section that a run was trained with; None for a checkpoint that is no training run's directory."""
    try:
        recipe = json.loads((Path(checkpoint).expanduser() / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(recipe, dict) or recipe.get("mode") != "train" or "data" not in recipe:
        return None
    return Data.model_validate(recipe["data"])
