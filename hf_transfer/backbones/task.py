"""Whether a model's classes exclude each other, and from which probability each is predicted: two entries of its configuration.

`problem_type` is transformers' own, and its pipelines apply a sigmoid by it; `thresholds` is ours, which transformers keeps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BackboneError
from ..run_directory import write_json

MULTI_LABEL = "multi_label_classification"


def is_multi_label(config: Any) -> bool:
    """Return whether a model of this configuration says of each class by itself whether an image shows it."""
    return getattr(config, "problem_type", None) == MULTI_LABEL


def set_task(config: Any, *, multi_label: bool) -> None:
    """Write into a configuration what a new head is for, and nothing of the head before it.

    Args:
        config: of the model, changed in place.
        multi_label: whether an image may show several classes, or none.
    """
    if multi_label:
        config.problem_type = MULTI_LABEL
    elif is_multi_label(config):
        config.problem_type = "single_label_classification"
    if hasattr(config, "thresholds"):
        del config.thresholds


def save_thresholds(directory: Path, thresholds: Sequence[float]) -> None:
    """Add the thresholds of the C classes to the configuration of a saved model."""
    file = directory / "config.json"
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | {"thresholds": list(thresholds)})


def check_task(config: Any, name: str, *, multi_label: bool) -> None:
    """Stop where a checkpoint and the recipe's `data.task` differ in whether classes exclude each other.

    Raises:
        BackboneError: saying which is which.
    """
    if is_multi_label(config) and not multi_label:
        raise BackboneError(
            f"model.backbone: {name} gives several labels an image (problem_type '{MULTI_LABEL}'), and data.task is "
            "'single_label'; set data.task to 'multi_label'"
        )
    if multi_label and not is_multi_label(config):
        found = getattr(config, "problem_type", None)
        said = f"problem_type '{found}'" if found else "no problem_type"
        raise BackboneError(
            f"model.backbone: data.task 'multi_label' needs a checkpoint of several labels an image, with problem_type "
            f"'{MULTI_LABEL}' in its config.json; {name} has {said}. Set data.task to 'single_label', or train such a model "
            "from it first."
        )
