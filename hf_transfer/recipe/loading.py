"""From a JSON file and `key=value` overrides to a checked `Recipe`, or to every problem at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..access_tokens import holds_token, without_tokens
from ..errors import Problem, RecipeError, nearest
from .monitored import monitor_problems
from .schema import Loss, Recipe, Strategy
from .training_arguments import FEATURE_FIELDS, check_training, described


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read one recipe file, apply overrides, check everything.

    Args:
        path: a JSON file.
        overrides: texts `dotted.key=value`; the value is JSON where it parses as such, text otherwise.

    Returns:
        The recipe with every default filled in.

    Raises:
        RecipeError: listing all problems found.
    """
    return parse_recipe(read_recipe(path), overrides, source=str(path))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the content of a recipe file, unchecked, its output directory named after the file where it names none.

    Raises:
        RecipeError: when it is missing or no JSON object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError([Problem("", "no such file")], str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem("", f"cannot be read: {error}")], str(path)) from None
    try:
        raw = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        message = f"is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise RecipeError([Problem("", message)], str(path)) from None
    except ValueError as error:
        raise RecipeError([Problem("", str(error))], str(path)) from None
    if not isinstance(raw, dict):
        raise RecipeError([Problem("", f"expected an object, found {described(raw)}")], str(path))
    raw.setdefault("output_dir", f"runs/{path.stem}")
    return raw


def parse_recipe(raw: dict[str, Any], overrides: Sequence[str] = (), source: str = "the recipe") -> Recipe:
    """Check a recipe that is already a dictionary, which stays as it is; see `load_recipe`."""
    raw = copy.deepcopy(raw)
    problems = apply_overrides(raw, overrides)
    refuse_tokens(raw, source)
    if isinstance(raw.get("strategy"), str):
        raw["strategy"] = {"name": raw["strategy"]}  # the shorthand
    if isinstance(training := raw.get("training"), dict):
        problems += check_training(training, _task(raw))
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems += problems_of(error, raw)
    if recipe is not None:
        problems += _check_across(recipe)
    if problems or recipe is None:
        raise RecipeError(problems, source)
    return recipe


def _task(raw: dict[str, Any]) -> str:
    """Return `data.task` as it was written, where it can be read."""
    data = raw.get("data")
    task = data.get("task") if isinstance(data, dict) else None
    return "multi_label" if task == "multi_label" else "single_label"


