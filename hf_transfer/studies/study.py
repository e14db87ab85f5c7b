"""A study file: a base recipe, axes that vary it, and the cells that come of them. Imports neither torch nor transformers."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..errors import Problem, RecipeError, listed
from ..recipe import Recipe, dump_recipe, parse_recipe
from ..recipe.loading import apply_overrides, override_value, problems_of, read_recipe, refuse_tokens
from ..recipe.schema import Section
from ..recipe.words import FROZEN, SEED, Cost, in_a_word
from ..run_directory import REMARKS


class Override(Section):
    """Keys that are set in the cells that match."""

    when: dict[str, Any] = Field(description="Axis to the value, or the list of values, at which this holds.")
    set: dict[str, Any] = Field(min_length=1, description="Dotted key to its value there.")


class Range(Section):
    """Numbers between two bounds."""

    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    log: bool = Field(False, description="Whether factors count, not differences: 1e-4 lies midway between 1e-5 and 1e-3.")

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            above = ", both above 0 where log is true" if self.log else ""
            raise ValueError(f"expected low < high{above}; found {self.low:g} and {self.high:g}")
        return self


class Tune(Section):
    """The search, on validation, that every fine-tuned cell is given."""

    trials: int = Field(ge=2, le=1000, description="Runs of the search, in each cell.")
    space: dict[str, Range | list[Any]] = Field(
        min_length=1, description="Dotted key to its values: a range, or the list of all there are."
    )

    @field_validator("space")
    @classmethod
    def _lists_have_choices(cls, space: dict[str, Range | list[Any]]) -> dict[str, Range | list[Any]]:
        for key, values in space.items():
            if isinstance(values, list) and (len(values) < 2 or len({_text(value) for value in values}) < len(values)):
                raise ValueError(f"expected at least two values of '{key}', all different; found {_text(values)}")
            if key.partition(".")[0] in ("data", "evaluation", "hub", "model", "mode", "output_dir", SEED):
                raise ValueError(f"expected keys of how to train, such as training.learning_rate; found '{key}'")
        return space


class Funnel(Section):
    """Fine-tune only the backbones whose frozen features do best on validation."""

    probe: Literal["all"] = Field("all", description="Which backbones the frozen strategies are carried out for.")
    finetune_top: int = Field(ge=1, description="How many backbones go on to the other strategies.")
    rank_by: Literal["linear_probe", "knn"] = Field(
        "linear_probe",
        description="The strategy whose validation accuracy (of several labels: mean average precision), the mean over "
        "seeds, ranks the backbones.",
    )


class Study(Section):
    """A base recipe, and what varies."""

    json_schema: str | None = Field(None, alias="$schema", description="Path of the JSON Schema, for editors.")
    schema_version: Literal[1] = Field(1, description="Version of the study format.")
    description: str = Field("", description="One sentence: what this study asks.")
    output_dir: str = Field(min_length=1, description="Folder of all runs; by default runs/NAME-OF-THE-STUDY.")
    base: str | dict[str, Any] = Field(
        description="The recipe that varies: a file, found from the study's folder, or an object."
    )
    axes: dict[str, list[Any]] = Field(description="Dotted key to its values; every combination is a cell.")
    overrides: list[Override] = Field(default_factory=list, description="What else holds in some cells.")
    include: list[dict[str, Any]] = Field(
        default_factory=list, description="Further cells, as axis (or any dotted key) to value."
    )
    exclude: list[dict[str, Any]] = Field(default_factory=list, description="Combinations that are left out.")
    tune: Tune | None = Field(None, description="A search that every fine-tuned cell is given; none: one setting for all.")
    funnel: Funnel | None = Field(None, description="Fine-tune only the backbones that probe best; none: carry out every cell.")
    cheapest_by: Cost = Field(
        "train_seconds", description="The cost by which one of several candidates that are tied is recommended."
    )

    @field_validator("axes")
    @classmethod
    def _axes_have_values(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in axes.items():
            if not values or not all(key.split(".")):
                raise ValueError(f"expected a dotted key with at least one value, found '{key}' with {len(values)}")
            texts = [_text(value) for value in values]
            if len(set(texts)) < len(texts):
                raise ValueError(f"expected different values, found one of '{key}' twice")
        return axes


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        id: name of its directory: what varies, and a digest of everything that the run depends on.
        values: axis to value, as the study writes it.
        recipe: the checked recipe.
        tune: the search that comes before the run; None where it is carried out as it is.
    """

    id: str
    values: dict[str, Any]
    recipe: Recipe
    tune: Tune | None = None


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file.

    Args:
        path: a JSON file.
        overrides: texts `dotted.key=value` of the study's own keys, such as `axes.seed=[0]` or `base.data.source=PATH`.

    Raises:
        RecipeError: listing all problems found.
    """
    raw = read_recipe(path)
    if isinstance(raw.get("base"), str):
        base = read_recipe(Path(path).parent / raw["base"])
        del base["output_dir"]
        raw["base"] = base
    axes = [override for override in overrides if override.startswith("axes.") and "=" in override]
    problems = apply_overrides(raw, [override for override in overrides if override not in axes])
    for override in axes:  # whose keys have dots of their own
        key, _, value = override.removeprefix("axes.").partition("=")
        if isinstance(raw.setdefault("axes", {}), dict):
            raw["axes"][key] = override_value(value)
    refuse_tokens(raw, str(path))
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise RecipeError([*problems, *problems_of(error, raw, Study)], str(path)) from None
    if problems:
        raise RecipeError(problems, str(path))
    return study


def is_study(path: str | Path) -> bool:
    """Return whether a file says that it is a study: a JSON object with `axes`."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and "axes" in raw


