"""The study format as a JSON Schema, for editors: `python -m hf_transfer.studies.json_schema > recipes/study_schema.json`."""

from __future__ import annotations

import json

from .study import Study


def json_schema() -> str:
    """Return the JSON Schema of a study file as formatted text."""
    schema = Study.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "hf_transfer study"
    schema["required"] = [name for name in schema["required"] if name != "output_dir"]  # the file name supplies it
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
