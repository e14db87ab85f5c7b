"""The committed schema is that of the format."""

import json
from pathlib import Path

import pytest

from hf_transfer.studies.json_schema import json_schema

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_json_schema__is_the_committed_one():
    committed = (RECIPES / "study_schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(), "run: python -m hf_transfer.studies.json_schema > recipes/study_schema.json"


@pytest.mark.parametrize("path", sorted((RECIPES / "studies").glob("*.json")), ids=lambda path: path.stem)
def test_json_schema__every_committed_study_names_it(path):
    assert (path.parent / json.loads(path.read_text())["$schema"]).resolve() == RECIPES / "study_schema.json"