def cells(study: Study) -> list[Cell]:
    """Return every cell of a study, in the order of its axes, the last one varying fastest.

    Raises:
        RecipeError: listing the problems of every cell, each one once.
    """
    found: dict[str, Cell] = {}
    problems: list[Problem] = []
    for values in _combinations(study):
        raw = copy.deepcopy(study.base) if isinstance(study.base, dict) else {}
        raw["output_dir"] = study.output_dir
        settings = dict(values)
        for override in study.overrides:
            if _matches(override.when, values):
                settings |= override.set
        for key, value in settings.items():
            problems += _set(raw, key, value)
        try:
            recipe = parse_recipe(raw)
        except RecipeError as error:
            where = ", ".join(f"{key}={in_a_word(value)}" for key, value in values.items())
            known = {(problem.path, problem.message.partition(" [in ")[0]) for problem in problems}
            problems += [
                Problem(problem.path, f"{problem.message} [in the cell {where}]")
                for problem in error.problems
                if (problem.path, problem.message) not in known
            ]
            continue
        cell = _cell(values, recipe, study)
        found.setdefault(cell.id, cell)
    if not found and not problems:
        problems.append(Problem("exclude", "leaves no cell"))
    if study.tune is not None:
        from .tuning import check  # which imports this module

        problems += check(list(found.values()))
    if study.funnel is not None and not problems:
        problems += _check_funnel(study.funnel, list(found.values()))
    if problems:
        raise RecipeError(problems, "the study")
    return list(found.values())


def _check_funnel(funnel: Funnel, found: Sequence[Cell]) -> list[Problem]:
    """Return what keeps the backbones from being ranked."""
    ranked = {cell.recipe.model.model_dump_json() for cell in found if cell.recipe.strategy.name == funnel.rank_by}
    unranked = {
        cell.recipe.model.backbone: None
        for cell in found
        if cell.recipe.strategy.name not in FROZEN and cell.recipe.model.model_dump_json() not in ranked
    }
    problems = []
    if unranked:
        problems.append(
            Problem(
                "funnel.rank_by",
                f"expected cells with strategy '{funnel.rank_by}' for every backbone that may be fine-tuned; found none for "
                f"{listed(list(unranked))}",
            )
        )
    if sources := {cell.recipe.data.model_dump_json() for cell in found} - {found[0].recipe.data.model_dump_json()}:
        problems.append(Problem("funnel", f"ranks backbones on one data section; found {len(sources) + 1} in the axes"))
    if not all("validation" in cell.recipe.evaluation.splits for cell in found):
        problems.append(Problem("funnel", "ranks on validation; expected it among evaluation.splits"))
    return problems


def _combinations(study: Study) -> Iterator[dict[str, Any]]:
    for chosen in itertools.product(*study.axes.values()):
        values = dict(zip(study.axes, chosen, strict=True))
        if not any(_matches(left_out, values) for left_out in study.exclude):
            yield values
    yield from (dict(values) for values in study.include)


def _matches(when: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether a cell has each of some values; an object may be named by its `name`."""

    def equal(asked: Any, found: Any) -> bool:
        if isinstance(asked, list) and not isinstance(found, list):
            return any(equal(one, found) for one in asked)
        if isinstance(found, dict) and isinstance(asked, str):
            return bool(found.get("name") == asked)
        return _text(asked) == _text(found)

    return all(key in values and equal(asked, values[key]) for key, asked in when.items())


def _set(raw: dict[str, Any], key: str, value: Any) -> list[Problem]:
    return apply_overrides(raw, [f"{key}={json.dumps(value)}"])


def _cell(values: dict[str, Any], recipe: Recipe, study: Study) -> Cell:
    tune = None if recipe.strategy.name in FROZEN else study.tune
    facts = {key: value for key, value in dump_recipe(recipe).items() if key not in REMARKS}
    if tune is not None:
        facts["tune"] = tune.model_dump(mode="json")
    digest = hashlib.sha256(_text(facts).encode()).hexdigest()[:8]
    words = [re.sub(r"[^\w.]+", "-", in_a_word(value)).strip("-.") for value in values.values()]
    name = "-".join([*filter(None, words), digest])[-120:].lstrip("-.")
    return Cell(name, values, recipe.model_copy(update={"output_dir": f"{study.output_dir}/cells/{name}"}), tune)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
