"""The runs below a folder as a leaderboard sees them: what varies between them, what each had right, what it cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunDirectoryError, UserError
from ..evaluation.predictions import Predictions
from ..recipe.words import SEED
from ..run_directory import MACHINE, REMARKS, RunDirectory, flat
from .formats import finite
from .saved_run import SavedRun, read_object

# What tells runs apart, in this order; other keys only where these do not.
_TELLING = ("model.backbone", "strategy.name", "data.source", "data.samples_per_class", "model.pretrained", "augment.preset")
# What differs without making another experiment.
_BESIDE = REMARKS | {SEED}
_MACHINE = MACHINE | {"training.report_to"}


@dataclass(frozen=True)
class Ranking:
    """What a run says of each class of each test image, classes by name and images in the order of their ids.

    Args:
        scores: float32 [n, C].
        labels: bool [n, C].
    """

    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class RunEntry:
    """One finished run that scored a test split.

    Args:
        path: its directory.
        run: its files.
        values: what it varies, as key to value; the same keys for every run that is compared.
        seed: its seed.
        correct: bool [n], in the order of `images`; where images may have several labels, whether all of one are right.
        groups: text [n], the group of each image in the same order; None where the run was told of none.
        images: digest of the ids and labels of its test images; runs of one digest were tested on the same.
        validation_accuracy: the run's headline figure on validation; None where no validation split was scored.
        tuning: the search before the run, as tuning.json tells it; None where there was none.
        logme: LogME of its training features; None where none was computed.
        published: the figure that others published for this experiment, as the recipe's `reference` has it; None where there
            is none.
        published_source: where it was published.
        ranking: what each class of each image was given, and whether it is there, where images may have several labels.
    """

    path: Path
    run: SavedRun
    values: dict[str, Any]
    seed: int
    correct: np.ndarray
    groups: np.ndarray | None
    images: str
    validation_accuracy: float | None
    tuning: dict[str, Any] | None
    logme: float | None
    published: float | None
    published_source: str | None
    ranking: Ranking | None = None

    @property
    def strategy(self) -> str:
        """The name of its strategy."""
        return str(self.run.section("strategy").get("name", "full"))


@dataclass(frozen=True)
class Entries:
    """What was found below a folder.

    Args:
        runs: finished runs with test predictions.
        unfinished: directories of runs that have not come to their end.
        left_out: directory to the reason why a finished run is not compared.
    """

    runs: list[RunEntry]
    unfinished: list[Path]
    left_out: dict[Path, str]


def read_entries(root: Path) -> Entries:
    """Read every run below a folder (or the run that it is).

    A study's own axes say what varies where study.json is there; for any other folder it is what differs between the recipes.

    Raises:
        UserError: there is no run at all.
    """
    found: list[tuple[Path, SavedRun, Predictions]] = []
    unfinished, left_out = [], {}
    for path in run_directories(root):
        if not RunDirectory(path).is_finished:
            unfinished.append(path)
            continue
        try:
            run = SavedRun.read(path)
            predictions = Predictions.read(path / "predictions" / "test.parquet")
        except RunDirectoryError as error:
            left_out[path] = str(error)
            continue
        if run.multi_label != predictions.multi_label:
            left_out[path] = "its predictions are of another task than the run: one label an image, and several"
            continue
        if predictions.multi_label and not predictions.labels.any():
            left_out[path] = "none of its test images shows any class: there is no mean average precision"
            continue
        found.append((path, run, predictions))
    if not (found or unfinished or left_out or (root / "study.json").is_file()):
        raise UserError(f"expected run directories in {root}, found none")
    values = _values(root, [(path, run) for path, run, _ in found])
    runs = [_entry(path, run, predictions, values[path]) for path, run, predictions in found]
    return Entries(runs, unfinished, left_out)


def run_directories(root: Path) -> list[Path]:
    """Return the directories of runs below a folder (or that of the run that it is), finished or not.

    Nothing is looked for inside a run, nor among the searches of a study's cells.
    """
    if (root / "recipe.json").is_file():
        return [root]
    if (root / "study.json").is_file():
        root = root / "cells"
    if not root.is_dir():
        return []
    children = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [found for child in children for found in run_directories(child)]


def _entry(path: Path, run: SavedRun, predictions: Predictions, values: dict[str, Any]) -> RunEntry:
    order = np.argsort(np.array(predictions.sample_ids))
    named = [(predictions.sample_ids[place], _named(predictions, place)) for place in order]
    validation = run.splits.get("validation", {}).get(run.headline.key)
    reference = run.section("reference")
    published = None if run.multi_label else finite(reference.get("test_accuracy"))
    correct, ranking = predictions.predicted == predictions.labels, None
    if predictions.multi_label:
        correct = correct.all(axis=1)
        columns = np.argsort(np.array(predictions.class_names))
        ranking = Ranking(predictions.logits[order][:, columns], predictions.labels[order][:, columns])
    return RunEntry(
        path,
        run,
        values,
        seed=int(run.recipe.get("seed", 0)),
        correct=correct[order],
        groups=None if predictions.groups is None else np.array(predictions.groups)[order],
        images=hashlib.sha256(json.dumps(named).encode()).hexdigest(),
        validation_accuracy=None if validation is None else float(validation),
        tuning=_object(path / "tuning.json"),
        logme=finite((_object(path / "probe.json") or {}).get("logme")),
        published=published,
        published_source=None if published is None else str(reference.get("source") or "no source given"),
        ranking=ranking,
    )


def _named(predictions: Predictions, place: int) -> str | list[str]:
    """Return the name of an image's class, or the names of its classes."""
    names, labels = predictions.class_names, predictions.labels[place]
    if predictions.multi_label:
        return [f"of {len(names)}", *sorted(names[label] for label in np.flatnonzero(labels))]
    return names[labels]


