"""The recipe format as a JSON Schema, for editors: `python -m hf_transfer.recipe.json_schema > recipes/schema.json`."""

from __future__ import annotations

import json

from .schema import Recipe


def json_schema() -> str:
    """Return the JSON Schema of a recipe file as formatted text."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "hf_transfer recipe"
    # The file name supplies the default, and a strategy may be given by its name alone.
    schema["required"] = [name for name in schema["required"] if name != "output_dir"]
    strategy = schema["properties"]["strategy"]
    names = schema["$defs"]["Strategy"]["properties"]["name"]["enum"]
    schema["properties"]["strategy"] = {"anyOf": [strategy, {"enum": names}]}
    for name in ("model", "data"):  # several of them are a benchmark
        one = schema["properties"][name]
        schema["properties"][name] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
