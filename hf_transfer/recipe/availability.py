"""Keys of the recipe format that this version does not carry out yet: using one is an error that says so, never ignored."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Problem
from .schema import Recipe

AVAILABLE_STRATEGIES = ("full", "linear_probe")
AVAILABLE_PRESETS = ("none", "basic")

_LATER: tuple[tuple[str, Callable[[Recipe], bool], str], ...] = (
    ("data.group_column", lambda r: r.data.group_column is not None, "leave it out"),
    ("data.task", lambda r: r.data.task != "single_label", "use 'single_label'"),
    (
        "strategy.name",
        lambda r: r.strategy.name not in AVAILABLE_STRATEGIES,
        f"use one of {', '.join(AVAILABLE_STRATEGIES)}",
    ),
    ("strategy.layer_decay", lambda r: r.strategy.layer_decay is not None, "leave it out"),
    (
        "augment.preset",
        lambda r: r.augment.preset not in AVAILABLE_PRESETS,
        f"use one of {', '.join(AVAILABLE_PRESETS)}",
    ),
    ("augment.mixup", lambda r: r.augment.mixup > 0, "use 0.0"),
    ("augment.cutmix", lambda r: r.augment.cutmix > 0, "use 0.0"),
    ("features.pooling", lambda r: r.features.pooling != "default", "use 'default'"),
    ("features.views", lambda r: r.features.views != 1, "use 1"),
    ("features.compile", lambda r: r.features.compile != "auto", "use 'auto'"),
    (
        "model.backbone",
        lambda r: r.model.backbone.startswith("scratch:"),
        "use a Hub id, timm:, torchvision: or package:",
    ),
    ("loss.name", lambda r: r.loss.name != "cross_entropy", "use 'cross_entropy'"),
    ("loss.class_weights", lambda r: r.loss.class_weights is not None, "leave it out"),
    ("ema", lambda r: r.ema is not None, "leave it out"),
    ("evaluation.monitor", lambda r: bool(r.evaluation.monitor), "leave it out"),
    ("evaluation.extra", lambda r: bool(r.evaluation.extra), "evaluate the other test set in a run of its own"),
    ("hub.push", lambda r: r.hub.push, "use false, and 'hf upload REPO RUN/model' when the run is done"),
)


def check_availability(recipe: Recipe) -> list[Problem]:
    """Return one `Problem` for each key that asks for something a later version brings."""
    return [Problem(path, f"is not available in this version; {advice}") for path, used, advice in _LATER if used(recipe)]