def _object(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.is_file() else None


def study_of(root: Path) -> dict[str, Any]:
    """Return a study's study.json, empty in any other folder."""
    return _object(root / "study.json") or {}


def _values(root: Path, runs: Sequence[tuple[Path, SavedRun]]) -> dict[Path, dict[str, Any]]:
    recipes = {path: _untuned(path, run) for path, run in runs}
    cells = study_of(root).get("cells")
    if isinstance(cells, Mapping):
        given = {path: cells[path.name] for path in recipes if isinstance(cells.get(path.name), Mapping)}
        keys = list(dict.fromkeys(key for values in given.values() for key in values if key != SEED))
        if len(given) == len(recipes):
            return {path: {key: values.get(key) for key in keys} for path, values in given.items()}
    keys = _telling_keys(list(recipes.values()))
    return {path: {key: recipe.get(key) for key in keys} for path, recipe in recipes.items()}


def _untuned(path: Path, run: SavedRun) -> dict[str, Any]:
    """Return the values of a recipe by their dotted keys, without those that a search chose: each seed may have its own."""
    chosen = (_object(path / "tuning.json") or {}).get("chosen") or {}
    return {key: value for key, value in flat(run.recipe).items() if key not in chosen}


def _telling_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest keys by which runs of one seed can be told apart, as far as they can."""

    def varies(key: str) -> bool:
        return len({_text(recipe.get(key)) for recipe in recipes}) > 1

    def groups(keys: Iterable[str]) -> int:
        keys = list(keys)
        return len({(recipe.get("seed"), *(_text(recipe.get(key)) for key in keys)) for recipe in recipes})

    others = sorted({key for recipe in recipes for key in recipe} - set(_TELLING))
    chosen = [key for key in _TELLING if varies(key)]
    for key in others:
        beside = key.partition(".")[0] in _BESIDE or key in _MACHINE
        if not beside and varies(key) and groups([*chosen, key]) > groups(chosen):
            chosen.append(key)
    return chosen


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
