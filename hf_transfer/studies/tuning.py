"""The search that a fine-tuned cell is given before its run: the same number of settings of the same space, on validation.

The settings are fixed before the first of them is tried: the recipe's own, where it lies in the space, and then the points of
a scrambled Sobol' sequence, drawn with the cell's seed. So candidates of one seed are tried at the same points, an interrupted
search goes on with the settings it had, and no candidate profits from a search that happened to start well.

Why not a model-based search: TPE begins to learn after 10 trials, and until then is a random search (Optuna advises 100 to
1000 trials for it). Low-discrepancy points spread better than random ones (Bergstra & Bengio 2012; Bousquet et al. 2017, arXiv
1706.03200), and Google's tuning playbook prefers them while a space is explored. On simulated curves of accuracy over the
learning rate, seen through 400 validation images, what 8 trials choose loses 0.8 points to the best rate; with random search
or TPE it is 1.2. A Gaussian process would lose 0.5, but tries other settings for each candidate.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import pipeline
from ..access_tokens import without_tokens
from ..errors import Problem, RecipeError, UserError, require
from ..metrics.headline import ACCURACY, MEAN_AVERAGE_PRECISION, Headline, headline_of, headline_of_task
from ..recipe import Recipe, dump_recipe, parse_recipe
from ..recipe.loading import apply_overrides
from ..recipe.words import in_a_word
from ..run_directory import RunDirectory, flat, write_json
from .interruption import stop_if_asked
from .study import Cell, Range, Tune

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FOLDER = "tuning"
"""Where in a study's folder the trials are, one folder for each cell."""
_SUMMARY = "trials.json"
_HEAVY = ("checkpoints", "model", "adapter", "plots", "report.html")  # of a trial that is over
_DIGITS = 3  # significant, of a value within a range


@dataclasses.dataclass
class Trial:
    """One setting of a search, and what came of it.

    Args:
        number: from 1.
        values: dotted key to value.
        state: "new" until it is over; "failed" where it diverged or could not be carried out.
        validation_accuracy: of the best model of the run, as its metrics.json has it; None where it is not done. Mean average
            precision where images may have several labels, and called so in the summary.
        validation_nll: its negative log likelihood in nats per image.
        seconds: what it took, None while it is new.
        reason: why it failed.
    """

    number: int
    values: dict[str, Any]
    state: Literal["new", "done", "failed"] = "new"
    validation_accuracy: float | None = None
    validation_nll: float | None = None
    seconds: float | None = None
    reason: str | None = None


def check_available(cells: Sequence[Cell]) -> None:
    """Stop where a search is asked for, and what it needs is not installed.

    Raises:
        UserError: naming the extra.
    """
    if any(cell.tune is not None for cell in cells):
        require("optuna", "tune", "a study with tune", otherwise=", or remove tune")


def check(cells: Sequence[Cell]) -> list[Problem]:
    """Return what is wrong with the spaces of some cells: values that a recipe cannot have, each told once.

    Every key is set to both ends of its range, or to each of its values, in the recipe of every cell that is tuned.
    """
    problems: dict[tuple[str, str], Problem] = {}
    for cell in cells:
        for key, values in cell.tune.space.items() if cell.tune else ():
            for value in [values.low, values.high] if isinstance(values, Range) else values:
                try:
                    with_values(cell.recipe, {key: value})
                except RecipeError as error:
                    for problem in error.problems:
                        told = f"{problem.message} [tune.space, {key}={json.dumps(value)}, in the cell {cell.id}]"
                        problems.setdefault((problem.path, problem.message), Problem(problem.path, told))
    return list(problems.values())


