"""The JSON Schema that editors read."""

import json
from pathlib import Path

import pytest

from hf_transfer.recipe.json_schema import json_schema
from hf_transfer.recipe.schema import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_json_schema__is_the_committed_one():
    committed = (RECIPES / "schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(), "run: python -m hf_transfer.recipe.json_schema > recipes/schema.json"


@pytest.mark.parametrize(
    "path", sorted(p for p in RECIPES.glob("*.json") if not p.name.endswith("schema.json")), ids=lambda p: p.stem
)
def test_json_schema__every_committed_recipe_names_it(path):
    named = json.loads(path.read_text(encoding="utf-8"))["$schema"]
    assert (path.parent / named).resolve() == RECIPES / "schema.json"


def test_json_schema__every_section_is_closed_and_every_key_described():
    schema = json.loads(json_schema())
    for name, section in (*schema["$defs"].items(), ("Recipe", schema)):
        assert section["additionalProperties"] is False, name
        for key, value in section["properties"].items():
            # A section's own docstring describes it.
            assert "description" in value or "$ref" in json.dumps(value), f"{name}.{key}"


def test_json_schema__required_keys_and_the_strategy_shorthand():
    schema = json.loads(json_schema())
    assert schema["required"] == ["data", "model"]
    assert "full" in schema["properties"]["strategy"]["anyOf"][1]["enum"]
    assert list(schema["properties"]) == [field.alias or name for name, field in Recipe.model_fields.items()]