def refuse_tokens(raw: Any, source: str) -> None:
    """Stop at a recipe that holds an access token: recipes are kept, shown and published."""

    def places(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            return [place for key, child in node.items() for place in places(child, f"{path}.{key}" if path else str(key))]
        if isinstance(node, list):
            return [place for number, child in enumerate(node) for place in places(child, f"{path}.{number}")]
        return [without_tokens(path)] if (isinstance(node, str) and holds_token(node)) or holds_token(path) else []

    found = places(raw, "")
    if found:
        words = "holds an access token, and a recipe is no place for one; log in with 'hf auth login', or set HF_TOKEN"
        raise RecipeError([Problem(place, words) for place in found], source)


def _check_across(recipe: Recipe) -> list[Problem]:
    """Return what does not go together in different sections."""
    problems = []
    strategy, preset = recipe.strategy.name, recipe.augment.preset
    problems += _check_strategy(recipe)
    problems += _check_mode(recipe)
    problems += _check_hub(recipe)
    problems += _check_data(recipe)
    problems += monitor_problems(recipe.evaluation.monitor, recipe.evaluation.extra)
    if recipe.training.get("eval_strategy") == "no":
        watching = {
            "early_stopping": recipe.early_stopping,
            "ema": recipe.ema,
            "evaluation.monitor": recipe.evaluation.monitor,
            "strategy.patience": recipe.strategy.patience,
            "strategy.phases": [phase for phase in recipe.strategy.phases or [] if phase.patience],
        }
        problems += [
            Problem(path, "needs evaluations; found training.eval_strategy 'no'") for path, value in watching.items() if value
        ]
    if recipe.features.views > 1 and (strategy != "linear_probe" or preset == "none"):
        problems.append(
            Problem(
                "features.views",
                "expected 1, except for strategy 'linear_probe' with an augment.preset; "
                f"found {recipe.features.views} with '{strategy}' and '{preset}'",
            )
        )
    if recipe.features.label_quality and strategy not in ("linear_probe", "knn"):
        problems.append(
            Problem("features.label_quality", f"expected false except for 'linear_probe' and 'knn'; found '{strategy}'")
        )
    pools_otherwise = recipe.mode == "train" and recipe.features.pooling != "default"
    if pools_otherwise and (strategy not in ("linear_probe", "knn") or recipe.model.head.hidden):
        found = "model.head.hidden" if recipe.model.head.hidden else f"'{strategy}'"
        problems.append(
            Problem(
                "features.pooling",
                "expected 'default' except for 'linear_probe' and 'knn', with a linear head; "
                f"found '{recipe.features.pooling}' with {found}",
            )
        )
    if strategy in ("knn", "quantized_probe"):
        words = "trains nothing" if strategy == "knn" else "fits a linear head on features that are computed once"
        problems += [
            Problem(f"training.{name}", f"strategy '{strategy}' {words}; remove it")
            for name in recipe.training
            if name not in FEATURE_FIELDS
        ]
        if preset != "none":
            problems.append(Problem("augment.preset", f"expected 'none' for strategy '{strategy}'; found '{preset}'"))
        augment = {f"augment.{name}": getattr(recipe.augment, name) for name in ("mixup", "cutmix", "erasing")}
        unused = augment | {"early_stopping": recipe.early_stopping, "ema": recipe.ema, "loss": recipe.loss != Loss()}
        unused["evaluation.monitor"] = recipe.evaluation.monitor
        unused["data.sampling"] = recipe.data.sampling != "uniform"
        unused["data.cache"] = recipe.data.cache != "none"  # every image is read once as it is
        problems += [Problem(path, f"strategy '{strategy}' {words}; remove it") for path, value in unused.items() if value]
        if recipe.model.head.hidden:
            head = "has no head" if strategy == "knn" else "has a linear head"
            problems.append(Problem("model.head.hidden", f"strategy '{strategy}' {head}; remove it"))
    if strategy in ("knn", "quantized_probe", "two_phase") and not recipe.features.cache:
        problems.append(Problem("features.cache", f"expected true for strategy '{strategy}'; found false"))
    if strategy == "two_phase" and recipe.model.head.hidden:
        problems.append(
            Problem("model.head.hidden", "strategy 'two_phase' fits a linear head on features; remove it, or use 'full'")
        )
    return problems


def _check_mode(recipe: Recipe) -> list[Problem]:
    """Return what belongs to the other mode."""
    section, train = recipe.evaluation, recipe.mode == "train"
    if not train:
        problems = []
        if section.monitor:
            problems.append(Problem("evaluation.monitor", "watches a training; leave it out"))
        if section.calibrate:
            problems.append(Problem("evaluation.calibrate", "changes a model that is trained; leave it out"))
        if recipe.features.pooling != "default":
            problems.append(Problem("features.pooling", "belongs to a new head, and an evaluation has none; leave it out"))
        if section.tta != "none" and section.corruptions:
            problems.append(
                Problem("evaluation.tta", "corrupted images are scored in one view; score them in a run of their own")
            )
        return problems
    asked = {"tta": section.tta != "none", "corruptions": section.corruptions}
    problems = [
        Problem(f"evaluation.{key}", "belongs to mode 'evaluate'; evaluate the run when it is done (hf-transfer evaluate)")
        for key, value in asked.items()
        if value
    ]
    if section.label_map is not None:
        problems.append(Problem("evaluation.label_map", "belongs to mode 'evaluate'; a new head has the data set's classes"))
    for key, asked_for in (("calibrate", section.calibrate), ("speed", section.speed)):
        if asked_for and recipe.strategy.name == "knn":
            problems.append(Problem(f"evaluation.{key}", "strategy 'knn' saves no model; leave it out"))
    return problems


def _check_data(recipe: Recipe) -> list[Problem]:
    """Return what does not go together in the data section, or with it."""
    section, problems = recipe.data, []
    if section.sampling != "uniform":
        reasons = {
            "loss.class_weights would weigh the classes a second time": recipe.loss.class_weights is not None,
            "an image of several labels belongs to no single class": section.task == "multi_label",
            "an evaluation trains nothing": recipe.mode == "evaluate",
        }
        problems += [
            Problem("data.sampling", f"expected 'uniform', because {reason}; found {described(section.sampling)}")
            for reason, holds in reasons.items()
            if holds
        ]
    if section.streaming and section.cache != "none":
        problems.append(Problem("data.cache", "expected 'none' with data.streaming, which keeps no copy; found 'resized'"))
    if section.task == "single_label" and recipe.evaluation.thresholds != "validation":
        problems.append(Problem("evaluation.thresholds", "belongs to data.task 'multi_label'; remove it"))
    if section.task == "multi_label":
        one_label = {
            "data.samples_per_class": (section.samples_per_class, "counts images of one class; use data.max_train_samples"),
            "features.label_quality": (recipe.features.label_quality, "looks for wrong labels among one an image; remove it"),
            "evaluation.label_map": (
                recipe.evaluation.label_map,
                "adds up probabilities of classes that exclude each other; remove it",
            ),
        }
        problems += [
            Problem(path, f"data.task is 'multi_label', and this {words}")
            for path, (asked, words) in one_label.items()
            if asked
        ]
    return problems


def _check_hub(recipe: Recipe) -> list[Problem]:
    """Return what cannot be pushed, or not in that way."""
    section = recipe.hub
    if not section.push:
        return []
    problems = []
    if recipe.mode == "evaluate" or recipe.strategy.name == "knn":
        what = "an evaluation" if recipe.mode == "evaluate" else "strategy 'knn'"
        problems.append(Problem("hub.push", f"expected false: {what} has no model of its own to publish"))
    if section.create_pr and section.revision is not None:
        problems.append(Problem("hub.revision", "a pull request starts from main; leave it out, or set hub.create_pr to false"))
    if section.strategy != "end":
        reasons = {
            "hub.create_pr is true, and each push would open another": section.create_pr,
            "the checkpoints of strategy 'lora' hold no model that could be loaded": recipe.strategy.name == "lora",
            "strategy 'quantized_probe' writes no checkpoints": recipe.strategy.name == "quantized_probe",
            "ema keeps two sets of weights, and which one is better is known at the end": recipe.ema is not None,
            "training.save_strategy is 'no'": recipe.training.get("save_strategy") == "no",
        }
        problems += [
            Problem("hub.strategy", f"expected 'end', because {reason}; found '{section.strategy}'")
            for reason, holds in reasons.items()
            if holds
        ]
    return problems


# Which strategies heed each key of the section; the others heed them all.
_HEEDED = {
    "frozen_groups": ("partial", "two_phase"),
    "stages": ("gradual", "discriminative", "complete"),
    "head_epochs": ("gradual", "complete"),
    "phase_epochs": ("gradual", "complete"),
    "multipliers": ("discriminative", "complete"),
    "patience": ("gradual", "discriminative", "complete"),
    "min_delta": ("gradual", "discriminative", "complete"),
    "phases": ("custom",),
    "reset_optimizer": ("gradual", "complete"),
    "lora": ("lora",),
}
_SEVERAL_PHASES = ("gradual", "complete", "custom")


def _check_strategy(recipe: Recipe) -> list[Problem]:
    """Return what a strategy does not heed, and what it lacks."""
    section, name = recipe.strategy, recipe.strategy.name
    default = Strategy()
    problems = [
        Problem(f"strategy.{key}", f"belongs to {' and '.join(heeding)}, and the strategy is '{name}'; remove it")
        for key, heeding in _HEEDED.items()
        if name not in heeding and getattr(section, key) != getattr(default, key)
    ]
    if name in ("linear_probe", "knn", "quantized_probe"):
        problems += [
            Problem(f"strategy.{key}", f"strategy '{name}' trains no layer below the head; remove it")
            for key in ("layer_decay", "frozen_batch_norm")
            if getattr(section, key) is not None
        ]
    if name == "partial" and section.frozen_groups is None:
        problems.append(Problem("strategy.frozen_groups", "is required for strategy 'partial'; 0 freezes batch norm alone"))
    if name == "custom" and section.phases is None:
        problems.append(Problem("strategy.phases", "is required for strategy 'custom'"))
    if section.scheduler == "global" and name not in _SEVERAL_PHASES:
        problems.append(Problem("strategy.scheduler", f"expected 'phase' for strategy '{name}', which has one phase"))
    if name in _SEVERAL_PHASES:
        problems += [
            Problem(f"training.{key}", f"strategy '{name}' {words}")
            for key, value, words in (
                ("max_steps", recipe.training.get("max_steps", -1) != -1, "counts epochs; use training.num_train_epochs"),
                ("lr_scheduler_type", recipe.training.get("lr_scheduler_type") == "greedy", "needs a function of the step"),
            )
            if value
        ]
    return problems


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> list[Problem]:
    """Apply `dotted.key=value` texts to a raw recipe in place and return what is wrong with them."""
    problems = []
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            problems.append(Problem("", f"expected an override of the form key=value, found '{override}'"))
            continue
        node = raw
        for part in parts[:-1]:
            if part == "strategy" and isinstance(node.get(part), str):
                node[part] = {"name": node[part]}  # the shorthand, about to be refined
            child = node.setdefault(part, {})
            if child is None:
                child = node[part] = {}
            if not isinstance(child, dict):
                problems.append(Problem(key, f"cannot be set: '{part}' is {described(child)}"))
                break
            node = child
        else:
            node[parts[-1]] = override_value(value)
    return problems


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as JSON-ready data, every default filled in."""
    return recipe.model_dump(mode="json", by_alias=True)


def override_value(text: str) -> Any:
    """Return what the right side of `key=value` says: JSON, or else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key '{key}' appears twice in one object")
        result[key] = value
    return result


def _section_at(location: tuple[int | str, ...], section: type[BaseModel]) -> type[BaseModel]:
    """Return the part of a schema that the location of an error points into."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = next(
            (field.annotation for name, field in section.model_fields.items() if part in (name, field.alias)), None
        )
        inner = _model_in(annotation)
        if inner is not None:
            section = inner
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None


def problems_of(error: ValidationError, raw: dict[str, Any], schema: type[BaseModel] = Recipe) -> list[Problem]:
    """Return what a schema says of a raw recipe (or of a study, whose schema is given): one `Problem` for each wrong place.

    Where several types are permitted, pydantic reports why the value is none of them, one error each. They are told as one;
    and where the value is of one type down to a part of it, that part alone is reported.
    """
    places: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in error.errors():
        places.setdefault(_place(detail, raw), []).append(detail)
    return [
        _problem(place, details, schema)
        for place, details in places.items()
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]


def _place(detail: ErrorDetails, raw: dict[str, Any]) -> tuple[int | str, ...]:
    """Return where in the recipe an error is: its location without the names of types that pydantic mixes in."""
    place: list[int | str] = []
    node: Any = raw
    for part in detail["loc"]:
        if part in node if isinstance(node, dict) else isinstance(node, list) and isinstance(part, int):
            place.append(part)
            node = node[part]
    if detail["type"] == "missing":
        place.append(detail["loc"][-1])
    return tuple(place)


def _problem(place: tuple[int | str, ...], details: list[ErrorDetails], schema: type[BaseModel]) -> Problem:
    path = ".".join(str(part) for part in place)
    detail = details[0]
    kind, found = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        fields = _section_at(place[:-1], schema).model_fields
        names = [field.alias or name for name, field in fields.items()]
        return Problem(path, f"is not a key of the {schema.__name__.lower()}{nearest(str(place[-1]), names)}")
    if kind == "missing":
        return Problem(path, "is required, and is missing")
    if kind == "value_error":
        return Problem(path, str(detail["ctx"]["error"]))
    choices = next((item["ctx"]["expected"] for item in details if item["type"] == "literal_error"), "")
    expected = [_expected(item) for item in details]
    if not all(expected):
        return Problem(path, f"{detail['msg'][0].lower()}{detail['msg'][1:]}; found {described(found)}")
    names = choices.replace("'", "").replace(" or ", ", ").split(", ") if choices else []
    hint = nearest(found, names) if isinstance(found, str) else ""
    return Problem(path, f"expected {' or '.join(expected)}{';' if choices else ','} found {described(found)}{hint}")


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"])
    return _EXPECTED.get(detail["type"], "").format(**detail.get("ctx", {}))


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "string_too_short": "text that is not empty",
    "finite_number": "a finite number",
}