def with_values(recipe: Recipe, values: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """Return a recipe with other values of some dotted keys.

    Raises:
        RecipeError: when it cannot have them.
    """
    raw = dump_recipe(recipe)
    problems = apply_overrides(raw, [f"{key}={json.dumps(value)}" for key, value in values.items()])
    if problems:
        raise RecipeError(problems, source)
    return parse_recipe(raw, source=source)


def search(cell: Cell, folder: Path) -> dict[str, Any]:
    """Try every setting of a cell's space, or go on where that was cut off, and return what was found.

    The highest validation accuracy wins; among equals the lowest negative log likelihood, then the earlier trial. The test
    split is held out as in the run itself, and none of its images is decoded. What is heavy is removed of each trial once it is
    over: weights, checkpoints and pictures.

    Args:
        cell: with a search to carry out.
        folder: where the trials are, each in a run directory, and their summary.

    Returns:
        `trials`: see `Trial`; `chosen`: dotted key to value; `space`: as the study writes it; `seconds`: all trials together.

    Raises:
        UserError: when no trial came to its end; those that failed are tried again the next time.
    """
    check_available([cell])
    trials = _read(folder) or [Trial(number, values) for number, values in enumerate(settings(cell), start=1)]
    if all(trial.state == "failed" for trial in trials):
        shutil.rmtree(folder)
        trials = [Trial(trial.number, trial.values) for trial in trials]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SUMMARY, _summary(cell, trials))
    for trial in trials:
        place = folder / f"trial-{trial.number}"
        if trial.state == "new":
            _carry_out(trial, len(trials), cell, place)
            gc.collect()  # a Trainer and its model hold each other
            write_json(folder / _SUMMARY, _summary(cell, trials))
        _lighten(place)
    summary = _summary(cell, trials)
    if summary["chosen"] is None:
        reasons = "\n".join(f"  - {_described(trial.values)}: {trial.reason}" for trial in trials)
        raise UserError(f"tune: every one of {len(trials)} trials failed:\n{reasons}")
    return summary


def settings(cell: Cell) -> list[dict[str, Any]]:
    """Return the settings that a cell's search tries, in their order, no two alike; all of them where the space has no more.

    A function of the space, the number of trials, the recipe's own values and its seed alone. Numbers of a range are rounded to
    three significant digits.
    """
    tune = _tune(cell)
    own = _own_values(cell.recipe, tune)
    found = [] if own is None else [own]
    lists = [values for values in tune.space.values() if isinstance(values, list)]
    possible = math.prod(map(len, lists)) if len(lists) == len(tune.space) else tune.trials
    points = itertools.islice(_points(tune, cell.recipe.seed), 100 * tune.trials)  # a narrow range may not hold as many
    for values in points:
        if len(found) >= min(tune.trials, possible):
            break
        if values not in found:
            found.append(values)
    return found


