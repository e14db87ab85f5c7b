"""From a JSON file and `key=value` overrides to a checked `Recipe`, or to every problem at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import Problem, RecipeError, nearest
from .availability import check_availability
from .schema import Recipe
from .training_arguments import check_training, described


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
    return parse_recipe(raw, overrides, source=str(path))


def parse_recipe(raw: dict[str, Any], overrides: Sequence[str] = (), source: str = "the recipe") -> Recipe:
    """Check a recipe that is already a dictionary; see `load_recipe`."""
    problems = apply_overrides(raw, overrides)
    training = raw.get("training")
    if isinstance(training, dict):
        problems += check_training(training)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
        raise RecipeError(problems, source) from None
    problems += check_availability(recipe)
    if problems:
        raise RecipeError(problems, source)
    return recipe


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
            node[parts[-1]] = _value(value)
    return problems


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as JSON-ready data, every default filled in."""
    return recipe.model_dump(mode="json", by_alias=True)


def _value(text: str) -> Any:
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


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the schema section that the location of an error points into."""
    section: type[BaseModel] = Recipe
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


def _problem(detail: ErrorDetails) -> Problem:
    location = tuple(
        part for part in detail["loc"] if not (isinstance(part, str) and not part.isidentifier() and part != "$schema")
    )
    path = ".".join(str(part) for part in location)
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        fields = _section_at(location[:-1]).model_fields
        names = [field.alias or name for name, field in fields.items()]
        return Problem(path, f"is not a key of the recipe{nearest(str(location[-1]), names)}")
    if kind == "missing":
        return Problem(path, "is required, and is missing")
    if kind == "literal_error":
        choices = context["expected"]
        hint = nearest(found, choices.replace("'", "").replace(" or ", ", ").split(", ")) if isinstance(found, str) else ""
        return Problem(path, f"expected {choices}; found {described(found)}{hint}")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    expected = _EXPECTED.get(kind)
    if expected is not None:
        return Problem(path, f"expected {expected.format(**context)}, found {described(found)}")
    return Problem(path, f"{detail['msg'][0].lower()}{detail['msg'][1:]}; found {described(found)}")


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
