"""No recipe and no study is left untried: each file is carried out by a test that names it."""

import json
import re
from pathlib import Path

import pytest
from offline import RECIPES

from hf_transfer.recipe import load_any
from hf_transfer.studies.study import cells, load_study

FILES = sorted(path for path in RECIPES.rglob("*.json") if not path.stem.endswith("schema"))
NAMES = [str(path.relative_to(RECIPES).with_suffix("")) for path in FILES]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_recipe__is_valid_says_what_it_is_and_where_its_figure_comes_from(path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    found = [cell.recipe for cell in cells(load_study(path))] if "axes" in raw else [load_any(path)]
    recipes = [recipe for one in found for recipe in getattr(one, "cells", [one])]
    assert raw["$schema"].endswith("study_schema.json" if "axes" in raw else "schema.json")
    assert (path.parent / raw["$schema"]).is_file()
    assert raw["description"]
    for recipe in recipes:
        assert recipe.reference is None or recipe.reference.source


@pytest.mark.parametrize("name", NAMES)
def test_recipe__is_carried_out_by_a_test(name):
    assert re.search(rf"\b{re.escape(Path(name).name)}\b", TESTS), f"no test names {name}"
