"""A run directory as the report sees it: what the files say, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..metrics.headline import Headline, headline_of_task
from .history import HistoryRow, read_history

SPLITS = ("train", "validation", "test")
# What metrics.json holds beside splits.
_NO_SPLITS = frozenset(("cost", "speed", "monitored", "attention_temperatures", "thresholds"))


@dataclass(frozen=True)
class SavedRun:
    """The files of a run directory, read.

    Args:
        path: the directory.
        recipe: recipe.json.
        environment: environment.json; empty where there is none.
        metrics: metrics.json.
        model_config: model/config.json, or None where the run saved no model.
        history: history.csv, by step; empty where there is none.
    """

    path: Path
    recipe: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Any]
    model_config: dict[str, Any] | None
    history: list[HistoryRow]

    @classmethod
    def read(cls, path: Path) -> SavedRun:
        """Read the files that the report needs.

        Raises:
            RunDirectoryError: recipe.json or metrics.json is missing, or a file is damaged.
        """
        path = Path(path)
        for name in ("recipe.json", "metrics.json"):
            if not (path / name).is_file():
                raise RunDirectoryError(f"{path}: expected the directory of a finished run, found no {name} in it.")
        history = path / "history.csv"
        config = path / "model" / "config.json"
        return cls(
            path=path,
            recipe=read_object(path / "recipe.json"),
            environment=read_object(path / "environment.json") if (path / "environment.json").is_file() else {},
            metrics=read_object(path / "metrics.json"),
            model_config=read_object(config) if config.is_file() else None,
            history=read_history(history) if history.is_file() else [],
        )

    @property
    def evaluates_only(self) -> bool:
        """Whether the run scored a checkpoint as it is."""
        return self.recipe.get("mode") == "evaluate"

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.environment.get("task", self.section("data").get("task")) == "multi_label"

    @property
    def headline(self) -> Headline:
        """The figure that the run is judged by."""
        return headline_of_task("multi_label" if self.multi_label else None)

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """The evaluated splits and further test sets with their metrics, in the order of the file."""
        return split_metrics(self.metrics)

    @property
    def further_test_sets(self) -> list[str]:
        """The names of test sets from other sources than the run's own: another camera, a later date."""
        return [name for name in self.splits if name not in SPLITS]

    @property
    def headline_split(self) -> str | None:
        """The split that the card speaks of: test, or validation where there is no test."""
        return next((name for name in ("test", "validation") if name in self.splits), None)

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the recipe; a shorthand such as `"strategy": "full"` as `{"name": "full"}`."""
        found = self.recipe.get(name)
        if isinstance(found, str):
            return {"name": found}
        return dict(found) if isinstance(found, Mapping) else {}

    @property
    def cost(self) -> dict[str, Any]:
        """The `cost` part of the metrics."""
        return self._part("cost")

    @property
    def speed(self) -> dict[str, Any]:
        """The `speed` part of the metrics: latency and throughput; empty where they were not measured."""
        return self._part("speed")

    def _part(self, name: str) -> dict[str, Any]:
        found = self.metrics.get(name)
        return dict(found) if isinstance(found, Mapping) else {}


def split_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the part of metrics.json that is about splits and further test sets."""
    return {name: found for name, found in metrics.items() if name not in _NO_SPLITS and isinstance(found, dict)}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        RunDirectoryError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{path}: expected a JSON object, found {type(found).__name__}.")
    return found