def _points(tune: Tune, seed: int) -> Iterator[dict[str, Any]]:
    """Yield points of a scrambled Sobol' sequence in the space, without end; a list's values are taken by their place."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {
        key: optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else optuna.distributions.IntDistribution(0, len(values) - 1)
        for key, values in tune.space.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler learns from an earlier trial which keys there are.
    corner = {key: values.low if isinstance(values, Range) else 0 for key, values in tune.space.items()}
    study.add_trial(optuna.trial.create_trial(params=corner, distributions=space, value=0.0))
    while True:
        trial = study.ask(space)
        yield {
            key: _rounded(trial.params[key], values) if isinstance(values, Range) else values[trial.params[key]]
            for key, values in tune.space.items()
        }
        study.tell(trial, 0.0)


def _rounded(value: float, bounds: Range) -> float:
    return min(max(float(f"{value:.{_DIGITS}g}"), bounds.low), bounds.high)


def _own_values(recipe: Recipe, tune: Tune) -> dict[str, Any] | None:
    """Return what a recipe has itself for the keys of a space, defaults included; None where any of that lies outside."""
    from transformers import TrainingArguments

    from ..training.arguments import training_defaults

    defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    training = defaults | training_defaults(recipe.training, recipe.strategy, recipe.data.task)
    known = flat(dump_recipe(recipe)) | flat(training, "training")
    own = {key: known.get(key) for key in tune.space}
    return own if all(_lies_in(own[key], values) for key, values in tune.space.items()) else None


def _lies_in(value: Any, values: Range | list[Any]) -> bool:
    if isinstance(values, list):
        return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and values.low <= value <= values.high


def _carry_out(trial: Trial, count: int, cell: Cell, place: Path) -> None:
    """Carry out a trial, or go on with it, and note in it what came of it."""
    print(f"trial {trial.number} of {count}: {_described(trial.values)}", file=sys.stderr)
    began = time.perf_counter()
    try:
        recipe = _trial_recipe(trial, count, cell, place)
        metrics = pipeline.run(recipe, resume=RunDirectory(place).recipe.is_file()).metrics
    except Exception as error:  # a batch that does not fit in memory, too
        stop_if_asked()  # an interruption that came out as another error is no failure of the trial
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        trial.state, trial.reason = "failed", without_tokens(f"{kind}{error}")
        trial.seconds = time.perf_counter() - began
        print(f"trial {trial.number} failed: {trial.reason}", file=sys.stderr)
    else:
        trial.state = "done"
        trial.validation_accuracy = metrics["validation"][headline_of(metrics["validation"]).key]
        trial.validation_nll = metrics["validation"]["nll"]
        trial.seconds = metrics["cost"]["total_seconds"]


def _trial_recipe(trial: Trial, count: int, cell: Cell, place: Path) -> Recipe:
    """Return the recipe of a trial: that of the cell, scored on validation alone and published nowhere."""
    section = cell.recipe.evaluation.model_copy(update={"splits": ["validation"], "monitor": [], "extra": {}, "speed": False})
    hub = cell.recipe.hub.model_copy(update={"push": False, "strategy": "end"})
    said = {
        "description": f"Trial {trial.number} of {count} of {cell.id}",
        "output_dir": str(place),
        "expected": None,
        "reference": None,
        "evaluation": section,
        "hub": hub,
    }
    return with_values(cell.recipe.model_copy(update=said), trial.values, f"trial {trial.number}")


def _summary(cell: Cell, trials: Sequence[Trial]) -> dict[str, Any]:
    done = [trial for trial in trials if trial.state == "done"]
    over = len(done) + sum(trial.state == "failed" for trial in trials) == len(trials)
    best = max(done, key=_merit) if done and over else None
    headline = headline_of_task(cell.recipe.data.task)
    return {
        "trials": [_renamed(dataclasses.asdict(trial), ACCURACY, headline) for trial in trials],
        "chosen": None if best is None else best.values,
        "space": _tune(cell).model_dump(mode="json")["space"],
        "seconds": sum(trial.seconds or 0.0 for trial in trials),
    }


def _merit(trial: Trial) -> tuple[float, float, int]:
    return (trial.validation_accuracy or 0.0, -(trial.validation_nll or 0.0), -trial.number)


def _read(folder: Path) -> list[Trial]:
    """Return the trials of a search that was begun, an empty list where none was."""
    try:
        trials = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))["trials"]
    except FileNotFoundError:
        return []
    return [Trial(**_renamed(trial, MEAN_AVERAGE_PRECISION, ACCURACY)) for trial in trials]


def _renamed(trial: Mapping[str, Any], known: Headline, headline: Headline) -> dict[str, Any]:
    """Return a trial's values, its figure called by another name."""
    return {key.replace(f"validation_{known.key}", f"validation_{headline.key}"): value for key, value in trial.items()}


def _tune(cell: Cell) -> Tune:
    if cell.tune is None:
        raise ValueError(f"{cell.id} has no search")
    return cell.tune


def _described(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={in_a_word(value)}" for key, value in values.items())


def _lighten(place: Path) -> None:
    """Remove what is heavy of a trial that is over."""
    for path in (place / name for name in _HEAVY):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
